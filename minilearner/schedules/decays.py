"""Schedules that fall with the epoch, and `inverse_sqrt`, which falls with the step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minilearner.checks import check_count, check_not_negative, check_number
from minilearner.keywords import suggest_keywords
from minilearner.schedules.clocks import Schedule, by_count

__all__ = ["exponential_decay", "inverse_sqrt", "multi_step", "step_decay", "time_based_decay"]


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
    return by_count(lambda epoch: start * factor ** (epoch // every))


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
    return by_count(lambda epoch: start * np.exp(-rate * epoch))


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
    return by_count(lambda epoch: start * factor ** np.searchsorted(marks, epoch, side="right"))


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
        return by_count(lambda epoch: start / (1 + decay * epoch))

    def product(epoch: float) -> float:
        # Not 1 / np.prod(...): that product overflows, but this one ends at 0.
        return float(np.prod(1 / (1 + decay * np.arange(1, int(epoch) + 1))))

    return by_count(lambda epoch: start * np.vectorize(product, otypes=[float])(epoch))


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
    return by_count(
        lambda step: lr_max * np.minimum(step / warmup_steps, np.sqrt(warmup_steps / np.maximum(step, warmup_steps)))
    )
