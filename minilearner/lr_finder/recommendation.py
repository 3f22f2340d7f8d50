"""Which learning rate to take, read from what a sweep saw: pure functions of rates and losses.

The idea in one line: *the middle of the valley, read without lag, clear of the wall, and lower the smaller the batch*.
A sweep trains for a moment at each rate. Its loss falls while rates are useful, and rises where they are too large. Two
things blur that; both are taken out. The losses of ever other batches differ by more than a step changes them: so the
loss of the *same* few items is measured after each update (`FixedLoss`). A moving average lags behind, by more than a
decade: so the smoothing here looks as far ahead as back. The middle is the mean of the rates, by logarithms, each
weighed by the square of how far the loss has fallen there. It rests on the whole valley, where a threshold or the
lowest point rests on a stretch that is flat, or ragged, by chance.

Two things a sweep cannot see. One is how the noise of small batches adds up over a whole run. That follows a law: the
best rate is proportional to 1 / (1 + B / batch size) for a noise scale B (McCandlish et al., "An Empirical Model of
Large-Batch Training", 2018). So the middle is moved by it. The other is the wall: at rates that grow by a factor e^r
with each update, what breaks a run that stays is seen only sqrt(r L / 2) later, by the natural logarithm, where L is
how far the logarithm of the loss must grow to be seen. A plain optimizer, whose step is the gradient times the rate,
has to stay below the wall as it is without that delay: above it deep nets without norm layers break for good. One that
scales its steps by the gradients' size (Adam) meets the wall later in one cycle than in a sweep, for its warm-up
settles those scales; it stays below the wall as it was seen.

`Calibration` holds all that was fitted: one set for every optimizer, with norm layers or without. What the constants
are worth on which tasks, with each task left out of its own calibration, is printed by `tests/benchmarks/lr_bank.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Calibration", "Recommendation", "n_finite", "recommend"]

Curve = NDArray[np.float64]

USUAL_BATCH = 64
"""Stands in for the items of an update where they are not known."""

_RISEN = 0.1
"""The share of the fall that has been lost again where the wall is."""

_CLEAR = 3.0
"""A fall below this many times the noise is vague, and the interval twice as wide."""

_SEEN, _SEEN_IN_BATCHES = 0.5, 1.3
"""A fall below this many times the noise, the standard deviation between batches, is none. Losses of ever other batches
show larger ones by chance: about one sweep in fifteen of a model that does not learn reaches the second."""

_KERNEL = 0.2, 2.0
"""The standard deviation of the smoothing: decades of the rate, and at least so many steps."""

_ROUNDING = 1e-6
"""Relative differences of losses that mean nothing in single precision."""

_FEWEST = 8
"""Fewer points say nothing."""


@dataclass(frozen=True)
class Calibration:
    """The constants of the rule that were fitted to tasks."""

    scale: float = 6.25
    """By how much the middle is moved for batches without noise."""
    noise_items: float = 256
    """The noise scale B of the law above, in items."""
    log_growth: float = 15
    """L above: how far the logarithm of the loss grows until the wall is seen."""

    def factor(self, bs: int | None) -> float:
        """By how much the middle is moved for updates of `bs` items: 0.37 for 16, 1.25 for 64, at most `scale`."""
        return self.scale / (1 + self.noise_items / (bs or USUAL_BATCH))

    def delay(self, r: float) -> float:
        """The wall as a run meets it by the wall as seen, at rates that grow by e^r a step: 0.31 in lr_find's 100."""
        return math.exp(-math.sqrt(r * self.log_growth / 2))


@dataclass(frozen=True)
class Recommendation:
    """A rate and how sure it is, or None and why."""

    lr: float | None
    reason: str
    interval: tuple[float, float] | None = None
    bounds: tuple[float, float] | None = None
    turns: Mapping[str, float] = field(default_factory=dict)
    """Rates that the reason names: "fastest fall" and "turn", or "rise" where the loss only rose."""


def recommend(
    lrs: Curve,
    losses: Curve,
    fixed: Curve,
    *,
    bs: int | None = None,
    adaptive: bool = False,
    broke: bool = False,
    calibration: Calibration = Calibration(),
) -> Recommendation:
    """Returns the peak rate for a one-cycle run, within the range that was swept, or why there is none.

    The interval is a standard deviation of the valley to either side, up to the wall. In 90 % of the sweeps over the
    bank's tasks a rate within half a point of the best lay in it. The bounds for a cyclical run go from where the loss
    begins to fall to where it turns.

    Args:
        lrs: the rates, rising.
        losses: the loss of each update's own batch, before it.
        fixed: the loss of the same items after each update, NaN or missing where it was not measured; `losses`,
            smoothed more, stand in for it then.
        bs: items of each update; `USUAL_BATCH` where None.
        adaptive: whether the optimizer scales its steps by the gradients' size.
        broke: whether the loss after the last one was not finite.
        calibration: other constants, to see what they are worth.
    """
    curve = _Curve.of(lrs, losses, fixed, broke)
    if curve is None:
        n = n_finite(losses)
        return Recommendation(None, f"{n} finite losses are too few to see a fall: sweep more steps, or lower rates")
    if curve.clarity < curve.least:
        return Recommendation(None, curve.why_not(), turns=curve.rise)
    (middle, spread), wall, moved = curve.middle(), curve.wall(), calibration.factor(bs)
    clear = wall if adaptive else wall * calibration.delay(curve.log_step(wall))
    lr = max(min(moved * middle, clear, float(lrs[-1])), float(lrs[0]))
    doubt = spread if curve.clarity >= _CLEAR else spread**2
    reason = curve.why(bs, moved, held=lr == clear)
    interval = max(lr / doubt, float(lrs[0])), min(lr * doubt, wall, float(lrs[-1]))
    return Recommendation(lr, reason, interval, (curve.after(0.05), curve.turn()), curve.turns())


@dataclass(frozen=True)
class _Curve:
    """The losses, smoothed without lag; the level they start from; the standard deviation between batches.

    `rise` holds the first rate, if any, at which the loss stood above its start by twice that. `broke` says that the
    loss after the last rate was not finite. A fall of fewer than `least` deviations is none.
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
        """Returns None where there are too few points."""
        measured = np.flatnonzero(np.isfinite(fixed))
        first = int(measured[0]) if len(measured) else 0
        x, y, factor = lrs[first:], fixed[first:], 1.0
        if not len(measured):  # the loss of an update's batch is what the update before has led to
            x, y, factor = lrs[:-1], losses[1:], 1.6
        n = n_finite(y)
        broke = broke or n < len(y)
        x, y = x[:n], y[:n]
        if n < _FEWEST:
            return None
        start = float(np.median(y[: max(3, n // 10)]))
        noise = _deviation(losses[: max(int(y.argmin()), _FEWEST)])
        noise = max(noise, _ROUNDING * abs(start), float(np.finfo(np.float64).tiny))
        highest = start + max(start - y.min(), 5 * noise)  # an explosion must not outweigh what came before
        smoothed = _smooth(np.log10(x), np.minimum(y, highest), factor)
        if len(measured) and start - smoothed.min() < _SEEN * noise:  # spikes hide what was learned on a plateau
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
        """The fall over the noise."""
        return self.fall / self.noise

    def after(self, share: float) -> float:
        """The rate at which the loss has first made this share of its fall, between two points by their logarithms."""
        level = self.start - share * self.fall
        reached = int(np.argmax(self.losses <= level))
        return self._between(reached - 1, level) if reached else float(self.lrs[0])

    def turn(self) -> float:
        """The rate of the lowest loss."""
        return float(self.lrs[self.low])

    def middle(self) -> tuple[float, float]:
        """The mean of the rates, by logarithms, weighed by the square of the fall; a standard deviation as a factor."""
        x, weights = np.log(self.lrs), np.maximum(self.start - self.losses, 0) ** 2
        mean = float(np.average(x, weights=weights))
        return math.exp(mean), math.exp(math.sqrt(np.average((x - mean) ** 2, weights=weights)))

    def wall(self) -> float:
        """The last rate before the loss has risen from its lowest by a tenth of the fall, or broke; else infinity."""
        level = self.start - (1 - _RISEN) * self.fall
        risen = np.flatnonzero(self.losses[self.low :] > level)
        if len(risen):
            return self._between(self.low + int(risen[0]) - 1, level)
        return float(self.lrs[-1]) if self.broke else math.inf

    def log_step(self, lr: float) -> float:
        """By how much the logarithm of the rate grew with each update where it was `lr`."""
        i = max(1, min(int(np.searchsorted(self.lrs, lr)), len(self.lrs) - 1))
        return float(np.log(self.lrs[i] / self.lrs[i - 1]))

    def steepest(self) -> float:
        """The rate of the fastest fall, by the rate's logarithm, before the turn."""
        return float(self.lrs[self._slopes().argmin()])

    @property
    def falls_at_once(self) -> bool:
        """Whether the loss falls about as fast at the first rates as anywhere: an earlier part was not seen."""
        slopes = self._slopes()
        return bool(slopes[:3].mean() < 0.4 * slopes.min())

    def turns(self) -> dict[str, float]:
        return {"fastest fall": self.steepest(), "turn": self.turn()}

    def why(self, bs: int | None, moved: float, *, held: bool) -> str:
        """The recommendation in words; `held` says that the wall decides."""
        early = " (and from the first rate on: sweep from lower rates to be sure)" if self.falls_at_once else ""
        items = f"{bs} items" if bs else f"unknown size, taken as {USUAL_BATCH}"
        stay = ", but clear of where it rises" if held else ""
        doubt = "" if self.clarity >= _CLEAR else "; it fell by hardly more than batches differ, so this is vague"
        return (
            f"the loss fell fastest at {self.steepest():.1e}{early}, {self._end()}; a peak does best about the "
            f"middle of this valley, {self.middle()[0]:.1e}, times {moved:.2g} for batches of {items}{stay}{doubt}"
        )

    def _end(self) -> str:
        """How the curve ends, in words."""
        last, turned = float(self.lrs[-1]), self.low < len(self.losses) - 1
        if self.broke and self.wall() == last:
            kept = f"turned at {self.turn():.1e}" if turned else "kept falling"
            return f"{kept} and was not finite past {last:.1e}"
        if self.wall() < math.inf:
            return f"turned at {self.turn():.1e} and had risen again by a tenth at {self.wall():.1e}"
        if turned:
            return f"turned at {self.turn():.1e}, but hardly rose again (sweep to higher rates to be sure)"
        return f"still fell at the end of the range, {self.turn():.1e} (sweep to higher rates to be sure)"

    def why_not(self) -> str:
        """What the curve shows instead of a fall."""
        fall = self.fall if self.fall > self.noise / 100 else 0.0
        fell = f"the loss fell by {fall:.2g}, hardly anything where batches differ by {self.noise:.2g}"
        for rate in self.rise.values():
            return (
                f"{fell}, and rose from {rate:.1e} on: the model is good already or does not learn from here; stay "
                "well below that rate"
            )
        if self.broke:
            last = self.lrs[-1]
            return f"{fell}, and was not finite past {last:.1e}: look for NaN in data and loss, or sweep lower rates"
        return f"{fell}, and did not rise either: sweep to higher rates, or check that the model can learn"

    def _slopes(self) -> Curve:
        """The change of the loss by that of the rate's logarithm, up to the turn."""
        until = max(2, self.low + 1)
        slopes: Curve = np.gradient(self.losses[:until], np.log(self.lrs[:until]))
        return slopes

    def _between(self, i: int, level: float) -> float:
        """The rate between points i and i + 1 at which the straight line through both has the height `level`."""
        a, b = self.losses[i], self.losses[i + 1]
        return float(self.lrs[i] * (self.lrs[i + 1] / self.lrs[i]) ** ((level - a) / (b - a)))


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
    return float(1.4826 * np.median(np.abs(np.diff(losses))) / math.sqrt(2))
