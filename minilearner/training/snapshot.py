"""`restore_after`: a trial run that leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer

from minilearner.copies import copy_apart
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
    """Restores an object's attributes from a deep copy, without the `shared` objects and what cannot be copied."""
    attributes = getattr(owner, "__dict__", {})
    before = copy_apart(attributes, shared)
    try:
        yield
    finally:
        attributes.clear()
        attributes.update(before)


@contextmanager
def _restore_optimizer(optimizer: Optimizer) -> Iterator[None]:
    """Restores state, settings and counters. What makes its own state dict, or wraps another optimizer, loads it."""
    if type(optimizer).load_state_dict is not Optimizer.load_state_dict:
        state: dict[Any, Any] = copy.deepcopy(optimizer.state_dict())
        try:
            yield
        finally:
            optimizer.load_state_dict(state)
        return
    # Not through `load_state_dict`, which turns whole numbers in the state into fractions.
    kept = {parameter: copy_apart(own, {id(parameter): parameter}) for parameter, own in optimizer.state.items()}
    settings = [
        (group, {name: value if name == "params" else copy_apart(value) for name, value in group.items()})
        for group in optimizer.param_groups
    ]
    counters = {name: value for name, value in vars(optimizer).items() if isinstance(value, (int, float))}
    try:
        yield
    finally:
        vars(optimizer).update(counters)
        optimizer.state.clear()
        optimizer.state.update(kept)
        for group, own in settings:
            group.clear()
            group.update(own)
        optimizer.param_groups[:] = [group for group, _ in settings]
