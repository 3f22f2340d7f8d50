"""`LRSweep`: the frozen result of a learning-rate sweep, with its plots and files.

`lr_finder.sweep` measures the curve. `lr_finder.recommendation` and `lr_finder.suggestions` read rates off it, and
`plots.lr_curves` draws it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from minilearner.checks import check_count, check_positive
from minilearner.errors import FileFormatError, closest, plural
from minilearner.files import csv_text, json_text, read_json, write_atomically
from minilearner.glance import AtAGlance, Glance
from minilearner.keywords import suggest_keywords
from minilearner.lr_finder.recommendation import NoRate, n_finite, recommend
from minilearner.lr_finder.suggestions import (
    Curve,
    SuggestFunction,
    apply_functions,
    as_curve,
    as_functions,
    valley,
)
from minilearner.plots import lr_curves
from minilearner.smoothed_loss import SmoothedLoss

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LRSweep", "content_of", "describe_steps", "smooth"]


@suggest_keywords
@dataclass(frozen=True, eq=False, repr=False)
class LRSweep(AtAGlance):
    """Holds what a sweep found. It unpacks into its suggestions, in the order of their functions.

    Example::

        sweep = learn.lr_find(suggest_funcs=(minimum, valley))
        low, high = sweep
        sweep.valley, sweep.recommended, sweep.notes

    Create it with `from_curve`, or read it from a file with `from_json`. Its arrays are read-only.
    """

    lrs: Curve
    """The rate of each step."""
    losses: Curve
    """The loss of each step, not smoothed."""
    smoothed: Curve
    """The debiased moving average of `losses`, which the suggestions read."""
    stop_reason: str
    """Why the sweep ended, in words."""
    settings: Mapping[str, Any]
    """start_lr, end_lr, num_it, smoothing, skip_start, skip_end and all other settings of the sweep."""
    suggestions: Mapping[str, float]
    """Function name -> suggested rate, or NaN if the function found none."""
    points: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Function name -> where to draw its suggestion: (rate, loss)."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Function name -> why its suggestion is NaN, or what speaks against it: fastai's rules read any curve."""
    fixed: Curve = field(default_factory=lambda: np.empty(0))
    """The loss of the same items after each update; NaN before there were enough, empty if it was not measured."""
    recommended: float = math.nan
    """The peak rate to train with in one cycle, or NaN, which says why; see `recommendation.recommend`."""
    interval: tuple[float, float] | None = None
    """The range in which the best rate most likely lies; see `recommend` for how likely."""
    bounds: tuple[float, float] | None = None
    """(base_lr, max_lr) for a cyclical run: from where the loss starts to fall to the last rate before it rises."""
    reason: str = ""
    """One sentence that says why this rate is recommended, or why none is. A training call that gets NaN says it."""
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
        has_norm: bool = True,
        has_lstm: bool = False,
        untrained: bool = False,
        broke: bool = False,
        highest: float = 1.0,
        **settings: Any,
    ) -> LRSweep:
        """Smooths a recorded curve and reads the suggestions and the recommendation off it.

        Suggestions see the smoothed curve without the skipped points, up to the first loss that is not finite. The
        recommendation sees the whole curve.

        Args:
            lrs: the rate of each step.
            losses: the loss of each step.
            fixed: the loss of the same items after each step. If it is missing, the recommendation reads `losses`.
            suggest_funcs: one function, several or None. Suggestions have the functions' names; equal ones are
                numbered.
            stop_reason: why the sweep ended, in words.
            smoothing: the weight of the past in the moving average, in [0, 1).
            skip_start: number of points that suggestions skip at the start; None is a tenth of `num_it`.
            skip_end: number of points that suggestions skip at the end.
            num_it: number of steps that were planned; None is the length of the curve.
            bs: items of each step, if known.
            adaptive: whether the optimizer scales its steps by the gradients' size.
            has_norm: whether the model has norm layers.
            has_lstm: whether it has LSTM layers.
            untrained: whether the model knows nothing yet.
            broke: whether the loss after the last step was not finite.
            highest: the highest rate of a parameter group that learns, as a multiple of `lrs`.
            settings: other settings of the sweep, to keep.

        Raises:
            ValueError: the curves are not equally long, a rate is not positive, a skip is negative, or `highest` is
                not positive.
        """
        check_positive(highest, "highest")
        x, y = as_curve(lrs, losses)
        num_it = len(x) if num_it is None else num_it
        skip_start = num_it // 10 if skip_start is None else skip_start
        averages = smooth(y, smoothing)
        suggestions, points, notes = apply_functions(
            as_functions(suggest_funcs), *_trim(x, averages, skip_start, skip_end)
        )
        fixed = as_curve(x, fixed)[1] if np.size(fixed) else x[:0]
        known: dict[str, Any] = {"bs": bs, "adaptive": adaptive, "untrained": untrained}
        known |= {"has_norm": has_norm, "has_lstm": has_lstm}
        advice = recommend(x, y, fixed, broke=broke, planned=num_it, highest=highest, **known)
        used = settings | {
            "num_it": num_it,
            **known,
            "highest": highest,
            "smoothing": smoothing,
            "skip_start": skip_start,
            "skip_end": skip_end,
        }
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

    def __iter__(self) -> Iterator[float]:
        return iter(self.suggestions.values())

    def __len__(self) -> int:
        """The number of suggestions."""
        return len(self.suggestions)

    def __bool__(self) -> bool:
        """Always True: a sweep without suggestions is a sweep, too."""
        return True

    def __getitem__(self, index: int) -> float:
        """Returns a suggestion by its place in the order asked."""
        return list(self.suggestions.values())[index]

    def __getattr__(self, name: str) -> float:
        found: Mapping[str, float] = self.__dict__.get("suggestions", {})
        if name in found:
            return found[name]
        hint = closest(name, [*found, *(f.name for f in fields(self))])
        raise AttributeError(f"This sweep has no {name!r}.{hint} Its suggestions: {', '.join(found) or 'none'}.")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.suggestions]

    def summary(self) -> dict[str, Any]:
        """Returns what was found, the number of steps, and the settings of the sweep, for the record of a run."""
        found = {name: getattr(self, name) for name in ("recommended", "interval", "bounds", "reason", "stop_reason")}
        return found | {"n_steps": len(self.lrs)} | dict(self.settings)

    def plot(
        self,
        ax: Axes | None = None,
        skip_start: int | None = None,
        skip_end: int | None = None,
        *,
        details: bool = False,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Plots the losses over the rate, and marks the recommendation and each suggestion.

        Args:
            ax: the axes to draw on; None makes a new figure.
            skip_start: number of points to leave out at the start. None shows all, like fastai, although suggestions
                skip some.
            skip_end: number of points to leave out at the end. None leaves out those that suggestions skip, like
                fastai, unless the plot names a rate there. A sweep for "auto" is shown to its end.
            details: also draw the curve that the suggestions are read from, the bounds for a cyclical run, and where
                the loss fell fastest and turned.
            save: a file to write the figure to, such as "sweep.png".
        """
        is_for_auto = self.settings.get("stop_when_settled", False)
        if skip_end is None:
            skip_end = 0 if is_for_auto else self._count_hidden_points()
        shown = _keep_points(len(self.lrs), skip_start or 0, skip_end)
        curves = {name: getattr(self, name)[shown] for name in _CURVES}  # all empty if the first loss was NaN
        advice: dict[str, Any] = {name: getattr(self, name) for name in ("interval", "bounds", "turns")}
        advice["recommended"] = None if math.isnan(self.recommended) else self.recommended
        note = f"{describe_steps(self)}: {self.stop_reason}" if is_for_auto else ""
        return lr_curves.plot_sweep(curves, self.points, **advice, ax=ax, note=note, details=details, save=save)

    def _count_hidden_points(self) -> int:
        """Returns how many of the points that suggestions skip at the end lie beyond all named rates."""
        named = [self.recommended, *(self.interval or ()), *(self.bounds or ()), *self.turns.values()]
        last = max(rate for rate in (0.0, *named) if not math.isnan(rate))
        skipped: int = self.settings.get("skip_end", 0)
        return min(skipped, max(int((self.lrs >= last).sum()) - 1, 0))

    def plot_loss_change(
        self,
        sma: int = 1,
        skip_start: int = 10,
        skip_end: int = 5,
        y_lim: tuple[float, float] | None = (-0.01, 0.01),
        ax: Axes | None = None,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Plots d_i = (L_i - L_(i - sma)) / sma of the smoothed loss over the rate, and marks its minimum.

        Args:
            sma: number of steps over which to measure a change; a larger number smooths a noisy curve.
            skip_start: number of points to leave out at the start.
            skip_end: number of points to leave out at the end.
            y_lim: the limits of the axis of d; None fits them to the curve.
            ax: the axes to draw on; None makes a new figure.
            save: a file to write the figure to, such as "loss_change.png".

        Source: keras_lr_finder.

        Raises:
            ValueError: `sma` is not an integer of at least 1, or a skip is negative.
        """
        check_count(sma, "sma")
        kept = _keep_points(len(self.lrs), skip_start, skip_end)
        shown = slice(max(kept.start, sma), kept.stop)
        changes = np.full(len(self.smoothed), math.nan)
        changes[sma:] = (self.smoothed[sma:] - self.smoothed[:-sma]) / sma
        d = changes[shown]
        lowest = int(np.nanargmin(d)) if np.isfinite(d).any() else None
        return lr_curves.plot_loss_change(self.lrs[shown], d, lowest, y_lim=y_lim, ax=ax, save=save)

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Writes everything to a file, for `from_json`."""
        return write_atomically(path, json_text(content_of(self)))

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> LRSweep:
        """Reads a file that `to_json` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            FileFormatError: the file does not hold a sweep, or a rate in it is not positive and finite. It is a
                ValueError too.
        """
        saved = read_json(path, _LARGEST)
        try:
            saved = {f.name: saved[f.name] for f in fields(cls)}
            curve = {name: _read_curve(saved[name]) for name in _CURVES}
            lengths = {len(values) for name, values in curve.items() if name != "fixed" or len(values)}
            if len(lengths) > 1 or not all(0 < lr < math.inf for lr in curve["lrs"]):
                raise ValueError("its curves differ in length, or a rate in them is not positive and finite.")
            settings, points = dict(saved["settings"]), dict(saved["points"])
            points = {name: (_read_rate(x, ""), float(y)) for name, (x, y) in points.items()}
            bounds, interval = _read_pair(saved["bounds"]), _read_pair(saved["interval"])
            reason, stop_reason = _read_text(saved["reason"]), _read_text(saved["stop_reason"])
            notes = {name: _read_text(note) for name, note in saved["notes"].items()}
            suggestions = {name: _read_rate(value, notes.get(name, "")) for name, value in saved["suggestions"].items()}
            recommended = _read_rate(saved["recommended"], reason)
            turns = {name: _read_rate(value, "") for name, value in saved["turns"].items()}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as cause:
            what = f"it has no {cause}" if isinstance(cause, KeyError) else str(cause)[:200]
            raise FileFormatError(f"{path} does not hold a sweep written by LRSweep.to_json: {what}") from cause
        return cls(
            curve["lrs"],
            curve["losses"],
            curve["smoothed"],
            stop_reason,
            settings,
            suggestions,
            points,
            notes,
            curve["fixed"],
            recommended=recommended,
            interval=interval,
            bounds=bounds,
            reason=reason,
            turns=turns,
        )

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Writes one row per step: lr, loss, smoothed, fixed (nan before its first value, empty if never measured)."""
        fixed = self.fixed.tolist() if len(self.fixed) else [None] * len(self.lrs)
        rows = zip(self.lrs.tolist(), self.losses.tolist(), self.smoothed.tolist(), fixed, strict=True)
        return write_atomically(path, csv_text(("lr", "loss", "smoothed", "fixed"), rows))

    def glance(self) -> Glance:
        """Returns the recommendation, the suggestions and their reasons."""
        span = f"from {self.lrs[0]:.2e} to {self.lrs[-1]:.2e}" if len(self.lrs) else "of nothing"
        title = f"LRSweep: {describe_steps(self)} {span}; {self.stop_reason}"
        facts = {"recommended": f"none, because {self.reason}"}
        if not math.isnan(self.recommended):
            recommended = f"{self.recommended:.2e}, most likely within {_format(self.interval)}"
            facts = {"recommended": recommended, "because": self.reason}
            if self.bounds is not None:
                facts["for a cyclical run"] = _format(self.bounds)
        return Glance(title, {**facts, **{name: self._describe(name) for name in self.suggestions}})

    def _describe(self, name: str) -> str:
        """Returns a suggestion in words: its rate, why there is none, or both if something speaks against it."""
        value, note = self.suggestions[name], self.notes.get(name, "")
        if math.isnan(value):
            return note
        return f"{value:.2e}, but {note}" if note else f"{value:.2e}"


_LARGEST = 1 << 24  # bytes of a file; a sweep of 10,000 steps has 1 MB
_CURVES = ("lrs", "losses", "smoothed", "fixed")


def describe_steps(sweep: LRSweep) -> str:
    """Returns in words how many steps a sweep took, such as "41 of at most 48 steps"."""
    taken, planned = len(sweep.lrs), sweep.settings.get("num_it")
    if isinstance(planned, int) and taken < planned:
        return f"{taken} of at most {plural(planned, 'step')}"
    return plural(taken, "step")


def smooth(losses: ArrayLike, beta: float = 0.98) -> Curve:
    """Returns the debiased moving average of `losses`, by `SmoothedLoss`."""
    average = SmoothedLoss(beta)
    return np.array([average.update(loss) for loss in np.asarray(losses, dtype=np.float64).tolist()])


def content_of(sweep: LRSweep) -> dict[str, Any]:
    """Returns what `to_json` writes."""
    return {f.name: getattr(sweep, f.name) for f in fields(sweep)}


def _read_curve(saved: Any) -> Curve:
    if not isinstance(saved, list) or any(isinstance(value, (bool, list, dict)) for value in saved):
        raise ValueError(f"{saved!r:.40} is not a curve.")
    return np.array([float(value) for value in saved])


def _read_text(saved: Any) -> str:
    if not isinstance(saved, str):
        raise ValueError(f"{saved!r:.40} is not text.")
    return saved


def _read_rate(saved: Any, reason: str) -> float:
    """Returns a rate from a file; NaN, which earlier versions wrote as null, becomes `NoRate`."""
    if saved is None or saved == "nan":
        return NoRate(reason)
    if isinstance(saved, bool) or not isinstance(saved, (int, float)) or not 0 < saved < math.inf:
        raise ValueError(f"{saved!r:.40} is not a rate.")
    return float(saved)


def _read_pair(saved: Any) -> tuple[float, float] | None:
    """Returns two rates from a file, the smaller one first, or None."""
    if saved is None:
        return None
    low, high = (_read_rate(one, "") for one in saved)
    if not low <= high:
        raise ValueError(f"{low} to {high} is not a range of rates.")
    return low, high


def _format(pair: tuple[float, float] | None) -> str:
    low, high = pair or (math.nan, math.nan)
    return f"{low:.1e} to {high:.1e}"


def _keep_points(n: int, skip_start: int, skip_end: int) -> slice:
    for name, value in (("skip_start", skip_start), ("skip_end", skip_end)):
        check_count(value, name, least=0)
    return slice(skip_start, max(n - skip_end, skip_start))


def _trim(lrs: Curve, smoothed: Curve, skip_start: int, skip_end: int) -> tuple[Curve, Curve]:
    kept = _keep_points(len(lrs), skip_start, skip_end)
    n = n_finite(smoothed[kept])
    return lrs[kept][:n], smoothed[kept][:n]
