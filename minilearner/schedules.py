"""Schedules: pure functions that say what a rate, or any other hyperparameter, is at a moment of training.

Three clocks, each named where it applies:

- *progress*, a number in [0, 1]: `linear` to `warmup_stable_decay`. They hold their last value past the end.
- the *epoch*, counted from 0: `step_decay`, `multi_step`, `exponential_decay`, `time_based_decay`.
- the *step*, counted in optimizer updates from 0: `inverse_sqrt` and the cyclical rates.

All take a float as well as a NumPy array and keep no state, so a schedule can be drawn before training, and a resumed
run needs to know only where it is. Callbacks apply them to an optimizer.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal, Protocol, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from minilearner.checks import (
    check_choice,
    check_count,
    check_fraction,
    check_moms,
    check_not_negative,
    check_number,
    check_positive,
)

__all__ = [
    "FloatArray",
    "Schedule",
    "chain",
    "constant",
    "cosine",
    "cyclic",
    "exp_range",
    "exponential",
    "exponential_decay",
    "flat_cosine",
    "inverse_sqrt",
    "linear",
    "multi_step",
    "one_cycle",
    "polynomial",
    "sgdr",
    "step_decay",
    "time_based_decay",
    "triangular",
    "triangular2",
    "warmup",
    "warmup_stable_decay",
]


def one_cycle(
    lr_max: float,
    *,
    div: float = 25.0,
    div_final: float | None = None,
    pct_start: float | None = None,
    moms: tuple[float, float, float] | None = (0.95, 0.85, 0.95),
    convention: Literal["fastai", "torch"] = "fastai",
    total_steps: int | None = None,
    anneal: Literal["cos", "linear"] = "cos",
    three_phase: bool = False,
) -> dict[str, Schedule]:
    """One rise and one fall of the rate, and the momentum against it: schedules of progress, by name.

    The rate goes lr_max / div -> lr_max in the first `pct_start` (a fraction in [0, 1]) of training, then down to its
    end; the momentum goes through the three `moms` meanwhile. ``moms=None`` leaves the momentum out.

    - "fastai": cosine pieces that end at lr_max / div_final; `div_final` is 1e5 and `pct_start` 0.25 when not given.
    - "torch": the values of `torch.optim.lr_scheduler.OneCycleLR` at progress = step / total_steps. There the end is
      lr_max / div / div_final, with `div_final` 1e4 and `pct_start` 0.3 when not given; the peak comes one step
      earlier, and the end is reached on the last step. ``three_phase=True`` falls to lr_max / div as long as it rose,
      then on. Where torch divides by zero (`pct_start * total_steps` of exactly 1), the rise is empty.

    Example: ``one_cycle(1e-2)["lr"](0.25)`` is 1e-2. Source: Super-Convergence (Smith and Topin, 2017).

    Raises:
        ValueError: a rate or divisor is not positive, `pct_start` no fraction, `moms` no three momenta in [0, 1),
            `total_steps` missing or out of place.
    """
    check_choice(convention, "convention", ("fastai", "torch"))
    check_choice(anneal, "anneal", ("cos", "linear"))
    check_positive(lr_max, "lr_max")
    check_positive(div, "div")
    if div_final is not None:
        check_positive(div_final, "div_final")
    if pct_start is not None:
        check_fraction(pct_start, "pct_start")
    if moms is not None:
        check_moms(moms)
    curve = cosine if anneal == "cos" else linear
    if convention == "torch":
        pct_start = 0.3 if pct_start is None else pct_start
        lr_end = lr_max / div / (1e4 if div_final is None else div_final)
        joined = _torch_phases(curve, pct_start, total_steps, three_phase)
    else:
        if total_steps is not None or three_phase:
            raise ValueError(
                '`total_steps` and `three_phase` need convention="torch": fastai has one rise and one fall.'
            )
        pct_start = 0.25 if pct_start is None else pct_start
        lr_end = lr_max / (1e5 if div_final is None else div_final)
        fractions = [pct_start, 1 - pct_start]

        def joined(values: Sequence[float]) -> Schedule:
            return chain([curve(values[0], values[1]), curve(values[1], values[2])], fractions)

    lrs = (lr_max / div, lr_max, lr_max / div, lr_end) if three_phase else (lr_max / div, lr_max, lr_end)
    schedules = {"lr": joined(lrs)}
    if moms is not None:
        schedules["momentum"] = joined((*moms, moms[2]) if three_phase else moms)
    return schedules


def _torch_phases(
    curve: Callable[[float, float], Schedule], pct_start: float, total_steps: int | None, three_phase: bool
) -> Callable[[Sequence[float]], Schedule]:
    """Returns what joins values by torch's phases, which end on steps: pct n - 1, (2 pct n - 2,) n - 1."""
    if total_steps is None:
        raise ValueError('`total_steps`, the number of optimizer updates, is needed with convention="torch".')
    check_count(total_steps, "total_steps")
    first = pct_start * total_steps - 1
    ends = [first, 2 * first, total_steps - 1] if three_phase else [first, total_steps - 1]

    def joined(values: Sequence[float]) -> Schedule:
        pieces = [curve(a, b) for a, b in pairwise(values)]

        def value(progress: Any, m: Any) -> Any:
            step = progress * total_steps
            result, begin = values[0] + 0.0 * step, 0.0
            for index, (piece, end) in enumerate(zip(pieces, ends, strict=True)):
                inside = (step - begin) / (end - begin) if end != begin else step * 0.0 + 1.0
                applies = step >= begin if index else step == step
                result = np.where(applies, piece(inside), result) if m is np else piece(inside) if applies else result
                begin = end
            return result

        return of_progress(value)

    return joined


def warmup(
    schedule: Schedule, *, pct: float | None = None, length: float | None = None, start: float = 0.0
) -> Schedule:
    """Rises in a line from `start` to where `schedule` begins, then plays it.

    For schedules of progress the rise takes `pct` of training, a fraction in [0, 1]; for those of the epoch or the step
    `length` of these, and the schedule begins after them. Torch's `SequentialLR` after a `LinearLR`.

    Example: ``warmup(constant(1.0), pct=0.5)(0.25)`` is 0.5, ``warmup(step_decay(1.0, every=3), length=4)(2)`` too.
    Source: Goyal et al., Accurate, Large Minibatch SGD, 2017.

    Raises:
        ValueError: not one of `pct` and `length` is given, or one that does not fit the schedule.
    """
    check_schedule(schedule, "schedule")
    check_number(start, "start")
    if pct is not None and length is None:
        check_fraction(pct, "pct")
        return chain([linear(start, schedule(0.0)), schedule], [pct, 1 - pct])
    if pct is None and length is not None:
        check_not_negative(length, "length")
        check_clock(schedule, "count")
        first = schedule(0)
        return of_count(
            lambda t: np.where(
                t < length, start + (first - start) * t / (length or 1), schedule(np.maximum(t - length, 0))
            )
        )
    raise ValueError("Give `pct`, a fraction of training, or `length`, in epochs or steps: one of them.")


def flat_cosine(lr: float, *, pct_start: float = 0.75, div_final: float = 1e5) -> Schedule:
    """Stays at `lr` for the first `pct_start` (in [0, 1]), then falls in a cosine to lr / div_final."""
    check_positive(lr, "lr")
    check_positive(div_final, "div_final")
    check_fraction(pct_start, "pct_start")
    return chain([constant(lr), cosine(lr, lr / div_final)], [pct_start, 1 - pct_start])


def sgdr(lr_max: float, n_cycles: int, *, cycle_mult: float = 2.0, lr_min: float = 0.0) -> Schedule:
    """Falls `n_cycles` times in a cosine from `lr_max` to `lr_min`, each cycle `cycle_mult` times as long as the last.

    Example: three cycles last 1, 2 and 4 parts of 7, so ``sgdr(1.0, 3)(1 / 7)`` is 1.0 again.
    Source: SGDR: Stochastic Gradient Descent with Warm Restarts (Loshchilov and Hutter, 2016); fastai's `fit_sgdr`.
    """
    check_not_negative(lr_max, "lr_max")
    check_count(n_cycles, "n_cycles")
    check_positive(cycle_mult, "cycle_mult")
    check_not_negative(lr_min, "lr_min")
    lengths = [cycle_mult**i for i in range(n_cycles)]
    return chain([cosine(lr_max, lr_min)] * n_cycles, [length / sum(lengths) for length in lengths])


def warmup_stable_decay(
    lr_max: float, *, pct_warmup: float = 0.1, pct_decay: float = 0.2, div_final: float | None = None
) -> Schedule:
    """Rises in a line from 0 to `lr_max`, stays there, and falls in a line to 0 (or lr_max / div_final) at the end.

    `pct_warmup` and `pct_decay` are fractions of training in [0, 1]. Source: MiniCPM (Hu et al., 2024).
    """
    check_not_negative(lr_max, "lr_max")
    check_fraction(pct_warmup, "pct_warmup")
    check_fraction(pct_decay, "pct_decay")
    if pct_warmup + pct_decay > 1 + 1e-6:
        raise ValueError(
            f"`pct_warmup` and `pct_decay` must not exceed 1 together. Received: {pct_warmup=}, {pct_decay=}."
        )
    if div_final is not None:
        check_positive(div_final, "div_final")
    end = 0.0 if div_final is None else lr_max / div_final
    fractions = [pct_warmup, max(1 - pct_warmup - pct_decay, 0.0), pct_decay]
    return chain([linear(0.0, lr_max), constant(lr_max), linear(lr_max, end)], fractions)


def step_decay(start: float, *, every: int, factor: float = 0.5) -> Schedule:
    """Multiplies by `factor` after every `every` epochs: start factor^floor(epoch / every). Torch's `StepLR`.

    Example: ``step_decay(1.0, every=10)(25)`` is 0.25. A function of the epoch.
    """
    check_not_negative(start, "start")
    check_count(every, "every")
    check_not_negative(factor, "factor")
    return of_count(lambda epoch: start * factor ** (epoch // every))


def exponential_decay(start: float, *, rate: float) -> Schedule:
    """Decays with the epoch: start e^(-rate epoch). Example: ``exponential_decay(1.0, rate=0.1)(10)`` is 0.36788."""
    check_not_negative(start, "start")
    check_not_negative(rate, "rate")
    return of_count(lambda epoch: start * np.exp(-rate * epoch))


def multi_step(start: float, milestones: Sequence[float], *, factor: float = 0.1) -> Schedule:
    """Multiplies by `factor` at each epoch in `milestones`. Torch's `MultiStepLR`. A function of the epoch."""
    check_not_negative(start, "start")
    check_not_negative(factor, "factor")
    for milestone in milestones:
        check_number(milestone, "milestones")
    marks = sorted(milestones)
    return of_count(lambda epoch: start * factor ** np.searchsorted(marks, epoch, side="right"))


def time_based_decay(start: float, *, decay: float, recursive: bool = False) -> Schedule:
    """Decays with the epoch: start / (1 + decay epoch), as the `decay` of Keras' first optimizers.

    ``recursive=True`` is what a function `(epoch, lr) -> lr / (1 + decay * epoch)` gives when it is called each epoch
    with its own last result: start / ((1 + decay) (1 + 2 decay) ... (1 + decay epoch)), which falls much faster.

    Example: with decay 0.5, epoch 2 is start / 2 in closed form, start / 3 recursively. A function of the epoch.
    """
    check_not_negative(start, "start")
    check_not_negative(decay, "decay")
    if not recursive:
        return of_count(lambda epoch: start / (1 + decay * epoch))

    def product(epoch: float) -> float:
        return float(np.prod(1 / (1 + decay * np.arange(1, int(epoch) + 1))))  # ends at 0, where its inverse overflows

    return of_count(lambda epoch: start * np.vectorize(product, otypes=[float])(epoch))


def inverse_sqrt(lr_max: float, *, warmup_steps: int) -> Schedule:
    """Rises in a line to `lr_max` at `warmup_steps`, then falls as lr_max sqrt(warmup_steps / step).

    A function of the step. Source: Attention Is All You Need (Vaswani et al., 2017).
    """
    check_not_negative(lr_max, "lr_max")
    check_count(warmup_steps, "warmup_steps")
    return of_count(
        lambda step: lr_max * np.minimum(step / warmup_steps, np.sqrt(warmup_steps / np.maximum(step, warmup_steps)))
    )


@overload
def triangular(step: float, *, step_size: float, base_lr: float, max_lr: float) -> float: ...


@overload
def triangular(step: NDArray[Any], *, step_size: float, base_lr: float, max_lr: float) -> FloatArray: ...


def triangular(step: Any, *, step_size: float, base_lr: float, max_lr: float) -> Any:
    """The rate at `step` of a line that climbs from `base_lr` to `max_lr` in `step_size` steps, and back in as many.

    Example: with step_size 100, steps 0, 50, 100, 200 give base, the middle, max, base. Source: Cyclical Learning Rates
    for Training Neural Networks (Smith, 2015); equal to torch's `CyclicLR`.
    """
    _check_order(base_lr, max_lr)
    return cyclic(step, step_size=step_size, base_lr=base_lr, max_lr=max_lr)


@overload
def triangular2(step: float, *, step_size: float, base_lr: float, max_lr: float) -> float: ...


@overload
def triangular2(step: NDArray[Any], *, step_size: float, base_lr: float, max_lr: float) -> FloatArray: ...


def triangular2(step: Any, *, step_size: float, base_lr: float, max_lr: float) -> Any:
    """`triangular` whose height halves after each cycle: the peaks stand at 1, 1/2, 1/4 ... of max_lr - base_lr."""
    _check_order(base_lr, max_lr)
    return cyclic(step, step_size=step_size, base_lr=base_lr, max_lr=max_lr, mode="triangular2")


@overload
def exp_range(step: float, *, step_size: float, base_lr: float, max_lr: float, gamma: float) -> float: ...


@overload
def exp_range(step: NDArray[Any], *, step_size: float, base_lr: float, max_lr: float, gamma: float) -> FloatArray: ...


def exp_range(step: Any, *, step_size: float, base_lr: float, max_lr: float, gamma: float) -> Any:
    """`triangular` whose height shrinks by gamma^step.

    As in torch, the amplitude decays; Smith's paper decays both bounds. `gamma` lies in (0, 1]; 0.99994
    halves the height in about 11,500 steps.
    """
    _check_order(base_lr, max_lr)
    return cyclic(step, step_size=step_size, base_lr=base_lr, max_lr=max_lr, mode="exp_range", gamma=gamma)


def cyclic(
    step: Any,
    *,
    step_size: float,
    base_lr: float,
    max_lr: float,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: float = 1.0,
    scale_fn: Callable[[Any], Any] | None = None,
    scale_mode: Literal["cycle", "iterations"] = "cycle",
) -> Any:
    """The value at `step` of any triangular cycle: base + (max - base) * height * scale.

    The height runs 0 -> 1 -> 0 in 2 * step_size steps (optimizer updates). `scale_fn`, where given, replaces the mode's
    scale: it is called with the number of the cycle, from 1, or with the step (scale_mode="iterations"). `max_lr` may
    lie below `base_lr`: so momentum falls while the rate rises. A float gives a float, an array an array.

    Raises:
        ValueError: `step_size` is below 1, a rate negative, `gamma` outside (0, 1], `mode` or `scale_mode` unknown.
    """
    check_choice(mode, "mode", ("triangular", "triangular2", "exp_range"))
    check_choice(scale_mode, "scale_mode", ("cycle", "iterations"))
    check_number(step_size, "step_size", least=1)
    check_not_negative(base_lr, "base_lr")
    check_not_negative(max_lr, "max_lr")
    check_fraction(gamma, "gamma", closed="right")
    scalar = isinstance(step, (int, float))
    t = step if scalar else np.asarray(step)
    place = t / (2 * step_size)  # in cycles
    cycle = place // 1 + 1
    height = 1 - abs(2 * (place % 1) - 1)
    if scale_fn is not None:
        scale = scale_fn(cycle if scale_mode == "cycle" else t)
    else:
        scale = {"triangular": 1.0, "triangular2": 0.5 ** (cycle - 1), "exp_range": gamma**t}[mode]
    value = base_lr + (max_lr - base_lr) * height * scale
    return float(value) if scalar else value


def _check_order(base_lr: float, max_lr: float) -> None:
    check_not_negative(base_lr, "base_lr")
    check_not_negative(max_lr, "max_lr")
    if max_lr < base_lr:
        raise ValueError(f"`max_lr` must not lie below `base_lr`. Received: base_lr={base_lr}, max_lr={max_lr}.")


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
    check_number(start, "start")
    check_number(end, "end")
    return of_progress(lambda p, m: start + p * (end - start))


def cosine(start: float, end: float) -> Schedule:
    """Goes from `start` to `end` in half a cosine, flat at both ends: start + (end - start) (1 - cos(pi p)) / 2.

    Example: ``cosine(0, 2)(0.25)`` is 0.29289. Source: SGDR (Loshchilov and Hutter, 2016).
    """
    check_number(start, "start")
    check_number(end, "end")
    return of_progress(lambda p, m: start + (end - start) * (1 - m.cos(m.pi * p)) / 2)


def exponential(start: float, end: float) -> Schedule:
    """Goes from `start` to `end` by a constant factor: start (end / start)^p. The ladder of a learning-rate sweep.

    Example: ``exponential(1, 2)(0.5)`` is 1.41421.

    Raises:
        ValueError: `start` or `end` is not positive; no factor leads to or from zero.
    """
    check_positive(start, "start")
    check_positive(end, "end")
    return of_progress(lambda p, m: start * (end / start) ** p)


def polynomial(
    start: float, end: float, *, power: float = 1.0, convention: Literal["fastai", "torch"] = "fastai"
) -> Schedule:
    """Goes from `start` to `end` by a power of progress: start + (end - start) p^power. 1 is `linear`.

    With "torch" the power is that of what is left: end + (start - end) (1 - p)^power, as in torch's `PolynomialLR` and
    Keras' `PolynomialDecay`, which slow down towards the end where fastai's curve slows down at the beginning.

    Example: ``polynomial(0, 2, power=2)(0.25)`` is 0.125, in torch's convention 0.875.
    """
    check_choice(convention, "convention", ("fastai", "torch"))
    check_number(start, "start")
    check_number(end, "end")
    check_positive(power, "power")
    if convention == "torch":
        return of_progress(lambda p, m: end + (start - end) * (1 - p) ** power)
    return of_progress(lambda p, m: start + (end - start) * p**power)


def constant(value: float) -> Schedule:
    """Stays at `value`. Example: ``constant(0.1)(0.7)`` is 0.1."""
    check_number(value, "value")
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


def check_schedule(schedule: Any, name: str) -> None:
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
