"""Rules that read a learning rate off a sweep's curve: `valley`, `minimum`, `steep` and `slide`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minilearner.checks import check_count, check_not_negative, check_positive
from minilearner.errors import NoSuggestion
from minilearner.lr_finder.recommendation import n_finite
from minilearner.metrics import SmoothedLoss, metric_name

__all__ = [
    "SuggestFunction",
    "as_curve",
    "as_functions",
    "ask_functions",
    "minimum",
    "slide",
    "smooth",
    "steep",
    "valley",
]

Curve: TypeAlias = NDArray[np.float64]
Suggestion: TypeAlias = tuple[float, tuple[float, float]]

SuggestFunction: TypeAlias = Callable[..., Any]
"""`(lrs, losses) -> (value, (x, y))`, or just the value."""


def valley(lrs: ArrayLike, losses: ArrayLike) -> Suggestion:
    """The rate about the middle of the longest fall: fastai's default.

    The fall is the longest strictly decreasing subsequence of the losses; with M its length and E the point where it
    first reaches it, the point E - M + M // 3 + M // 6 (not before the first). Source: ktrain, by way of fastai.

    Raises:
        NoSuggestion: the loss never falls below its first value, or there are fewer than 2 points.
    """
    x, y = _falling_curve("valley", lrs, losses, at_least=2)
    ends: list[float] = []  # ends[d]: minus the highest loss that a decreasing subsequence of length d + 1 may end in
    end, longest = 0, 0
    for i, loss in enumerate(y.tolist()):
        place = bisect_left(ends, -loss)
        ends[place : place + 1] = [-loss]
        if place + 1 > longest:
            end, longest = i, place + 1
    return _at(x, y, max(0, end - longest + longest // 3 + longest // 6))


def minimum(lrs: ArrayLike, losses: ArrayLike) -> Suggestion:
    """A tenth of the rate where the loss is lowest.

    It is drawn at that tenth, on the curve; fastai draws it at the lowest point, which is not the value it returns.

    Raises:
        NoSuggestion: the first loss is the lowest, or there are fewer than 2 points.
    """
    x, y = _falling_curve("minimum", lrs, losses, at_least=2)
    return _drawn_on(x, y, float(x[y.argmin()] / 10))


def steep(lrs: ArrayLike, losses: ArrayLike) -> Suggestion:
    """The rate at the left end of the steepest piece of the curve: change of loss by change of the rate's logarithm.

    Raises:
        NoSuggestion: the loss never falls below its first value, or there are fewer than 2 points.
    """
    x, y = _falling_curve("steep", lrs, losses, at_least=2)
    return _at(x, y, int((np.diff(y) / np.diff(np.log(x))).argmin()))


def slide(
    lrs: ArrayLike, losses: ArrayLike, lr_diff: int = 15, thresh: float = 0.005, adjust_value: float = 1.0
) -> Suggestion:
    """The left edge of a window of `lr_diff` points that slides down from the highest rate while the curve still bends.

    It stops where the slopes (by point) at both edges differ by `thresh` or less. The value is multiplied by
    `adjust_value`. Source: novetta's interval slide rule, by way of fastai.

    Raises:
        NoSuggestion: the loss never falls below its first value, or there are not more than `lr_diff` points.
    """
    check_count(lr_diff, "lr_diff")
    check_not_negative(thresh, "thresh")
    check_positive(adjust_value, "adjust_value")
    x, y = _falling_curve("slide", lrs, losses, at_least=lr_diff + 1)
    slope = np.gradient(y)
    right, left = len(x) - 1, len(x) - 1 - lr_diff
    found = left
    while left >= 0 and abs(slope[right] - slope[left]) > thresh:
        found = left
        right, left = right - 1, left - 1
    return _drawn_on(x, y, float(x[found]) * adjust_value)


def _falling_curve(name: str, lrs: ArrayLike, losses: ArrayLike, *, at_least: int) -> tuple[Curve, Curve]:
    """Returns both as arrays, cut at the first loss that is not finite; raises where nothing can be said."""
    x, y = as_curve(lrs, losses)
    n = n_finite(y)
    x, y = x[:n], y[:n]
    if n < at_least:
        raise NoSuggestion(f"{name} needs at least {at_least} points with a finite loss; there are {n}.")
    if y.argmin() == 0:
        raise NoSuggestion(f"the loss never falls below its first value ({y[0]:.4g}), so {name} has nothing to read.")
    return x, y


def as_curve(lrs: ArrayLike, losses: ArrayLike) -> tuple[Curve, Curve]:
    """Returns rates and losses as two arrays of one length, or raises a ValueError."""
    x, y = np.asarray(lrs, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"`lrs` and `losses` must be equally long lists. Received: shapes {x.shape} and {y.shape}.")
    if len(x) and (not np.isfinite(x).all() or x.min() <= 0):
        raise ValueError(f"`lrs` must be positive and finite. Received: from {x.min()} to {x.max()}.")
    return x, y


def _at(x: Curve, y: Curve, index: int) -> Suggestion:
    return float(x[index]), (float(x[index]), float(y[index]))


def _drawn_on(x: Curve, y: Curve, value: float) -> Suggestion:
    return value, (value, float(np.interp(np.log10(value), np.log10(x), y)))


def smooth(losses: ArrayLike, beta: float = 0.98) -> Curve:
    """Returns the debiased moving average of `losses`, by `SmoothedLoss`."""
    average = SmoothedLoss(beta)
    return np.array([average.update(loss) for loss in np.asarray(losses, dtype=np.float64).tolist()])


def as_functions(suggest_funcs: SuggestFunction | Sequence[SuggestFunction] | None) -> list[SuggestFunction]:
    """Returns one function, several or none as a list; raises a TypeError where one is none."""
    functions = [suggest_funcs] if callable(suggest_funcs) or isinstance(suggest_funcs, str) else suggest_funcs
    for function in functions or ():
        if not callable(function):
            raise TypeError(f"`suggest_funcs` takes functions: minimum, steep, slide, valley. Received: {function!r}.")
    return list(functions or ())


def ask_functions(
    functions: Iterable[SuggestFunction], x: Curve, y: Curve
) -> tuple[dict[str, float | None], dict[str, tuple[float, float]], dict[str, str]]:
    """Asks each function for its suggestion. Returns by its name: the rate or None, the point, or why there is none."""
    suggestions: dict[str, float | None] = {}
    points: dict[str, tuple[float, float]] = {}
    notes: dict[str, str] = {}
    for function in functions:
        name = _free_name(function, suggestions)
        try:
            answer = function(x, y)
        except NoSuggestion as why:
            suggestions[name], notes[name] = None, str(why)
            continue
        value, point = answer if isinstance(answer, tuple) else _drawn_on(x, y, float(answer))
        suggestions[name], points[name] = float(value), (float(point[0]), float(point[1]))
    return suggestions, points, notes


def _free_name(function: SuggestFunction, taken: Mapping[str, Any]) -> str:
    plain = metric_name(function)
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}_{number}"
    return name
