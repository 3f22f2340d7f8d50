"""What a schedule is, and which clock it goes by: progress in [0, 1], or a count of epochs or steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Clock",
    "FloatArray",
    "Schedule",
    "by_count",
    "by_progress",
    "check_clock",
    "check_schedule",
    "clock_of",
    "set_clock",
]


FloatArray: TypeAlias = NDArray[np.float64]


class Schedule(Protocol):
    """A function of time. A float returns a float, an array returns an array of the same shape."""

    @overload
    def __call__(self, time: float, /) -> float: ...
    @overload
    def __call__(self, time: NDArray[Any], /) -> FloatArray: ...


Clock: TypeAlias = Literal["progress", "count"]

# Every schedule's function is called `at`: `repr(LearningRateScheduler(...))` holds this name, and so do checkpoints.
# They also hold where it was made. In saved runs, both functions below have an underscore.


def by_progress(value: Callable[[Any, Any], Any], clock: Clock | None = "progress") -> Schedule:
    """Makes a schedule of `value(progress, m)`, which takes its functions from `m`, either `math` or `numpy`.

    NumPy is ten times slower than `math` for a float. `clock` is None if the schedule fits every clock.
    """

    def at(progress: Any) -> Any:
        if isinstance(progress, (int, float)):
            return value(min(max(progress, 0.0), 1.0), math)
        return value(np.clip(np.asarray(progress, dtype=np.float64), 0.0, 1.0), np)

    at.__qualname__ = "_by_progress.<locals>.at"
    return set_clock(at, clock)


def by_count(value: Callable[[Any], Any]) -> Schedule:
    """Makes a schedule of `value(count)`, which takes a number or an array of epochs or steps."""

    def at(count: Any) -> Any:
        return float(value(count)) if isinstance(count, (int, float)) else value(np.asarray(count, dtype=np.float64))

    at.__qualname__ = "_by_count.<locals>.at"
    return set_clock(at, "count")


def set_clock(schedule: Any, clock: Clock | None) -> Schedule:
    """Returns the schedule, which knows its clock from now on. None fits every clock."""
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
