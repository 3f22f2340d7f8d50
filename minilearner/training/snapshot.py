"""`restore_after`: a trial run that leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer

from minilearner.data.dataloaders import DataLoaders
from minilearner.models.restore import restore_model
from minilearner.runtime import isolate_rng

__all__ = ["restore_after"]

Part = TypeVar("Part")


@contextmanager
def restore_after(model: nn.Module, optimizer: Optimizer, dls: DataLoaders, *others: Any) -> Iterator[None]:
    """On leaving, puts back everything that training changes, even after an error or an interrupt.

    Restored to the bit: parameters, buffers (also those that are not saved), gradients, the training flag of every
    module, `requires_grad` of every parameter, the optimizer's state and settings, the loaders' position and
    generators, and the global generators of Python, NumPy, torch and CUDA. Costs a copy of the model and of the
    optimizer's state.

    Args:
        others: what else takes part, such as a loss module with state or callbacks. All their attributes are restored,
            modules and optimizers among them.
    """
    held = [part for other in others for part in getattr(other, "__dict__", {}).values()]
    modules = _distinct([model, *(part for part in held if isinstance(part, nn.Module))])
    optimizers = _distinct([optimizer, *(part for part in held if isinstance(part, Optimizer))])
    tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    shared = {id(part): part for part in (*modules, *optimizers, dls, *tensors)}
    with ExitStack() as kept:
        for keeping in (
            isolate_rng(),
            dls.unmoved(),
            *map(restore_model, modules),
            *map(_restore_optimizer, optimizers),
        ):
            kept.enter_context(keeping)
        for other in others:
            kept.enter_context(
                restore_model(other) if isinstance(other, nn.Module) else _restore_attributes(other, shared)
            )
        yield


def _distinct(parts: list[Part]) -> list[Part]:
    return list({id(part): part for part in parts}.values())


@contextmanager
def _restore_attributes(owner: Any, shared: Mapping[int, Any]) -> Iterator[None]:
    """Restores an object's attributes from a deep copy, which does not copy the `shared` objects."""
    attributes = getattr(owner, "__dict__", {})
    before = copy.deepcopy(attributes, dict(shared))
    try:
        yield
    finally:
        attributes.clear()
        attributes.update(before)


@contextmanager
def _restore_optimizer(optimizer: Optimizer) -> Iterator[None]:
    state: dict[Any, Any] = copy.deepcopy(optimizer.state_dict())
    try:
        yield
    finally:
        optimizer.load_state_dict(state)
