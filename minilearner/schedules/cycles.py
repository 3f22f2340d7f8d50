"""Cyclical rates: functions of the step that climb and come back again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from minilearner.checks import check_choice, check_fraction, check_not_negative, check_number
from minilearner.keywords import suggest_keywords
from minilearner.schedules.clocks import FloatArray

__all__ = ["cyclic", "exp_range", "triangular", "triangular2"]


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
