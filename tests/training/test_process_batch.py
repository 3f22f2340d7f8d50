"""A callback may wrap or replace the forward and backward pass of a batch, and may update the weights itself."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from minilearner import (
    Callback,
    CancelBackward,
    CancelBatch,
    DataLoaders,
    GradientAccumulation,
    Learner,
    SplitOnOOM,
)
from minilearner.training.run import Run
from minilearner.training.step import make_step

IGNORE_WARNING = pytest.mark.filterwarnings("ignore:a batch of")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def batches(n=6, bs=5):
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(bs, 4, generator=g), torch.randint(3, (bs,), generator=g)) for _ in range(n)]


def learner(train, model=None, **options):
    options = {"opt_func": partial(torch.optim.SGD, momentum=0.9), "lr": 0.1} | options
    return Learner(DataLoaders(train), model or net(), nn.CrossEntropyLoss(), device="cpu", **options)


def trained(train, cbs=None, n_epochs=1, **options):
    learn = learner(train, **options)
    with learn.no_logging():
        learn.fit(n_epochs, cbs=cbs)
    return learn


def assert_same(a, b):
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class Replaces(Callback):
    """Trains a batch in the documented way: predict, compute the loss, go backward. The loop updates the weights."""

    def before_fit(self, run):
        run.process_batch = partial(self.train, run)

    def train(self, run):
        run.pred = run.step.predict(run.x)
        run.loss = run.step.compute_loss(run.pred, run.y)
        run.step.backward(run.loss, len(run.x))


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"precision": "fp16"}], ids=["fp32", "bf16", "fp16"])
def test_a_replaced_pass_of_the_same_lines_gives_the_same_bits(options):
    replaced, plain = trained(batches(), Replaces(), **options), trained(batches(), **options)
    assert_same(replaced.model, plain.model)
    assert list(replaced.recorder.losses) == list(plain.recorder.losses)


def test_a_replaced_pass_gathers_gradients_like_the_plain_one():
    train = batches(5)
    assert_same(
        trained(train, [Replaces(), GradientAccumulation(2)]).model, trained(train, GradientAccumulation(2)).model
    )


def test_a_wrapped_pass_brings_its_events_and_is_put_back():
    log, runs = [], []

    class Wraps(Callback):
        def before_fit(self, run):
            runs.append((run, run.process_batch))
            run.process_batch = partial(self.around, run.process_batch)

        def around(self, inner):
            log.append("before")
            inner()
            log.append("after")

        def after_pred(self, run):
            log.append("pred")

        def before_backward(self, run):
            log.append("backward")

    trained(batches(2), Wraps())
    assert log == ["before", "pred", "backward", "after"] * 2
    ((run, original),) = runs
    assert run.process_batch == original


def test_a_run_without_a_loop_has_no_pass():
    run = Run(make_step(net(), nn.CrossEntropyLoss()), DataLoaders(batches(1)))
    with pytest.raises(RuntimeError, match="is set when the run begins"):
        run.process_batch()


class ByHand(Callback):
    """Updates the weights with its own optimizer, at an event or in place of the pass."""

    def __init__(self, model, *, at):
        self.optimizer, self.at = torch.optim.SGD(model.parameters(), 0.05), at

    def before_fit(self, run):
        if self.at == "process_batch":
            run.process_batch = partial(self.update, run)

    def before_backward(self, run):
        if self.at == "before_backward":
            self.update(run)

    def update(self, run):
        run.pred = run.step.predict(run.x)
        run.loss = F.cross_entropy(run.pred, run.y)
        run.loss.backward()
        self.optimizer.step()
        run.count_update()
        raise CancelBackward  # and leaves its gradients where they are


@pytest.mark.parametrize("at", ["process_batch", "before_backward"])
def test_after_an_update_by_hand_the_learners_optimizer_does_not_step(at):
    seen, model, plain = [], net(), net()

    class Watch(Callback):
        def before_batch(self, run):
            seen.append(all(p.grad is None for p in run.model.parameters()))

        def before_step(self, run):
            seen.append("step")

        def after_cancel_backward(self, run):
            seen.append("cancelled")

    learn = learner(batches(3), model)
    with learn.no_logging():
        learn.fit(2, cbs=[ByHand(model, at=at), Watch()])
    optimizer = torch.optim.SGD(plain.parameters(), 0.05)
    for x, y in batches(3) * 2:
        optimizer.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        optimizer.step()
    assert_same(model, plain)
    assert seen == [True, "cancelled"] * 6
    assert not learn.optimizer.state
    assert learn.recorder.runs[0].steps["step"].tolist() == [1, 2, 3, 4, 5, 6]


class Skips(Callback):
    """Cancels the backward pass of some batches."""

    def __init__(self, *numbers):
        self.numbers = numbers

    def before_backward(self, run):
        if run.iter in self.numbers:
            raise CancelBackward


@pytest.mark.parametrize(("skipped", "left"), [((1,), (0, 2, 3, 4)), ((3, 4), (0, 1, 2)), ((0, 4), (1, 2, 3))])
def test_a_cancelled_backward_pass_keeps_the_gradients_gathered_before(skipped, left):
    train = batches(5)
    cancelled = trained(train, [Skips(*skipped), GradientAccumulation(2)])
    assert_same(cancelled.model, trained([train[i] for i in left], GradientAccumulation(2)).model)


def test_a_batch_cancelled_after_its_update_is_not_in_the_next_one():
    class Cancels(Callback):
        def after_step(self, run):
            raise CancelBatch

    train = batches(4)
    assert_same(
        trained(train, [Cancels(), GradientAccumulation(2)]).model, trained(train, GradientAccumulation(2)).model
    )


class Small(nn.Module):
    """Has memory for two items at once."""

    def forward(self, x):
        if self.training and len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x


@IGNORE_WARNING
def test_a_split_batch_trains_each_part_by_hand():
    sizes, model = [], nn.Sequential(Small(), net())

    class Counts(ByHand):
        order = -1  # before `SplitOnOOM` wraps it

        def update(self, run):
            try:
                super().update(run)
            except CancelBackward:
                sizes.append(len(run.x))
                raise

    learn = learner(batches(2, bs=4), model, cbs=[SplitOnOOM(), Counts(model, at="process_batch")])
    with learn.no_logging():
        learn.fit(1)
    assert sizes == [2, 2] * 2
    assert not learn.optimizer.state
    assert len(learn.recorder.losses) == 2


class SAM(Callback):
    """Updates with the gradients of a nearby point at which the loss is higher (Foret et al., 2020)."""

    part_of_step = True

    def __init__(self, rho=0.05):
        self.rho = rho

    def before_fit(self, run):
        run.process_batch = partial(self.train, run, run.process_batch)

    def train(self, run, inner):
        inner()
        moves = climb(run.model, self.rho)
        run.step.zero_grad()
        inner()
        with torch.no_grad():
            torch._foreach_sub_(list(run.model.parameters()), moves)


@torch.no_grad()
def climb(model, rho):
    gradients = [p.grad for p in model.parameters()]
    norm = torch.stack([g.norm() for g in gradients]).norm()
    moves = [g * (rho / norm) for g in gradients]
    torch._foreach_add_(list(model.parameters()), moves)
    return moves


def test_sam_makes_two_passes_an_update_as_a_hand_written_loop_does():
    learn, plain = trained(batches(), SAM(), n_epochs=2), net()
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9)
    for x, y in batches() * 2:
        F.cross_entropy(plain(x), y).backward()
        moves = climb(plain, 0.05)
        optimizer.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        with torch.no_grad():
            torch._foreach_sub_(list(plain.parameters()), moves)
        optimizer.step()
        optimizer.zero_grad()
    assert_same(learn.model, plain)
    assert not all(map(torch.equal, plain.parameters(), trained(batches(), n_epochs=2).model.parameters()))
