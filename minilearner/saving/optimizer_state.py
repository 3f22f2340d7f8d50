"""Loads an optimizer's state from a file: checks it first, and then loads all of it or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from minilearner import processes
from minilearner.checks import is_number
from minilearner.errors import FileFormatError
from minilearner.training.missing_state import state_names
from minilearner.tree import map_tensors

__all__ = ["check_optimizer_state", "load_optimizer"]


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Loads a `state_dict` into an optimizer. The group objects stay, because schedules keep references to them.

    Raises:
        FileFormatError: the optimizer does not accept the state. It is as before.
    """
    kept, groups = optimizer.state, list(optimizer.param_groups)
    settings = [dict(group) for group in groups]
    try:
        _load(optimizer, state, groups)
    except Exception as error:  # whatever an optimizer's own `load_state_dict` raises
        optimizer.state = kept
        for group, before in zip(groups, settings, strict=True):
            group.clear()
            group.update(before)
        optimizer.param_groups[:] = groups
        raise FileFormatError(f"{type(optimizer).__name__} does not accept its state: {error!r:.200}") from error


def _load(optimizer: Optimizer, state: Mapping[str, Any], groups: list[dict[str, Any]]) -> None:
    parameters = [p for group in groups for p in group["params"]]
    kept = {i: {name: _match_layout(parameters[i], t) for name, t in one.items()} for i, one in state["state"].items()}
    optimizer.load_state_dict({**state, "state": kept})
    if type(optimizer).load_state_dict is Optimizer.load_state_dict:
        for i, one in kept.items():
            optimizer.state[parameters[i]].update(_put_on_device(one, parameters[i]))
    for group, loaded in zip(groups, optimizer.param_groups, strict=True):
        for name in group.keys() - loaded.keys() - _SCHEDULERS:  # a number that it adds as it goes on
            del group[name]
        group.update(loaded)
    optimizer.param_groups[:] = groups
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(
                    value
                )  # in the layout of the parameter, for speed


def _put_on_device(kept: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    """Returns copies on the parameter's device, of the types that were saved. torch turns whole numbers into fractions.

    "step" is left to torch, which keeps it on the CPU for some optimizers.
    """
    return {
        name: map_tensors(lambda t: t.to(parameter.device, copy=True), value)
        for name, value in kept.items()
        if name != "step"
    }


def _match_layout(parameter: Tensor, value: Any) -> Any:
    return processes.distribute_like(value, parameter) if isinstance(value, Tensor) else value


def check_optimizer_state(state: Any, optimizer: Optimizer) -> None:
    """Checks what torch does not: types, and the shapes of the tensors that torch's own optimizers keep.

    Raises:
        FileFormatError: the state cannot belong to this optimizer. Says where.
    """
    if not isinstance(state, dict) or set(state) != set(optimizer.state_dict()) or not isinstance(state["state"], dict):
        raise FileFormatError("its optimizer's state is not what torch writes.")
    groups = state["param_groups"]
    if not isinstance(groups, list) or [type(group) for group in groups] != [dict] * len(optimizer.param_groups):
        raise FileFormatError("its optimizer's groups are not what torch writes.")
    for group, now in zip(groups, optimizer.state_dict()["param_groups"], strict=True):
        _check_group(group, now, may_count=not type(optimizer).__module__.startswith("torch.optim."))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    group_of = {
        id(p): saved for group, saved in zip(optimizer.param_groups, groups, strict=True) for p in group["params"]
    }
    for number, kept in state["state"].items():
        if type(number) is not int or not 0 <= number < len(parameters) or not isinstance(kept, dict):
            raise FileFormatError("the saved optimizer state refers to parameters that this model does not have.")
        if type(optimizer).__module__.startswith("torch.optim."):
            parameter = parameters[number]
            _check_names(kept, optimizer, group_of[id(parameter)], parameter, number)
            _check_parameter_state(kept, parameter, number)


def _check_group(group: dict[str, Any], now: Mapping[str, Any], *, may_count: bool) -> None:
    """Checks a group's settings. With `may_count`, it may have numbers that the optimizer adds as it goes on."""
    differ = {name: group.get(name, now.get(name)) for name in (group.keys() ^ now.keys()) - _SCHEDULERS}
    if odd := sorted(str(name) for name, value in differ.items() if not (may_count and is_number(value))):
        raise FileFormatError(
            f"it was saved with other optimizer settings: {', '.join(odd[:3])[:100]}. Make the same optimizer "
            "(opt_func, splitter, wd)."
        )
    params = group["params"]
    if not isinstance(params, list) or any(type(n) is not int for n in params) or params != now["params"]:
        raise FileFormatError("the groups of its optimizer hold other parameters.")
    for name, value in group.items():
        own = now.get(name, 0.0)
        if not _is_same_kind(value, own):
            raise FileFormatError(f"its optimizer's {name} is {str(value)[:40]!r}, and now {str(own)[:40]!r}.")


_SCHEDULERS = {"initial_lr", "min_lr", "max_lr", "base_momentum", "max_momentum"}
"""Numbers that torch's schedulers keep in an optimizer's groups during a run."""


def _check_names(
    kept: Mapping[Any, Any], optimizer: Optimizer, settings: Mapping[str, Any], parameter: Tensor, number: int
) -> None:
    """Checks that a parameter's state has the names that the optimizer keeps with the saved settings, or may keep."""
    now = optimizer.state.get(parameter, {})
    if not now or set(kept) == set(now):
        return
    names = state_names(optimizer, settings, parameter)
    if names is None or not names[0] <= set(kept) <= names[1] | set(now):
        raise FileFormatError(f"its optimizer's state of parameter {number} holds {str(sorted(map(str, kept)))[:100]}.")


def _check_parameter_state(kept: dict[Any, Any], parameter: Tensor, number: int) -> None:
    """Checks one parameter's state: tensors have one element, or the parameter's shape with sides of 1 (Adafactor)."""
    for name, value in kept.items():
        if isinstance(value, Tensor):
            sides = zip(value.shape, parameter.shape, strict=False)
            fits = value.numel() == 1 or (value.ndim == parameter.ndim and all(a in (1, b) for a, b in sides))
        else:
            fits = value is None or isinstance(value, (int, float))
        if not fits or not isinstance(name, str):
            what = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{str(value)[:40]!r}"
            raise FileFormatError(
                f"its optimizer's {str(name)[:40]} of parameter {number}, of shape {tuple(parameter.shape)}, is {what}."
            )


def _is_same_kind(saved: Any, now: Any) -> bool:
    numbers = (int, float, type(None), Tensor)
    if isinstance(saved, (list, tuple)) and isinstance(now, (list, tuple)):
        return _are_same_kinds(saved, now)
    return type(saved) is type(now) or (isinstance(saved, numbers) and isinstance(now, numbers))


def _are_same_kinds(saved: Sequence[Any], now: Sequence[Any]) -> bool:
    return type(saved) is type(now) and len(saved) == len(now) and all(map(_is_same_kind, saved, now))
