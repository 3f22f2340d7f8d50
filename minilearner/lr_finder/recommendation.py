"""Recommend a learning rate from the curve of a sweep: pure functions of rates and losses.

This module owns the rule and its constants. `lr_finder.sweep` measures the losses, `lr_finder.result` stores what comes
out, and `lr_finder.suggestions` has fastai's simpler rules.

In short: *take the rate between the middle of the valley and the wall; scale it by the square root of the batch size;
trust the curve as far as it is clear*.

The middle. A sweep trains for a moment at each rate. Its loss falls while rates are useful, and rises when they are too
large. Two effects blur this curve, and both are removed. Losses of different batches differ by more than one step
changes them, so the loss of the *same* few items is measured after each update (`FixedLoss`). A moving average lags
behind by more than a decade, so the smoothing here looks as far ahead as back. The middle is the mean of the logarithms
of the rates, each weighted by the square of how far the loss has fallen there. It depends on the whole valley. A
threshold or the lowest point would depend on a short stretch, which may be flat or ragged by chance.

The wall is the rate above which training breaks: the loss has risen again. The best peak of one cycle is near the
geometric mean of the two, times a factor. The factor is lowest for plain steps (the gradient times the rate) in a net
without norm layers. Such a net breaks for good above the wall, which a sweep sees too late. It is low for adaptive
steps in an LSTM, too, perhaps because its cells add up without a limit, and its gates close for good when they grow.

The batch size. A sweep cannot see how the noise of small batches adds up over a whole run, so the rate grows with the
square root of the batch size (Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", 2022).

What is usual. A net on a plateau hardly learns in so few steps, and its curve shows little but noise. The rate is then
drawn towards the usual one for its kind of optimizer: all the more, the less the fall stands out from the noise.

`Calibration` holds all fitted constants. `tests/benchmarks/lr_bank.py` prints how good they are on which tasks. A third
of these tasks was looked at only after the rule stood.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minilearner.errors import plural

__all__ = ["FEWEST", "Calibration", "NoRate", "Recommendation", "is_settled", "n_finite", "recommend"]

Curve = NDArray[np.float64]

USUAL_BATCH = 64
"""The assumed number of items of an update if it is not known, for which the factors hold."""

LARGEST_BATCH = 1024
"""Larger batches count as this one: the benchmark tasks have at most half of it."""

_RISEN = 0.1
"""At the wall, the loss has risen again by this share of its fall."""

_CLEAR = 3.0
"""A fall below this many times the noise is vague, and doubles the width of the interval."""

_DEVIATIONS = 1.15
"""The half of the interval, in standard deviations of the valley."""

_SEEN, _SEEN_IN_BATCHES = 0.5, 1.3
"""A fall below this many times the noise does not count. The noise is the standard deviation between batches. Losses
of different batches fall more by chance, so the second number is for them: about one sweep in fifteen of a model that
does not learn reaches it."""

_KERNEL = 0.2, 2.0
"""The standard deviation of the smoothing: in decades of the rate, and its minimum in steps."""

_MOVED = 0.1
"""The reason says so if the rate was moved by more than this, in the natural logarithm."""

_WELL_BELOW = 4.0
"""Without a fall, a rate stays below the rise by this factor."""

_ROUNDING = 1e-6
"""Relative differences of losses below this mean nothing in single precision."""

FEWEST = 8
"""The fewest points that a recommendation needs."""

_FEW = 3 * FEWEST
"""In fewer steps, small batches may hide a fall."""

_SETTLED, _LEFT = 4, 0.25
"""The curve is settled if its last four losses all keep less than a quarter of the fall. The square of that is their
weight, so they hardly count for the middle, and the wall lies behind them."""


_STEPS = {
    "plain": "plain steps",
    "bare": "plain steps without norm layers",
    "adaptive": "adaptive steps",
    "lstm": "adaptive steps of LSTM layers",
}
"""Kind of the training -> what the reason calls it. Each kind has a factor of its own."""


def _name_kind(*, adaptive: bool, has_norm: bool, has_lstm: bool) -> str:
    if adaptive:
        return "lstm" if has_lstm else "adaptive"
    return "plain" if has_norm else "bare"


@dataclass(frozen=True)
class Calibration:
    """The constants of the rule that were fitted to tasks."""

    plain: float = 0.8
    """The factor for plain steps in a net with norm layers."""
    bare: float = 0.5
    """The factor for plain steps in a net without norm layers."""
    adaptive: float = 0.65
    """The factor for optimizers that scale their steps by the size of the gradients."""
    lstm: float = 0.45
    """The factor for them in a net with LSTM layers."""
    farthest: float = 10.0
    """The wall counts as no farther from the middle than by this factor."""
    doubt: float = 2.5
    """The fall, in standard deviations between batches, at which the curve and the usual rate count alike."""
    usual_plain: float = 0.25
    """The rate to fall back on for plain steps."""
    usual_adaptive: float = 0.018
    """The rate to fall back on for adaptive steps."""

    def factor(self, bs: int | None, *, adaptive: bool, has_norm: bool, has_lstm: bool = False) -> float:
        """Returns the factor on the rate between middle and wall, for updates of `bs` items."""
        kind = _name_kind(adaptive=adaptive, has_norm=has_norm, has_lstm=has_lstm)
        factor = {"plain": self.plain, "bare": self.bare, "adaptive": self.adaptive, "lstm": self.lstm}[kind]
        return factor * math.sqrt(min(bs or USUAL_BATCH, LARGEST_BATCH) / USUAL_BATCH)

    def mix(self, lr: float, clarity: float, usual: float) -> float:
        """Returns the rate of the curve, drawn towards the usual one if the curve is not clear."""
        trust = clarity**2 / (clarity**2 + self.doubt**2)
        return math.exp(trust * math.log(lr) + (1 - trust) * math.log(usual))

    def usual(self, *, adaptive: bool) -> float:
        """Returns the rate to fall back on."""
        return self.usual_adaptive if adaptive else self.usual_plain


class NoRate(float):
    """NaN in place of a rate, with the reason why there is none. It prints as "nan"; a training call refuses it.

    A product or quotient, such as ``sweep.valley / 10``, keeps the reason.

    Attributes:
        reason: why there is no rate, in words.
    """

    reason: str

    def __new__(cls, reason: str) -> NoRate:
        self = super().__new__(cls, math.nan)
        self.reason = reason
        return self

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]
        return (self.reason,)

    def __mul__(self, other: object) -> NoRate:
        return self

    __rmul__ = __truediv__ = __mul__


@dataclass(frozen=True)
class Recommendation:
    """A rate and how certain it is, or `NoRate` and the reason."""

    lr: float
    reason: str
    interval: tuple[float, float] | None = None
    bounds: tuple[float, float] | None = None
    turns: Mapping[str, float] = field(default_factory=dict)
    """Rates that the reason names: "fastest fall" and "turn", or "rise" if the loss only rose."""


def recommend(
    lrs: Curve,
    losses: Curve,
    fixed: Curve,
    *,
    bs: int | None = None,
    adaptive: bool = False,
    has_norm: bool = True,
    has_lstm: bool = False,
    untrained: bool = False,
    broke: bool = False,
    planned: int | None = None,
    highest: float = 1.0,
    calibration: Calibration = Calibration(),
) -> Recommendation:
    """Returns the peak rate for a one-cycle run, within the range that was swept, or NaN and the reason for it.

    The interval is 1.15 standard deviations of the valley to either side, up to the wall. On the four parts of the
    benchmark tasks, it contained a rate within half a point of the best in 74 to 92 % of the sweeps. The bounds for a
    cyclical run go from the rate at which the loss begins to fall to the rate at which it turns.

    Args:
        lrs: the rates, rising.
        losses: the loss of each update's own batch, before the update.
        fixed: the loss of the same items after each update; NaN or missing if it was not measured. `losses`, smoothed
            more, replace it then.
        bs: items of each update; None assumes `USUAL_BATCH`.
        adaptive: whether the optimizer scales its steps by the gradients' size.
        has_norm: whether the model has norm layers.
        has_lstm: whether it has LSTM layers.
        untrained: whether the model knows nothing yet. If its loss does not fall in so few steps, but rises at high
            rates, the usual rate is recommended, well below the rise. Any other model gets none then.
        broke: whether the loss after the last rate was not finite.
        planned: how many updates the sweep makes if nothing stops it; None is as many as there are `losses`.
        highest: the highest rate of a parameter group, as a multiple of `lrs`. The usual rates are for that group.
        calibration: the constants; pass others to see how good they are.
    """
    curve = _Curve.of(lrs, losses, fixed, broke)
    if curve is None:
        reason = _explain_too_few(losses, fixed, broke, planned or len(losses))
        return Recommendation(NoRate(reason), reason)
    usual = calibration.usual(adaptive=adaptive) / highest
    if curve.clarity < curve.least:
        if untrained and curve.rise:
            return _fall_back(curve, usual, float(lrs[0]))
        reason = curve.explain_none(planned or len(losses))
        return Recommendation(NoRate(reason), reason, turns=curve.rise)
    (middle, spread), wall = curve.middle(), curve.wall()
    between = middle * math.sqrt(min(wall / middle, calibration.farthest))
    factor = calibration.factor(bs, adaptive=adaptive, has_norm=has_norm, has_lstm=has_lstm)
    mixed = calibration.mix(factor * between, curve.clarity, usual)
    lr = max(min(mixed, wall, float(lrs[-1])), float(lrs[0]))
    doubt = spread ** (_DEVIATIONS if curve.clarity >= _CLEAR else 2 * _DEVIATIONS)
    kind = _name_kind(adaptive=adaptive, has_norm=has_norm, has_lstm=has_lstm)
    reason = curve.explain(between, factor, _STEPS[kind], bs, lr, is_limited=lr != mixed)
    interval = max(lr / doubt, float(lrs[0])), min(lr * doubt, wall, float(lrs[-1]))
    return Recommendation(lr, reason, interval, (curve.after(0.05), curve.turn()), curve.turns())


def is_settled(lrs: ArrayLike, losses: ArrayLike, fixed: ArrayLike) -> bool:
    """Whether losses at still higher rates would not change the recommendation, unless training recovered.

    It is settled once the loss of the same items fell clearly, and then rose and stayed high.
    """
    x, y, same = (np.asarray(values, dtype=np.float64) for values in (lrs, losses, fixed))
    curve = _Curve.of(x, y, same, broke=False) if np.isfinite(same[-1:]).all() and len(same) else None
    if curve is None or curve.clarity < _CLEAR or len(curve.losses) - curve.low <= _SETTLED:
        return False
    return bool((same[-_SETTLED:] >= curve.start - _LEFT * curve.fall).all())


def _fall_back(curve: _Curve, usual: float, lowest: float) -> Recommendation:
    """Returns the usual rate, well below the rate from which the loss rises, for a model that knows nothing yet."""
    (rise,) = curve.rise.values()
    lr = max(min(usual, rise / _WELL_BELOW), lowest)
    why = f"{lr:.1e} is usual for such optimizers, and well below that"
    if lr < usual:
        why = f"{lr:.1e} is below that; {usual:.1e}, usual for such optimizers, is too high here"
    elif lr > usual:
        why = f"{lr:.1e} is the lowest rate of the sweep; {usual:.1e} is usual for such optimizers"
    reason = (
        f"the model knows nothing yet, and its loss did not fall in so few steps; it rose from {rise:.1e} on; {why}"
    )
    return Recommendation(lr, reason, (max(lr / 10, lowest), rise), turns=curve.rise)


def _explain_too_few(losses: Curve, fixed: Curve, broke: bool, planned: int) -> str:
    """Returns in words how many losses are usable, how many are needed, and what to do."""
    measured = np.flatnonzero(np.isfinite(fixed))
    y = fixed[measured[0] :] if len(measured) else losses[1:]
    n = n_finite(y)
    found = f"the sweep has only {n} of the {FEWEST} comparable losses that a recommendation needs"
    if broke or n < len(y) or n_finite(losses) < len(losses):
        return f"{found}: look for NaN in data and loss, or sweep lower rates"
    if len(losses) < planned:
        stopped = f"{found}, because it stopped after {len(losses)} of {plural(planned, 'step')}"
        return f"{stopped}; if the loss exploded, sweep lower rates"
    least = planned + FEWEST - n
    return f"{found}: sweep at least {least} steps ({_NUMBER_OF_STEPS})"


_NUMBER_OF_STEPS = "`num_it` of `lr_find`, `num_iter` of `LRFinder`"


@dataclass(frozen=True)
class _Curve:
    """The smoothed losses, the level that they start from, and the standard deviation between batches.

    `rise` holds the first rate, if any, at which the loss was above its start by twice that deviation. `broke` says
    that the loss after the last rate was not finite. A fall by fewer than `least` deviations does not count.
    """

    lrs: Curve
    losses: Curve
    start: float
    noise: float
    rise: Mapping[str, float]
    broke: bool
    least: float

    @classmethod
    def of(cls, lrs: Curve, losses: Curve, fixed: Curve, broke: bool) -> _Curve | None:
        """Returns the curve, or None if there are too few points."""
        measured = np.flatnonzero(np.isfinite(fixed))
        first = int(measured[0]) if len(measured) else 0
        x, y, factor = lrs[first:], fixed[first:], 1.0
        if not len(measured):  # an update's own batch shows the effect of the update before
            x, y, factor = lrs[:-1], losses[1:], 1.6
        n = n_finite(y)
        broke = broke or n < len(y)
        x, y = x[:n], y[:n]
        if n < FEWEST:
            return None
        start = float(np.median(y[: max(3, n // 10)]))
        noise = _measure_noise(losses[: max(int(y.argmin()), FEWEST)])
        noise = max(noise, _ROUNDING * abs(start), float(np.finfo(np.float64).tiny))
        highest = start + max(start - y.min(), 5 * noise)  # an explosion must not outweigh the points before it
        smoothed = _smooth(np.log10(x), np.minimum(y, highest), factor)
        if len(measured) and start - smoothed.min() < _SEEN * noise:  # spikes may hide a fall on a plateau
            smoothed = _smooth(np.log10(x), np.minimum(y, start), factor)
        risen = np.flatnonzero((y if len(measured) else smoothed) > start + 2 * noise)
        rise = {"rise": float(x[risen[0]])} if len(risen) else {}
        return cls(x, smoothed, start, noise, rise, broke, _SEEN if len(measured) else _SEEN_IN_BATCHES)

    @property
    def low(self) -> int:
        return int(self.losses.argmin())

    @property
    def fall(self) -> float:
        return float(self.start - self.losses[self.low])

    @property
    def clarity(self) -> float:
        """The fall divided by the noise."""
        return self.fall / self.noise

    def after(self, share: float) -> float:
        """Returns the first rate at which the loss has fallen by this share, interpolated between two points."""
        level = self.start - share * self.fall
        reached = int(np.argmax(self.losses <= level))
        return self._interpolate(reached - 1, level) if reached else float(self.lrs[0])

    def turn(self) -> float:
        """Returns the rate of the lowest loss."""
        return float(self.lrs[self.low])

    def middle(self) -> tuple[float, float]:
        """Returns the mean of the rates by logarithms, weighted by the squared fall, and its deviation as a factor."""
        x, weights = np.log(self.lrs), np.maximum(self.start - self.losses, 0) ** 2
        mean = float(np.average(x, weights=weights))
        return math.exp(mean), math.exp(math.sqrt(np.average((x - mean) ** 2, weights=weights)))

    def wall(self) -> float:
        """Returns the rate at which the loss has risen again by a tenth of its fall, or broke; infinity if neither."""
        level = self.start - (1 - _RISEN) * self.fall
        risen = np.flatnonzero(self.losses[self.low :] > level)
        if len(risen):
            return self._interpolate(self.low + int(risen[0]) - 1, level)
        return float(self.lrs[-1]) if self.broke else math.inf

    def steepest(self) -> float:
        """Returns the rate, before the turn, at which the loss fell fastest by the rate's logarithm."""
        return float(self.lrs[self._compute_slopes().argmin()])

    @property
    def falls_at_once(self) -> bool:
        """Whether the loss falls about as fast at the first rates as anywhere, so the sweep missed the beginning."""
        slopes = self._compute_slopes()
        return bool(slopes[:3].mean() < 0.4 * slopes.min())

    def turns(self) -> dict[str, float]:
        return {"fastest fall": self.steepest(), "turn": self.turn()}

    def explain(self, between: float, factor: float, steps: str, bs: int | None, lr: float, *, is_limited: bool) -> str:
        """Returns in words how a factor leads to `lr`, from the rate `between` the middle of the curve and its wall."""
        early = (
            " (and about as fast at the first rates: sweep from lower rates to be sure)" if self.falls_at_once else ""
        )
        items = plural(bs, "item") if bs else f"{USUAL_BATCH} items (assumed, as their size is unknown)"
        moved = ""
        if abs(math.log(lr / (factor * between))) > _MOVED:
            moved = ", moved toward the usual rate because the curve is not quite clear"
        if is_limited:
            moved = ", kept within the useful part of the sweep"
        doubt = ""
        if self.clarity < _CLEAR:
            doubt = "; the loss fell hardly more than it differs between batches, so this is a rough guess"
        where = "between the middle of this dip and the rise"
        if self.wall() == math.inf:
            where = "above the middle of this dip"
        return (
            f"the loss fell fastest at {self.steepest():.1e}{early}, {self._describe_end()}; start from {between:.1e}, "
            f"{where}, times {factor:.2g} for {steps} and batches of {items}{moved}: take {lr:.1e}{doubt}"
        )

    def _describe_end(self) -> str:
        """Returns how the curve ends, in words."""
        last, turned = float(self.lrs[-1]), self.low < len(self.losses) - 1
        if self.broke and self.wall() == last:
            kept = f"was lowest at {self.turn():.1e}" if turned else "kept falling"
            return f"{kept}, and was not finite past {last:.1e}"
        if self.wall() < math.inf:
            return f"was lowest at {self.turn():.1e}, and rose from {self.wall():.1e} on"
        if turned:
            return f"was lowest at {self.turn():.1e}, and hardly rose after that (sweep to higher rates to be sure)"
        return f"and was still falling at the end of the range, {self.turn():.1e} (sweep to higher rates to be sure)"

    def explain_none(self, planned: int) -> str:
        """Returns what the curve of so many planned updates shows instead of a fall, in words."""
        fall = self.fall if self.fall > self.noise / 100 else 0.0
        fell = "the loss did not fall"
        if fall:
            fell = f"the loss fell by only {fall:.2g}, while it differs by {self.noise:.2g} from batch to batch"
        for rate in self.rise.values():
            why = "the model is already good, or it does not learn; take a rate well below that"
            if planned < _FEW:
                why = f"{plural(planned, 'step')} show little; sweep more ({_NUMBER_OF_STEPS})"
            return f"{fell}, and it rose from {rate:.1e} on: {why}"
        if self.broke:
            last = self.lrs[-1]
            return f"{fell}, and it was not finite past {last:.1e}: look for NaN in data and loss, or sweep lower rates"
        return f"{fell}, and it did not rise either: sweep to higher rates, or check that the model can learn"

    def _compute_slopes(self) -> Curve:
        """Returns the slope of the loss over the rate's logarithm, up to the turn."""
        until = max(2, self.low + 1)
        slopes: Curve = np.gradient(self.losses[:until], np.log(self.lrs[:until]))
        return slopes

    def _interpolate(self, i: int, level: float) -> float:
        """Returns the rate between points i and i + 1 at which the line through both reaches `level`."""
        a, b = self.losses[i], self.losses[i + 1]
        return float(self.lrs[i] * (self.lrs[i + 1] / self.lrs[i]) ** ((level - a) / (b - a)))


def n_finite(losses: Curve) -> int:
    """Returns how many losses come before the first NaN or infinity."""
    bad = np.flatnonzero(~np.isfinite(losses))
    return int(bad[0]) if len(bad) else len(losses)


def _smooth(x: Curve, y: Curve, factor: float) -> Curve:
    """Returns the mean around each value, weighted by a Gaussian over the decades `x`, as far ahead as back."""
    decades, steps = _KERNEL
    width = factor * max(decades, steps * float(np.median(np.diff(x))))
    weights = np.exp(-0.5 * ((x[:, None] - x) / width) ** 2)
    smoothed: Curve = weights @ y / weights.sum(1)
    return smoothed


def _measure_noise(losses: Curve) -> float:
    """Returns the standard deviation of losses about their trend, from differences of neighbours, without outliers."""
    return float(1.4826 * np.median(np.abs(np.diff(losses))) / math.sqrt(2))
