"""Curves: how a value goes from one number to another as progress goes from 0 to 1, and how curves are joined.

The pieces that `minilearner.schedules` is made of; import them from there.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Literal, Protocol, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from minilearner.errors import closest

__all__ = ["FloatArray", "Schedule", "chain", "constant", "cosine", "exponential", "linear", "polynomial"]

FloatArray: TypeAlias = NDArray[np.float64]


class Schedule(Protocol):
    """A function of time: a float gives a float, an array gives an array of the same shape."""

    @overload
    def __call__(self, time: float, /) -> float: ...
    @overload
    def __call__(self, time: NDArray[Any], /) -> FloatArray: ...


def linear(start: float, end: float) -> Schedule:
    """Goes from `start` to `end` in a straight line: start + p (end - start).

    Example: ``linear(0, 2)(0.25)`` is 0.5.
    """
    return of_progress(lambda p, m: start + p * (end - start))


def cosine(start: float, end: float) -> Schedule:
    """Goes from `start` to `end` in half a cosine, flat at both ends: start + (end - start) (1 - cos(pi p)) / 2.

    Example: ``cosine(0, 2)(0.25)`` is 0.29289. Source: SGDR (Loshchilov and Hutter, 2016).
    """
    return of_progress(lambda p, m: start + (end - start) * (1 - m.cos(m.pi * p)) / 2)


def exponential(start: float, end: float) -> Schedule:
    """Goes from `start` to `end` by a constant factor: start (end / start)^p. The ladder of a learning-rate sweep.

    Example: ``exponential(1, 2)(0.5)`` is 1.41421.

    Raises:
        ValueError: `start` or `end` is not positive; no factor leads to or from zero.
    """
    check_rates(start=start, end=end, positive=True)
    return of_progress(lambda p, m: start * (end / start) ** p)


def polynomial(
    start: float, end: float, *, power: float = 1.0, convention: Literal["fastai", "torch"] = "fastai"
) -> Schedule:
    """Goes from `start` to `end` by a power of progress: start + (end - start) p^power. 1 is `linear`.

    With "torch" the power is that of what is left: end + (start - end) (1 - p)^power, as in torch's `PolynomialLR` and
    Keras' `PolynomialDecay`, which slow down towards the end where fastai's curve slows down at the beginning.

    Example: ``polynomial(0, 2, power=2)(0.25)`` is 0.125, in torch's convention 0.875.
    """
    check_choice("convention", convention, ("fastai", "torch"))
    if power <= 0:
        raise ValueError(f"`power` must be positive. Received: power={power}.")
    if convention == "torch":
        return of_progress(lambda p, m: end + (start - end) * (1 - p) ** power)
    return of_progress(lambda p, m: start + (end - start) * p**power)


def constant(value: float) -> Schedule:
    """Stays at `value`. Example: ``constant(0.1)(0.7)`` is 0.1."""
    return of_progress(lambda p, m: value + 0.0 * p, by=None)


def chain(parts: Sequence[Schedule], fractions: Sequence[float]) -> Schedule:
    """Plays `parts` one after the other, each for its fraction of the whole, and each from its own 0 to its own 1.

    At a joint the later part applies. A part of length zero is never heard. Before 0 the first value holds, past 1 the
    last part's end.

    Example: ``chain([linear(0, 1), constant(1)], [0.3, 0.7])(0.15)`` is 0.5. Source: fastai's `combine_scheds`.

    Raises:
        ValueError: as many fractions as parts are not given, one is negative, or they do not sum to 1 (within 1e-6).
    """
    _check_fractions(parts, fractions)
    for part in parts:
        check_clock(part, "progress")
    heard = [(part, fraction) for part, fraction in zip(parts, fractions, strict=True) if fraction > 0]
    lengths = [fraction for _, fraction in heard]
    starts = [0.0, *accumulate(lengths[:-1])]

    def value_of(index: int, p: Any) -> Any:
        own = (p - starts[index]) / lengths[index]  # rounding may leave [0, 1] by a hair
        return heard[index][0](np.clip(own, 0.0, 1.0) if isinstance(own, np.ndarray) else min(max(own, 0.0), 1.0))

    def at(progress: Any) -> Any:
        if isinstance(progress, (int, float)):
            p = min(max(progress, 0.0), 1.0)
            index = bisect_right(starts, p + _ROUNDING) - 1
            return value_of(index, p)
        times = np.clip(np.asarray(progress, dtype=np.float64), 0.0, 1.0)
        which = np.searchsorted(starts, times + _ROUNDING, side="right") - 1
        values = np.empty_like(times)
        for index in range(len(heard)):
            values[which == index] = value_of(index, times[which == index])
        return values

    return _by(at, "progress")


# 0.3 + 0.2 is not 0.5 to the last bit: a step meant to stand on a joint belongs to the later part all the same.
_ROUNDING = 1e-12


Clock: TypeAlias = Literal["progress", "count"]


def of_progress(value: Callable[[Any, Any], Any], by: Clock | None = "progress") -> Schedule:
    """Makes a schedule of `value(progress, math or numpy)`; a float stays out of NumPy, ten times slower on it.

    `by` is None where every clock will do.
    """

    def at(progress: Any) -> Any:
        if isinstance(progress, (int, float)):
            return value(min(max(progress, 0.0), 1.0), math)
        return value(np.clip(np.asarray(progress, dtype=np.float64), 0.0, 1.0), np)

    return _by(at, by)


def of_count(value: Callable[[Any], Any]) -> Schedule:
    """Makes a schedule of `value(count)`, of epochs or steps: a number gives a float, an array an array."""

    def at(count: Any) -> Any:
        return float(value(count)) if isinstance(count, (int, float)) else value(np.asarray(count, dtype=np.float64))

    return _by(at, "count")


def _by(schedule: Any, clock: Clock | None) -> Schedule:
    schedule._clock = clock
    return schedule  # type: ignore[no-any-return]


def clock_of(schedule: Any) -> Clock | None:
    """Returns the clock of a schedule of ours; None where any will do, and for functions that are not ours."""
    own: Clock | None = getattr(schedule, "_clock", None)
    return own


def check_schedule(name: str, schedule: Any) -> None:
    """Raises a TypeError where a schedule, the argument called `name`, is no function."""
    if not callable(schedule):
        raise TypeError(f"`{name}` must be a function of time, such as constant(0.1). Received: {name}={schedule!r}.")


def check_clock(schedule: Any, clock: Clock) -> None:
    """Raises a ValueError where a schedule of ours is to be asked by a clock that is not its own.

    It would give a rate, and a wrong one: an epoch is past the end of progress, and progress is always epoch 0.
    """
    kinds = {"progress": "progress, in [0, 1]", "count": "the epoch or the step"}
    own = clock_of(schedule)
    if own in kinds and own != clock:
        raise ValueError(
            f"this schedule is a function of {kinds[own]}, and would be asked here by {kinds[clock]}. Give another, or "
            "see `clock` of ParamScheduler and plot_schedule, and `length` of warmup."
        )


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


def _check_fractions(parts: Sequence[Schedule], fractions: Sequence[float]) -> None:
    if not parts or len(parts) != len(fractions):
        raise ValueError(
            "`parts` and `fractions` must be equally many, and at least one. "
            f"Received: {len(parts)} parts, {len(fractions)} fractions."
        )
    if min(fractions) < 0 or abs(math.fsum(fractions) - 1) > 1e-6:
        raise ValueError(f"`fractions` must not be negative and must sum to 1. Received: fractions={list(fractions)}.")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises a ValueError that offers the nearest, where `value` is none of `choices`."""
    if value not in choices:
        hint = closest(str(value), choices)
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}.{hint} Received: {name}={value!r}.")
