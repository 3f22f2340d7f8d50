"""Which learning rate to take, read from the evidence of a sweep: pure functions of rates and losses.

The idea in one line: *the rate at which the loss turns, read without lag*. A sweep trains for a moment at each rate, so
its loss falls while rates are useful and turns up where they become too large. Two things blur that turn, and both are
taken out. Losses of ever other batches differ by more than a step changes them: so the loss of the *same* few batches is
measured after each update (`FixedLoss`). A moving average lags behind by a decade or more: so the smoothing here
looks as far ahead as back. What is left is sharp: over seeds the turn moves by less than a tenth of a decade.

A one-cycle run bears a peak a little above the turn, for it touches it but for a moment, after a warm-up. By how much is
the one calibrated constant, `PEAK`; `tests/benchmarks/lr_bank.py` prints where it comes from and how far to trust it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["PEAK", "Recommendation", "recommend"]

Curve = NDArray[np.float64]

PEAK = 1.5
"""The recommended peak rate over the rate of the turn: the best single value for the bank's tasks."""
_KERNEL = 0.16, 2.0
"""The standard deviation of the smoothing: in decades of the rate, but at least so many steps."""
_SEEN = 0.5
"""The fall must be so many standard deviations of the differences between batches to be one."""
_CLEAR = 3.0
"""From so many on it is beyond doubt."""
_DOUBT = 0.15
"""Decades."""
_FEWEST = 8
"""Points below which a curve says nothing."""


@dataclass(frozen=True)
class Recommendation:
    """A rate and how sure it is, or None and why."""

    lr: float | None
    reason: str
    interval: tuple[float, float] | None = None
    bounds: tuple[float, float] | None = None
    turns: Mapping[str, float] = field(default_factory=dict)
    """Rates that the reason names: "fastest fall" and "turn", or "rise" where the loss only rose."""


def recommend(lrs: Curve, losses: Curve, fixed: Curve) -> Recommendation:
    """Returns the peak rate for a one-cycle run: `PEAK` times the rate of the turn, within the range that was swept.

    Args:
        lrs: the rates, rising.
        losses: the loss of each update's own batch, before it.
        fixed: the loss of the same batches after each update, NaN or missing where it was not measured; `losses`,
            smoothed more, stand in for it then.

    The interval spans the rates around the turn whose loss is as good as its lowest, widened by what the bank's tasks
    differ in; the bounds for a cyclical run go from where the loss begins to fall to the turn.
    """
    curve = _Curve.of(lrs, losses, fixed)
    if curve is None:
        n = int(np.isfinite(losses).sum())
        return Recommendation(None, f"{n} finite losses are too few to see a fall; sweep more steps or lower rates")
    if curve.clarity < _SEEN:
        return Recommendation(None, curve.why_not(), turns=curve.rise())
    turn, (left, right) = curve.turn(), curve.basin()
    lr = min(PEAK * turn, float(curve.lrs[-1]))
    doubt = 10 ** (_DOUBT if curve.clarity >= _CLEAR else 2 * _DOUBT)
    interval = min(left, lr) / doubt, max(right, lr) * doubt
    return Recommendation(lr, curve.why(), interval, (curve.start_of_fall(), turn), curve.turns())


@dataclass(frozen=True)
class _Curve:
    """The evidence, smoothed without lag."""

    lrs: Curve
    losses: Curve
    start: float
    noise: float

    @classmethod
    def of(cls, lrs: Curve, losses: Curve, fixed: Curve) -> _Curve | None:
        """Returns None where there are too few points."""
        measured = np.flatnonzero(np.isfinite(fixed))
        first = int(measured[0]) if len(measured) else 0
        x, y, kernel = lrs[first:], fixed[first:], 1.0
        if not len(measured):  # the loss of an update's batch is what the update before has led to
            x, y, kernel = lrs[:-1], losses[1:], 2.0
        n = n_finite(y)
        x, y = x[:n], y[:n]
        if n < _FEWEST:
            return None
        start = float(np.median(y[: max(3, n // 10)]))
        highest = 2 * start - y.min()  # a loss that explodes must not outweigh what came before
        smoothed = _smooth(np.log10(x), np.minimum(y, highest), kernel)
        return cls(x, smoothed, start, _deviation(losses[: max(int(smoothed.argmin()), _FEWEST)]))

    @property
    def fall(self) -> float:
        return float(self.start - self.losses.min())

    @property
    def clarity(self) -> float:
        """The fall over the differences between batches."""
        return self.fall / self.noise if self.noise else float("inf") if self.fall > 0 else 0.0

    def turn(self) -> float:
        """The rate of the lowest loss."""
        return float(self.lrs[self.losses.argmin()])

    def basin(self) -> tuple[float, float]:
        """The rates around the turn whose loss is at most a twentieth of the fall above its lowest."""
        low = int(self.losses.argmin())
        above = np.flatnonzero(self.losses > self.losses[low] + self.fall / 20)
        left, right = above[above < low], above[above > low]
        first = left[-1] + 1 if len(left) else 0
        last = right[0] - 1 if len(right) else len(self.lrs) - 1
        return float(self.lrs[first]), float(self.lrs[last])

    def start_of_fall(self) -> float:
        """The last rate before the turn with at least 95 % of the fall still to come."""
        before = self.losses[: self.losses.argmin() + 1]
        return float(self.lrs[np.flatnonzero(before >= self.start - 0.05 * self.fall)[-1:].sum()])

    def steepest(self) -> float:
        """The rate of the fastest fall by the rate's logarithm, before the turn."""
        until = max(2, int(self.losses.argmin()) + 1)
        return float(self.lrs[np.gradient(self.losses[:until], np.log(self.lrs[:until])).argmin()])

    def turns(self) -> dict[str, float]:
        return {"fastest fall": self.steepest(), "turn": self.turn()}

    def rise(self) -> dict[str, float]:
        rising = np.flatnonzero(self.losses > self.start + 2 * self.noise)
        return {"rise": float(self.lrs[rising[0]])} if len(rising) else {}

    def why(self) -> str:
        """The recommendation in words."""
        if self.losses.argmin() == len(self.losses) - 1:
            end = f"was still falling at the end of the range, {self.lrs[-1]:.1e}: sweep to higher rates to be sure"
        else:
            end = f"turned at {self.turn():.1e}; a peak may be {PEAK:g} times that"
        doubt = "" if self.clarity >= _CLEAR else "; the fall is hardly more than batches differ, so this is vague"
        return f"the loss fell fastest at {self.steepest():.1e} and {end}{doubt}"

    def why_not(self) -> str:
        """What the curve shows instead of a fall."""
        fell = f"the loss fell by {max(self.fall, 0.0):.2g}, less than it differs between batches ({self.noise:.2g})"
        for rate in self.rise().values():
            return (
                f"{fell}, and rose from {rate:.1e} on: the model is good already or does not learn from here; stay "
                "well below that rate"
            )
        return f"{fell}, and did not rise either: sweep to higher rates, or check that the model can learn"


def n_finite(losses: Curve) -> int:
    """How many losses come before the first NaN or infinity."""
    bad = np.flatnonzero(~np.isfinite(losses))
    return int(bad[0]) if len(bad) else len(losses)


def _smooth(x: Curve, y: Curve, factor: float) -> Curve:
    """The mean of the values around each, weighed by a bell over the decades `x`: as far ahead as back."""
    decades, steps = _KERNEL
    width = factor * max(decades, steps * float(np.median(np.diff(x))))
    weights = np.exp(-0.5 * ((x[:, None] - x) / width) ** 2)
    smoothed: Curve = weights @ y / weights.sum(1)
    return smoothed


def _deviation(losses: Curve) -> float:
    """The standard deviation of losses about their trend, from the differences of neighbours; outliers do not count."""
    return float(1.4826 * np.median(np.abs(np.diff(losses))) / np.sqrt(2))
