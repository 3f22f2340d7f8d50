"""Schedules of progress that go from one value to another, and `chain`, which joins them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np

from minilearner.checks import check_choice, check_number, check_positive
from minilearner.keywords import suggest_keywords
from minilearner.schedules.clocks import Schedule, by_progress, check_clock, check_schedule, set_clock

__all__ = ["chain", "constant", "cosine", "exponential", "linear", "polynomial"]


@suggest_keywords
def linear(start: float, end: float) -> Schedule:
    """Goes from `start` to `end` in a straight line.

        value(p) = start + p (end - start)

    Args:
        start: the value at progress 0.
        end: the value at progress 1.

    >>> schedule = linear(0.0, 2.0)
    >>> [schedule(progress) for progress in (0.0, 0.25, 1.0)]
    [0.0, 0.5, 2.0]
    """
    check_number(start, "start")
    check_number(end, "end")
    return by_progress(lambda p, m: start + p * (end - start))


@suggest_keywords
def cosine(start: float, end: float) -> Schedule:
    """Goes from `start` to `end` in half a cosine, which is flat at both ends.

        value(p) = start + (end - start) (1 - cos(pi p)) / 2

    Args:
        start: the value at progress 0.
        end: the value at progress 1.

    >>> schedule = cosine(0.0, 2.0)
    >>> [round(schedule(progress), 5) for progress in (0.0, 0.25, 0.5, 1.0)]
    [0.0, 0.29289, 1.0, 2.0]

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016.
    """
    check_number(start, "start")
    check_number(end, "end")
    return by_progress(lambda p, m: start + (end - start) * (1 - m.cos(m.pi * p)) / 2)


@suggest_keywords
def exponential(start: float, end: float) -> Schedule:
    """Goes from `start` to `end` by a constant factor. A learning-rate sweep climbs in this way.

        value(p) = start (end / start)^p

    Args:
        start: the value at progress 0, positive.
        end: the value at progress 1, positive.

    >>> schedule = exponential(1.0, 2.0)
    >>> [round(schedule(progress), 5) for progress in (0.0, 0.5, 1.0)]
    [1.0, 1.41421, 2.0]
    """
    check_positive(start, "start")
    check_positive(end, "end")
    return by_progress(lambda p, m: start * (end / start) ** p)


@suggest_keywords
def polynomial(
    start: float,
    end: float,
    *,
    power: float = 1.0,
    convention: Literal["fastai", "torch"] = "fastai",
) -> Schedule:
    """Goes from `start` to `end` by a power of progress.

        fastai: value(p) = start + (end - start) p^power
        torch:  value(p) = end + (start - end) (1 - p)^power

    fastai's curve is flat at its start. Torch's curve is flat at its end, as are its `PolynomialLR` and Keras'
    `PolynomialDecay`.

    Args:
        start: the value at progress 0.
        end: the value at progress 1.
        power: positive; 1 is `linear`.
        convention: "fastai" or "torch".

    >>> [polynomial(0.0, 2.0, power=2)(progress) for progress in (0.0, 0.25, 1.0)]
    [0.0, 0.125, 2.0]
    >>> [polynomial(0.0, 2.0, power=2, convention="torch")(progress) for progress in (0.0, 0.25, 1.0)]
    [0.0, 0.875, 2.0]
    """
    check_choice(convention, "convention", ("fastai", "torch"))
    check_number(start, "start")
    check_number(end, "end")
    check_positive(power, "power")
    if convention == "torch":
        return by_progress(lambda p, m: end + (start - end) * (1 - p) ** power)
    return by_progress(lambda p, m: start + (end - start) * p**power)


@suggest_keywords
def constant(value: float) -> Schedule:
    """Stays at `value`. It fits every clock.

    Args:
        value: any finite number.

    >>> [constant(0.1)(progress) for progress in (0.0, 1.0)]
    [0.1, 0.1]
    """
    check_number(value, "value")
    return by_progress(lambda p, m: value + 0.0 * p, clock=None)


@suggest_keywords
def chain(parts: Sequence[Schedule], fractions: Sequence[float]) -> Schedule:
    """Runs `parts` one after the other, each for its fraction of training, and each over its own progress.

        value(p) = parts[i]((p - begin) / fractions[i])    with begin the sum of the fractions before part i

    At a joint the later part applies. A part of length zero never applies. Before 0 the first value holds, and past 1
    the last part's end.

    Args:
        parts: schedules of progress, at least one.
        fractions: one for each part; not negative, and 1 together (within 1e-6).

    Raises:
        ValueError: the fractions do not fit, or a part is a schedule of the epoch or the step.

    >>> schedule = chain([linear(0.0, 1.0), constant(1.0), linear(5.0, 3.0)], [0.3, 0.2, 0.5])
    >>> [schedule(progress) for progress in (0.0, 0.15, 0.3, 0.5, 1.0)]
    [0.0, 0.5, 1.0, 5.0, 3.0]

    Source: fastai, `combine_scheds`.
    """
    _check_fractions(parts, fractions)
    for part in parts:
        check_clock(part, "progress")
    used = [(part, fraction) for part, fraction in zip(parts, fractions, strict=True) if fraction > 0]
    lengths = [fraction for _, fraction in used]
    starts = [0.0, *accumulate(lengths[:-1])]

    def value_of(index: int, p: Any) -> Any:
        own = (p - starts[index]) / lengths[index]  # rounding may leave [0, 1] by a hair
        return used[index][0](np.clip(own, 0.0, 1.0) if isinstance(own, np.ndarray) else min(max(own, 0.0), 1.0))

    def at(progress: Any) -> Any:
        if isinstance(progress, (int, float)):
            p = min(max(progress, 0.0), 1.0)
            index = bisect_right(starts, p + _ROUNDING) - 1
            return value_of(index, p)
        times = np.clip(np.asarray(progress, dtype=np.float64), 0.0, 1.0)
        which = np.searchsorted(starts, times + _ROUNDING, side="right") - 1
        values = np.empty_like(times)
        for index in range(len(used)):
            values[which == index] = value_of(index, times[which == index])
        return values

    return set_clock(at, "progress")


# In floating point, 0.1 + 0.2 is not 0.3. A step that is meant to be on a joint belongs to the later part all the same.
_ROUNDING = 1e-12


def _check_fractions(parts: Sequence[Schedule], fractions: Sequence[float]) -> None:
    if not parts or len(parts) != len(fractions):
        raise ValueError(
            "`parts` and `fractions` must be equally many, and at least one. "
            f"Received: {len(parts)} parts, {len(fractions)} fractions."
        )
    for part in parts:
        check_schedule(part, "parts")
    for fraction in fractions:
        check_number(fraction, "fractions")
    if min(fractions) < 0 or abs(math.fsum(fractions) - 1) > 1e-6:
        raise ValueError(f"`fractions` must not be negative and must sum to 1. Received: fractions={list(fractions)}.")
