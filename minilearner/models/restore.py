"""Put a model back as it was: evaluation mode, buffers, weights, gradients and flags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["KeptBuffers", "buffers_kept", "evaluating", "restore_model", "unchanged"]


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
def restore_model(model: nn.Module) -> Iterator[None]:
    """On leaving, puts parameters, buffers, gradients, `requires_grad` and training flags back, to the bit."""
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
def unchanged(model: nn.Module) -> Iterator[None]:
    """Puts training flags and buffers back on leaving: a module may update its buffers in evaluation mode too."""
    flags = {module: module.training for module in model.modules()}
    buffers = [(module, name, b, b.clone()) for module in flags for name, b in module.named_buffers(recurse=False)]
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag
        for module, name, buffer, before in buffers:
            with torch.no_grad():
                buffer.copy_(before)
            setattr(module, name, buffer)  # the forward pass may have put another tensor there


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode, and every module's own flag back as it was, also after an error."""
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in was_training:
            module.training = True
