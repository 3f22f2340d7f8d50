"""Watch what the layers of a model return while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

__all__ = ["ForwardHooks", "layers_of"]


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
