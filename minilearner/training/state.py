"""Snapshot and restore: what makes a trial run leave no trace."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from minilearner.data.loaders import DataLoaders
from minilearner.runtime import isolated_rng
from minilearner.tree import map_tensors

__all__ = ["KeptBuffers", "StateCacher", "buffers_kept", "untouched"]


@contextmanager
def untouched(model: nn.Module, optimizer: Optimizer, dls: DataLoaders, *others: Any) -> Iterator[None]:
    """Puts everything that training changes back on leaving, also after an error or an interrupt. In memory; no file.

    Restored to the bit: parameters, buffers (also those that are not saved), gradients, every module's training flag
    and every parameter's `requires_grad`, the optimizer's state and settings, the loaders' position and generators,
    and the global random generators of Python, NumPy, torch and CUDA. Costs a copy of the model and of the optimizer's
    state for as long as it lasts.

    Args:
        others: what else takes part: a loss module with state of its own, callbacks. All their attributes are restored.
    """
    shared = {id(part): part for part in (model, optimizer, dls, *model.parameters(), *model.buffers())}
    with ExitStack() as kept:
        for keeping in (isolated_rng(), dls.unmoved(), _model_kept(model), _optimizer_kept(optimizer)):
            kept.enter_context(keeping)
        for other in others:
            kept.enter_context(_model_kept(other) if isinstance(other, nn.Module) else _attributes_kept(other, shared))
        yield


@contextmanager
def _attributes_kept(owner: Any, shared: Mapping[int, Any]) -> Iterator[None]:
    """Restores an object's attributes from a deep copy, in which the `shared` objects stand for themselves."""
    attributes = getattr(owner, "__dict__", {})
    before = copy.deepcopy(attributes, dict(shared))
    try:
        yield
    finally:
        attributes.clear()
        attributes.update(before)


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Puts the model's buffers, such as batch norm's running statistics, back on leaving."""
    kept = KeptBuffers(model)
    try:
        yield
    finally:
        kept.put_back()


class KeptBuffers:
    """A copy of the model's buffers as they are now.

    Attributes:
        values: the copies, in the order of `model.modules()` and their buffers; None where there is none.
    """

    def __init__(self, model: nn.Module) -> None:
        self.slots = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]
        self.values = [None if buffer is None else buffer.clone() for _, _, buffer in self.slots]

    def put_back(self) -> None:
        """Gives the buffers the values that were kept."""
        with torch.no_grad():
            for (module, name, buffer), value in zip(self.slots, self.values, strict=True):
                module._buffers[name] = buffer  # a forward pass may have put another tensor in its place
                if buffer is not None and value is not None:
                    buffer.copy_(value)


@contextmanager
def _model_kept(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    tensors = [*model.parameters(), *model.buffers()]
    values = [t.detach().clone() for t in tensors]
    learns = [t.requires_grad for t in tensors]
    gradients = [None if t.grad is None else t.grad.clone() for t in tensors]
    try:
        with buffers_kept(model):
            yield
    finally:
        with torch.no_grad():
            for tensor, value, learn, gradient in zip(tensors, values, learns, gradients, strict=True):
                tensor.copy_(value)
                tensor.requires_grad_(learn)
                tensor.grad = gradient
        for module, flag in training.items():
            module.training = flag


@contextmanager
def _optimizer_kept(optimizer: Optimizer) -> Iterator[None]:
    state: dict[Any, Any] = copy.deepcopy(optimizer.state_dict())
    try:
        yield
    finally:
        optimizer.load_state_dict(state)


class StateCacher:
    """Keeps states, such as `state_dict()` gives, by name: copies in memory, or their tensors in safetensors files.

    The files live in a folder of their own below `cache_dir` (the system's temporary folder when None) and go with
    this object.

    Raises:
        ValueError: `cache_dir` is no folder.
    """

    def __init__(self, in_memory: bool, cache_dir: str | os.PathLike[str] | None = None):
        if cache_dir is not None and not Path(cache_dir).is_dir():
            raise ValueError(f"`cache_dir` must be a folder that exists. Received: cache_dir={os.fspath(cache_dir)!r}.")
        self.in_memory = in_memory
        self.cache_dir = cache_dir
        self._kept: dict[str, Any] = {}
        if not in_memory:
            self._folder = Path(tempfile.mkdtemp(prefix="minilearner-state-", dir=cache_dir))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def store(self, key: str, state: Mapping[str, Any]) -> None:
        """Keeps `state` as it is now."""
        if self.in_memory:
            self._kept[key] = copy.deepcopy(state)
            return
        tensors: dict[str, Tensor] = {}

        def leave_a_gap(t: Tensor) -> Tensor:
            tensors[str(len(tensors))] = t.detach().cpu().clone(memory_format=torch.contiguous_format)
            return t.new_empty(0)

        self._kept[key] = copy.deepcopy(map_tensors(leave_a_gap, state))
        save_file(tensors, self._folder / f"{key}.safetensors")

    def retrieve(self, key: str) -> Any:
        """Returns a copy of what was kept, which the receiver may change.

        Raises:
            KeyError: nothing was kept by this name.
        """
        if key not in self._kept:
            raise KeyError(f"no state {key!r} was stored; there are {sorted(self._kept)}.")
        if self.in_memory:
            return copy.deepcopy(self._kept[key])
        tensors = load_file(self._folder / f"{key}.safetensors")
        numbers = iter(range(len(tensors)))
        return map_tensors(lambda _: tensors[str(next(numbers))], copy.deepcopy(self._kept[key]))
