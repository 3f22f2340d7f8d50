"""Schedules: pure functions that say what a rate, or any other hyperparameter, is at a moment of training.

Each schedule uses one of three clocks:

- *progress*, a number in [0, 1]: `linear` to `warmup_stable_decay`. They hold their last value past the end.
- the *epoch*, counted from 0: `step_decay`, `multi_step`, `exponential_decay`, `time_based_decay`.
- the *step*, counted in optimizer updates from 0: `inverse_sqrt` and the cyclical rates.

All take a float or a NumPy array, and keep no state. So you can draw a schedule before training, and a resumed run
needs to know only where it is. Callbacks apply schedules to an optimizer.
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
from minilearner.keywords import suggest_keywords

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


@suggest_keywords
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
    """Raises the rate once and lowers it once, while the momentum does the opposite.

        lr: lr_max / div -> lr_max at progress `pct_start` -> lr_max / div_final
        momentum: moms[0] -> moms[1] at progress `pct_start` -> moms[2]

    In torch's convention the schedules have the values of `torch.optim.lr_scheduler.OneCycleLR` at
    progress = step / total_steps. The rate then ends at lr_max / div / div_final. The peak comes one step earlier than
    in fastai's convention, and the end is reached on the last step. If `pct_start * total_steps` is exactly 1, torch
    divides by zero; here the rise is empty.

    Args:
        lr_max: the highest rate, positive.
        div: the rate starts at lr_max / div; positive.
        div_final: sets the last rate, as above; positive. None is 1e5, and 1e4 in torch's convention.
        pct_start: the fraction of training in which the rate rises, in [0, 1]. None is 0.25, and 0.3 in torch's
            convention.
        moms: the momentum at the start, the peak and the end, each in [0, 1). None leaves the momentum out.
        convention: "fastai" or "torch".
        total_steps: the number of optimizer updates, at least 1; needed in torch's convention, and only there.
        anneal: the shape of the pieces: "cos" is `cosine`, "linear" is `linear`.
        three_phase: the rate falls to lr_max / div in as many steps as it rose, and then to its end. Only in torch's
            convention.

    Returns:
        Schedules of progress named "lr" and "momentum".

    Raises:
        ValueError: an argument is out of range, or `total_steps` or `three_phase` does not fit the convention.

    >>> cycle = one_cycle(0.01)
    >>> [round(cycle["lr"](progress), 7) for progress in (0.0, 0.25, 1.0)]
    [0.0004, 0.01, 1e-07]
    >>> [round(cycle["momentum"](progress), 4) for progress in (0.0, 0.25, 1.0)]
    [0.95, 0.85, 0.95]

    Source: Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks", 2017.
    """
    check_choice(convention, "convention", ("fastai", "torch"))
    check_choice(anneal, "anneal", ("cos", "linear"))
    check_positive(lr_max, "lr_max")
    check_positive(div, "div")
    if math.isinf(lr_max / div):
        raise ValueError(f"`div` must be large enough that the first rate is finite. Received: div={div}.")
    if div_final is not None:
        check_positive(div_final, "div_final")
        if math.isinf(lr_max / div / div_final) or math.isinf(lr_max / div_final):
            raise ValueError(
                f"`div_final` must be large enough that the last rate is finite. Received: div_final={div_final}."
            )
    if pct_start is not None:
        check_fraction(pct_start, "pct_start")
    if moms is not None:
        check_moms(moms)
    curve = cosine if anneal == "cos" else linear
    if convention == "torch":
        pct_start = 0.3 if pct_start is None else pct_start
        lr_end = lr_max / div / (1e4 if div_final is None else div_final)
        join = _torch_phases(curve, pct_start, total_steps, three_phase)
    else:
        if total_steps is not None or three_phase:
            raise ValueError(
                '`total_steps` and `three_phase` need convention="torch": fastai has one rise and one fall.'
            )
        pct_start = 0.25 if pct_start is None else pct_start
        lr_end = lr_max / (1e5 if div_final is None else div_final)
        fractions = [pct_start, 1 - pct_start]

        def join(values: Sequence[float]) -> Schedule:
            return chain([curve(values[0], values[1]), curve(values[1], values[2])], fractions)

    lrs = (lr_max / div, lr_max, lr_max / div, lr_end) if three_phase else (lr_max / div, lr_max, lr_end)
    schedules = {"lr": join(lrs)}
    if moms is not None:
        schedules["momentum"] = join((*moms, moms[2]) if three_phase else moms)
    return schedules


def _torch_phases(
    curve: Callable[[float, float], Schedule],
    pct_start: float,
    total_steps: int | None,
    three_phase: bool,
) -> Callable[[Sequence[float]], Schedule]:
    """Returns a function that makes a schedule from the values at the ends of torch's phases.

    With n = `total_steps`, the phases end at the steps pct_start n - 1 and n - 1. With `three_phase` they end at
    pct_start n - 1, 2 pct_start n - 2 and n - 1.
    """
    if total_steps is None:
        raise ValueError('`total_steps`, the number of optimizer updates, is needed with convention="torch".')
    check_count(total_steps, "total_steps")
    first = pct_start * total_steps - 1
    ends = [first, 2 * first, total_steps - 1] if three_phase else [first, total_steps - 1]

    def join(values: Sequence[float]) -> Schedule:
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

        return _by_progress(value)

    return join


@suggest_keywords
def warmup(
    schedule: Schedule,
    *,
    pct: float | None = None,
    length: float | None = None,
    start: float = 0.0,
) -> Schedule:
    """Rises in a straight line from `start` to the first value of `schedule`, and then follows `schedule`.

        with `pct`, p is progress: start + (schedule(0) - start) p / pct, then schedule((p - pct) / (1 - pct))
        with `length`, t is an epoch or step: start + (schedule(0) - start) t / length, then schedule(t - length)

    With `length`, it is torch's `SequentialLR` of a `LinearLR` and the schedule.

    Args:
        schedule: what follows the rise.
        pct: the fraction of training for the rise, in [0, 1]. For schedules of progress.
        length: the length of the rise, in epochs or steps; not negative. For schedules of the epoch or the step.
        start: the first value.

    Raises:
        ValueError: not exactly one of `pct` and `length` is given, or it does not fit the schedule's clock.

    >>> rise_and_fall = warmup(cosine(1.0, 0.0), pct=0.2)
    >>> [round(rise_and_fall(progress), 4) for progress in (0.0, 0.1, 0.2, 1.0)]
    [0.0, 0.5, 1.0, 0.0]
    >>> by_epoch = warmup(step_decay(1.0, every=3), length=4)
    >>> [by_epoch(epoch) for epoch in (0, 2, 4, 7)]
    [0.0, 0.5, 1.0, 0.5]

    Source: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017.
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
        return _by_count(
            lambda t: np.where(
                t < length, start + (first - start) * t / (length or 1), schedule(np.maximum(t - length, 0))
            )
        )
    raise ValueError("Give `pct`, a fraction of training, or `length`, in epochs or steps: one of them.")


@suggest_keywords
def flat_cosine(lr: float, *, pct_start: float = 0.75, div_final: float = 1e5) -> Schedule:
    """Stays at `lr`, and then falls in half a cosine to lr / div_final.

        value(p) = lr                               for p < pct_start
        value(p) = cosine(lr, lr / div_final)(q)    with q = (p - pct_start) / (1 - pct_start) afterwards

    Args:
        lr: the first rate, positive.
        pct_start: the fraction of training that stays at `lr`, in [0, 1].
        div_final: sets the last rate; positive.

    >>> schedule = flat_cosine(1.0, div_final=100)
    >>> [round(schedule(progress), 4) for progress in (0.0, 0.75, 0.875, 1.0)]
    [1.0, 1.0, 0.505, 0.01]

    Source: fastai, `fit_flat_cos`.
    """
    check_positive(lr, "lr")
    check_positive(div_final, "div_final")
    if math.isinf(lr / div_final):
        raise ValueError(
            f"`div_final` must be large enough that lr / div_final is finite. Received: div_final={div_final}."
        )
    check_fraction(pct_start, "pct_start")
    return chain([constant(lr), cosine(lr, lr / div_final)], [pct_start, 1 - pct_start])


@suggest_keywords
def sgdr(lr_max: float, n_cycles: int, *, cycle_mult: float = 2.0, lr_min: float = 0.0) -> Schedule:
    """Falls `n_cycles` times in half a cosine, and jumps back to `lr_max` after each fall.

        value(p) = cosine(lr_max, lr_min)(q)    with q the progress within the cycle

    Cycle number i, counted from 0, lasts cycle_mult^i times as long as the first one.

    Args:
        lr_max: the rate at the start of each cycle, not negative.
        n_cycles: the number of cycles, at least 1.
        cycle_mult: how many times as long each cycle is as the one before; positive.
        lr_min: the rate at the end of each cycle, not negative.

    >>> schedule = sgdr(1.0, 3)  # the cycles take 1, 2 and 4 sevenths
    >>> [round(schedule(sevenths / 7), 4) for sevenths in (0, 0.5, 1, 2, 3, 5, 7)]
    [1.0, 0.5, 1.0, 0.5, 1.0, 0.5, 0.0]

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016; fastai's `fit_sgdr`.
    """
    check_not_negative(lr_max, "lr_max")
    check_count(n_cycles, "n_cycles")
    check_positive(cycle_mult, "cycle_mult")
    check_not_negative(lr_min, "lr_min")
    lengths = [cycle_mult**i for i in range(n_cycles)]
    return chain([cosine(lr_max, lr_min)] * n_cycles, [length / sum(lengths) for length in lengths])


@suggest_keywords
def warmup_stable_decay(
    lr_max: float,
    *,
    pct_warmup: float = 0.1,
    pct_decay: float = 0.2,
    div_final: float | None = None,
) -> Schedule:
    """Rises in a straight line from 0 to `lr_max`, stays there, and falls in a straight line to its end.

        value(p) = lr_max p / pct_warmup                              for p < pct_warmup
        value(p) = lr_max                                             for p < 1 - pct_decay
        value(p) = lr_max + (end - lr_max) (p - 1 + pct_decay) / pct_decay    afterwards

    Args:
        lr_max: the highest rate, not negative.
        pct_warmup: the fraction of training for the rise, in [0, 1].
        pct_decay: the fraction of training for the fall, in [0, 1]; at most 1 together with `pct_warmup`.
        div_final: the end is lr_max / div_final; positive. None is an end at 0.

    >>> schedule = warmup_stable_decay(1.0)
    >>> [round(schedule(progress), 4) for progress in (0.0, 0.05, 0.1, 0.8, 0.9, 1.0)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]

    Source: Hu et al., "MiniCPM: Unveiling the Potential of Small Language Models", 2024.
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
    if math.isinf(end):
        raise ValueError(
            f"`div_final` must be large enough that lr_max / div_final is finite. Received: div_final={div_final}."
        )
    fractions = [pct_warmup, max(1 - pct_warmup - pct_decay, 0.0), pct_decay]
    return chain([linear(0.0, lr_max), constant(lr_max), linear(lr_max, end)], fractions)


@suggest_keywords
def step_decay(start: float, *, every: int, factor: float = 0.5) -> Schedule:
    """Multiplies by `factor` after every `every` epochs. Torch's `StepLR`.

        value(epoch) = start factor^floor(epoch / every)

    Args:
        start: the first value, not negative.
        every: the number of epochs between two changes, at least 1.
        factor: not negative.

    >>> schedule = step_decay(1.0, every=10)
    >>> [schedule(epoch) for epoch in (0, 9, 10, 25)]
    [1.0, 1.0, 0.5, 0.25]
    """
    check_not_negative(start, "start")
    check_count(every, "every")
    check_not_negative(factor, "factor")
    return _by_count(lambda epoch: start * factor ** (epoch // every))


@suggest_keywords
def exponential_decay(start: float, *, rate: float) -> Schedule:
    """Loses the same share of its value in each epoch.

        value(epoch) = start e^(-rate epoch)

    Args:
        start: the first value, not negative.
        rate: not negative.

    >>> schedule = exponential_decay(1.0, rate=0.1)
    >>> [round(schedule(epoch), 5) for epoch in (0, 1, 10)]
    [1.0, 0.90484, 0.36788]
    """
    check_not_negative(start, "start")
    check_not_negative(rate, "rate")
    return _by_count(lambda epoch: start * np.exp(-rate * epoch))


@suggest_keywords
def multi_step(start: float, milestones: Sequence[float], *, factor: float = 0.1) -> Schedule:
    """Multiplies by `factor` at each milestone. Torch's `MultiStepLR`.

        value(epoch) = start factor^n    with n the number of milestones that are not after `epoch`

    Args:
        start: the first value, not negative.
        milestones: epochs, in any order.
        factor: not negative.

    >>> schedule = multi_step(1.0, [5, 20], factor=0.5)
    >>> [schedule(epoch) for epoch in (0, 4, 5, 20)]
    [1.0, 1.0, 0.5, 0.25]
    """
    check_not_negative(start, "start")
    check_not_negative(factor, "factor")
    for milestone in milestones:
        check_number(milestone, "milestones")
    marks = sorted(milestones)
    return _by_count(lambda epoch: start * factor ** np.searchsorted(marks, epoch, side="right"))


@suggest_keywords
def time_based_decay(start: float, *, decay: float, recursive: bool = False) -> Schedule:
    """Divides by a number that grows with the epoch, as the `decay` of Keras' first optimizers did.

        value(epoch) = start / (1 + decay epoch)
        recursive:     start / ((1 + decay) (1 + 2 decay) ... (1 + decay epoch))

    The recursive form is what you get from a function `(epoch, lr) -> lr / (1 + decay * epoch)` that receives its own
    last result in each epoch. It falls much faster.

    Args:
        start: the first value, not negative.
        decay: not negative.
        recursive: chooses the second form.

    >>> [round(time_based_decay(1.0, decay=0.5)(epoch), 5) for epoch in (0, 1, 2)]
    [1.0, 0.66667, 0.5]
    >>> [round(time_based_decay(1.0, decay=0.5, recursive=True)(epoch), 5) for epoch in (0, 1, 2)]
    [1.0, 0.66667, 0.33333]
    """
    check_not_negative(start, "start")
    check_not_negative(decay, "decay")
    if not recursive:
        return _by_count(lambda epoch: start / (1 + decay * epoch))

    def product(epoch: float) -> float:
        # Not 1 / np.prod(...): that product overflows, but this one ends at 0.
        return float(np.prod(1 / (1 + decay * np.arange(1, int(epoch) + 1))))

    return _by_count(lambda epoch: start * np.vectorize(product, otypes=[float])(epoch))


@suggest_keywords
def inverse_sqrt(lr_max: float, *, warmup_steps: int) -> Schedule:
    """Rises in a straight line from 0 to `lr_max`, and then falls with the square root of the step.

        value(step) = lr_max step / warmup_steps          up to `warmup_steps`
        value(step) = lr_max sqrt(warmup_steps / step)    afterwards

    Args:
        lr_max: the highest rate, not negative.
        warmup_steps: the number of optimizer updates for the rise, at least 1.

    >>> schedule = inverse_sqrt(1.0, warmup_steps=4)
    >>> [schedule(step) for step in (0, 2, 4, 16)]
    [0.0, 0.5, 1.0, 0.5]

    Source: Vaswani et al., "Attention Is All You Need", 2017.
    """
    check_not_negative(lr_max, "lr_max")
    check_count(warmup_steps, "warmup_steps")
    return _by_count(
        lambda step: lr_max * np.minimum(step / warmup_steps, np.sqrt(warmup_steps / np.maximum(step, warmup_steps)))
    )


@overload
def triangular(step: float, *, step_size: float, base_lr: float, max_lr: float) -> float: ...


@overload
def triangular(step: NDArray[Any], *, step_size: float, base_lr: float, max_lr: float) -> FloatArray: ...


@suggest_keywords
def triangular(step: Any, *, step_size: float, base_lr: float, max_lr: float) -> Any:
    """Returns the rate at `step` of a line that climbs from `base_lr` to `max_lr` and comes back, again and again.

        value(step) = base_lr + (max_lr - base_lr) height    with a height of 0 -> 1 -> 0 in 2 step_size steps

    It equals torch's `CyclicLR`.

    Args:
        step: the number of optimizer updates so far, a number or an array.
        step_size: the number of updates from `base_lr` to `max_lr`, at least 1.
        base_lr: the lowest rate, not negative.
        max_lr: the highest rate, not below `base_lr`.

    >>> [triangular(step, step_size=100, base_lr=1.0, max_lr=3.0) for step in (0, 50, 100, 200, 300)]
    [1.0, 2.0, 3.0, 1.0, 3.0]

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", 2015.
    """
    _check_order(base_lr, max_lr)
    return cyclic(step, step_size=step_size, base_lr=base_lr, max_lr=max_lr)


@overload
def triangular2(step: float, *, step_size: float, base_lr: float, max_lr: float) -> float: ...


@overload
def triangular2(step: NDArray[Any], *, step_size: float, base_lr: float, max_lr: float) -> FloatArray: ...


@suggest_keywords
def triangular2(step: Any, *, step_size: float, base_lr: float, max_lr: float) -> Any:
    """Returns the rate at `step` of a `triangular` cycle that is half as high after each cycle.

        value(step) = base_lr + (max_lr - base_lr) height / 2^cycle    with cycles counted from 0

    Args:
        step: as in `triangular`.
        step_size: as in `triangular`.
        base_lr: as in `triangular`.
        max_lr: the highest rate of the first cycle, not below `base_lr`.

    >>> [triangular2(step, step_size=100, base_lr=1.0, max_lr=3.0) for step in (0, 100, 200, 300, 500)]
    [1.0, 3.0, 1.0, 2.0, 1.5]
    """
    _check_order(base_lr, max_lr)
    return cyclic(step, step_size=step_size, base_lr=base_lr, max_lr=max_lr, mode="triangular2")


@overload
def exp_range(step: float, *, step_size: float, base_lr: float, max_lr: float, gamma: float) -> float: ...


@overload
def exp_range(step: NDArray[Any], *, step_size: float, base_lr: float, max_lr: float, gamma: float) -> FloatArray: ...


@suggest_keywords
def exp_range(step: Any, *, step_size: float, base_lr: float, max_lr: float, gamma: float) -> Any:
    """Returns the rate at `step` of a `triangular` cycle whose height shrinks with every step.

        value(step) = base_lr + (max_lr - base_lr) height gamma^step

    As in torch, only the height decays; in Smith's paper both bounds do.

    Args:
        step: as in `triangular`.
        step_size: as in `triangular`.
        base_lr: as in `triangular`.
        max_lr: the highest rate without the decay, not below `base_lr`.
        gamma: in (0, 1]. 0.99994 halves the height in about 11,500 steps.

    >>> [exp_range(step, step_size=1, base_lr=1.0, max_lr=3.0, gamma=0.5) for step in (0, 1, 2, 3)]
    [1.0, 2.0, 1.0, 1.25]
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
    """Returns the value at `step` of any triangular cycle. It is what the three functions above are made of.

        value(step) = base_lr + (max_lr - base_lr) height scale    with a height of 0 -> 1 -> 0 in 2 step_size steps

    Args:
        step: the number of optimizer updates so far. A number returns a float, an array an array.
        step_size: the number of updates from `base_lr` to `max_lr`, at least 1.
        base_lr: the value at the start of each cycle, not negative.
        max_lr: the value in the middle of each cycle, not negative. It may be below `base_lr`: for momentum, which
            falls while the rate rises.
        mode: the scale: 1 for "triangular", 1 / 2^cycle for "triangular2", gamma^step for "exp_range".
        gamma: in (0, 1]; used only by "exp_range".
        scale_fn: a function that returns the scale; it replaces that of `mode`.
        scale_mode: what `scale_fn` receives: the number of the cycle, from 1, or the step for "iterations".

    Raises:
        ValueError: an argument is out of range.

    >>> momentum = [cyclic(step, step_size=4, base_lr=0.9, max_lr=0.8, mode="triangular2") for step in (0, 4, 8, 12)]
    >>> [round(value, 4) for value in momentum]
    [0.9, 0.8, 0.9, 0.85]
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
        raise ValueError(f"`max_lr` must not be below `base_lr`. Received: base_lr={base_lr}, max_lr={max_lr}.")


FloatArray: TypeAlias = NDArray[np.float64]


class Schedule(Protocol):
    """A function of time. A float returns a float, an array returns an array of the same shape."""

    @overload
    def __call__(self, time: float, /) -> float: ...
    @overload
    def __call__(self, time: NDArray[Any], /) -> FloatArray: ...


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
    return _by_progress(lambda p, m: start + p * (end - start))


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
    return _by_progress(lambda p, m: start + (end - start) * (1 - m.cos(m.pi * p)) / 2)


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
    return _by_progress(lambda p, m: start * (end / start) ** p)


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
        return _by_progress(lambda p, m: end + (start - end) * (1 - p) ** power)
    return _by_progress(lambda p, m: start + (end - start) * p**power)


@suggest_keywords
def constant(value: float) -> Schedule:
    """Stays at `value`. It fits every clock.

    Args:
        value: any finite number.

    >>> [constant(0.1)(progress) for progress in (0.0, 1.0)]
    [0.1, 0.1]
    """
    check_number(value, "value")
    return _by_progress(lambda p, m: value + 0.0 * p, clock=None)


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

    return _set_clock(at, "progress")


# In floating point, 0.1 + 0.2 is not 0.3. A step that is meant to be on a joint belongs to the later part all the same.
_ROUNDING = 1e-12
Clock: TypeAlias = Literal["progress", "count"]

# Every schedule's function is called `at`: `repr(LearningRateScheduler(...))` holds this name, and so do checkpoints.


def _by_progress(value: Callable[[Any, Any], Any], clock: Clock | None = "progress") -> Schedule:
    """Makes a schedule of `value(progress, m)`, which takes its functions from `m`, either `math` or `numpy`.

    NumPy is ten times slower than `math` for a float. `clock` is None if the schedule fits every clock.
    """

    def at(progress: Any) -> Any:
        if isinstance(progress, (int, float)):
            return value(min(max(progress, 0.0), 1.0), math)
        return value(np.clip(np.asarray(progress, dtype=np.float64), 0.0, 1.0), np)

    return _set_clock(at, clock)


def _by_count(value: Callable[[Any], Any]) -> Schedule:
    """Makes a schedule of `value(count)`, which takes a number or an array of epochs or steps."""

    def at(count: Any) -> Any:
        return float(value(count)) if isinstance(count, (int, float)) else value(np.asarray(count, dtype=np.float64))

    return _set_clock(at, "count")


def _set_clock(schedule: Any, clock: Clock | None) -> Schedule:
    schedule._clock = clock
    return schedule  # type: ignore[no-any-return]


def clock_of(schedule: Any) -> Clock | None:
    """Returns the clock of one of our schedules. None if it fits every clock, and for other functions."""
    own: Clock | None = getattr(schedule, "_clock", None)
    return own


def check_schedule(schedule: Any, name: str) -> None:
    """Checks that the argument called `name` is a function."""
    if not callable(schedule):
        raise TypeError(f"`{name}` must be a function of time, such as constant(0.1). Received: {name}={schedule!r}.")


def check_clock(schedule: Any, clock: Clock) -> None:
    """Checks that one of our schedules does not have another clock.

    With another clock it would return a wrong rate: every epoch is past the end of progress, and progress is always
    epoch 0.
    """
    kinds = {"progress": "progress, in [0, 1]", "count": "the epoch or the step"}
    own = clock_of(schedule)
    if own in kinds and own != clock:
        raise ValueError(
            f"this schedule is a function of {kinds[own]}, but here it would receive {kinds[clock]}. Give another "
            "schedule, or see `clock` of ParamScheduler and plot_schedule, and `length` of warmup."
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
