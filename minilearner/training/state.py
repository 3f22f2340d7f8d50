"""Snapshot and restore: what makes a trial run leave no trace."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from minilearner.data.loaders import DataLoaders
from minilearner.runtime import isolated_rng

__all__ = ["untouched"]


@contextmanager
def untouched(model: nn.Module, optimizer: Optimizer, dls: DataLoaders) -> Iterator[None]:
    """Puts everything that training changes back on leaving, also after an error or an interrupt. In memory; no file.

    Restored to the bit: parameters, buffers (also those that are not saved), gradients, every module's training flag
    and every parameter's `requires_grad`, the optimizer's state and settings, the loaders' position and generators,
    and the global random generators of Python, NumPy, torch and CUDA. Costs a copy of the model and of the optimizer's
    state for as long as it lasts.
    """
    with isolated_rng(), dls.unmoved(), _model_kept(model), _optimizer_kept(optimizer):
        yield


@contextmanager
def _model_kept(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    buffers = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]
    tensors = [*model.parameters(), *model.buffers()]
    values = [t.detach().clone() for t in tensors]
    learns = [t.requires_grad for t in tensors]
    gradients = [None if t.grad is None else t.grad.clone() for t in tensors]
    try:
        yield
    finally:
        for module, name, buffer in buffers:  # a forward pass may have put another tensor in a buffer's place
            module._buffers[name] = buffer
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
