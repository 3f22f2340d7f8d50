"""Simple rules that read a learning rate off a sweep's curve: `valley`, `minimum`, `steep` and `slide`.

The rules are pure functions: (rates, losses) -> (value, (x, y) where to draw it). Their values are fastai's, also on
curves that do not fall; `caution` says what speaks against them there. If there are too few points, they raise
`NoSuggestion`. Our own rule, which is careful, is in `lr_finder.recommendation`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minilearner.checks import check_count, check_not_negative, check_positive
from minilearner.errors import NoSuggestion
from minilearner.keywords import suggest_keywords
from minilearner.lr_finder.recommendation import NoRate, n_finite
from minilearner.metrics import metric_name

__all__ = [
    "SuggestFunction",
    "apply_functions",
    "as_curve",
    "as_functions",
    "caution",
    "minimum",
    "slide",
    "steep",
    "valley",
]

Curve: TypeAlias = NDArray[np.float64]
Suggestion: TypeAlias = tuple[float, tuple[float, float]]

SuggestFunction: TypeAlias = Callable[..., Any]
"""`(lrs, losses) -> (value, (x, y))`, or just the value."""


@suggest_keywords
def valley(lrs: ArrayLike, losses: ArrayLike) -> Suggestion:
    """Returns the rate near the middle of the longest fall. This is fastai's default.

    The fall is the longest strictly decreasing subsequence of the losses. M is its length, and E is the point at which
    a subsequence first has this length. The result is point E - M + M // 3 + M // 6. If nothing falls, it is the first
    point; if only the second point lies below the first and nothing else falls, it is the last, as in fastai, where the
    number -1 means the last one. Source: ktrain, by way of fastai.

    Raises:
        NoSuggestion: there is no point.
    """
    x, y = _read_curve("valley", lrs, losses, at_least=1)
    ends: list[float] = []  # ends[d]: minus the highest loss in which a decreasing subsequence of length d + 1 can end
    end, longest = 0, 0
    for i, loss in enumerate(y.tolist()):
        place = bisect_left(ends, -loss)
        ends[place : place + 1] = [-loss]
        if place + 1 > longest:
            end, longest = i, place + 1
    return _suggest_at(x, y, 0 if end == 0 else end - longest + longest // 3 + longest // 6)


@suggest_keywords
def minimum(lrs: ArrayLike, losses: ArrayLike) -> Suggestion:
    """Returns a tenth of the rate at which the loss is lowest.

    The mark is drawn at that tenth, on the curve. fastai draws it at the lowest point instead.

    Raises:
        NoSuggestion: there is no point.
    """
    x, y = _read_curve("minimum", lrs, losses, at_least=1)
    return _place_on_curve(x, y, float(x[y.argmin()] / 10))


@suggest_keywords
def steep(lrs: ArrayLike, losses: ArrayLike) -> Suggestion:
    """Returns the rate at the left end of the curve's steepest piece: loss over the logarithm of the rate.

    Raises:
        NoSuggestion: there are fewer than 2 points.
    """
    x, y = _read_curve("steep", lrs, losses, at_least=2)
    return _suggest_at(x, y, int((np.diff(y) / np.diff(np.log(x))).argmin()))


@suggest_keywords
def slide(
    lrs: ArrayLike,
    losses: ArrayLike,
    lr_diff: int = 15,
    thresh: float = 0.005,
    adjust_value: float = 1.0,
) -> Suggestion:
    """Returns the left edge of a window that slides down from the highest rate while the curve still bends.

    Source: novetta's interval slide rule, by way of fastai.

    Args:
        lrs: the rates, rising.
        losses: the loss at each rate.
        lr_diff: the width of the window, in points.
        thresh: the window stops when the slopes (by point) at its edges differ by this or less.
        adjust_value: the result is multiplied by this.

    Raises:
        NoSuggestion: there are at most `lr_diff` points.
    """
    check_count(lr_diff, "lr_diff")
    check_not_negative(thresh, "thresh")
    check_positive(adjust_value, "adjust_value")
    x, y = _read_curve("slide", lrs, losses, at_least=lr_diff + 1)
    slope = np.gradient(y)
    right, left = len(x) - 1, len(x) - 1 - lr_diff
    found = left
    while left >= 0 and abs(slope[right] - slope[left]) > thresh:
        found = left
        right, left = right - 1, left - 1
    return _place_on_curve(x, y, float(x[found]) * adjust_value)


def caution(x: Curve, y: Curve) -> str:
    """Returns what speaks against reading any rate off this curve, in words; empty text if nothing does."""
    if len(y) > 1 and y.argmin():
        return ""
    what = f"the loss never falls below its first value ({y[0]:.4g})" if len(y) > 1 else "there is only one point"
    return f"{what}, so there is no fall to read a rate from"


def apply_functions(
    functions: Iterable[SuggestFunction],
    x: Curve,
    y: Curve,
) -> tuple[dict[str, float], dict[str, tuple[float, float]], dict[str, str]]:
    """Calls each function with a curve. Returns three dicts by the functions' names: rates, points to draw, and notes.

    Args:
        functions: the functions. Equal names are numbered.
        x: the rates.
        y: the losses.

    Returns:
        The rate of each function, or `NoRate`; the point of each rate; and the reason why there is no rate, or what
        speaks against it.
    """
    suggestions: dict[str, float] = {}
    points: dict[str, tuple[float, float]] = {}
    notes: dict[str, str] = {}
    for function in functions:
        name = _pick_name(function, suggestions)
        try:
            answer = function(x, y)
        except NoSuggestion as why:
            suggestions[name], notes[name] = NoRate(str(why)), str(why)
            continue
        value, point = answer if isinstance(answer, tuple) else _place_on_curve(x, y, float(answer))
        suggestions[name] = float(value)
        if math.isnan(suggestions[name]):
            notes[name] = f"{name} returned NaN"
            suggestions[name] = NoRate(notes[name])
            continue
        points[name] = float(point[0]), float(point[1])
        if function in _OURS and (note := caution(x, y)):
            notes[name] = note
    return suggestions, points, notes


def as_functions(suggest_funcs: SuggestFunction | Sequence[SuggestFunction] | None) -> list[SuggestFunction]:
    """Returns one function, several, or None as a list. Raises a TypeError if one of them is not a function."""
    functions = [suggest_funcs] if callable(suggest_funcs) or isinstance(suggest_funcs, str) else suggest_funcs
    for function in functions or ():
        if not callable(function):
            raise TypeError(f"`suggest_funcs` takes functions: minimum, steep, slide, valley. Received: {function!r}.")
    return list(functions or ())


def as_curve(lrs: ArrayLike, losses: ArrayLike) -> tuple[Curve, Curve]:
    """Returns rates and losses as two arrays of one length, or raises a ValueError."""
    x, y = np.asarray(lrs, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"`lrs` and `losses` must be equally long lists. Received: shapes {x.shape} and {y.shape}.")
    if len(x) and (not np.isfinite(x).all() or x.min() <= 0):
        raise ValueError(f"`lrs` must be positive and finite. Received: from {x.min()} to {x.max()}.")
    return x, y


def _read_curve(name: str, lrs: ArrayLike, losses: ArrayLike, *, at_least: int) -> tuple[Curve, Curve]:
    """Returns both as arrays, cut at the first loss that is not finite. Raises `NoSuggestion` if they are too short."""
    x, y = as_curve(lrs, losses)
    n = n_finite(y)
    x, y = x[:n], y[:n]
    if n < at_least:
        points = "point" if at_least == 1 else "points"
        raise NoSuggestion(
            f"{name} needs at least {at_least} {points} with a finite loss; it got {n} (skipped points do not count)."
        )
    return x, y


_OURS = (valley, minimum, steep, slide)


def _suggest_at(x: Curve, y: Curve, index: int) -> Suggestion:
    return float(x[index]), (float(x[index]), float(y[index]))


def _place_on_curve(x: Curve, y: Curve, value: float) -> Suggestion:
    return value, (value, float(np.interp(np.log10(value), np.log10(x), y)))


def _pick_name(function: SuggestFunction, taken: Mapping[str, Any]) -> str:
    plain = metric_name(function)
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}_{number}"
    return name
