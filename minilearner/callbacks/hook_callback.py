"""`HookCallback`: fastai's base for callbacks that watch what layers return while they train."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from minilearner.checks import check_count
from minilearner.models.hooks import Hooks, layers_of
from minilearner.training.callback import Callback

__all__ = ["HookCallback"]


class HookCallback(Callback):
    """Calls your method ``hook(module, inputs, output)`` with each pass through some modules.

    ``self.hooks[i].stored`` is what it returned for the module number i. A base to derive from, in fastai's style::

        class Means(HookCallback):
            def hook(self, m, i, o):
                return o.mean().item()

    Args:
        modules: the modules to watch. None watches every layer that has parameters.
        every: watch one of this many training batches, starting with the first, and no validation. None watches all.
        remove_end: whether the hooks go when the fit ends.
        is_forward, detach, cpu: as in `Hook`.
        include_paramless: with ``modules=None``, also watch layers without parameters, such as activations.
    """

    ignored_arguments = ("modules",)

    def __init__(
        self,
        modules: Iterable[nn.Module] | None = None,
        every: int | None = None,
        remove_end: bool = True,
        is_forward: bool = True,
        detach: bool = True,
        cpu: bool = True,
        include_paramless: bool = False,
    ):
        if every is not None:
            check_count(every, "every")
        self.modules = None if modules is None else list(modules)
        self.every, self.remove_end, self.include_paramless = every, remove_end, include_paramless
        self.is_forward, self.detach, self.cpu = is_forward, detach, cpu
        self.hooks: Hooks | None = None

    def hook(self, m: nn.Module, i: Any, o: Any) -> Any:
        """Returns what to store for a pass; override it. By default the output.

        Args:
            m: the module.
            i: its inputs, a tuple. In a backward pass, gradients.
            o: its output.
        """
        return o

    def before_fit(self) -> None:  # type: ignore[override]
        """Places the hooks, unless they come with batches."""
        if self.modules is None:
            self.modules = list(layers_of(self.learn.model, with_parameters_only=not self.include_paramless).values())
        if self.every is None:
            self._place()

    def before_batch(self) -> None:  # type: ignore[override]
        """Places the hooks if this batch is watched."""
        if self.every is not None and self.learn.training and self.learn.train_iter % self.every == 0:
            self._place()

    def after_batch(self) -> None:  # type: ignore[override]
        """Removes the hooks if they were placed for this batch. What they have stored stays."""
        if self.every is not None and self.hooks is not None:
            self.hooks.remove()

    def after_fit(self) -> None:  # type: ignore[override]
        """Removes the hooks."""
        if self.remove_end and self.hooks is not None:
            self.hooks.remove()

    def _place(self) -> None:
        if self.hooks is not None:
            self.hooks.remove()
        self.hooks = Hooks(self.modules or (), self.hook, self.is_forward, self.detach, self.cpu)
