"""Where the time of a training step goes: the numbers, and their table. Who measures them is not known here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["StepProfile"]


@dataclass(frozen=True)
class StepProfile:
    """The time of a training step, by stage and by operator. Printed, it is a table.

    Attributes:
        seconds: of a step, the mean over `n_steps`.
        stages: the part of each stage in it, in seconds: "data" (read, joined, moved to the device), "augmentation"
            (transforms of whole batches), "forward", "loss", "backward", "optimizer", "callbacks" (with recorder and
            metrics), and "loop", which is the rest.
        operators: the operators that take longest, all their calls in a step without what they call, in seconds.
        n_steps, n_items: steps measured, and the items of each.
        where: device and precision.
    """

    seconds: float
    stages: Mapping[str, float]
    operators: Mapping[str, float]
    n_steps: int
    n_items: int
    where: str

    @property
    def items_per_second(self) -> float:
        """How many items are trained on in a second."""
        return self.n_items / self.seconds

    def __str__(self) -> str:
        heading = (
            f"{1e3 * self.seconds:.2f} ms a step of {self.n_items} items on {self.where}, "
            f"{self.items_per_second:,.0f} items a second (mean of {self.n_steps} steps)"
        )
        return "\n".join([heading, *map(self._line, self.stages.items()), "", *map(self._line, self.operators.items())])

    def _line(self, named: tuple[str, float]) -> str:
        name, seconds = named
        return f"{name:<36}{1e3 * seconds:>10.3f} ms{seconds / self.seconds:>7.1%}"
