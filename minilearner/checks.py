"""Checks of arguments, shared by every public door. Each raises an error that names the argument and the way out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from minilearner.errors import closest

__all__ = ["check_batch_size", "check_count", "check_fraction", "check_number", "check_share"]


def check_rates(*, positive: bool = False, **rates: float) -> None:
    """Raises a ValueError where a rate, named by its argument, is negative (or zero, if `positive`) or not finite."""
    for name, rate in rates.items():
        if not (rate > 0 if positive else rate >= 0) or not math.isfinite(rate):
            kind = "positive" if positive else "zero or positive"
            raise ValueError(f"`{name}` must be {kind} and finite. Received: {name}={rate}.")


def checked_positive(name: str, value: float) -> float:
    """Returns `value`, or raises a ValueError where it is not positive."""
    check_rates(positive=True, **{name: value})
    return value


def checked_fraction(name: str, value: float) -> float:
    """Returns `value`, or raises a ValueError where it is no fraction of training, in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be a fraction of training in [0, 1]. Received: {name}={value}.")
    return value


def check_moms(moms: Sequence[float]) -> None:
    """Raises a ValueError where these are not three momenta, each in [0, 1)."""
    if not isinstance(moms, Sequence) or len(moms) != 3 or not all(0 <= momentum < 1 for momentum in moms):
        raise ValueError(
            f"`moms` must be three momenta in [0, 1): at the start, the peak and the end. Received: moms={moms!r}."
        )


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises a ValueError that offers the nearest, where `value` is none of `choices`."""
    if value not in choices:
        hint = closest(str(value), choices)
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}.{hint} Received: {name}={value!r}.")


def check_batch_size(name: str, n: Any) -> None:
    """Raises where `n` is no whole number, or below 1."""
    if not isinstance(n, Integral):
        raise TypeError(f"`{name}` must be a whole number. Received: {name}={n!r}.")
    if n < 1:
        raise ValueError(f"`{name}` must be at least 1. Received: {name}={n}.")


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, choices))}.{closest(str(value), choices)} Received: "
            f"{name}={value!r}."
        )


def check_share(value: float, name: str) -> None:
    """Raises ValueError where a share, the argument called `name`, is outside [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"`{name}` must be in [0, 1). Received: {name}={value}.")


def check_count(n: Any, name: str) -> None:
    """Raises where `n`, the argument called `name`, is no integer or below 1.

    Raises:
        TypeError, ValueError: as said.
    """
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"`{name}` must be an integer. Received: {name}={n!r}.")
    if n < 1:
        raise ValueError(f"`{name}` must be at least 1. Received: {name}={n}.")


def check_number(value: Any, name: str) -> None:
    """Raises a TypeError where `value`, the argument called `name`, is no number."""
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise TypeError(f"`{name}` must be a number. Received: {name}={value!r}.")


def check_fraction(name: str, value: float) -> None:
    """Raises a ValueError where `value` is not between 0 and 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be between 0 and 1. Received: {name}={value}.")
