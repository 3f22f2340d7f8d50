"""What an optimizer keeps for each parameter, and what it would miss if one of its settings were no longer 0.

Some optimizers keep nothing that a setting of 0 makes needless: `RMSprop` has a momentum buffer only if it had a
momentum at its first update. A later update with a momentum would fail. What is missing is taken from a trial update of
a copy, so that it begins as it would in a new optimizer.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from minilearner.copies import copy_apart

__all__ = ["add_missing_state", "state_names"]

_ON = 0.5
"""In place of a setting that is 0. Which number it is plays no part: the trial has neither gradient nor rate."""


def add_missing_state(optimizer: Optimizer, settings: Collection[str]) -> None:
    """Adds to the state of each parameter what a new optimizer would also keep if these settings were not 0.

    Parameters without a state stay so: their first update makes it. Nothing else changes.

    Args:
        settings: names of settings that will be driven, such as "momentum".
    """
    for inner in _list_inner(optimizer):
        for group in inner.param_groups:
            turned_on = _turn_on(group, settings)
            if not turned_on:
                continue
            for parameter in group["params"]:
                kept = inner.state.get(parameter)
                if kept:
                    fresh = _try_update(inner, group | turned_on, parameter) or {}
                    kept.update({name: value for name, value in fresh.items() if name not in kept})


def state_names(
    optimizer: Optimizer, settings: Mapping[str, Any], parameter: Tensor
) -> tuple[set[str], set[str]] | None:
    """Returns the names that an optimizer with these settings keeps for a parameter, and all that it might keep.

    None if it cannot be tried.
    """
    least = _try_update(optimizer, settings, parameter)
    most = _try_update(optimizer, {**settings, **_turn_on(settings, [*settings, "momentum"])}, parameter)
    return None if least is None or most is None else (set(least), set(least) | set(most))


def _list_inner(optimizer: Optimizer) -> Iterator[Optimizer]:
    """Gives the optimizers that another one wraps, or else the optimizer itself."""
    inner = [one for one in vars(optimizer).values() if isinstance(one, Optimizer)]
    yield from inner or [optimizer]


def _turn_on(group: Mapping[str, Any], settings: Collection[str]) -> dict[str, Any]:
    """Returns those of the settings that are 0, with another value. A momentum may also be the first of the betas."""
    turned_on: dict[str, Any] = {name: _ON for name in settings if _is_zero(group.get(name))}
    betas = group.get("betas")
    if "momentum" in settings and isinstance(betas, (list, tuple)) and betas and _is_zero(betas[0]):
        turned_on["betas"] = (_ON, *betas[1:])
    return turned_on


def _is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0


def _try_update(optimizer: Optimizer, settings: Mapping[str, Any], parameter: Tensor) -> dict[str, Any] | None:
    """Returns the state that a first update without a gradient makes for a copy of the parameter. None if it fails."""
    shadow = object.__new__(type(optimizer))
    own = {name: value for name, value in vars(optimizer).items() if name not in ("state", "param_groups", "step")}
    hooks: dict[str, Any] = {name: OrderedDict() for name in own if name.endswith("_hooks")}
    try:
        dummy = parameter.detach().clone().requires_grad_()
        dummy.grad = torch.zeros_like(dummy)
        copies = copy_apart({name: value for name, value in own.items() if name not in hooks}, {id(parameter): dummy})
        vars(shadow).update({**copies, **hooks, "state": defaultdict(dict)})
        vars(shadow)["param_groups"] = [{**settings, "params": [dummy]}]
        with torch.no_grad():
            type(optimizer).step(shadow)
    except Exception:  # whatever an optimizer that needs more than a gradient raises
        return None
    return dict(shadow.state.get(dummy, {}))
