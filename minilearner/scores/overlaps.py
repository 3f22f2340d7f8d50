"""Metrics of masks by fastai's names, counted over a whole pass: Dice and Jaccard coefficients.

A target that is no class number, such as 255, counts as wrong wherever a class is predicted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minilearner.checks import check_count
from minilearner.keywords import suggest_keywords
from minilearner.scores.accumulated import flatten_both

__all__ = [
    "Dice",
    "DiceMulti",
    "JaccardCoeff",
    "JaccardCoeffMulti",
]


@suggest_keywords
class _Overlap:
    """Counts, for each class, how often it is in predictions, in targets, and in both."""

    def __init__(self, axis: int = 1) -> None:
        check_count(axis, "axis", least=None)
        self.axis = axis
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        self._both: Tensor | None = None
        self._total: Tensor | None = None

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Adds one batch: scores (batch, classes, ...) and class numbers (batch, ...)."""
        n = pred.shape[self.axis]
        predicted, wanted = flatten_both(pred.argmax(self.axis), target)
        wanted = wanted.where((wanted >= 0) & (wanted < n), n).long()
        both = _count(wanted.where(predicted == wanted, n), n)
        total = _count(predicted, n) + _count(wanted, n)
        self._both = both if self._both is None else self._both + both
        self._total = total if self._total is None else self._total + total

    def _shares(self) -> Tensor:
        """Returns the overlap of each class in [0, 1], (classes,). NaN if a class is nowhere."""
        if self._both is None or self._total is None:
            return torch.tensor([math.nan], dtype=torch.float64)
        both, total = self._both.double(), self._total.double()
        return self._share(both, total)

    def _share(self, both: Tensor, total: Tensor) -> Tensor:
        return 2 * both / total


def _count(numbers: Tensor, n: int) -> Tensor:
    """Returns how often each class number below `n` occurs, (n,), without waiting for the device."""
    return numbers.new_zeros(n + 1).index_add_(0, numbers, torch.ones_like(numbers))[:n]


class DiceMulti(_Overlap):
    """The Dice coefficient of masks, averaged over the classes that occur: 2 * both / (predicted + wanted).

    Args:
        axis: the dimension of the classes in the predictions, (batch, classes, height, width).
    """

    def compute(self) -> Tensor:
        """Returns the value over all batches so far, a 0-d tensor. NaN without any."""
        return self._shares().nanmean()


class JaccardCoeffMulti(DiceMulti):
    """The Jaccard coefficient of masks, averaged over the classes that occur: both / (predicted or wanted).

    Args:
        axis: as in `DiceMulti`.
    """

    def _share(self, both: Tensor, total: Tensor) -> Tensor:
        return both / (total - both)


class Dice(_Overlap):
    """The Dice coefficient of class 1 in masks of two classes: 2 * both / (predicted + wanted).

    Args:
        axis: the dimension of the classes in the predictions, (batch, 2, height, width).

    Raises:
        ValueError: in a pass, there are not two classes.
    """

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Adds one batch."""
        if pred.shape[self.axis] != 2:
            raise ValueError(
                f"{type(self).__name__} needs two classes in dimension {self.axis} of the predictions. "
                f"Received: shape {tuple(pred.shape)}. For more classes use {type(self).__name__}Multi."
            )
        super().update(pred, target)

    def compute(self) -> Tensor:
        """Returns the value over all batches so far, a 0-d tensor. NaN if class 1 is nowhere."""
        return self._shares()[-1]


class JaccardCoeff(Dice):
    """The Jaccard coefficient of class 1 in masks of two classes: both / (predicted or wanted).

    Args:
        axis: as in `Dice`.
    """

    def _share(self, both: Tensor, total: Tensor) -> Tensor:
        return both / (total - both)
