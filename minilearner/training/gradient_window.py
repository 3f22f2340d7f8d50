"""Weigh the batches whose gradients are gathered for one update."""

from __future__ import annotations

import torch
from torch import Tensor

from minilearner.training.loss_terms import Divisor

__all__ = ["GradientWindow"]


class GradientWindow:
    """The batches gathered for one update, weighed so that the update is that of one batch of all their items.

    A batch's weight is what its loss divides by, relative to the size of the first batch: the number of its items, or
    the sum of their class weights, for example. So batches of equal size, the ordinary case, are multiplied by exactly
    1. The sum of the weights is divided out once, at the update, when a short last batch is known. Losses that add up
    are added up.

    Attributes:
        n_batches: how many batches have been weighed.
        total: the sum of their weights.
        part: the number, from 0, of the part being trained, if the batch is trained in parts; else None.
    """

    def __init__(self) -> None:
        self.n_batches = 0
        self.total: float | Tensor = 0.0
        self.part: int | None = None
        self.terms: dict[int, tuple[float | Tensor, list[Tensor | None]]] = {}
        """By number, the terms of the loss with a divisor of their own: the total weight, and the gradients."""
        self.unit = 1
        """The size of the first batch, which all weights are relative to."""

    def weigh(self, loss: Tensor, divisor: Divisor) -> Tensor:
        """Returns the loss times its weight, and counts its batch. The first part of a batch counts as the batch."""
        self.count_batch(divisor.size)
        weight = self.add(divisor)
        if isinstance(weight, Tensor):
            return loss * weight.to(loss.dtype)
        return loss if weight == 1.0 else loss * weight

    def count_batch(self, size: int) -> None:
        """Counts a batch of this size, or the first part of one."""
        if not self.n_batches:
            self.unit = max(size, 1)
        self.n_batches += not self.part

    def add(self, divisor: Divisor) -> float | Tensor:
        """Adds the weight of a batch, or of a part, to the total, and returns it."""
        if divisor.is_sum:
            self.total = 1.0
            return 1.0
        weight = divisor.value / self.unit
        self.total = self.total + weight
        return weight

    def weigh_term(self, number: int, divisor: Divisor) -> float | Tensor:
        """Adds the weight of a term with a divisor of its own to its total, and returns it."""
        total, gradients = self.terms.get(number, (0.0, []))
        weight = 1.0 if divisor.is_sum else divisor.value / self.unit
        self.terms[number] = (1.0 if divisor.is_sum else total + weight), gradients
        return weight

    def add_gradients(self, number: int, gradients: list[Tensor | None]) -> None:
        """Adds the gradients of a term to those gathered; None for a parameter that it does not depend on."""
        total, before = self.terms[number]
        self.terms[number] = total, list(map(_add, before, gradients)) if before else gradients

    def merge_terms(self, parameters: list[Tensor]) -> None:
        """Adds the gathered gradients of the terms to those of the parameters, such that one average is left to do."""
        for total, gradients in self.terms.values():
            scale = self.total / (torch.where(total == 0, 1.0, total) if isinstance(total, Tensor) else total or 1.0)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = _add(parameter.grad, gradient * scale)
        self.terms = {}

    def average(self, gradients: list[Tensor]) -> None:
        """Divides the gathered gradients by the sum of the weights, in place."""
        if not gradients:
            return
        if isinstance(self.total, Tensor):
            total = torch.where(self.total == 0, 1.0, self.total)
            for gradient in gradients:
                gradient.div_(total.to(gradient.dtype))
        elif self.total not in (0.0, 1.0):
            torch._foreach_div_(gradients, self.total)


def _add(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second
