"""Training through `torch.compile`: the model stays as it is, and only how a training step calls it is compiled.

So names in files, hooks on the model and whatever else is done with it know nothing of it, and a run may go on with or
without. Predicting, exporting and the look at the data before a run call the model itself: they are no reason to wait
for a compiler.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from minilearner.checks import check_choice
from minilearner.errors import closest
from minilearner.tree import map_tensors

__all__ = ["Compile", "Compiler", "resolve_compile"]

Compile: TypeAlias = "bool | str | Mapping[str, Any]"
"""What users pass as `compile`: whether to, a mode of `torch.compile`, or its arguments."""

_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
_GRAPHS = ("reduce-overhead", "max-autotune")  # on a GPU these replay CUDA graphs, into the same memory each time


def resolve_compile(compile: Compile, *, is_alone: bool = True) -> Compiler | None:
    """Returns what compiles models as asked for; None where nothing is to be.

    Raises:
        ValueError: a mode or an argument that `torch.compile` does not have, or several processes that train together.
        TypeError: `compile` is nothing of the kind.
    """
    if compile is False:
        return None
    if not isinstance(compile, (bool, str, Mapping)):
        raise TypeError(f"`compile` must be True, False, a mode or a dictionary. Received: compile={compile!r}.")
    options: dict[str, Any] = {} if isinstance(compile, bool) else _options(compile)
    known = [name for name in inspect.signature(torch.compile).parameters if name != "model"]
    if strange := [name for name in options if name not in known]:
        raise ValueError(f"`torch.compile` has no argument {strange[0]!r}.{closest(str(strange[0]), known)}")
    if options.get("mode") is not None:
        check_choice(options["mode"], "compile", _MODES)
    if not is_alone:
        raise ValueError(f"`compile` is for one process; here several train together. Received: compile={compile!r}.")
    return Compiler(options)


def _options(compile: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"mode": compile} if isinstance(compile, str) else dict(compile)


class Compiler:
    """Compiles a model when it is first called, and keeps what was compiled from one run to the next.

    Args:
        options: the arguments of `torch.compile`.
    """

    def __init__(self, options: Mapping[str, Any]):
        self.options = dict(options)
        self._model: nn.Module | None = None
        self._compiled: Callable[..., Any] | None = None
        self._ways: list[Any] = []

    def network(self, model: nn.Module) -> Callable[..., Any]:
        """Returns what a run calls in the model's place. Made before callbacks have their say on the run."""
        ways = list(_ways_to_call(model).values())
        if self._compiled is None or self._model is not model or self._ways != ways:
            if self._compiled is not None:
                torch.compiler.reset()  # hooks are not among what torch compiles anew for
            self._compiled = torch.compile(model, **self.options)
            self._model, self._ways = model, ways
        return _Network(model, self._compiled, copies_outputs=self.options.get("mode") in _GRAPHS)

    def __repr__(self) -> str:
        return f"Compiler({self.options})"


class _Network:
    """A model as one run calls it."""

    def __init__(self, model: nn.Module, compiled: Callable[..., Any], *, copies_outputs: bool):
        self._model, self._compiled, self._copies_outputs = model, compiled, copies_outputs
        self._ways = _ways_to_call(model)
        self._seen_training: bool | None = None

    def __call__(self, *inputs: Any) -> Any:
        if self._model.training is not self._seen_training:  # a pass begins
            _refuse_changed(self._ways, _ways_to_call(self._model))
            self._seen_training = self._model.training
        try:
            outputs = self._compiled(*inputs)
        except Exception as error:
            if "InvalidCxxCompiler" not in f"{type(error).__name__} {error}":
                raise
            raise RuntimeError(
                "`compile` needs a C++ compiler on the CPU, and none was found. Install one (g++, clang, or Visual "
                'Studio\'s), give its path in the variable CXX, or take another backend: compile={"backend": "eager"}.'
            ) from error
        return map_tensors(Tensor.clone, outputs) if self._copies_outputs else outputs


def _ways_to_call(model: nn.Module) -> dict[str, Any]:
    """Of each module that is not simply called: its hooks, and the `forward` that it has got in place of its class's.

    What a compiled graph holds, and torch does not watch for changes.
    """
    ways = {}
    for name, module in model.named_modules():
        hooks = [
            *module._forward_pre_hooks.values(),
            *module._forward_hooks.values(),
            *module._backward_pre_hooks.values(),
            *module._backward_hooks.values(),
        ]
        forward = vars(module).get("forward")
        if hooks or forward is not None:
            ways[name] = (hooks, forward)
    return ways


def _refuse_changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        raise ValueError(
            f"`compile` does not go with a callback that changes how layers are called, as ActivationStats and "
            f"GradientCheckpointing do; here it is layer {changed[0] or 'the model itself'!r}. Leave the callback out, "
            "or train with compile=False."
        )
