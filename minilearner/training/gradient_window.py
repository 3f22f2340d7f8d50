"""Weigh the batches whose gradients are gathered for one update."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["GradientWindow"]


class GradientWindow:
    """The batches gathered for one update, weighed so that the update is the mean over all their items.

    The first batch counts 1 and any other its size relative to the first. So batches of equal size, the ordinary case,
    are multiplied by exactly 1. The sum of the weights is divided out once, at the update, when a short last batch is
    known.

    Attributes:
        n_batches: how many batches have been weighed.
        total: the sum of their weights.
        part: the number, from 0, of the part being trained, if the batch is trained in parts; else None.
    """

    def __init__(self) -> None:
        self.n_batches = 0
        self.total = 0.0
        self.part: int | None = None
        self._n_items_of_first = 1
        self._weight = 1.0

    def weigh(self, loss: Tensor, n_items: int) -> Tensor:
        """Returns the loss times its weight, and counts its items. The first part of a batch counts as the batch."""
        if not self.n_batches:
            self._n_items_of_first = max(n_items, 1)
        self._weight = n_items / self._n_items_of_first
        self.n_batches += not self.part
        self.total += self._weight
        return self.weigh_again(loss)

    def weigh_again(self, loss: Tensor) -> Tensor:
        """Returns the loss times the latest weight, for a part whose items were counted with the first part."""
        return loss if self._weight == 1.0 else loss * self._weight

    def average(self, gradients: list[Tensor]) -> None:
        """Divides the gathered gradients by the sum of the weights, in place."""
        if gradients and self.total not in (0.0, 1.0):
            torch._foreach_div_(gradients, self.total)
