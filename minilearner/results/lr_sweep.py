"""The learning-rate sweep as a result: a frozen curve, what may be read from it, and the functions that read it.

The suggestion functions are pure: (rates, losses) -> (value, (x, y) where it is drawn). With one exception, said there,
their values are fastai's where the loss falls at all; where it does not they raise `NoSuggestion`.
"""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minilearner.errors import NoSuggestion, closest
from minilearner.metrics import SmoothedLoss, metric_name
from minilearner.results import sweep_plots
from minilearner.results.files import csv_text, json_text, write_atomically
from minilearner.results.recommendation import n_finite, recommend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LRSweep", "SuggestFunction", "as_functions", "minimum", "slide", "smooth", "steep", "valley"]

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
    x, y = _as_curve(lrs, losses)
    n = n_finite(y)
    x, y = x[:n], y[:n]
    if n < at_least:
        raise NoSuggestion(f"{name} needs at least {at_least} points with a finite loss; there are {n}.")
    if y.argmin() == 0:
        raise NoSuggestion(f"the loss never falls below its first value ({y[0]:.4g}), so {name} has nothing to read.")
    return x, y


def _as_curve(lrs: ArrayLike, losses: ArrayLike) -> tuple[Curve, Curve]:
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


@dataclass(frozen=True, eq=False, repr=False)
class LRSweep:
    """What a sweep found. It unpacks into its suggestions in the order asked for, and names them.

    Example::

        sweep = learn.lr_find(suggest_funcs=(minimum, valley))
        low, high = sweep
        sweep.valley, sweep.recommended, sweep.notes

    Build it with `from_curve`, read it back with `from_json`. Arrays cannot be written to.
    """

    lrs: Curve
    """The rate of each step, one value a step."""
    losses: Curve
    """The loss of each step, as it was."""
    smoothed: Curve
    """The debiased moving average of `losses`; the suggestions read this."""
    stop_reason: str
    """Why the sweep ended, in words."""
    settings: Mapping[str, Any]
    """start_lr, end_lr, num_it, smoothing, skip_start, skip_end and whatever else was in force."""
    suggestions: Mapping[str, float | None]
    """The value of each suggestion function, None where it found no ground."""
    points: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Where each suggestion that has a value is drawn: (rate, loss)."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Why a suggestion is None."""
    fixed: Curve = field(default_factory=lambda: np.empty(0))
    """The loss of the same items after each update, NaN before there were enough; empty where it was not measured."""
    recommended: float | None = None
    """The peak rate to train with in one cycle, or None; see `recommendation.recommend`."""
    interval: tuple[float, float] | None = None
    """How sure that is: where the best rate most likely lies; `recommend` says how likely."""
    bounds: tuple[float, float] | None = None
    """(base_lr, max_lr) for a cyclical run: from where the loss starts to fall to the last rate before it rises."""
    reason: str = ""
    """Why this rate, or why none, in one sentence."""
    turns: Mapping[str, float] = field(default_factory=dict)
    """Rates that the reason names: "fastest fall", "turn"."""

    @classmethod
    def from_curve(
        cls,
        lrs: ArrayLike,
        losses: ArrayLike,
        *,
        fixed: ArrayLike = (),
        suggest_funcs: SuggestFunction | Sequence[SuggestFunction] | None = (valley,),
        stop_reason: str = "all steps were taken",
        smoothing: float = 0.98,
        skip_start: int | None = None,
        skip_end: int = 5,
        num_it: int | None = None,
        bs: int | None = None,
        adaptive: bool = False,
        broke: bool = False,
        **settings: Any,
    ) -> LRSweep:
        """Smooths a recorded curve and asks each function about it.

        They see the smoothed curve without its first `skip_start` points (None: a tenth of `num_it`, the number of
        steps planned) and its last `skip_end`, up to the first loss that is not finite. Functions are known by their
        names; equal names are numbered. `settings` are kept. The recommendation reads the whole curve: `fixed` if given
        (the loss of the same items after each step), else `losses`; `bs`, items a step; whether the optimizer is
        `adaptive`, that is scales its steps by the gradients' size; whether the next loss `broke`: was not finite.

        Raises:
            ValueError: the curves are not equally long, a rate is not positive, a skip is negative.
        """
        x, y = _as_curve(lrs, losses)
        num_it = len(x) if num_it is None else num_it
        skip_start = num_it // 10 if skip_start is None else skip_start
        averages = smooth(y, smoothing)
        suggestions, points, notes = _ask(as_functions(suggest_funcs), *_trim(x, averages, skip_start, skip_end))
        fixed = _as_curve(x, fixed)[1] if np.size(fixed) else x[:0]
        advice = recommend(x, y, fixed, bs=bs, adaptive=adaptive, broke=broke)
        used = settings | {
            "num_it": num_it, "bs": bs, "adaptive": adaptive,
            "smoothing": smoothing, "skip_start": skip_start, "skip_end": skip_end,
        }  # fmt: skip
        return cls(
            x,
            y,
            averages,
            stop_reason,
            used,
            suggestions,
            points,
            notes,
            fixed,
            recommended=advice.lr,
            interval=advice.interval,
            bounds=advice.bounds,
            reason=advice.reason,
            turns=advice.turns,
        )

    def __post_init__(self) -> None:
        for name in _CURVES:
            array = np.array(getattr(self, name), dtype=np.float64)
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def __iter__(self) -> Iterator[float | None]:
        return iter(self.suggestions.values())

    def __getattr__(self, name: str) -> float | None:
        found: Mapping[str, float | None] = self.__dict__.get("suggestions", {})
        if name in found:
            return found[name]
        hint = closest(name, [*found, *(f.name for f in fields(self))])
        raise AttributeError(f"This sweep has no {name!r}.{hint} Asked for: {', '.join(found) or 'no suggestions'}.")

    def summary(self) -> dict[str, Any]:
        """What was found and by which sweep, without the curve, for the record of a run."""
        found = {name: getattr(self, name) for name in ("recommended", "interval", "bounds", "reason", "stop_reason")}
        return found | dict(self.settings)

    def plot(self, ax: Axes | None = None, skip_start: int | None = None, skip_end: int | None = None) -> Figure:
        """Draws the losses over the rate, and marks what is recommended, the bounds and each suggestion at its value.

        Like fastai's, it shows the points before `skip_start`, which the suggestions do not see: pass a number to leave
        that many out. `skip_end=None` leaves out as many at the end as the suggestions did.
        """
        skip_end = self.settings.get("skip_end", 0) if skip_end is None else skip_end
        shown = _slice(len(self.lrs), skip_start or 0, skip_end)
        curves = {name: getattr(self, name)[shown] for name in _CURVES}  # all empty where the first loss was NaN
        advice: dict[str, Any] = {name: getattr(self, name) for name in ("recommended", "interval", "bounds", "turns")}
        return sweep_plots.plot_sweep(curves, self.points, **advice, ax=ax)

    def plot_loss_change(
        self,
        sma: int = 1,
        skip_start: int = 10,
        skip_end: int = 5,
        y_lim: tuple[float, float] | None = (-0.01, 0.01),
        ax: Axes | None = None,
    ) -> Figure:
        """Draws d_i = (L_i - L_(i - sma)) / sma of the smoothed loss over the rate and marks its minimum.

        A larger `sma` (in steps) calms a noisy curve. Source: keras_lr_finder.

        Raises:
            ValueError: `sma` is no whole number, or below 1, or a skip negative.
        """
        if not hasattr(sma, "__index__") or sma < 1:
            raise ValueError(f"`sma` must be a whole number of steps, at least 1. Received: sma={sma!r}.")
        shown = slice(max(skip_start, sma), _slice(len(self.lrs), skip_start, skip_end).stop)
        changes = np.full(len(self.smoothed), math.nan)
        changes[sma:] = (self.smoothed[sma:] - self.smoothed[:-sma]) / sma
        d = changes[shown]
        lowest = int(np.nanargmin(d)) if np.isfinite(d).any() else None
        return sweep_plots.plot_loss_change(self.lrs[shown], d, lowest, y_lim=y_lim, ax=ax)

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Writes everything, for `from_json` to read back."""
        return write_atomically(path, json_text({f.name: getattr(self, f.name) for f in fields(self)}))

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> LRSweep:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: the file is not a sweep's.
        """
        try:
            saved = json.loads(Path(path).read_text(encoding="utf-8"))
            saved = {f.name: saved[f.name] for f in fields(cls)}
            curve = {name: np.array([float(v) for v in saved[name]]) for name in _CURVES}
            points = {name: (float(x), float(y)) for name, (x, y) in saved["points"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            raise ValueError(f"{path} does not hold a sweep written by LRSweep.to_json.") from cause
        pairs = {name: tuple(saved[name]) if saved[name] else None for name in ("bounds", "interval")}
        return cls(**{**saved, **curve, **pairs, "points": points})

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Writes one row a step: lr, loss, smoothed, fixed (nan before it was measured, empty where it never was)."""
        fixed = self.fixed.tolist() if len(self.fixed) else [None] * len(self.lrs)
        rows = zip(self.lrs.tolist(), self.losses.tolist(), self.smoothed.tolist(), fixed, strict=True)
        return write_atomically(path, csv_text(("lr", "loss", "smoothed", "fixed"), rows))

    def __repr__(self) -> str:
        span = f"from {self.lrs[0]:.2e} to {self.lrs[-1]:.2e}" if len(self.lrs) else "of nothing"
        lines = [f"LRSweep: {len(self.lrs)} steps {span}; {self.stop_reason}"]
        lines += [f"  {name}: {self.notes[name] if v is None else f'{v:.2e}'}" for name, v in self.suggestions.items()]
        if self.recommended is None:
            return "\n".join([*lines, f"  recommended: none, for {self.reason}"])
        recommended = f"{self.recommended:.2e}, most likely within {_span(self.interval)}; {self.reason}"
        return "\n".join([*lines, f"  recommended: {recommended}", f"  for a cyclical run: {_span(self.bounds)}"])

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        none = "none"
        rows = {
            "recommended": none if self.recommended is None else f"<b>{self.recommended:.2e}</b>",
            "why": escape(self.reason),
            "most likely within": none if self.interval is None else _span(self.interval),
            "for a cyclical run": none if self.bounds is None else _span(self.bounds),
            **{name: escape(self.notes[name]) if v is None else f"{v:.2e}" for name, v in self.suggestions.items()},
            "the sweep": f"{len(self.lrs)} steps; {escape(self.stop_reason)}",
        }
        cells = "".join(f"<tr><th>{escape(name)}</th><td>{text}</td></tr>" for name, text in rows.items())
        return f"<table>{cells}</table>"


_CURVES = ("lrs", "losses", "smoothed", "fixed")


def _span(pair: tuple[float, float] | None) -> str:
    low, high = pair or (math.nan, math.nan)
    return f"{low:.1e} to {high:.1e}"


def _slice(n: int, skip_start: int, skip_end: int) -> slice:
    for name, value in (("skip_start", skip_start), ("skip_end", skip_end)):
        if value < 0:
            raise ValueError(f"`{name}` must not be negative. Received: {name}={value}.")
    return slice(skip_start, max(n - skip_end, skip_start))


def _trim(lrs: Curve, smoothed: Curve, skip_start: int, skip_end: int) -> tuple[Curve, Curve]:
    kept = _slice(len(lrs), skip_start, skip_end)
    n = n_finite(smoothed[kept])
    return lrs[kept][:n], smoothed[kept][:n]


def as_functions(suggest_funcs: SuggestFunction | Sequence[SuggestFunction] | None) -> list[SuggestFunction]:
    """Returns one function, several or none as a list; raises a TypeError where one is none."""
    functions = [suggest_funcs] if callable(suggest_funcs) or isinstance(suggest_funcs, str) else suggest_funcs
    for function in functions or ():
        if not callable(function):
            raise TypeError(f"`suggest_funcs` takes functions: minimum, steep, slide, valley. Received: {function!r}.")
    return list(functions or ())


def _ask(
    functions: Iterable[SuggestFunction], x: Curve, y: Curve
) -> tuple[dict[str, float | None], dict[str, tuple[float, float]], dict[str, str]]:
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
