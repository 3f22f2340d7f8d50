"""Train through `torch.compile`: the model stays as it is; only how a training step calls it is compiled.

So names in files and hooks on the model do not change, and a run may be resumed with or without. Predicting, exporting
and the check of the data before a run call the model itself: they do not wait for a compiler.
"""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from minilearner.checks import check_choice
from minilearner.errors import closest
from minilearner.tree import map_tensors

__all__ = ["Compile", "Compiler", "resolve_compile"]

Compile: TypeAlias = "bool | str | Mapping[str, Any]"
"""What users pass as `compile`: whether to compile, a mode of `torch.compile`, or its arguments."""

_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
_GRAPHS = ("reduce-overhead", "max-autotune")  # on a GPU these replay CUDA graphs, into the same memory each time


def resolve_compile(compile: Compile, *, is_alone: bool = True) -> Compiler | None:
    """Returns the compiler for this setting; None if the model is not to be compiled.

    Raises:
        ValueError: `torch.compile` has no such mode or argument, or several processes train together.
        TypeError: `compile` is neither a bool nor a string nor a dictionary.
    """
    if compile is False:
        return None
    if not isinstance(compile, (bool, str, Mapping)):
        raise TypeError(f"`compile` must be True, False, a mode or a dictionary. Received: compile={compile!r}.")
    options: dict[str, Any] = {} if isinstance(compile, bool) else _options(compile)
    known = [name for name in inspect.signature(torch.compile).parameters if name != "model"]
    if unknown := [name for name in options if name not in known]:
        raise ValueError(f"`torch.compile` has no argument {unknown[0]!r}.{closest(str(unknown[0]), known)}")
    if options.get("mode") is not None:
        check_choice(options["mode"], "compile", _MODES)
    if not is_alone:
        raise ValueError(f"`compile` needs one process; here several train together. Received: compile={compile!r}.")
    return Compiler(options)


def _options(compile: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"mode": compile} if isinstance(compile, str) else dict(compile)


class Compiler:
    """Compiles a model when it is first called, and keeps the compiled code from one run to the next.

    Args:
        options: the arguments of `torch.compile`.
    """

    def __init__(self, options: Mapping[str, Any]):
        self.options = dict(options)
        self._model: nn.Module | None = None
        self._compiled: Callable[..., Any] | None = None
        self._known_calls: list[Any] = []

    def wrap(self, model: nn.Module) -> Callable[..., Any]:
        """Returns what a run calls in the model's place. Call this before callbacks change how layers are called.

        Raises:
            RuntimeError: the model is on the CPU, and there is no C++ compiler.
        """
        _check_cxx(model, self.options)
        calls = list(_find_special_calls(model).values())
        if self._compiled is None or self._model is not model or self._known_calls != calls:
            if self._compiled is not None:
                torch.compiler.reset()  # torch does not compile again when hooks change
            self._compiled = torch.compile(model, **self.options)
            self._model, self._known_calls = model, calls
        return _CompiledModel(model, self._compiled, copies_outputs=self.options.get("mode") in _GRAPHS)

    def __repr__(self) -> str:
        return f"Compiler({self.options})"


class _CompiledModel:
    """A model as one run calls it."""

    settings: ClassVar = {"compiled": True}
    """Becomes part of the run's settings; see `Step.network`."""

    def __init__(self, model: nn.Module, compiled: Callable[..., Any], *, copies_outputs: bool):
        self._model, self._compiled, self._copies_outputs = model, compiled, copies_outputs
        self._known_calls = _find_special_calls(model)
        self._was_training: bool | None = None

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if self._model.training is not self._was_training:  # a pass begins
            _check_same_calls(self._known_calls, _find_special_calls(self._model))
            self._was_training = self._model.training
        outputs = self._compiled(*inputs, **named)
        return map_tensors(Tensor.clone, outputs) if self._copies_outputs else outputs


def _check_cxx(model: nn.Module, options: Mapping[str, Any]) -> None:
    """Raises an error now that torch would raise at the first step, or only in its backward pass."""
    is_on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    if options.get("backend", "inductor") != "inductor" or options.get("disable") or not is_on_cpu:
        return
    if os.environ.get("TORCH_INDUCTOR_INSTALL_GXX"):  # torch fetches one itself
        return
    compilers = _cxx_commands()
    if not any(shutil.which(command) or shutil.which(command.split()[0]) for command in compilers):
        raise RuntimeError(
            f"`compile` needs a C++ compiler on the CPU, and there is no {' or '.join(map(repr, compilers))}. Install "
            "one (on Debian and Ubuntu: apt install g++), name it in the environment variable CXX, or leave out "
            "`compile`."
        )


def _cxx_commands() -> list[str]:
    """Returns the compilers that torch would try."""
    if sys.platform == "win32":
        return [os.environ.get("CXX") or "cl"]
    from torch._inductor import config  # heavy

    return [command for command in config.cpp.cxx if command]


def _find_special_calls(model: nn.Module) -> dict[str, Any]:
    """Returns the hooks of each module that has some, and the `forward` that replaces its class's.

    A compiled graph contains these, and torch does not notice when they change.
    """
    found = {}
    for name, module in model.named_modules():
        hooks = [
            *module._forward_pre_hooks.values(),
            *module._forward_hooks.values(),
            *module._backward_pre_hooks.values(),
            *module._backward_hooks.values(),
        ]
        forward = vars(module).get("forward")
        if hooks or forward is not None:
            found[name] = (hooks, forward)
    return found


def _check_same_calls(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        raise ValueError(
            f"`compile` cannot be used with a callback that changes how layers are called, as ActivationStats and "
            f"GradientCheckpointing do. Changed here: {changed[0] or 'the model itself'!r}. Leave the callback out, or "
            "train with compile=False."
        )
