"""Measure what a loss divides by, from how far it moves if its predictions do, and how it grows with its batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from minilearner.errors import DataError
from minilearner.results.predictions import join
from minilearner.runtime import is_out_of_memory, isolate_rng
from minilearner.training.loss_terms import Divisor, LossTerms, Tap, Term
from minilearner.tree import Tree, has_items, map_tensors, n_items, tensors_of

__all__ = [
    "CLOSE",
    "DivisorProbe",
    "Growth",
    "LossFunction",
    "_tap",
    "are_near",
    "compute_gradient",
    "is_near",
    "isolate_loss",
    "make_leaf",
]

LossFunction: TypeAlias = Callable[[Any, Any], Tensor]
"""`(pred, target) -> loss`: a tensor without dimensions, the mean over the items of the batch."""

CLOSE = 1e-4
"""Relative: what float32 leaves of a ratio of two gradients, with a margin."""


class DivisorProbe:
    """Measures the divisors of a loss that reduces by hand, in comparison with the first batch of a run.

    In a batch that is made of two, the gradients of the first one's predictions shrink by what the second one adds to
    the divisor.
    """

    def __init__(self) -> None:
        self._reference: _Reference | None = None
        self._is_off = False
        self._growth: Growth | None = None
        self._empty: list[tuple[Any, Any]] = []
        self._known: tuple[Any, Any, float] | None = None
        self.mixes_by_hand = False
        """Whether mixed targets are weighed by measuring, from the first batch for which nothing else will do."""

    def compare_with_double(self, loss_func: LossFunction, pred: Any, y: Any) -> Growth | None:
        """Returns how a loss of torch's terms grows with the batch; None if nothing in the batch counts."""
        if self._growth is None:
            try:
                self._growth = _measure_growth(loss_func, detach(pred), detach(y))
            except Exception as error:  # whatever a loss raises that needs batches of one size
                if is_out_of_memory(error):
                    raise
                self._growth = Growth(is_steady=False)
        return self._growth

    def note(self, pred: Any, y: Any, divisors: Tensor) -> None:
        """Keeps an item whose divisor is known, as a reference in the same unit if other batches must be measured.

        Args:
            pred, y: the batch that has the item.
            divisors: what each item adds to the divisor, `(items,)`.
        """
        if self._known is None and self._reference is None:
            i = int(divisors.argmax())
            one_pred, one_y = (map_tensors(lambda t: t[i : i + 1].clone(), detach(tree)) for tree in (pred, y))
            self._known = (one_pred, one_y, float(divisors[i])) if float(divisors[i]) > 0 else None

    def measure(self, loss_func: LossFunction, pred: Any, y: Any) -> Divisor | None:
        """Returns the divisor of a batch, or None if it is the number of items or cannot be measured.

        Raises:
            DataError: an earlier batch seemed to have nothing that counts, but makes the loss of this one NaN.
        """
        if self._is_off or not has_items(y, n_items(y)):
            return None
        pred, y = detach(pred), detach(y)
        try:
            with isolate_rng(), isolate_loss(loss_func), torch.enable_grad():
                first = self._reference = self._reference or self._find_reference(loss_func, pred, y)
                if first is None:
                    self._empty.append((pred, y))
                    return Divisor(0.0, n_items(y))
                divisor = first.measure(loss_func, pred, y)
        except Exception as error:  # whatever a loss raises that needs batches of one size
            if is_out_of_memory(error):
                raise
            self._is_off = all(bool(t.isfinite().all()) for t in tensors_of(pred))  # else the model is to blame
            return None
        self._check_empty(loss_func, first)
        return divisor

    def _find_reference(self, loss_func: LossFunction, pred: Any, y: Any) -> _Reference | None:
        if self._known is not None:
            *item, divisor = self._known
            found = _find_reference(loss_func, *item)
            if found is not None:
                return replace(found, divisor=divisor)
        return _find_reference(loss_func, pred, y)

    def _check_empty(self, loss_func: LossFunction, first: _Reference) -> None:
        """Raises if an earlier batch without anything that counts was not left out, but makes any loss NaN."""
        empty, self._empty = self._empty, []
        for pred, y in empty:
            with isolate_rng(), isolate_loss(loss_func), torch.no_grad():
                loss = loss_func(join((first.pred, pred)), join((first.y, y)))
            if not bool(loss.isfinite()):
                raise DataError(
                    "the targets of a training batch, or of a part of one, make the loss NaN whatever the predictions "
                    "are. Fill or remove them, or let the loss leave them out."
                )


@dataclass(frozen=True)
class _Reference:
    """The batch that others are compared with.

    Attributes:
        pred, y: its predictions and targets.
        gradient: that of the predictions, if the batch is on its own.
        divisor: what its loss divides by: the number of its items, if nothing else is known.
        is_sum: whether the loss of a larger batch is the sum of the losses of its items.
    """

    pred: Any
    y: Any
    gradient: Tensor
    divisor: float
    is_sum: bool = False

    def measure(self, loss_func: LossFunction, pred: Any, y: Any) -> Divisor | None:
        """Returns the divisor of another batch, or None if it is the number of items."""
        n = n_items(y)
        if self.is_sum:
            return Divisor(n, n, is_sum=True)
        value = self.divisor * (1 / self.share_with(loss_func, pred, y) - 1)
        return None if abs(value - n) < CLOSE * n else Divisor(max(value, 0.0), n)

    def share_with(self, loss_func: LossFunction, pred: Any, y: Any) -> float:
        """Returns the part of this batch in the divisor of one batch of this one's items and the given ones."""
        leaf = map_tensors(make_leaf, self.pred)
        together = compute_gradient(loss_func(join((leaf, pred)), join((self.y, y))), leaf)
        share = float((together * self.gradient).sum() / (self.gradient * self.gradient).sum())
        if not float((together - share * self.gradient).norm()) <= 1e-3 * float(self.gradient.norm()):
            raise ValueError("the loss is no mean over items.")
        return share

    @classmethod
    def make(cls, loss_func: LossFunction, pred: Any, y: Any, gradient: Tensor) -> _Reference:
        """Returns the reference that a batch makes."""
        first = cls(pred, y, gradient, n_items(y))
        return replace(first, is_sum=abs(first.share_with(loss_func, pred, y) - 1) < CLOSE)


def _find_reference(loss_func: LossFunction, pred: Any, y: Any) -> _Reference | None:
    """Returns the reference that a batch makes, or None if nothing in it counts: its loss moves with no predictions.

    Raises:
        ValueError: the loss does not come from the predictions.
    """
    for values in (pred, map_tensors(_replace_values, pred)):
        leaf = map_tensors(make_leaf, values)
        loss = loss_func(leaf, y)
        if not loss.requires_grad:
            continue
        if not _is_made_of(loss, leaf):
            raise ValueError("the loss does not come from the predictions.")
        gradient = compute_gradient(loss, leaf)
        if bool(gradient.isfinite().all()) and bool(gradient.any()):
            return _Reference.make(loss_func, values, y, gradient)
    return None


def _is_made_of(loss: Tensor, pred: Any) -> bool:
    leaves = [t for t in tensors_of(pred) if t.requires_grad]
    return any(g is not None for g in torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True))


@dataclass(frozen=True)
class Growth:
    """What a loss does when its batch becomes twice as large.

    Attributes:
        divided: for each term, whether it adds up and the loss divides it by something that grows with the batch.
        is_rest_sum: whether what the loss adds to its terms grows with the batch.
        is_steady: whether it has the same terms again. A loss that goes through its items one by one has more.
    """

    divided: tuple[bool, ...] = ()
    is_rest_sum: bool = False
    is_steady: bool = True


def _measure_growth(loss_func: LossFunction, pred: Any, y: Any) -> Growth | None:
    if not has_items(y, n_items(y)):
        return Growth(is_steady=False)
    found = []
    with isolate_rng(), isolate_loss(loss_func), torch.enable_grad():
        leaf = map_tensors(make_leaf, pred)
        for inputs, targets in ((leaf, y), (join((leaf, leaf)), join((y, y)))):
            taps: list[Tap] = []
            with LossTerms(lambda term, taps=taps: _tap(term, taps)) as seen:  # type: ignore[misc]
                loss = loss_func(inputs, targets)
            outputs = [tap.output for tap in taps]
            factors = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True)
            for tap in taps:
                tap.is_closed = True
            found.append(([0.0 if f is None else float(f) for f in factors], compute_gradient(loss, leaf)))
    (once, rest), (twice, rest_twice) = found
    if len(once) != len(twice):
        return Growth(is_steady=False)
    if not all(map(math.isfinite, once)):  # the batch has no item that counts
        return None
    divided = [
        term.reduction == "sum" and abs(second - first / 2) <= CLOSE * abs(first)
        for term, first, second in zip(seen.terms, once, twice, strict=True)
    ]
    return Growth(tuple(divided), bool(rest.any()) and are_near(rest_twice, 2 * rest))


def _tap(term: Term, taps: list[Tap]) -> Tensor:
    taps.append(Tap(term.call(), term.divisor()))
    return taps[-1].output


@contextmanager
def isolate_loss(loss_func: LossFunction) -> Iterator[None]:
    """Gives a loss copies of its buffers until leaving, so that a trial call leaves no trace on them."""
    modules = loss_func.modules() if isinstance(loss_func, nn.Module) else ()
    own = [(module, dict(module._buffers)) for module in modules]
    for module, buffers in own:
        module._buffers.update({name: None if t is None else t.clone() for name, t in buffers.items()})
    try:
        yield
    finally:
        for module, buffers in own:
            module._buffers.clear()
            module._buffers.update(buffers)


def detach(tree: Tree) -> Tree:
    return map_tensors(lambda t: t.detach(), tree)


def make_leaf(t: Tensor) -> Tensor:
    """Returns a tensor that collects its own gradient, if it holds floating-point numbers."""
    return t.detach().requires_grad_() if t.is_floating_point() else t


def compute_gradient(loss: Tensor, pred: Any) -> Tensor:
    """Returns the gradients of all predictions, as `(items, ...)` in double precision."""
    leaves = [t for t in tensors_of(pred) if t.requires_grad]
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    rows = [
        (torch.zeros_like(t) if g is None else g).double().reshape(len(t), -1)
        for g, t in zip(found, leaves, strict=True)
    ]
    return torch.cat(rows, dim=1)


def are_near(values: Tensor, wanted: Tensor) -> bool:
    """Whether gradients are the same but for rounding."""
    return values.shape == wanted.shape and bool((values - wanted).norm() <= CLOSE * wanted.norm() + 1e-9)


def is_near(value: Tensor, wanted: Tensor) -> bool:
    """Whether losses are the same but for rounding."""
    return abs(float(value.detach()) - float(wanted.detach())) <= CLOSE * abs(float(wanted.detach())) + 1e-7


def _replace_values(t: Tensor) -> Tensor:
    """Returns predictions that suit logits and probabilities, and differ from each other."""
    return torch.linspace(0.25, 0.75, t.numel()).reshape(t.shape).to(t) if t.is_floating_point() else t
