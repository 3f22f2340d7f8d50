"""The loop gives the bits of a hand-written loop, its events come in the documented order, and can be cancelled."""

import contextlib
import gc
import sys
from functools import partial
from weakref import ref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from minilearner import (
    Callback,
    CancelBackward,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelStep,
    CancelTrain,
    CancelValidate,
    DataError,
    DataLoaders,
    Learner,
)
from minilearner.training.callback import EVENTS

INNER = ["before_batch", "after_pred", "after_loss"]
TRAIN_BATCH = [*INNER, "before_backward", "after_backward", "before_step", "after_step", "after_batch"]
VALID_BATCH = [*INNER, "after_batch"]


def events_log(**raising):
    """Returns a callback that records every event, and raises the given exception once at each of the named events."""
    log = []

    def event(name):
        def act(self, run):
            log.append(name)
            if name in raising and log.count(name) == 1:
                raise raising[name]

        return act

    return type("Log", (Callback,), {name: event(name) for name in EVENTS})(), log


def batches(n, bs=8):
    g = torch.Generator().manual_seed(n)
    return [(torch.randn(bs, 2, generator=g), torch.randint(3, (bs,), generator=g)) for _ in range(n)]


def learner(net, *, train=2, valid=1, **kwargs):
    kwargs = {"opt_func": torch.optim.SGD, "lr": 0.1} | kwargs
    return Learner(DataLoaders(batches(train), batches(valid)), net(), nn.CrossEntropyLoss(), **kwargs)


@pytest.mark.parametrize(
    "factory",
    [
        partial(torch.optim.SGD, momentum=0.9, weight_decay=1e-3),
        partial(torch.optim.AdamW, betas=(0.9, 0.99), eps=1e-5),
        torch.optim.RMSprop,
    ],
)
def test_fit_equals_a_plain_torch_loop_bit_for_bit(net, blobs, factory):
    (x, y), valid = blobs
    data = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))

    torch.manual_seed(1)
    model = net()
    optimizer = factory(model.parameters(), lr=0.05)
    torch.manual_seed(2)
    for _ in range(3):
        model.train()
        for xb, yb in torch.utils.data.DataLoader(data, batch_size=16, shuffle=True):
            F.cross_entropy(model(xb), yb).backward()
            optimizer.step()
            optimizer.zero_grad()

    dls = DataLoaders(torch.utils.data.DataLoader(data, batch_size=16, shuffle=True), [tuple(map(torch.tensor, valid))])
    learn = Learner(dls, net(), nn.CrossEntropyLoss(), factory, lr=0.05)
    torch.manual_seed(2)
    with learn.no_logging():
        learn.fit(3)
    assert all(torch.equal(a, b) for a, b in zip(learn.model.state_dict().values(), model.state_dict().values()))


@pytest.mark.parametrize("is_replaced", ["in the class", "in the object"])
def test_an_optimizer_that_zeroes_gradients_in_its_own_way_does_so(net, is_replaced):
    calls = []

    class Counts(torch.optim.SGD):
        def zero_grad(self, set_to_none=True):
            calls.append(set_to_none)
            super().zero_grad(set_to_none)

    def replace(params, lr):
        optimizer = torch.optim.SGD(params, lr)
        own = optimizer.zero_grad
        optimizer.zero_grad = lambda: (calls.append(True), own())
        return optimizer

    with (learn := learner(net, opt_func=Counts if is_replaced == "in the class" else replace)).no_logging():
        learn.fit(1)
    assert len(calls) == 3  # before the epoch, and after each of its two updates
    assert all(p.grad is None for p in learn.model.parameters())


def test_no_gradient_is_left_after_an_update(net):
    left = []

    class Looks(Callback):
        def after_batch(self, run):
            left.extend(p.grad for p in run.model.parameters() if p.grad is not None)

    with (learn := learner(net)).no_logging():
        learn.fit(1, cbs=Looks())
    assert left == []


def test_events_come_in_the_documented_order(net):
    log_cb, log = events_log()
    with (learn := learner(net)).no_logging():
        learn.fit(1, cbs=log_cb)
    expected = ["before_fit", "before_epoch", "before_train", *TRAIN_BATCH * 2, "after_train"]
    assert log == [*expected, "before_validate", *VALID_BATCH, "after_validate", "after_epoch", "after_fit"]


@pytest.mark.parametrize("event", [*INNER, "before_backward", "after_backward", "before_step", "after_step"])
def test_cancel_batch_leaves_out_the_rest_of_the_batch(net, event):
    log_cb, log = events_log(**{event: CancelBatch()})
    with (learn := learner(net)).no_logging():
        learn.fit(1, cbs=log_cb)
    first = log[3 : log.index("after_batch") + 1]
    assert first == [*TRAIN_BATCH[: TRAIN_BATCH.index(event) + 1], "after_cancel_batch", "after_batch"]
    assert log.count("after_batch") == 3


@pytest.mark.parametrize(
    ("cancel", "stretch", "event"),
    [
        (CancelBackward, "backward", "before_backward"),
        (CancelStep, "step", "before_step"),
        (CancelTrain, "train", "before_train"),
        (CancelTrain, "train", "after_batch"),
        (CancelValidate, "validate", "before_validate"),
        (CancelEpoch, "epoch", "before_epoch"),
        (CancelEpoch, "epoch", "after_pred"),
        (CancelFit, "fit", "before_fit"),
        (CancelFit, "fit", "after_loss"),
    ],
)
def test_each_cancel_is_followed_by_its_two_events(net, cancel, stretch, event):
    log_cb, log = events_log(**{event: cancel()})
    with (learn := learner(net)).no_logging():
        learn.fit(2, cbs=log_cb)
    at = log.index(f"after_cancel_{stretch}")
    assert log[at - 1] == event
    assert log[at + 1] == f"after_{stretch}"
    assert log[-1] == "after_fit"


@pytest.mark.parametrize(
    ("cancel", "event"),
    [(CancelFit, "after_batch"), (CancelFit, "after_epoch"), (CancelEpoch, "after_loss"), (CancelTrain, "after_batch")],
)
def test_a_cancelled_run_keeps_nothing_of_its_caller_alive(net, cancel, event):
    class Local:
        pass

    def fit():
        local = Local()
        learn.fit(1, cbs=events_log(**{event: cancel})[0])
        return ref(local)

    with (learn := learner(net)).no_logging():
        learn.fit(1)  # with the first optimizer of a process, torch loads modules that keep their importer's frames
        gc.disable()  # only reference cycles would wait for it
        try:
            assert fit()() is None
        finally:
            gc.enable()


def test_an_epoch_cancelled_in_its_middle_still_has_its_row_and_the_next_is_whole(net):
    class EndsEarly(Callback):
        def after_batch(self, run):
            if run.training and (run.epoch, run.iter) == (0, 1):
                raise CancelEpoch

    learn = learner(net, train=4)
    with learn.no_logging():
        record = learn.fit(2, cbs=EndsEarly())
    assert ["valid_loss" in row for row in record.epochs] == [False, True]
    assert list(record.steps["epoch"]) == [0, 0, 1, 1, 1, 1]
    assert learn.recorder.runs == [record]


def test_a_label_beyond_the_outputs_in_mid_epoch_is_reported_with_shapes(net):
    learn = learner(net, train=3)

    class Spoils(Callback):
        def before_batch(self, run):
            if run.iter == 2:
                run.y = run.y + 7

    with (
        learn.no_logging(),
        pytest.raises(DataError, match=r"cannot compare predictions \(8, 3\) float32 with targets"),
    ):
        learn.fit(1, cbs=Spoils())


def test_a_cancel_outside_its_stretch_is_refused(net):
    stray, _ = events_log(before_epoch=CancelTrain())
    with (learn := learner(net)).no_logging(), pytest.raises(RuntimeError, match="CancelTrain was raised where"):
        learn.fit(1, cbs=stray)


def test_the_first_error_is_the_one_that_is_raised(net):
    first, _ = events_log(after_loss=RuntimeError("first"), after_fit=ValueError("second"))
    with (learn := learner(net)).no_logging(), pytest.raises(RuntimeError, match="first"):
        learn.fit(1, cbs=first)


def test_gradients_of_a_cancelled_batch_are_forgotten(net):
    seen = []

    class Watch(Callback):
        def after_backward(self, run):
            seen.append(run.model[0].weight.grad.abs().sum().item())
            if run.iter == 0:
                raise CancelBatch

        def before_batch(self, run):
            if run.training:
                seen.append(run.model[0].weight.grad)

    with (learn := learner(net)).no_logging():
        learn.fit(1, cbs=Watch())
    assert seen[0] is None and seen[2] is None


def test_a_cancelled_step_changes_no_weight(net):
    log_cb, _ = events_log(before_step=CancelStep())
    learn = learner(net, train=1)
    before = [p.clone() for p in learn.model.parameters()]
    with learn.no_logging():
        learn.fit(1, cbs=log_cb)
    assert all(torch.equal(a, b) for a, b in zip(before, learn.model.parameters()))
    assert all(p.grad is None for p in learn.model.parameters())


def test_after_fit_follows_an_error_for_the_callbacks_that_had_begun(net):
    seen = []

    class Noted(Callback):
        def after_fit(self, run):
            seen.append(self)

    class Broken(Callback):
        order = 1

        def before_fit(self, run):
            raise RuntimeError("broken")

    class NeverBegun(Noted):
        order = 2

    first = Noted()
    with (learn := learner(net)).no_logging(), pytest.raises(RuntimeError, match="broken"):
        learn.fit(1, cbs=[NeverBegun(), Broken(), first])
    assert seen == [first]


def test_every_after_fit_runs_even_if_one_fails(net):
    log_cb, log = events_log()
    failing, _ = events_log(after_fit=ValueError("first to fail"))
    failing.order = -1
    with (learn := learner(net)).no_logging(), pytest.raises(ValueError, match="first to fail"):
        learn.fit(1, cbs=[log_cb, failing])
    assert log[-1] == "after_fit"


class FailsIn(Callback):
    def __init__(self, event, at=0):
        setattr(self, event, lambda run: self.fail(run, at))

    def fail(self, run, at):
        if not run.training and run.iter == at:
            raise ValueError("enough")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
def test_an_error_in_validation_says_its_batch_and_one_outside_of_a_pass_says_nothing():
    data = [(torch.randn(2, 3), torch.tensor([0, 1])) for _ in range(4)]
    for event, at, notes in (
        ("after_loss", 2, ["This happened in validation, epoch 0 of 1, batch 2."]),
        ("before_fit", 0, []),
    ):
        learn = Learner(DataLoaders(data, data), nn.Linear(3, 2), nn.CrossEntropyLoss(), cbs=FailsIn(event, at))
        with learn.no_logging(), pytest.raises(ValueError, match="enough") as caught:
            learn.fit(1, 0.1)
        assert getattr(caught.value, "__notes__", []) == notes


def test_an_error_says_where_in_the_run_it_happened(net):
    failing, _ = events_log(after_loss=RuntimeError("oops"))
    with (learn := learner(net)).no_logging(), pytest.raises(RuntimeError) as caught:
        learn.fit(1, cbs=failing)
    notes = getattr(caught.value, "__notes__", ["training, epoch 0 of 1, batch 0"])  # notes came with Python 3.11
    assert "training, epoch 0 of 1, batch 0" in notes[0]


def test_a_callback_may_replace_batch_prediction_and_loss(net):
    class Double(Callback):
        def before_batch(self, run):
            run.batch = (run.x * 2, run.y)

        def after_loss(self, run):
            run.loss = run.loss * 0

    learn = learner(net)
    weights = [p.clone() for p in learn.model.parameters()]
    with learn.no_logging():
        learn.fit(1, cbs=Double())
    assert all(torch.equal(a, b) for a, b in zip(weights, learn.model.parameters()))
    assert list(learn.recorder.losses) == [0.0, 0.0]


def test_progress_is_that_of_fastai(net):
    seen = []

    class Watch(Callback):
        def before_batch(self, run):
            if run.training:
                seen.append((run.progress, run.epoch, run.iter, run.n_batches))

    with (learn := learner(net, train=4)).no_logging():
        learn.fit(2, cbs=Watch())
    assert [p for p, *_ in seen] == [i / 8 for i in range(8)]
    assert seen[-1][1:] == (1, 3, 4)


def test_validation_leaves_no_trace_on_what_is_trained(net, blobs):
    (x, y), _ = blobs
    data = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))

    def train(valid):
        loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)
        learn = Learner(DataLoaders(loader, valid), net(), nn.CrossEntropyLoss(), torch.optim.SGD, lr=0.1)
        torch.manual_seed(5)
        with learn.no_logging():
            learn.fit(2)
        return list(learn.model.parameters())

    drawing = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)  # draws from the global generator
    assert all(torch.equal(a, b) for a, b in zip(train(None), train(drawing)))


def test_run_predict_in_mid_training_leaves_the_run_alone(net):
    shapes = []

    class Peek(Callback):
        def after_pred(self, run):
            if run.training:
                preds, _ = run.predict(run.dls.valid)
                shapes.append((preds.shape, run.model.training))

    a, b = learner(net), learner(net)
    torch.manual_seed(3)
    with a.no_logging():
        a.fit(1, cbs=Peek())
    torch.manual_seed(3)
    with b.no_logging():
        b.fit(1)
    assert shapes == [((8, 3), True)] * 2
    assert all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters()))


@pytest.mark.parametrize(
    ("error", "expected"), [(None, False), (CancelFit(), False), (KeyboardInterrupt(), True), (ValueError(), True)]
)
def test_callbacks_can_tell_an_interrupted_run_from_one_that_ends_in_good_order(error, expected):
    seen = []

    class Ends(Callback):
        def after_batch(self, run):
            if error is not None:
                raise error

        def after_fit(self, run):
            seen.append(run.interrupted)

    learn = Learner(DataLoaders([(torch.ones(2, 1), torch.ones(2, 1))]), nn.Linear(1, 1), nn.MSELoss())
    with learn.no_logging(), contextlib.suppress(KeyboardInterrupt, ValueError):
        learn.fit(1, cbs=Ends())
    assert seen == [expected]
