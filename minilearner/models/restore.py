"""Put a model back as it was: buffers, extra state, weights, gradients and flags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from minilearner import threads
from minilearner.models.tensors import copy_extra_state, load_extra_state

__all__ = ["BufferCopy", "evaluation_mode", "restore_buffers", "restore_model"]


@contextmanager
def restore_model(model: nn.Module) -> Iterator[None]:
    """At its end, restores weights, buffers, extra state, gradients, `requires_grad` and training flags to the bit."""
    _shard_again(model)
    training = {module: module.training for module in model.modules()}
    tensors = [*model.parameters(), *model.buffers()]
    values = [t.detach().clone() for t in tensors]
    learns = [t.requires_grad for t in tensors]
    gradients = [None if t.grad is None else t.grad.clone() for t in tensors]
    try:
        with restore_buffers(model):
            yield
    finally:
        _shard_again(model)
        with torch.no_grad():
            for tensor, value, learn, gradient in zip(tensors, values, learns, gradients, strict=True):
                tensor.copy_(value)
                tensor.requires_grad_(learn)
                tensor.grad = gradient
        for module, flag in training.items():
            module.training = flag


def _shard_again(model: nn.Module) -> None:
    """Drops the whole weights that a forward pass of a sharded model leaves in place of this process's part of them.

    Until then `model.parameters()` gives whole weights, and an optimizer made of these would train nothing.
    """
    if hasattr(model, "unshard"):  # an `FSDPModule`, which takes a second to import
        for module in model.modules():
            if hasattr(module, "unshard"):
                module.reshard()  # type: ignore[operator]


@contextmanager
def restore_buffers(model: nn.Module) -> Iterator[None]:
    """At its end, restores the model's buffers, such as batch norm's running statistics, and its extra state."""
    before = BufferCopy(model)
    try:
        yield
    finally:
        before.put_back()


class BufferCopy:
    """A copy of what a forward pass may change in a model: its buffers, and what `get_extra_state` returns.

    Attributes:
        slots: the module, the name and the tensor of each buffer, in the order of `model.modules()`.
        values: the copies, in the same order. None for a buffer that is None.
        extra: copies of the extra state, by name.
    """

    def __init__(self, model: nn.Module) -> None:
        self.slots = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]
        self.values = [None if buffer is None else buffer.clone() for _, _, buffer in self.slots]
        self.extra = copy_extra_state(model)
        self._model = model

    def put_back(self) -> None:
        """Gives the buffers and the modules the values of the copy."""
        if self.extra:
            load_extra_state(self._model, self.extra)
        with torch.no_grad():
            for (module, name, buffer), value in zip(self.slots, self.values, strict=True):
                module._buffers[name] = buffer  # a forward pass may have put another tensor in its place
                if buffer is not None and value is not None:
                    buffer.copy_(value)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode. At its end, each module has its own flag again, also after an error.

    Raises:
        RuntimeError: another thread trains the model; see `threads`.
    """
    try:
        with threads.evaluate(model):
            yield
    finally:
        _shard_again(model)
