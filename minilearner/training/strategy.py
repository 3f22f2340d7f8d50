"""Who takes part in a training step: this process alone, or several together (`distributed`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor

from minilearner.training.gradient_window import GradientWindow
from minilearner.training.loss_terms import Divisor
from minilearner.tree import Tree, n_items

__all__ = ["OneProcess", "Strategy"]


class Strategy(Protocol):
    """What a step asks of its strategy.

    Every process makes the same calls in the same order, for each may wait for the others.

    Attributes:
        n_processes: how many processes make a step together.
        passes_together: True if even a forward pass needs all of them.
        own_loss: this process's own loss of the latest training batch. Only set when several train together.
    """

    n_processes: int
    passes_together: bool
    own_loss: Tensor | None

    def call(
        self,
        network: Callable[..., Any],
        inputs: tuple[Any, ...],
        named: dict[str, Any],
        closes_window: bool,
        may_be_late: bool,
    ) -> Any:
        """Returns `network(*inputs, **named)`. If `closes_window`, an update follows this batch's backward pass.

        If the loss `may_be_late`, `mean_loss` and the backward pass follow, with nothing in between.
        """
        ...

    def mean_loss(self, loss: Tensor, divisor: Divisor | None = None, *, may_be_late: bool = False) -> Tensor:
        """Returns the loss over the items of all processes; only this process's part of it has gradients here.

        Outside of training, and inside `work_apart`, the value stays this process's own. `divisor` is what the loss
        divides by; None is the number of items. If the loss `may_be_late`, its value and its gradients are right after
        `after_backward`.
        """
        ...

    def work_apart(self, n_items: int) -> AbstractContextManager[None]:
        """Lets each process make as many passes over its `n_items` inside as it needs."""
        ...

    def finish_loss(self, window: GradientWindow, loss: Tensor, divisor: Divisor) -> Tensor:
        """Returns the loss over the items of all processes from one that was computed in `work_apart`."""
        ...

    def count_items(self, x: Tree) -> int:
        """Returns how many items the loss of the latest training batch is the mean over; `x` are its inputs here."""
        ...

    def weigh(self, window: GradientWindow, loss: Tensor, divisor: Divisor) -> Tensor:
        """Returns the loss with its weight in the window; `divisor` is what it divides by in this process."""
        ...

    def before_backward(self) -> None:
        """Called before each backward pass if there are several processes."""
        ...

    def after_backward(self) -> None:
        """Called after each backward pass if there are several processes."""
        ...

    def before_update(self, gradients: list[Tensor], of_loss: list[Tensor]) -> None:
        """Called before each update if there are several processes. Afterwards all have the same gradients.

        `of_loss` are those of the gradients that belong to parameters of the loss.
        """
        ...

    def after_update(self) -> None:
        """Called after each update if there are several processes. Afterwards all have the same buffers."""
        ...


class OneProcess(Strategy):
    """One process trains alone."""

    n_processes = 1
    passes_together = False
    own_loss: Tensor | None = None

    def call(
        self,
        network: Callable[..., Any],
        inputs: tuple[Any, ...],
        named: dict[str, Any],
        closes_window: bool,
        may_be_late: bool,
    ) -> Any:
        """Returns `network(*inputs, **named)`."""
        return network(*inputs, **named)

    def mean_loss(self, loss: Tensor, divisor: Divisor | None = None, *, may_be_late: bool = False) -> Tensor:
        """Returns the loss."""
        return loss

    def work_apart(self, n_items: int) -> AbstractContextManager[None]:
        """Does nothing; there are no other processes."""
        return nullcontext()

    def finish_loss(self, window: GradientWindow, loss: Tensor, divisor: Divisor) -> Tensor:
        """Returns the loss."""
        return loss

    def count_items(self, x: Tree) -> int:
        """Returns the number of items in `x`."""
        return n_items(x)

    def weigh(self, window: GradientWindow, loss: Tensor, divisor: Divisor) -> Tensor:
        """Returns the loss with its weight in the window."""
        return window.weigh(loss, divisor)

    def before_backward(self) -> None:
        """Does nothing."""

    def after_backward(self) -> None:
        """Does nothing."""

    def before_update(self, gradients: list[Tensor], of_loss: list[Tensor]) -> None:
        """Does nothing."""

    def after_update(self) -> None:
        """Does nothing."""
