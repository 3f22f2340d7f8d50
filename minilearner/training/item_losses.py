"""How a loss is made of its items: its value for each item, its value for mixed targets, and what it divides by.

All of this is found out from any loss, a module, a function, a partial or a wrapper. `loss_terms` watches the calls of
torch's losses. A loss that reduces by hand is measured: how far does it move if one of its predictions does?
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from minilearner.errors import DataError
from minilearner.results.predictions import join
from minilearner.runtime import is_out_of_memory, isolate_rng
from minilearner.training.divisor_probe import (
    CLOSE,
    DivisorProbe,
    Growth,
    LossFunction,
    are_near,
    compute_gradient,
    is_near,
    isolate_loss,
    make_leaf,
)
from minilearner.training.loss_terms import Divisor, ItemSums, LossTerms, Tap, Term, make_plain_term
from minilearner.tree import Tree, has_items, map_tensors, n_items, tensors_of

__all__ = ["DivisorProbe", "LossFunction", "isolate_loss", "make_item_loss", "measure_loss", "mix_losses"]


def make_item_loss(loss_func: LossFunction) -> Callable[[Any, Any], Tensor]:
    """Returns a loss function that gives a value for each item, `(items,)`, for one that gives their mean.

    An item's value is its loss times its class weight, if there is one, as with torch's ``reduction="none"``. If an
    item has many elements, such as pixels, it is their mean, or their sum if the loss adds up. Elements that the loss
    ignores do not count, and an item without any other has a loss of 0.

    A loss that follows torch's convention, a `reduction` attribute or argument, is called with "none". Any other is
    called with one item at a time.
    """
    unreduced, reduction = _remove_reduction(loss_func)
    probe = DivisorProbe()

    def item_losses(pred: Any, y: Any) -> Tensor:
        if not n_items(y):  # only other processes have items left
            return torch.stack([t.sum() for t in tensors_of(pred)])[:0]
        if not has_items(y, n_items(y)):
            raise DataError(
                "the losses of items need targets with an entry for each item. Received: tensors of lengths "
                f"{[len(t) for t in tensors_of(y) if t.ndim]}. Ask for predictions without losses: with_loss=False."
            )
        losses = None if unreduced is None else _call_without_reduction(unreduced, reduction, pred, y)
        return _compute_one_by_one(loss_func, pred, y, probe) if losses is None else losses

    return item_losses


def _compute_plain_items(loss_func: LossFunction, pred: Any, y: Any) -> Tensor:
    """Returns the losses of items, without weights that a loss by hand has."""
    unreduced, reduction = _remove_reduction(loss_func)
    losses = None if unreduced is None else _call_without_reduction(unreduced, reduction, pred, y)
    return _compute_one_by_one(loss_func, pred, y) if losses is None else losses


def _remove_reduction(loss_func: LossFunction) -> tuple[LossFunction | None, str]:
    """Returns the loss without its reduction, if it follows torch's convention, and the name of that reduction."""
    if isinstance(loss_func, nn.Module):
        reduction = getattr(loss_func, "reduction", None)
        if not isinstance(reduction, str):
            return None, "mean"
        unreduced = copy.copy(loss_func)
        unreduced.reduction = "none"  # type: ignore[assignment]
        return unreduced, reduction
    try:
        parameter = inspect.signature(loss_func).parameters.get("reduction")
    except (TypeError, ValueError):  # builtins without a signature
        return None, "mean"
    if parameter is None or not isinstance(parameter.default, str):
        return None, "mean"
    return partial(loss_func, reduction="none"), parameter.default  # type: ignore[call-arg]


def _call_without_reduction(unreduced: LossFunction, reduction: str, pred: Any, y: Any) -> Tensor | None:
    """Returns the losses of the items, or None if the loss reduces all the same."""
    n = n_items(y)
    try:
        with LossTerms() as seen:
            losses = unreduced(pred, y)
    except Exception as error:  # whatever a loss without "none" raises
        if is_out_of_memory(error):
            raise
        return None
    if not isinstance(losses, Tensor) or losses.ndim == 0 or losses.numel() % n or seen.terms:
        return None
    if losses.ndim == 1 and len(losses) == n:
        return losses
    rows: Tensor = losses.reshape(n, -1)
    if reduction in ("sum", "batchmean"):
        return rows.sum(1)
    counted = next((term.counted for term in seen.calls if term.counted is not None), None)
    if counted is None or counted.numel() != losses.numel():
        return rows.mean(1)
    means: Tensor = rows.sum(1) / counted.reshape(n, -1).sum(1).clamp_min(1)
    return means


def _compute_one_by_one(loss_func: LossFunction, pred: Any, y: Any, probe: DivisorProbe | None = None) -> Tensor:
    """Calls the loss with one item at a time. With a `probe`, losses that reduce by hand keep their weights, too."""
    is_by_hand = False

    def loss_of(i: int) -> Tensor:
        nonlocal is_by_hand
        with LossTerms(_average_by_count) as seen:
            loss = loss_func(_take_item(pred, i), _take_item(y, i)).reshape(())
        is_by_hand |= seen.is_by_hand or not seen.terms or any(term.reduction == "sum" for term in seen.terms)
        return loss

    n = n_items(y)
    try:
        losses = torch.stack([loss_of(i) for i in range(n)])
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise DataError(
            f"the loss has no value for a single item: {error} If it needs the whole batch, ask for predictions "
            "without losses: with_loss=False."
        ) from error
    if probe is None or not is_by_hand:
        return losses
    kind, weights = _weigh_items(loss_func, pred, y)
    if kind != "mean":
        return losses
    divisor = probe.measure(loss_func, pred, y)
    if weights is None:
        return losses if divisor is None else losses * (float(divisor.value) / n)
    return losses.nan_to_num(0.0) * weights * (n if divisor is None else float(divisor.value))


def _compute_alone(loss_func: LossFunction, pred: Any, y: Any, items: Sequence[int]) -> Tensor:
    """Returns the loss of each of these items as a batch of its own."""
    return torch.stack([loss_func(_take_item(pred, i), _take_item(y, i)).reshape(()) for i in items])


def _take_item(tree: Tree, i: int) -> Tree:
    return map_tensors(lambda t: t[i : i + 1] if t.ndim else t, tree)


def _average_by_count(term: Term) -> Tensor:
    """Returns the loss of an item: a mean over the elements that count, so that their weights do not cancel."""
    weights, counted = term.weights(), term.counted
    if term.reduction != "mean" or weights is None:
        return term.call()
    n = weights.numel() if counted is None else counted.sum().clamp_min(1)
    return term.call("sum") / n


def mix_losses(
    loss_func: LossFunction, pred: Any, y: Any, other: Any, share: Tensor, probe: DivisorProbe | None = None
) -> tuple[Tensor, Divisor | None]:
    """Returns the loss of items with two targets each, and its divisor, or None if that is the number of items.

    An item counts as `share` of an item with target `y`, and as `1 - share` of one with target `other`. So weights of
    classes and elements count as in the loss itself, and a loss that adds up adds up.

    Args:
        loss_func: a loss that gives one number.
        pred, y: predictions and targets of a batch.
        other: the second targets.
        share: the share of `y` in each item, `(items,)`, in [0, 1].
        probe: measures losses that reduce by hand, if the divisor is wanted.
    """
    if probe is None or not probe.mixes_by_hand:
        mixed = _mix_terms(loss_func, pred, y, other, share, probe)
        if mixed is not None:
            return mixed
    if probe is not None:
        probe.mixes_by_hand = True
    return _mix_by_hand(loss_func, pred, y, other, share, probe)


def _mix_by_hand(
    loss_func: LossFunction, pred: Any, y: Any, other: Any, share: Tensor, probe: DivisorProbe | None
) -> tuple[Tensor, Divisor | None]:
    """Mixes the losses of items by weights that are measured; see `mix_losses`."""
    n, whole = len(share), None if probe is None else probe.measure(loss_func, join((pred, pred)), join((y, other)))
    if whole is not None and not whole.is_sum and whole.value <= CLOSE * n:
        return _make_zero(pred), Divisor(0.0, n)
    try:
        first, second = (_compute_plain_items(loss_func, pred, target) for target in (y, other))
        kind, weights = _weigh_items(loss_func, join((pred, pred)), join((y, other)))
    except DataError:
        kind, weights = "whole", None
    if kind == "whole":  # the loss needs the whole batch, so it cannot weigh each item by its own share
        return torch.lerp(loss_func(pred, other), loss_func(pred, y), share.mean().to(pred.dtype)), None
    if weights is None:
        losses = torch.lerp(second, first, share.to(first.dtype))
        if kind == "sum":
            return losses.sum(), Divisor(n, n, is_sum=True)
        return losses.mean(), None if whole is None else Divisor(whole.value / 2, n)
    parts = weights * torch.cat([share, 1 - share]).to(weights.dtype)
    counted = parts.nonzero().flatten().tolist()  # the others may be NaN, and so would their gradients
    if not counted:
        return _make_zero(pred), Divisor(0.0, n)
    alone = _compute_alone(loss_func, join((pred, pred)), join((y, other)), counted)
    loss = (alone * parts[counted]).sum() / parts.sum()
    if probe is None:
        return loss, None
    total = 2 * n if whole is None else whole.value
    return loss, Divisor(float(total * parts.sum()), n)


def _mix_terms(
    loss_func: LossFunction, pred: Any, y: Any, other: Any, share: Tensor, probe: DivisorProbe | None
) -> tuple[Tensor, Divisor | None] | None:
    """Mixes inside each call of a torch loss. Returns None if the loss reduces by hand or is no mean over items."""
    n = len(share)
    seconds: list[ItemSums] = []

    def keep(term: Term) -> Tensor:
        seconds.append(_split(term, n))
        return term.call()

    try:
        with isolate_loss(loss_func), LossTerms(keep) as before:
            loss_func(pred, other)
        if not before.terms or before.is_by_hand:
            return None
        if not before.selects:  # else a call may have as many elements as there are items, but of others
            return _mix_sums(loss_func, pred, y, other, share, probe, None, seconds)
    except _OtherItems:
        pass
    firsts, others = (_sum_alone(loss_func, pred, target) for target in (y, other))
    if firsts is None or others is None or len(firsts) != len(others):
        return None
    return _mix_sums(loss_func, pred, y, other, share, probe, firsts, others)


class _OtherItems(Exception):  # noqa: N818 - leaves the loss function
    """A call of a loss does not have the items of the batch, in their order."""


def _split(term: Term, n: int) -> ItemSums:
    parts = term.by_item(n)
    if parts is None:
        raise _OtherItems
    return parts


def _mix_sums(
    loss_func: LossFunction,
    pred: Any,
    y: Any,
    other: Any,
    share: Tensor,
    probe: DivisorProbe | None,
    firsts: list[ItemSums] | None,
    seconds: list[ItemSums],
) -> tuple[Tensor, Divisor | None] | None:
    """Mixes the terms' sums for both targets; see `mix_losses`. None for `firsts` takes them from the calls."""
    n = len(share)
    taps: dict[int, Tap] = {}
    weighed: list[Tensor] = []

    def mix(term: Term) -> Tensor:
        if len(taps) == len(seconds):
            raise _OtherItems
        first, second = firsts[len(taps)] if firsts else _split(term, n), seconds[len(taps)]
        of_first = share.to(first.sums.dtype)
        total = torch.lerp(second.sums, first.sums, of_first).sum()
        divisor = torch.lerp(second.divisors, first.divisors, of_first).sum()
        value = total if first.is_sum else total / torch.where(divisor == 0, 1, divisor)
        weighed.append(first.divisors)
        taps[len(taps)] = tap = Tap(value, _mix_divisors(term, divisor, n))
        return tap.output

    with LossTerms(mix) as seen:
        loss = loss_func(pred, y)
    if len(taps) != len(seconds):
        return None
    is_term = len(taps) == 1 and loss is taps[0].output
    if not is_term and not _is_rest_alike(loss_func, pred, y, other, [tap.value.detach() for tap in taps.values()]):
        return None
    found = _find_divisor(loss_func, pred, y, loss, taps, seen, probe)
    divided = [tap.divisor for tap, term in zip(taps.values(), seen.terms, strict=True) if term.reduction == "sum"]
    divided = [one for one in divided if not one.is_sum]
    if divided and (probe is not None or any(abs(float(one.value) - n) > CLOSE * n for one in divided)):
        return None  # the loss divides by more than the number of items, and each has its share in that
    if probe is not None and len(weighed) == 1 and not seen.terms[0].adds_up:
        probe.note(pred, y, weighed[0])
    return found


def _sum_alone(loss_func: LossFunction, pred: Any, y: Any) -> list[ItemSums] | None:
    """Returns the parts of each item in each of the loss's terms, from a call of the loss for each item.

    An item without terms, which a loss may leave out, has no part. Returns None if the parts do not add up to the
    terms of the whole batch: the loss reduces by hand, or compares its items with each other.
    """
    try:
        with isolate_rng(), isolate_loss(loss_func), torch.no_grad(), LossTerms() as whole:
            loss_func(pred, y)
        found = [_sum_item(loss_func, _take_item(pred, i), _take_item(y, i)) for i in range(n_items(y))]
    except Exception as error:  # of a loss for batches of one size
        if is_out_of_memory(error):
            raise
        return None
    terms = whole.terms
    if not terms or any(len(parts) not in (0, len(terms)) for parts in found):
        return None
    zero = terms[0].first_input.new_zeros(())
    rows = [parts or [(zero, zero)] * len(terms) for parts in found]
    sums = [
        ItemSums(torch.stack([row[k][0] for row in rows]), torch.stack([row[k][1] for row in rows]), term.adds_up)
        for k, term in enumerate(terms)
    ]
    return sums if all(map(_make_up, sums, terms)) else None


def _sum_item(loss_func: LossFunction, pred: Any, y: Any) -> list[tuple[Tensor, Tensor]]:
    """Returns the sum and the divisor of each term in the loss of one item."""
    parts: list[tuple[Tensor, Tensor]] = []

    def keep(term: Term) -> Tensor:
        value = term.elements().sum()
        parts.append((value, torch.as_tensor(term.divisor().value, dtype=value.dtype, device=value.device)))
        return value

    with isolate_loss(loss_func), LossTerms(keep):
        loss_func(pred, y)
    return parts


def _make_up(parts: ItemSums, term: Term) -> bool:
    """Whether the items' parts make up a term of the whole batch."""
    divisor = parts.divisors.new_ones(()) if parts.is_sum else parts.divisors.sum()
    return not bool(divisor) or is_near(parts.sums.sum() / divisor, term.call())


def _is_rest_alike(loss_func: LossFunction, pred: Any, y: Any, other: Any, terms: list[Tensor]) -> bool:
    """Whether what a loss makes of its terms is the same for both targets, and moves the predictions alike."""
    found = []
    with isolate_rng(), isolate_loss(loss_func), torch.enable_grad():
        leaf = map_tensors(make_leaf, pred)
        for target in (y, other):
            values = iter(terms)
            with LossTerms(lambda term, values=values: next(values)):  # type: ignore[misc]
                rest = loss_func(leaf, target)
            found.append((rest, compute_gradient(rest, leaf) if rest.requires_grad else torch.zeros(1)))
    (first, first_gradient), (second, second_gradient) = found
    return is_near(second, first) and are_near(second_gradient, first_gradient)


def _mix_divisors(term: Term, total: Tensor, n: int) -> Divisor:
    if term.reduction == "sum":
        return Divisor(n, n, is_sum=True)
    value = float(total.detach()) if total.device.type == "cpu" else total.detach()
    return Divisor(value, n if term.reduction == "batchmean" else max(term.divisor().size, 1))


def _weigh_items(loss_func: LossFunction, pred: Any, y: Any) -> tuple[str, Tensor | None]:
    """Returns how a loss combines its items: "mean", "sum", or "whole" if it does not; and the items' weights.

    The weights have a sum of 1; they are None if all are equal. A loss that is a weighted mean moves with one
    prediction as that item's own loss does, times the item's part of all weights.

    Args:
        loss_func: a loss that gives one number.
        pred, y: predictions and targets.
    """
    n = n_items(y)
    try:
        with isolate_rng(), isolate_loss(loss_func), torch.enable_grad():
            leaf = map_tensors(make_leaf, pred)
            losses = _compute_plain_items(loss_func, leaf, y)
            whole, twice = loss_func(leaf, y), loss_func(join((leaf, leaf)), join((y, y)))
            each, parts = compute_gradient(losses.nansum(), leaf), compute_gradient(whole, leaf)
            if are_near(each / n, parts) and is_near(losses.mean(), whole):
                return "mean", None
            if are_near(each, parts) and is_near(losses.sum(), whole) and not is_near(twice, whole):
                return "sum", None
            alone = _compute_alone(loss_func, leaf, y, range(n))
            own = compute_gradient(alone.nansum(), leaf)
    except Exception as error:  # of a loss for batches of one size, or one that cannot be differentiated
        if is_out_of_memory(error):
            raise
        return "whole", None
    weights = ((own * parts).sum(1) / (own * own).sum(1)).nan_to_num(0.0, 0.0, 0.0).to(losses.dtype)
    still = ~own.any(1) & alone.isfinite()  # nobody can see what these weigh: they have what the others leave
    weights = torch.where(still, (1 - weights.sum()).clamp_min(0) / still.sum().clamp_min(1), weights)
    mean = (weights * alone.detach().nan_to_num(0.0)).sum()
    return ("mean", weights) if is_near(mean, whole) else ("whole", None)


def measure_loss(
    loss_func: LossFunction, pred: Any, y: Any, probe: DivisorProbe | None = None
) -> tuple[Tensor, Divisor | None]:
    """Returns the loss of a batch and what it divides by, or None if that is the number of items.

    Items that the loss ignores altogether make it 0 instead of NaN.

    Args:
        loss_func: a loss that gives one number.
        pred, y: predictions and targets of a batch.
        probe: measures losses that reduce by hand.
    """
    measure = getattr(loss_func, "measure", None)
    if measure is not None:
        measured: tuple[Tensor, Divisor | None] = measure(pred, y, probe)
        return measured
    if (term := make_plain_term(loss_func, pred, y)) is not None:
        divisor = term.divisor()
        return term.safe_value(divisor), divisor
    return _watch_loss(loss_func, pred, y, probe)


def _watch_loss(
    loss_func: LossFunction, pred: Any, y: Any, probe: DivisorProbe | None
) -> tuple[Tensor, Divisor | None]:
    taps: dict[int, Tap] = {}

    def note(term: Term) -> Tensor:
        divisor = term.divisor()
        taps[len(taps)] = tap = Tap(term.safe_value(divisor), divisor)
        return tap.output

    with LossTerms(note) as seen:
        loss = loss_func(pred, y)
    if taps and not seen.is_by_hand:
        return _find_divisor(loss_func, pred, y, loss, taps, seen, probe)
    divisor = None if probe is None else probe.measure(loss_func, pred, y)
    return _leave_out_nothing(loss, pred, divisor), divisor


def _leave_out_nothing(loss: Tensor, pred: Any, divisor: Divisor | None) -> Tensor:
    """Returns the loss, or 0 if it is 0 / 0 because it leaves out every item of the batch."""
    if divisor is None or isinstance(divisor.value, Tensor) or divisor.value > CLOSE * divisor.size:
        return loss
    return loss if bool(loss.isfinite()) else _make_zero(pred)


def _make_zero(pred: Any) -> Tensor:
    """Returns a loss of 0, which gives all predictions a gradient of 0."""
    return torch.stack([(t * 0).sum() for t in tensors_of(pred)]).sum()


def _find_divisor(
    loss_func: LossFunction,
    pred: Any,
    y: Any,
    loss: Tensor,
    taps: dict[int, Tap],
    seen: LossTerms,
    probe: DivisorProbe | None,
) -> tuple[Tensor, Divisor | None]:
    """Returns the loss and its divisor: that of its only term, or with a `probe` one for each term.

    Args:
        loss_func, pred, y: the loss, predictions and targets of a batch.
        loss: its value.
        taps: the terms as they entered it, by their numbers.
        seen: the calls that they came from.
        probe: measures what the loss makes of its terms. Without one, only sums are looked into.
    """
    if len(taps) == 1 and loss is taps[0].output:
        return taps[0].value, taps[0].divisor
    n, growth = n_items(y), None
    adds_up = any(tap.divisor.is_sum for tap in taps.values())
    if probe is not None or adds_up:
        growth = (probe or DivisorProbe()).compare_with_double(loss_func, pred, y)
    if growth is not None and not growth.is_steady:
        divisor = None if probe is None else probe.measure(loss_func, pred, y)
        return _leave_out_nothing(loss, pred, divisor), divisor
    if adds_up:
        _divide_sums(loss, taps, growth, n)
    if len(taps) == 1 and not isinstance(taps[0].divisor.value, Tensor):
        loss = _leave_out_nothing(loss, pred, taps[0].divisor)
    if probe is None:
        return loss, _combine([tap.divisor for tap in taps.values()], n)
    is_sum = growth is not None and growth.is_rest_sum
    pairs = zip(taps.items(), seen.terms, strict=True)
    apart = {i: tap for (i, tap), term in pairs if is_sum or seen.selects or not _is_plain(term, n)}
    return loss, Divisor(n, n, is_sum=is_sum, taps=apart) if apart else None


def _divide_sums(loss: Tensor, taps: dict[int, Tap], growth: Growth | None, n: int) -> None:
    """Gives the terms that add up, and that the loss then divides, what it divides them by."""
    if not loss.requires_grad:
        return
    outputs = [tap.output for tap in taps.values()]
    factors = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True)
    for i, (tap, factor) in enumerate(zip(taps.values(), factors, strict=True)):
        if tap.divisor.is_sum and factor is not None and (growth is None or growth.divided[i]):
            tap.divisor = Divisor(1 / float(factor) if float(factor) else 0.0, n)


def _is_plain(term: Term, n: int) -> bool:
    """Whether a term is a mean over all elements of `n` items: it ignores and weighs none."""
    is_mean = term.reduction in ("mean", "batchmean") and term.weights() is None
    return is_mean and term.first_input.shape[:1] == (n,)


def _combine(divisors: list[Divisor], n: int) -> Divisor | None:
    """Returns the divisor that all terms of a loss have in common, or None if there is none."""
    if all(one.is_sum for one in divisors):
        return Divisor(n, n, is_sum=True)
    first = divisors[0]
    return first if all(one == first for one in divisors[1:]) else None
