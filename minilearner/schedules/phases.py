"""Schedules of progress for a whole training: they rise, stay and fall in phases, and `warmup` puts a rise first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np

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
from minilearner.schedules.clocks import Schedule, by_count, by_progress, check_clock, check_schedule
from minilearner.schedules.pieces import chain, constant, cosine, linear

__all__ = ["flat_cosine", "one_cycle", "sgdr", "warmup", "warmup_stable_decay"]


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
    _check_rates(lr_max, div, div_final)
    if pct_start is not None:
        check_fraction(pct_start, "pct_start")
    if moms is not None:
        check_moms(moms)
    curve = cosine if anneal == "cos" else linear
    if convention == "torch":
        lr_end = lr_max / div / (1e4 if div_final is None else div_final)
        join = _torch_phases(curve, 0.3 if pct_start is None else pct_start, total_steps, three_phase)
    else:
        lr_end = lr_max / (1e5 if div_final is None else div_final)
        join = _fastai_phases(curve, 0.25 if pct_start is None else pct_start, total_steps, three_phase)
    lrs = (lr_max / div, lr_max, lr_max / div, lr_end) if three_phase else (lr_max / div, lr_max, lr_end)
    schedules = {"lr": join(lrs)}
    if moms is not None:
        schedules["momentum"] = join((*moms, moms[2]) if three_phase else moms)
    return schedules


def _check_rates(lr_max: float, div: float, div_final: float | None) -> None:
    """Checks that all rates of one cycle are positive and finite."""
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


def _fastai_phases(
    curve: Callable[[float, float], Schedule],
    pct_start: float,
    total_steps: int | None,
    three_phase: bool,
) -> Callable[[Sequence[float]], Schedule]:
    """Returns a function that makes a schedule from the values at the start, at progress `pct_start` and at the end."""
    if total_steps is not None or three_phase:
        raise ValueError('`total_steps` and `three_phase` need convention="torch": fastai has one rise and one fall.')
    return lambda values: chain([curve(a, b) for a, b in pairwise(values)], [pct_start, 1 - pct_start])


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

        return by_progress(value)

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
        return by_count(
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
