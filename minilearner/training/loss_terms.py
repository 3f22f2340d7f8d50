"""See what torch's losses do inside a loss function: what they add up, and what they divide the sum by.

A loss may be a module, a function, a partial or a wrapper. In the end most of them call a loss of
`torch.nn.functional`. `LossTerms` watches these calls, so nobody has to say how a loss reduces.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import _reduction as legacy
from torch.nn.modules.module import _has_any_global_hook
from torch.overrides import TorchFunctionMode

__all__ = [
    "Divisor",
    "ItemSums",
    "LossTerms",
    "Tap",
    "Term",
    "add_divisors",
    "add_losses",
    "is_plain_mean",
    "make_plain_term",
]

_OF_CLASSES = ("cross_entropy", "nll_loss", "linear_cross_entropy")
_NAMES = (
    *_OF_CLASSES,
    *("binary_cross_entropy", "binary_cross_entropy_with_logits", "cosine_embedding_loss", "ctc_loss"),
    *("gaussian_nll_loss", "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss", "margin_ranking_loss"),
    *("mse_loss", "multi_margin_loss", "multilabel_margin_loss", "multilabel_soft_margin_loss"),
    *("poisson_nll_loss", "smooth_l1_loss", "soft_margin_loss", "triplet_margin_loss"),
    "triplet_margin_with_distance_loss",
)
_PLAIN: dict[Any, Callable[..., Tensor]] = {
    nn.BCEWithLogitsLoss: F.binary_cross_entropy_with_logits,
    nn.CrossEntropyLoss: F.cross_entropy,
    nn.HuberLoss: F.huber_loss,
    nn.L1Loss: F.l1_loss,
    nn.MSELoss: F.mse_loss,
    nn.NLLLoss: F.nll_loss,
    nn.SmoothL1Loss: F.smooth_l1_loss,
}
"""Modules that make one call, with their attributes as the arguments."""
_FORWARDS = {kind: kind.forward for kind in _PLAIN}  # somebody may replace them
_SELECTIONS = (torch.masked_select, Tensor.masked_select, torch.index_select, Tensor.index_select)
_DIVIDE_BY_WEIGHTS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")


@lru_cache(maxsize=1)
def _losses() -> dict[Any, inspect.Signature]:
    """Returns torch's losses with their signatures. An older torch lacks some of them."""
    found = (getattr(F, name, None) for name in _NAMES)
    return {function: inspect.signature(function) for function in found if function is not None}


@dataclass(frozen=True)
class Divisor:
    """What a loss divides its sum by.

    Attributes:
        value: the divisor: the number of elements or items, or the sum of their weights.
        size: the number of elements or items, whatever they weigh.
        is_sum: True if the loss does not divide at all. Then the loss of two batches is the sum of their losses.
        taps: the terms of the loss that divide by something else, by their numbers.
    """

    value: float | Tensor
    size: int
    is_sum: bool = False
    taps: Mapping[int, Tap] = field(default_factory=dict)


class Tap:
    """A term of a loss whose gradient can be taken apart from the others'.

    Args:
        value: the term.
        divisor: what it divides by.
    """

    def __init__(self, value: Tensor, divisor: Divisor):
        self.value = value
        self.divisor = divisor
        self.is_closed = False
        self.output: Tensor = _Through.apply(value, self)
        """The term as it enters the loss. While the tap is closed, no gradient flows back from here."""
        self.part = value.detach()
        """What the term adds to the loss, once `finish` has set it."""

    def finish(self, part: Tensor) -> None:
        """Keeps what the term added to the loss, and lets go of all that the backward pass needed."""
        self.part = self.value = self.output = part.detach()


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, tap: Tap) -> Tensor:
        ctx.tap = tap
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        return None if ctx.tap.is_closed else gradient, None


def add_divisors(divisors: Sequence[Divisor]) -> Divisor:
    """Returns what the loss of a batch divides by, from the divisors of its parts."""
    return Divisor(
        value=sum((one.value for one in divisors), 0.0),
        size=sum(one.size for one in divisors),
        is_sum=any(one.is_sum for one in divisors),
    )


def add_losses(losses: Sequence[Tensor], divisors: Sequence[Divisor]) -> Tensor:
    """Returns the loss of a batch from those of its parts, after their backward passes."""
    of_terms: dict[int, list[tuple[Tensor, Divisor]]] = {}
    rests = list(losses)
    for i, divisor in enumerate(divisors):
        for number, tap in divisor.taps.items():
            of_terms.setdefault(number, []).append((tap.part, tap.divisor))
            rests[i] = rests[i] - tap.part
    found = [_average(rests, divisors)]
    found += [_average(*zip(*pairs, strict=True)) for pairs in of_terms.values()]
    return torch.stack(found).sum()


def _average(losses: Sequence[Tensor], divisors: Sequence[Divisor]) -> Tensor:
    """Returns the mean of losses, weighed by what they divide by, or their sum if they add up."""
    whole = add_divisors(divisors)
    if whole.is_sum:
        return torch.stack(list(losses)).sum()
    total = whole.value if isinstance(whole.value, Tensor) else whole.value or 1.0  # 0 if the loss ignores every item
    weighted = torch.stack([loss * one.value / total for loss, one in zip(losses, divisors, strict=True)]).sum()
    return weighted.nan_to_num(0.0) if isinstance(total, Tensor) else weighted


@dataclass(frozen=True)
class ItemSums:
    """The parts of a loss that belong to each item, `(items,)`: the loss is `sums.sum() / divisors.sum()`.

    Attributes:
        sums: what the item adds to the sum.
        divisors: what it adds to the divisor: its elements that count, times their weights.
        is_sum: True if the loss does not divide.
    """

    sums: Tensor
    divisors: Tensor
    is_sum: bool


class Term:
    """One call of a torch loss.

    Args:
        function: the loss, such as `torch.nn.functional.cross_entropy`.
        arguments: all its arguments by name.
    """

    def __init__(self, function: Callable[..., Tensor], arguments: dict[str, Any]):
        self.function = function
        self.name = function.__name__
        self.arguments = arguments
        size_average, reduce = arguments.pop("size_average", None), arguments.pop("reduce", None)
        if size_average is not None or reduce is not None:
            arguments["reduction"] = legacy.legacy_get_string(size_average, reduce, emit_warning=False)
        self.reduction: str = arguments["reduction"]

    def call(self, reduction: str | None = None) -> Tensor:
        """Returns the loss, with another reduction if one is given."""
        return self.function(**{**self.arguments, "reduction": reduction or self.reduction})

    @property
    def adds_up(self) -> bool:
        """Whether the call adds its elements up, and divides by nothing."""
        return self.reduction == "sum"

    @property
    def class_numbers(self) -> Tensor | None:
        """The target, if it consists of class numbers; else None."""
        target = self.arguments["target"] if self.name in _OF_CLASSES else None
        return None if target is None or target.is_floating_point() else target

    @property
    def first_input(self) -> Tensor:
        """The predictions, whatever the loss calls them."""
        pred: Tensor = next(iter(self.arguments.values()))
        return pred

    @property
    def n_classes(self) -> int:
        """How many classes the predictions of `cross_entropy` or `nll_loss` have."""
        pred = self.first_input
        return int(pred.shape[1 if pred.ndim > 1 else 0])

    @property
    def counted(self) -> Tensor | None:
        """Which elements count, or None if all do: `ignore_index` leaves some out."""
        target = self.class_numbers
        return None if target is None else target != self.arguments["ignore_index"]

    def weights(self) -> Tensor | None:
        """Returns what each element adds to the divisor of a mean, or None if that is always 1."""
        counted, weight = self.counted, self.arguments.get("weight")
        target = self.class_numbers
        if target is not None and counted is not None:
            if weight is None:
                return counted.double()
            return torch.where(counted, weight.detach().double()[target.where(counted, 0)], 0)
        return weight.detach().double() if weight is not None and self.name in _DIVIDE_BY_WEIGHTS else None

    def divisor(self) -> Divisor:
        """Returns what the call divides by. On the CPU its value is a number, else a tensor, so that nobody waits."""
        weights = self.weights()
        if self.reduction == "batchmean":
            size = int(self.first_input.shape[0])
        elif weights is not None:
            size = weights.numel()
        else:
            size = self._count_elements()
        if self.adds_up or weights is None:
            return Divisor(float(size), size, is_sum=self.adds_up)
        total = weights.sum()
        return Divisor(float(total) if total.device.type == "cpu" else total, size)

    def elements(self) -> Tensor:
        """Returns the loss of each element, before the reduction."""
        losses = self.call("none")
        if self.name == "ctc_loss" and self.reduction == "mean":  # which divides by the lengths, too
            lengths = torch.as_tensor(self.arguments["target_lengths"], device=losses.device)
            return losses / lengths.clamp_min(1)
        return losses

    def by_item(self, n: int) -> ItemSums | None:
        """Returns the parts of each of `n` items, or None if the call does not have these items, in this order."""
        losses = self.elements()
        if losses.ndim == 0 or losses.shape[0] != n:
            return None
        weights = self.weights()
        plain = losses.new_full((n,), float(losses.numel() // n))
        if weights is not None and weights.shape != losses.shape:
            return None
        divisors = plain if weights is None else _sum_items(weights, n).to(losses.dtype)
        return ItemSums(
            sums=_sum_items(losses, n),
            divisors=losses.new_ones(n) if self.reduction == "batchmean" else divisors,
            is_sum=self.adds_up,
        )

    def safe_value(self, divisor: Divisor) -> Tensor:
        """Returns the loss, but 0 with a gradient of 0 if nothing counts, instead of 0 / 0."""
        if self.reduction != "mean" or self.class_numbers is None:
            has_none = not isinstance(divisor.value, Tensor) and divisor.value == 0  # no element at all
            return self.call("sum" if has_none else None)
        if self.arguments.get("weight") is None:
            value = self.call()
            is_empty = divisor.value == 0
            if isinstance(is_empty, Tensor):
                return torch.where(is_empty, 0.0, value)
            return torch.where(torch.tensor(True), 0.0, value) if is_empty else value
        value = self.call("sum")
        if isinstance(divisor.value, Tensor):
            return value / torch.where(divisor.value == 0, 1.0, divisor.value).to(value.dtype)
        return value / (divisor.value or 1.0)

    def _count_elements(self) -> int:
        if self.name in ("l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss", "kl_div"):
            pred, target = (self.arguments[name] for name in ("input", "target"))
            return int(torch.broadcast_shapes(pred.shape, target.shape).numel())  # type: ignore[no-untyped-call]
        if self.name.startswith("binary_cross_entropy"):
            return int(self.arguments["input"].numel())
        with torch.no_grad():
            return self.call("none").numel()


def is_plain_mean(loss_func: Any) -> bool:
    """Whether a loss is a module of torch that is one mean, and does nothing else."""
    kind = type(loss_func)
    if kind not in _PLAIN or loss_func.reduction != "mean" or kind.forward is not _FORWARDS[kind]:
        return False
    is_hooked = loss_func._forward_hooks or loss_func._forward_pre_hooks
    is_hooked = is_hooked or _has_any_global_hook()  # type: ignore[no-untyped-call]
    return not (is_hooked or "forward" in vars(loss_func))


def make_plain_term(loss_func: Any, pred: Any, y: Any) -> Term | None:
    """Returns the one call that a plain mean makes, or None if the loss is another. Watching it would take longer."""
    if not is_plain_mean(loss_func):
        return None
    function = _PLAIN[type(loss_func)]
    _, _, *options = _losses()[function].parameters.values()
    given = {option.name: getattr(loss_func, option.name, option.default) for option in options}
    return Term(function, {"input": pred, "target": y, **given})


class LossTerms(TorchFunctionMode):
    """While it is entered, passes each call of a torch loss that reduces to `act`, and takes its result instead.

    Attributes:
        terms: the calls, in order.
        is_by_hand: True if a loss was called without a reduction, so that the caller reduces it.
        selects: True if predictions or targets were picked by an index, so that calls may have only some of the items.

    Args:
        act: receives a `Term` and returns the value of the call. By default, the value is torch's own.
        unreduced: whether `act` also receives calls that do not reduce.
    """

    def __init__(self, act: Callable[[Term], Tensor] | None = None, *, unreduced: bool = False):
        super().__init__()
        self.terms: list[Term] = []
        self.is_by_hand = self.selects = False
        self._act = act
        self._acts_on_all = unreduced
        self._unreduced: list[Term] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        signature = _losses().get(func)
        if signature is None:
            self.selects |= func in _SELECTIONS or (func is Tensor.__getitem__ and _picks(*args))
            return func(*args, **(kwargs or {}))
        bound = signature.bind(*args, **(kwargs or {}))
        bound.apply_defaults()
        term = Term(func, dict(bound.arguments))
        if term.reduction == "none":
            self.is_by_hand = True
            self._unreduced.append(term)
            if not self._acts_on_all:
                return func(*args, **(kwargs or {}))
        else:
            self.terms.append(term)
        return func(*args, **(kwargs or {})) if self._act is None else self._act(term)

    @property
    def calls(self) -> list[Term]:
        """All calls, also those without a reduction."""
        return [*self.terms, *self._unreduced]


def _sum_items(t: Tensor, n: int) -> Tensor:
    return t if t.ndim == 1 else t.reshape(n, -1).sum(1)


def _picks(source: Tensor, index: Any) -> bool:
    """Whether an index may leave items out: a mask does, and so do numbers that pick predictions, but not a table."""
    parts = [one for one in (index if isinstance(index, tuple) else (index,)) if isinstance(one, (Tensor, list))]
    if any(isinstance(one, Tensor) and one.dtype == torch.bool for one in parts):
        return True
    return bool(parts) and source.requires_grad and not isinstance(source, nn.Parameter)
