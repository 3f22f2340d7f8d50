"""The learning-rate sweep as a result: a frozen curve, what may be read from it, and the functions that read it.

The suggestion functions are pure: (rates, losses) -> (value, (x, y) where it is drawn). With one exception, said there,
their values are fastai's where the loss falls at all; where it does not they raise `NoSuggestion`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from minilearner.checks import check_count
from minilearner.errors import closest
from minilearner.files import csv_text, json_text, write_atomically
from minilearner.lr_finder.recommendation import n_finite, recommend
from minilearner.lr_finder.suggestions import (
    Curve,
    SuggestFunction,
    as_curve,
    as_functions,
    ask_functions,
    smooth,
    valley,
)
from minilearner.plots import lr_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LRSweep"]


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
        x, y = as_curve(lrs, losses)
        num_it = len(x) if num_it is None else num_it
        skip_start = num_it // 10 if skip_start is None else skip_start
        averages = smooth(y, smoothing)
        suggestions, points, notes = ask_functions(
            as_functions(suggest_funcs), *_trim(x, averages, skip_start, skip_end)
        )
        fixed = as_curve(x, fixed)[1] if np.size(fixed) else x[:0]
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
        return lr_curves.plot_sweep(curves, self.points, **advice, ax=ax)

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
        check_count(sma, "sma")
        kept = _slice(len(self.lrs), skip_start, skip_end)
        shown = slice(max(kept.start, sma), kept.stop)
        changes = np.full(len(self.smoothed), math.nan)
        changes[sma:] = (self.smoothed[sma:] - self.smoothed[:-sma]) / sma
        d = changes[shown]
        lowest = int(np.nanargmin(d)) if np.isfinite(d).any() else None
        return lr_curves.plot_loss_change(self.lrs[shown], d, lowest, y_lim=y_lim, ax=ax)

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
        check_count(value, name, least=0)
    return slice(skip_start, max(n - skip_end, skip_start))


def _trim(lrs: Curve, smoothed: Curve, skip_start: int, skip_end: int) -> tuple[Curve, Curve]:
    kept = _slice(len(lrs), skip_start, skip_end)
    n = n_finite(smoothed[kept])
    return lrs[kept][:n], smoothed[kept][:n]
