"""`Perplexity`: how many tokens a model hesitates between, on average."""

from __future__ import annotations

import torch
from torch import Tensor

from minilearner.checks import check_count
from minilearner.keywords import suggest_keywords
from minilearner.losses import CrossEntropyLossFlat

__all__ = [
    "Perplexity",
]


@suggest_keywords
class Perplexity:
    """The exponential of the mean cross-entropy over all targets of a pass.

    fastai takes the mean of the learner's loss instead, whatever that is.

    Args:
        axis: the dimension of the classes in the predictions.
        ignore_index: targets with this number do not count.
    """

    def __init__(self, axis: int = -1, ignore_index: int = -100) -> None:
        check_count(axis, "axis", least=None)
        check_count(ignore_index, "ignore_index", least=None)
        self.axis, self.ignore_index = axis, ignore_index
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        self._total: Tensor | float = 0.0
        self._n: Tensor | int = 0

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Adds one batch of raw outputs and class numbers."""
        loss = CrossEntropyLossFlat(axis=self.axis, ignore_index=self.ignore_index, reduction="sum")
        self._total = self._total + loss(pred, target).detach().double()
        self._n = self._n + (target != self.ignore_index).sum()

    def compute(self) -> Tensor:
        """Returns the value over all targets so far, a 0-d tensor. NaN without any."""
        return (torch.as_tensor(self._total) / torch.as_tensor(self._n)).exp()
