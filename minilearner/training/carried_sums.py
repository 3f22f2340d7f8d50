"""Numbers that all processes add up while DDP exchanges the gradients. A message of their own would take longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minilearner import processes

__all__ = ["CarriedSums"]


class CarriedSums(nn.Module):
    """A model for DDP to wrap, whose gradients carry numbers along: they are the gradient of one more parameter.

    The loss of each pass must go through `attach`, because DDP waits for the gradients of all parameters.

    Args:
        model: called in each forward pass.
        n: how many numbers there are.
    """

    def __init__(self, model: nn.Module, n: int):
        super().__init__()
        self.model = model
        self.n_processes = processes.count()  # DDP divides by it
        self.carrier = nn.Parameter(torch.zeros(n))

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Returns the model's output."""
        self.carrier.grad = None
        return self.model(*inputs, **named)

    def attach(self, loss: Tensor, numbers: Sequence[float] = ()) -> Tensor:
        """Returns the loss. Its backward pass sends the numbers, or zeros if there are none.

        A loss without gradients stays without, so that torch refuses its backward pass.
        """
        if not loss.requires_grad:
            return loss
        given = torch.tensor(numbers) if numbers else torch.zeros(len(self.carrier))
        return _Attach.apply(loss, self.carrier, given * self.n_processes)  # type: ignore[no-any-return]

    def receive(self) -> list[float]:
        """Returns the sums over all processes, rounded to float32. They are there after the backward pass."""
        return [] if self.carrier.grad is None else self.carrier.grad.tolist()


class _Attach(torch.autograd.Function):
    """Gives the carrier its gradient in a backward pass, whatever the loss is multiplied by."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, carrier: Tensor, sent: Tensor) -> Tensor:
        ctx.sent = sent
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        return gradient, ctx.sent, None
