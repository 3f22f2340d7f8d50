"""Losses x mixing x accumulation x splitting: each update is that of a plain loop over the whole batch."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from minilearner import CutMix, FocalLoss, GradientAccumulation, Learner, MixUp, SplitOnOOM
from minilearner.errors import DataError
from minilearner.training.divisor_probe import DivisorProbe
from minilearner.training.item_losses import make_item_loss, mix_losses
from minilearner.training.step import make_step

NEXT_TO_NONE = 1e-4
"""An alpha with which MixUp leaves each item as it is, so that a plain loop says what is right."""

WEIGHT = torch.tensor([1.0, 7.0, 0.2])


class Wrapped(nn.Module):
    """Has no `reduction`, and a term beside the weighted one."""

    def __init__(self):
        super().__init__()
        self.inner = nn.CrossEntropyLoss(weight=WEIGHT)

    def forward(self, pred, y):
        return 2 * self.inner(pred, y) + 0.1 * F.mse_loss(pred, torch.zeros_like(pred))


class Composed(nn.Module):
    """Its inside ignores what is set as its `reduction` later."""

    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction = reduction
        self.inner = nn.CrossEntropyLoss(weight=WEIGHT, reduction=reduction)

    def forward(self, pred, y):
        return self.inner(pred, y)


class Called:
    """A loss that is no module."""

    def __init__(self):
        self.inner = nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=1)

    def __call__(self, pred, y):
        return self.inner(pred, y)


class Uncertain(nn.Module):
    """Has a parameter."""

    def __init__(self):
        super().__init__()
        self.log_var = nn.Parameter(torch.zeros(()))

    def forward(self, pred, y):
        return torch.exp(-self.log_var) * F.cross_entropy(pred, y, weight=WEIGHT) + self.log_var


class Tasks(nn.Module):
    """Two tasks with a learnt noise each, in one parameter; each task lacks the labels of some items."""

    def __init__(self):
        super().__init__()
        self.log_var = nn.Parameter(torch.zeros(2))

    def forward(self, pred, y):
        losses = F.cross_entropy(pred, y, ignore_index=0), F.cross_entropy(2 * pred, y, WEIGHT, ignore_index=2)
        return (torch.exp(-self.log_var) * torch.stack(losses) + self.log_var).sum()


def divided_by_count(pred, y):
    return F.cross_entropy(pred, y, reduction="sum", ignore_index=2) / (y != 2).sum()


def divided_by_weights(pred, y):
    return F.cross_entropy(pred, y, WEIGHT, reduction="sum") / WEIGHT[y].sum()


def evidence_sum(pred, y):
    """The bound of a variational autoencoder, which adds up a term of torch and one by hand."""
    return F.binary_cross_entropy_with_logits(pred, one_hot(y), reduction="sum") + pred.square().sum()


def selected(pred, y):
    return F.cross_entropy(pred[y != 2], y[y != 2], WEIGHT)


def item_by_item(pred, y):
    return torch.stack([F.cross_entropy(p[None], t[None]) for p, t in zip(pred, y, strict=True)]).mean()


def masked(pred, y):
    """Is 0 / 0 for items without anything that counts."""
    mask = (y != 2).float()
    return (F.cross_entropy(pred, y, reduction="none") * mask).sum() / mask.sum()


def by_hand(pred, y):
    losses, weights = F.cross_entropy(pred, y, reduction="none"), WEIGHT[y]
    return (losses * weights).sum() / weights.sum()


def without_torch(pred, y):
    losses, counted = -pred.log_softmax(1)[torch.arange(len(y)), y], (y != 2).float()
    return (losses * counted).sum() / counted.sum().clamp_min(1)


def one_hot(y):
    return F.one_hot(y, 3).float()


LOSSES = {
    "module": nn.CrossEntropyLoss,
    "class weights": partial(nn.CrossEntropyLoss, WEIGHT),
    "ignore_index": partial(nn.CrossEntropyLoss, ignore_index=0),
    "smoothed": partial(nn.CrossEntropyLoss, WEIGHT, label_smoothing=0.1, ignore_index=2),
    "sum": partial(nn.CrossEntropyLoss, WEIGHT, reduction="sum"),
    "focal": partial(FocalLoss, weight=WEIGHT),
    "focal sum": partial(FocalLoss, weight=WEIGHT, reduction="sum"),
    "function": lambda: F.cross_entropy,
    "partial": lambda: partial(F.cross_entropy, weight=WEIGHT),
    "partial sum": lambda: partial(F.cross_entropy, reduction="sum"),
    "lambda": lambda: lambda pred, y: F.nll_loss(pred.log_softmax(1), y, weight=WEIGHT),
    "batchmean": lambda: lambda pred, y: F.kl_div(pred.log_softmax(1), one_hot(y), reduction="batchmean"),
    "elements": lambda: lambda pred, y: F.binary_cross_entropy_with_logits(pred, one_hot(y), pos_weight=WEIGHT),
    "two terms": lambda: lambda pred, y: F.cross_entropy(pred, y, WEIGHT) + F.cross_entropy(pred, y, ignore_index=2),
    "wrapped": Wrapped,
    "composed": Composed,
    "called": Called,
    "parameter": Uncertain,
    "tasks": Tasks,
    "divided by items": lambda: lambda pred, y: F.cross_entropy(pred, y, WEIGHT, reduction="sum") / len(y),
    "divided by count": lambda: divided_by_count,
    "divided by weights": lambda: divided_by_weights,
    "evidence sum": lambda: evidence_sum,
    "evidence": lambda: lambda pred, y: evidence_sum(pred, y) / len(y),
    "selected": lambda: selected,
    "masked": lambda: masked,
    "item by item": lambda: item_by_item,
    "by hand": lambda: by_hand,
    "without torch's losses": lambda: without_torch,
}


def some_elements(pred, y):
    """Has as many elements as items now and then, but of others."""
    wanted = one_hot(y).where(y[:, None] != 2, torch.nan)
    return F.binary_cross_entropy_with_logits(pred[~wanted.isnan()], wanted[~wanted.isnan()])


def left_out(pred, y):
    """Calls a loss only if something counts."""
    return selected(pred, y) if (y != 2).any() else pred.sum() * 0


def mean_and_sum(pred, y):
    """The mean over the batch counts once, and the sum counts each item."""
    return F.cross_entropy(pred, y) + 0.1 * pred.square().sum()


def selected_twice(pred, y):
    return sum(F.cross_entropy(k * pred[y != k], y[y != k], WEIGHT if k else None) for k in (1, 2))


WITH_EMPTY_PARTS = {
    **LOSSES,
    "some elements": lambda: some_elements,
    "left out": lambda: left_out,
    "mean and sum": lambda: mean_and_sum,
    "selected twice": lambda: selected_twice,
}


class Short(nn.Module):
    """A model for which memory runs out beyond `most` items."""

    def __init__(self, most):
        super().__init__()
        torch.manual_seed(0)
        self.most, self.layer = most, nn.Conv2d(2, 3, 3)

    def forward(self, x):
        if self.training and len(x) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return self.layer(x).mean((2, 3))


def trained(batches, loss, cbs, most=99, lr=0.1):
    model = Short(most)
    learn = Learner((batches, None), model, loss, torch.optim.SGD, device="cpu", cbs=cbs)
    with learn.no_logging():
        learn.fit(2, lr)
    return model


def plainly_trained(x, y, loss, lr=0.1):
    model = Short(99)
    learning = [*model.parameters(), *(loss.parameters() if isinstance(loss, nn.Module) else ())]
    optimizer = torch.optim.SGD(learning, lr)
    for _ in range(2):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    return model


@pytest.mark.filterwarnings("ignore:a batch of .* items did not fit")
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(sorted(LOSSES)),
    sizes=st.lists(st.integers(3, 9), min_size=1, max_size=4),
    mixes=st.booleans(),
    most=st.sampled_from([99, 3]),
    seed=st.integers(0, 99),
)
@example(name="masked", sizes=[3, 3, 4, 3], mixes=True, most=99, seed=0).via("a batch has no item that counts")
def test_an_update_is_that_of_the_whole_batch(name, sizes, mixes, most, seed):
    g = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    x, y = torch.randn(n, 2, 5, 5, generator=g), torch.randint(3, (n,), generator=g)
    y[:3] = torch.arange(3)  # whatever a loss ignores, something counts
    lr = 0.1 / n if "sum" in name else 0.1
    cbs = [GradientAccumulation(len(sizes))] if len(sizes) > 1 else []
    cbs += [SplitOnOOM()] if most < 99 else []
    cbs += [MixUp(NEXT_TO_NONE)] if mixes else []
    found = trained(list(zip(x.split(sizes), y.split(sizes), strict=True)), LOSSES[name](), cbs, most, lr)
    wanted = plainly_trained(x, y, LOSSES[name](), lr)
    for one, other in zip(found.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(LOSSES)),
    quarters=st.lists(st.integers(0, 4), min_size=3, max_size=9),
    seed=st.integers(0, 99),
)
def test_a_mixture_counts_each_target_by_its_share(name, quarters, seed):
    """Four of an item with two targets are so many of the one and so many of the other."""
    g = torch.Generator().manual_seed(seed)
    n, share = len(quarters), torch.tensor(quarters) / 4
    pred = torch.randn(n, 3, generator=g)
    y, other = torch.randint(3, (n,), generator=g), torch.randint(3, (n,), generator=g)
    y[:3] = other[:3] = torch.arange(3)
    loss = LOSSES[name]()
    first = torch.tensor(quarters).repeat_interleave(1)
    both = torch.cat([pred.repeat_interleave(first, 0), pred.repeat_interleave(4 - first, 0)])
    targets = torch.cat([y.repeat_interleave(first), other.repeat_interleave(4 - first)])
    wanted = loss(both, targets) / (4 if "sum" in name else 1)
    found, _ = mix_losses(loss, pred, y, other, share)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(LOSSES)), n=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_losses_of_items_are_those_of_torch_without_reduction(name, n, seed):
    """Class weights count, ignored items are 0, and a loss that adds up adds its elements up."""
    g = torch.Generator().manual_seed(seed)
    pred, y = torch.randn(n, 3, generator=g), torch.randint(3, (n,), generator=g)
    plain, weighted = F.cross_entropy(pred, y, reduction="none"), WEIGHT[y] * F.cross_entropy(pred, y, reduction="none")
    wanted = {
        "class weights": weighted,
        "ignore_index": plain * (y != 0),
        "smoothed": F.cross_entropy(pred, y, WEIGHT, label_smoothing=0.1, ignore_index=2, reduction="none"),
        "sum": weighted,
        "partial": weighted,
        "lambda": weighted,
        "batchmean": plain,
        "elements": F.binary_cross_entropy_with_logits(pred, one_hot(y), pos_weight=WEIGHT, reduction="none").mean(1),
        "composed": weighted,
        "called": weighted * (y != 1),
        "parameter": weighted,
        "two terms": weighted + plain * (y != 2),
        "wrapped": 2 * weighted + 0.1 * (pred**2).mean(1),
        "divided by items": weighted,
        "selected": weighted * (y != 2),
    }.get(name, plain)
    if name in ("evidence", "evidence sum"):
        wanted = (F.binary_cross_entropy_with_logits(pred, one_hot(y), reduction="none") + pred.square()).sum(1)
    if name.startswith(("focal", "by hand", "without", "masked", "tasks", "divided by count", "divided by weights")):
        return
    torch.testing.assert_close(make_item_loss(LOSSES[name]())(pred, y), wanted)


@pytest.mark.parametrize("loss", [by_hand, divided_by_weights])
def test_a_loss_that_weighs_by_hand_ranks_its_items_by_their_weights(loss):
    pred, y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    losses = make_item_loss(loss)(pred, y)
    wanted = WEIGHT[y] * F.cross_entropy(pred, y, reduction="none")
    torch.testing.assert_close(losses / losses.sum(), wanted / wanted.sum(), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:a batch of .* items did not fit")
@pytest.mark.parametrize("mixing", [None, CutMix])
@pytest.mark.parametrize("name", sorted(WITH_EMPTY_PARTS))
def test_parts_make_the_update_and_the_loss_of_their_batch(name, mixing):
    """Also if the first of them has nothing that counts."""
    x, y = torch.randn(12, 2, 5, 5, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    y[:5] = 2
    learners = []
    for most in (99, 4):
        cbs = [SplitOnOOM()] + ([mixing()] if mixing else [])
        learn = Learner(([(x, y)], None), Short(most), WITH_EMPTY_PARTS[name](), torch.optim.SGD, device="cpu", seed=3)
        with learn.no_logging():
            learn.fit(2, 0.01, cbs=cbs)
        learners.append(learn)
    for one, other in zip(*(learn.model.parameters() for learn in learners), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)
    whole, in_parts = (learn.recorder.losses for learn in learners)
    assert in_parts == pytest.approx(whole, rel=1e-4)


def test_parts_that_are_mixed_in_different_ways_weigh_in_the_same_unit():
    """The larger shares of the second part have no loss at all, so nobody sees its terms."""
    pred = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    y, other = torch.tensor([0, 1, 1, 0, 2, 2, 2, 2]), torch.tensor([1, 0, 0, 1, 1, 0, 2, 1])
    share, probe, found = torch.full((8,), 0.7), DivisorProbe(), []
    for part in (slice(0, 4), slice(4, 8)):
        loss, divisor = mix_losses(left_out, pred[part], y[part], other[part], share[part], probe)
        found.append((loss, divisor.value))
    wanted, _ = mix_losses(left_out, pred, y, other, share)
    torch.testing.assert_close(sum(loss * value for loss, value in found) / sum(value for _, value in found), wanted)


def test_selected_items_of_several_tasks_count_once_in_each_window():
    """The first batch has all labels of a task, the second lacks some."""
    x, y = torch.randn(9, 2, 5, 5, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3
    y[:4] = 0
    found = trained([(x[:4], y[:4]), (x[4:], y[4:])], selected_twice, GradientAccumulation(2))
    for one, other in zip(found.parameters(), plainly_trained(x, y, selected_twice).parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore:a batch of .* items did not fit")
def test_targets_that_make_every_loss_nan_are_no_empty_part():
    x, y = torch.randn(8, 2, 5, 5), torch.randn(8, 3)
    y[:4] = torch.nan
    step = make_step(Short(99), lambda pred, y: ((pred - y) ** 2).mean())
    step.n_accumulate = 2
    step.compute_loss(step.predict(x[:4]), y[:4])
    with pytest.raises(DataError, match="make the loss NaN whatever the predictions"):
        step.compute_loss(step.predict(x[4:]), y[4:])


def test_a_mean_and_a_sum_in_one_loss_keep_their_proportion_in_parts():
    x, y = torch.randn(9, 2, 5, 5, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3
    found = trained([(x[:5], y[:5]), (x[5:], y[5:])], mean_and_sum, GradientAccumulation(2))
    for one, other in zip(found.parameters(), plainly_trained(x, y, mean_and_sum).parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_targets_from_a_table_are_mixed_without_going_through_the_items():
    """The table is read by an index, too, but that leaves no item out."""
    table, calls = torch.eye(3) * 0.9 + 0.03, []

    def loss(pred, y):
        calls.append(len(y))
        return F.cross_entropy(pred, table[y])

    pred = torch.randn(6, 3, requires_grad=True) * 1
    found, _ = mix_losses(loss, pred, torch.arange(6) % 3, torch.arange(6).flip(0) % 3, torch.full((6,), 0.7))
    assert calls == [6, 6] and found.isfinite()
