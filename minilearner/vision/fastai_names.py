"""fastai's names for what we have by other names, so that a script of fastai's runs as it stands."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from torch import Tensor
from torch.nn import Mish

from minilearner.checks import check_number
from minilearner.keywords import suggest_keywords
from minilearner.schedules import Schedule, chain, constant, cosine, exponential, linear, polynomial
from minilearner.tree import map_tensors

__all__ = ["Metric", "Mish", "SchedCos", "SchedExp", "SchedLin", "SchedNo", "SchedPoly", "combine_scheds"]


class Metric:
    """The base of a metric written for fastai: `reset`, ``accumulate(learn)`` and the property `value`.

    A metric of your own needs no base here. An object with ``reset()``, ``update(pred, target)`` and ``compute()``
    does, and so does a function ``(pred, target)``.
    """

    def reset(self) -> None:
        """Forgets all batches. Called before each pass."""

    def accumulate(self, learn: Any) -> None:
        """Adds one batch.

        Args:
            learn: has the batch's `pred`, `y` and `yb`, and `to_detach`, which detaches tensors and moves them to the
                CPU. It is not the learner.
        """
        raise NotImplementedError(f"{type(self).__name__} must define accumulate(self, learn).")

    @property
    def value(self) -> Any:
        """The value over all batches since the last reset: one number."""
        raise NotImplementedError(f"{type(self).__name__} must define the property `value`.")

    def update(self, pred: Any, target: Any) -> None:
        """Passes one batch on to `accumulate`."""
        yb = tuple(target) if isinstance(target, (tuple, list)) else (target,)
        self.accumulate(SimpleNamespace(pred=pred, y=target, yb=yb, to_detach=_detach))

    def compute(self) -> Any:
        """Returns `value`."""
        return self.value


def _detach(several: Any) -> Any:
    return map_tensors(_detach_one, several)


def _detach_one(t: Tensor) -> Tensor:
    return t.detach().cpu()


@suggest_keywords
def SchedLin(start: float, end: float) -> Schedule:
    """Returns `linear`: from `start` to `end` in a straight line."""
    return linear(start, end)


@suggest_keywords
def SchedCos(start: float, end: float) -> Schedule:
    """Returns `cosine`: from `start` to `end` in half a cosine."""
    return cosine(start, end)


@suggest_keywords
def SchedExp(start: float, end: float) -> Schedule:
    """Returns `exponential`: from `start` to `end` by a constant factor."""
    return exponential(start, end)


@suggest_keywords
def SchedNo(start: float, end: float) -> Schedule:
    """Returns `constant`: `start`, whatever `end` is."""
    for name, value in (("start", start), ("end", end)):
        check_number(value, name)
    return constant(start)


@suggest_keywords
def SchedPoly(start: float, end: float, power: float) -> Schedule:
    """Returns `polynomial`: from `start` to `end` by a power of progress."""
    return polynomial(start, end, power=power)


@suggest_keywords
def combine_scheds(pcts: Sequence[float], scheds: Sequence[Schedule]) -> Schedule:
    """Returns `chain` with its arguments in fastai's order: the fractions of training first.

    Args:
        pcts: one fraction for each schedule; not negative, and 1 together.
        scheds: schedules of progress.
    """
    return chain(scheds, pcts)
