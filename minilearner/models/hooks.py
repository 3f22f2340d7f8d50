"""Watch what the layers of a model return while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from minilearner.keywords import suggest_keywords
from minilearner.tree import map_tensors

__all__ = ["ForwardHooks", "Hook", "Hooks", "hook_output", "hook_outputs", "layers_of"]


@suggest_keywords
class Hook:
    """Calls a function with each pass through a module, and keeps its newest result in `stored`.

    It is a context manager, which removes the hook at its end.

    Args:
        m: the module.
        hook_func: called as ``hook_func(module, inputs, output)``. In a backward pass, it gets gradients.
        is_forward: whether it watches forward passes. Otherwise it watches backward passes.
        detach: whether the function gets tensors without their graph.
        cpu: whether detached tensors are moved to the CPU.
    """

    def __init__(
        self,
        m: nn.Module,
        hook_func: Callable[[nn.Module, Any, Any], Any],
        is_forward: bool = True,
        detach: bool = True,
        cpu: bool = False,
    ) -> None:
        self.hook_func, self.detach, self.cpu = hook_func, detach, cpu
        self.stored: Any = None
        self._handle = (m.register_forward_hook if is_forward else m.register_full_backward_hook)(self._note)

    def remove(self) -> None:
        """Removes the hook. A second call does nothing."""
        self._handle.remove()

    def __enter__(self) -> Hook:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def _note(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.detach:
            inputs, output = map_tensors(self._detach, (inputs, output))
        self.stored = self.hook_func(module, inputs, output)

    def _detach(self, t: torch.Tensor) -> torch.Tensor:
        return t.detach().cpu() if self.cpu else t.detach()


@suggest_keywords
def hook_output(module: nn.Module, detach: bool = True, cpu: bool = False, grad: bool = False) -> Hook:
    """Returns a `Hook` whose `stored` is the newest output of a module.

    Args:
        module: the module.
        detach, cpu: as in `Hook`.
        grad: whether to keep the gradient of the output instead, a tuple.
    """
    return Hook(module, lambda m, inputs, output: output, is_forward=not grad, detach=detach, cpu=cpu)


@suggest_keywords
class Hooks:
    """A `Hook` for each of several modules: ``hooks[0].stored``. A context manager, which removes them at its end.

    Args:
        ms: the modules.
        hook_func, is_forward, detach, cpu: as in `Hook`.
    """

    def __init__(
        self,
        ms: Iterable[nn.Module],
        hook_func: Callable[[nn.Module, Any, Any], Any],
        is_forward: bool = True,
        detach: bool = True,
        cpu: bool = False,
    ) -> None:
        self.hooks = [Hook(m, hook_func, is_forward, detach, cpu) for m in ms]

    @property
    def stored(self) -> list[Any]:
        """What each hook has stored."""
        return [hook.stored for hook in self.hooks]

    def remove(self) -> None:
        """Removes the hooks. A second call does nothing."""
        for hook in self.hooks:
            hook.remove()

    def __getitem__(self, index: int) -> Hook:
        return self.hooks[index]

    def __len__(self) -> int:
        return len(self.hooks)

    def __iter__(self) -> Iterator[Hook]:
        return iter(self.hooks)

    def __enter__(self) -> Hooks:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


@suggest_keywords
def hook_outputs(modules: Iterable[nn.Module], detach: bool = True, cpu: bool = False, grad: bool = False) -> Hooks:
    """Returns `Hooks` whose `stored` are the newest outputs of several modules.

    Args:
        modules: the modules.
        detach, cpu, grad: as in `hook_output`.
    """
    return Hooks(modules, lambda m, inputs, output: output, is_forward=not grad, detach=detach, cpu=cpu)


class ForwardHooks:
    """Calls a function with each output of some modules, until `remove` is called.

    It is a context manager too, which removes the hooks at its end.

    Args:
        modules: the modules to watch.
        note: called as ``note(index, output)``, with the module's index in `modules`. Its result is ignored.
    """

    def __init__(self, modules: Iterable[nn.Module], note: Callable[[int, Any], object]):
        def hook_of(index: int) -> Callable[[nn.Module, Any, Any], None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                note(index, output)

            return hook

        self._handles = [module.register_forward_hook(hook_of(i)) for i, module in enumerate(modules)]

    def remove(self) -> None:
        """Removes the hooks. A second call does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> ForwardHooks:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


def layers_of(model: nn.Module, *, with_parameters_only: bool = True) -> dict[str, nn.Module]:
    """Returns the modules without children by their path, in the order in which the model registered them.

    Args:
        model: any module.
        with_parameters_only: whether to leave out modules without parameters, such as activations and pooling.
    """
    leaves = {path: m for path, m in model.named_modules() if next(m.children(), None) is None}
    return {p: m for p, m in leaves.items() if not with_parameters_only or next(m.parameters(), None) is not None}
