"""Callbacks whose events take only `self` follow fastai's rules, as `benchmarks/fastai_callbacks.py` compares."""

import pickle
import traceback
from copy import deepcopy

import numpy as np
import pytest
import torch
from interruptions import Stop, StopAt
from torch import nn

from minilearner import Callback, CancelFit, Checkpoint, DataError, DataLoaders, EarlyStopping, GradientClip, Learner
from minilearner.training.callback import EVENTS
from minilearner.training.fastai_style import (
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
    name_of,
)


def batches(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(4, 3, generator=g), torch.randint(2, (4,), generator=g)) for _ in range(n)]


def learner(n=2, valid=1, **options):
    torch.manual_seed(0)
    options = {"opt_func": torch.optim.SGD, "lr": 0.1, "device": "cpu"} | options
    dls = DataLoaders(batches(n), batches(valid, 1) if valid else None)
    return Learner(dls, nn.Linear(3, 2), nn.CrossEntropyLoss(), **options)


def fit(n_epoch, *cbs, learn=None, **options):
    learn = learn or learner(**options)
    with learn.no_logging():
        learn.fit(n_epoch, cbs=list(cbs))
    return learn


def make(name="Own", **attributes):
    """Returns a callback of a new class with these attributes."""
    return type(name, (Callback,), attributes)()


def tracer(trace, order=50, **attributes):
    def note(event):
        return lambda self: trace.append(event)

    return make("Tracer", order=order, **{event: note(event) for event in EVENTS}, **attributes)


def raising(event, exception, when=lambda cb: True):
    def act(self):
        if when(self):
            raise exception

    return make("Raising", **{event: act})


BATCH = ["before_batch", "after_pred", "after_loss", "before_backward", "after_backward", "before_step", "after_step"]
BATCH += ["after_batch"]
VALID = ["before_validate", "before_batch", "after_pred", "after_loss", "after_batch", "after_validate"]
START = ["before_fit", "before_epoch", "before_train"]
END = ["after_epoch", "after_fit"]


def test_all_events_come_in_fastais_order():
    trace = []
    fit(1, tracer(trace))
    assert trace == [*START, *BATCH, *BATCH, "after_train", *VALID, *END]


# In what follows, the events of an epoch with one training batch, as fastai 2.8.12 gives them.
ENDS = {
    ("before_batch", CancelBatchException): [
        *(*START, "before_batch", "after_cancel_batch", "after_batch", "after_train", *VALID, *END)
    ],
    ("before_step", CancelBatchException): [
        *(*START, *BATCH[:6], "after_cancel_batch", "after_batch", "after_train", *VALID, *END)
    ],
    ("before_backward", CancelBackwardException): [
        *(*START, *BATCH[:4], "after_cancel_backward", *BATCH[4:], "after_train", *VALID, *END)
    ],
    ("before_step", CancelStepException): [
        *(*START, *BATCH[:6], "after_cancel_step", *BATCH[6:], "after_train", *VALID, *END)
    ],
    ("after_loss", CancelTrainException): [*(*START, *BATCH[:3], "after_cancel_train", "after_train", *VALID, *END)],
    ("before_validate", CancelValidException): [
        *(*START, *BATCH, "after_train", "before_validate", "after_cancel_validate", "after_validate", *END)
    ],
    ("after_batch", CancelEpochException): [*(*START, *BATCH, "after_cancel_epoch", *END)],
    ("after_train", CancelEpochException): [*(*START, *BATCH, "after_train", "after_cancel_epoch", *END)],
    ("after_batch", CancelFitException): [*(*START, *BATCH, "after_cancel_fit", "after_fit")],
    ("after_train", CancelFitException): [*(*START, *BATCH, "after_train", "after_cancel_fit", "after_fit")],
    ("after_validate", CancelFitException): [*(*START, *BATCH, "after_train", *VALID, "after_cancel_fit", "after_fit")],
}


@pytest.mark.parametrize(("event", "exception"), ENDS)
def test_a_cancel_is_followed_by_fastais_events(event, exception):
    trace = []
    when = lambda cb: cb.training or event.endswith("validate")  # noqa: E731
    fit(1, tracer(trace, order=-1), raising(event, exception, when), n=1)
    assert trace == ENDS[event, exception]


def test_an_event_ends_with_the_callback_that_cancels_in_it():
    trace = []
    after = tracer(trace, order=60)
    fit(1, raising("after_epoch", CancelFitException), after, n=1)
    assert trace == [*START, *BATCH, "after_train", *VALID, "after_cancel_fit", "after_fit"]


def test_logs_of_our_style_have_the_epoch_that_ends_the_fit():
    learn = fit(3, raising("after_validate", CancelFitException))
    assert len(learn.recorder.epochs) == 1


def test_it_sees_the_batch_the_counts_and_the_optimizer():
    seen = []

    def look(self):
        assert self.x is self.xb[0] and self.y is self.yb[0]
        assert (self.pred.shape, self.model, self.dl) == ((4, 2), self.learn.model, self.dls.train)
        assert self.loss_grad.requires_grad and self.loss.item() == self.loss_grad.item()
        seen.append((self.epoch, self.n_epoch, self.iter, self.n_iter, self.train_iter, self.opt.hypers[-1]["lr"]))

    fit(2, make(before_backward=look))
    assert seen == [(0, 2, 0, 2, 0, 0.1), (0, 2, 1, 2, 1, 0.1), (1, 2, 0, 2, 2, 0.1), (1, 2, 1, 2, 3, 0.1)]


def test_the_share_that_is_trained_counts_batches():
    shares = []
    fit(2, make(run_valid=False, after_batch=lambda self: shares.append(self.pct_train)))
    assert shares == [0.25, 0.5, 0.75, 1.0]


def test_a_cancelled_batch_shows_the_prediction_and_loss_of_the_one_before():
    seen = []

    def look(self):
        if self.training:
            seen.append((self.loss.item(), self.pred.sum().item()))

    fit(1, raising("before_batch", CancelBatchException, lambda cb: cb.iter), make(after_batch=look))
    assert seen[0] == seen[1]


def test_what_it_sets_through_the_learner_counts():
    def dim(self):
        self.learn.xb, self.learn.yb = (self.x * 0,), (1 - self.y,)

    def double(self):
        self.learn.pred = self.pred * 2

    seen = []
    look = make(order=1, after_loss=lambda self: seen.append((self.x.abs().sum(), self.y, self.loss)))
    learn = fit(1, make(before_batch=dim, after_pred=double), look, n=1, valid=0, lr=0.0)
    y = 1 - batches(1)[0][1]
    assert seen[0][0] == 0 and torch.equal(seen[0][1], y)
    logits = learn.model.bias.expand(4, 2) * 2
    torch.testing.assert_close(seen[0][2], nn.functional.cross_entropy(logits, y))


def test_another_loss_may_go_backward_than_is_recorded():
    def scale(self):
        self.learn.loss_grad = self.loss_grad * 10

    plain, scaled = fit(1, n=1), fit(1, make(after_loss=scale), n=1)
    assert scaled.recorder.losses == plain.recorder.losses
    moved = [learn.model.weight.detach() - learner().model.weight.detach() for learn in (plain, scaled)]
    torch.testing.assert_close(moved[0] * 10, moved[1])


def test_a_callback_of_our_style_sees_the_changed_loss_in_its_turn():
    class Ours(Callback):
        order = 10

        def before_backward(self, run):
            self.seen = float(run.loss.detach())

        def after_batch(self, run):
            self.recorded = float(run.loss.detach())

    def zero(self):
        self.learn.loss_grad = self.loss_grad * 0

    ours = Ours()
    fit(1, make(after_loss=zero), ours, n=1, valid=0)
    assert ours.seen == 0 and ours.recorded > 0


def test_gradients_stay_if_the_batch_is_cancelled_before_its_step():
    class Gather(Callback):
        run_valid = False

        def after_loss(self):
            self.learn.loss_grad /= 2

        def before_step(self):
            if self.iter % 2 == 0:
                raise CancelBatchException

    large = DataLoaders([tuple(map(torch.cat, zip(*batches(2), strict=True)))], None)
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    Learner(large, model, nn.CrossEntropyLoss(), torch.optim.SGD, lr=0.1, device="cpu").fit(1)
    torch.testing.assert_close(fit(1, Gather(), valid=0).model.weight, model.weight)


def test_its_own_backward_pass_is_followed_by_the_update():
    def backward(self):
        self.loss_grad.backward()
        raise CancelBackwardException

    by_hand = fit(1, make(before_backward=backward))
    assert torch.equal(by_hand.model.weight, fit(1).model.weight)


def test_hypers_can_be_set_for_each_layer_group():
    rates = []

    class Rates(Callback):
        def before_batch(self):
            if self.training:
                for number, hypers in enumerate(self.opt.hypers):
                    hypers["lr"] = 0.1 * (number + self.iter)

        def after_step(self):
            rates.append([group["lr"] for group in self.opt.param_groups])

    splitter = lambda model: [[model.weight], [model.bias]]  # noqa: E731
    fit(1, Rates(), splitter=splitter)
    assert rates == [[0.0, 0.1], [0.1, 0.2]]


def test_switches_say_in_which_passes_it_acts():
    def counts(**switches):
        trace = []
        fit(1, tracer(trace, **switches))
        return trace.count("before_batch"), trace.count("before_epoch")

    assert [counts(), counts(run_valid=False), counts(run_train=False), counts(run=False)] == [
        (3, 1),
        (2, 1),
        (1, 1),
        (0, 0),
    ]


def test_run_comes_back_after_each_fit():
    trace = []
    callback = tracer(trace)
    callback.run = False
    learn = learner(cbs=callback)
    for _ in range(2):
        fit(1, learn=learn)
    assert trace.count("before_fit") == 1


def test_the_learner_has_it_by_its_name():
    class EarlyCallback(Callback):
        def before_fit(self):
            self.seen = self.learn.early is self

    learn = learner(cbs=EarlyCallback())
    assert learn.early is learn.cbs[0]
    assert fit(1, learn=learn).early.seen
    learn.remove_cb(EarlyCallback)
    with pytest.raises(AttributeError, match="'Learner' object has no attribute 'early'"):
        learn.early  # noqa: B018


@pytest.mark.parametrize(
    ("name", "expected"),
    [("SaveModelCallback", "save_model"), ("CSVLogger", "csv_logger"), ("MixUp", "mix_up"), ("Callback", "callback")],
)
def test_names_are_fastais(name, expected):
    assert name_of(type(name, (Callback,), {})()) == expected


def test_callbacks_can_be_added_and_removed_for_a_while():
    learn = learner(cbs=make("One"))
    with learn.added_cbs([make("Two")]) as same:
        assert same is learn and [name_of(cb) for cb in learn.cbs] == ["one", "two"]
        with learn.removed_cbs(learn.one):
            assert [name_of(cb) for cb in learn.cbs] == ["two"]
    assert [name_of(cb) for cb in learn.cbs] == ["one"]


def test_a_learner_announces_that_it_was_created_to_those_it_was_created_with():
    class Created(Callback):
        n = 0

        def after_create(self):
            self.n = len(self.dls.train)

    learn = learner(cbs=Created())
    learn.add_cb(Created())
    assert [cb.n for cb in learn.cbs] == [2, 0]


def test_run_after_and_run_before_place_it():
    trace = []

    def named(title, **options):
        return make(title, before_epoch=lambda self: trace.append(title), **options)

    first, second = named("First", order=5), named("Second", order=1)
    type(second).run_after = type(first)
    third = named("Third", order=9, run_before=type(second))
    fit(1, second, first, third)
    assert trace == ["First", "Third", "Second"]


def test_orders_that_contradict_each_other_are_refused():
    one, two = make("One", before_fit=lambda self: None), make("Two", before_fit=lambda self: None)
    type(one).run_after, type(two).run_after = type(two), type(one)
    with pytest.raises(ValueError, match="no order satisfies the `run_after` and `run_before`"):
        fit(1, one, two)


def test_both_styles_take_part_in_one_run():
    trace = []

    class Ours(Callback):
        order = 1

        def after_epoch(self, run):
            trace.append(("ours", run.epoch))

    theirs = make(after_epoch=lambda self: trace.append(("theirs", self.epoch)))
    fit(2, Ours(), theirs, GradientClip(0.1), EarlyStopping("train_loss", patience=5))
    assert trace == [("theirs", 0), ("ours", 0), ("theirs", 1), ("ours", 1)]


def test_a_mixed_class_is_refused_when_it_is_added():
    class Mixed(Callback):
        def before_fit(self, run):
            pass

        def after_batch(self):
            pass

    message = r"Received: Mixed with `after_batch\(self\)` and `before_fit\(self, run\)`"
    with pytest.raises(TypeError, match=message):
        learner(cbs=Mixed())
    with pytest.raises(TypeError, match=message):
        learner().fit(1, cbs=[Mixed()])


def test_a_misspelt_event_is_refused_in_either_style():
    with pytest.raises(TypeError, match="'after_bach', which is not an event"):
        make(after_bach=lambda self: None)


def test_validation_and_predictions_outside_a_fit_call_it():
    trace = []
    learn = learner(valid=1)
    learn.add_cb(tracer(trace))
    learn.validate()
    of_validation, trace[:] = list(trace), []
    learn.get_preds()
    assert trace == of_validation == ["before_fit", "before_epoch", *VALID, *END]


def test_it_changes_what_is_predicted():
    def triple(self):
        self.learn.xb = (self.x * 3,)

    learn = learner(cbs=make(before_batch=triple))
    preds = learn.get_preds(act=lambda x: x)[0]
    expected = learn.model(batches(1, 1)[0][0] * 3)
    torch.testing.assert_close(preds, expected)
    (batch,) = learn.predict_batches(act=lambda x: x, with_loss=False)
    torch.testing.assert_close(batch.preds, expected)


def test_a_batch_that_is_cancelled_in_a_prediction_is_an_error():
    learn = learner(cbs=raising("before_batch", CancelBatchException))
    with pytest.raises(RuntimeError, match="batch 0 was cancelled by a callback, so its items have no predictions"):
        learn.get_preds()


def test_it_acts_in_a_sweep_and_keeps_what_it_has_seen():
    class Rates(Callback):
        def before_fit(self):
            self.is_sweep, self.lrs = hasattr(self.learn, "lr_finder"), []

        def after_batch(self):
            self.lrs.append(self.opt.hypers[-1]["lr"])

    learn = learner(n=4, cbs=Rates())
    with learn.no_bar():
        sweep = learn.lr_find(num_it=4, show_plot=False, suggest_funcs=None, stop_div=False)
    assert learn.rates.is_sweep
    np.testing.assert_allclose(learn.rates.lrs, sweep.lrs)
    assert not fit(1, learn=learn).rates.is_sweep


def test_passes_that_it_makes_itself_do_not_call_it_again():
    trace = []

    class Asks(Callback):
        def after_epoch(self):
            trace.append(len(self.learn.get_preds()[0]))
            trace.append(len(self.learn.validate()))

    fit(1, Asks(), tracer(events := []))
    assert trace == [4, 1]
    assert events.count("before_fit") == 1


def test_an_error_shows_the_users_line_and_where_it_was():
    class Broken(Callback):
        def after_batch(self):
            self.lr_histroy.append(1)

    with pytest.raises(AttributeError, match="Broken has no attribute 'lr_histroy'") as caught:
        fit(1, Broken())
    shown = "".join(traceback.format_exception(caught.value))
    assert "self.lr_histroy.append(1)" in shown
    assert "This happened in training, epoch 0 of 1, batch 0." in caught.value.__notes__[0]


def test_after_an_error_no_event_follows_and_the_next_fit_works():
    trace = []
    learn = learner(cbs=tracer(trace))
    with pytest.raises(ZeroDivisionError):
        fit(1, raising("after_train", ZeroDivisionError), learn=learn)
    assert trace[-1] == "after_batch"
    trace.clear()
    fit(1, learn=learn)
    assert trace == [*START, *BATCH, *BATCH, "after_train", *VALID, *END]


@pytest.mark.parametrize(("name", "message"), [("model", "cannot change during a run"), ("x", "Set `xb`, a tuple")])
def test_what_cannot_be_set_is_refused(name, message):
    def act(self):
        setattr(self.learn, name, 1)

    with pytest.raises(AttributeError, match=message):
        fit(1, make(before_batch=act))


def test_inputs_that_are_no_tuple_are_refused():
    def act(self):
        self.learn.xb = self.x

    with pytest.raises(TypeError, match="`xb` must be a tuple"):
        fit(1, make(before_batch=act))


def test_a_name_that_hides_the_learners_is_warned_of_once():
    def halve(self):
        self.pred = self.pred / 2

    with pytest.warns(UserWarning, match=r"Own sets `self.pred`, which hides the learner's.*Write self.learn.pred"):
        fit(2, make(after_pred=halve))


def test_callbacks_may_be_given_to_one_validation_or_prediction():
    class Ours(Callback):
        n = 0

        def after_pred(self, run):
            self.n += 1

    trace, ours, learn = [], Ours(), learner()
    learn.validate(cbs=[tracer(trace), ours])
    learn.get_preds(cbs=[ours])
    assert trace == ["before_fit", "before_epoch", *VALID, *END]
    assert ours.n == 2 and learn.cbs == []


def test_what_happens_in_after_fit_still_sees_the_run():
    seen = []
    fit(1, make(after_fit=lambda self: seen.append((self.epoch, self.n_iter, self.learn.run.record is not None))))
    assert seen == [(0, 1, True)]


def test_outside_a_run_there_is_no_batch():
    learn = fit(1, learn=learner(cbs=make(before_fit=lambda self: None)))
    assert learn.own.train_iter == 2 and learn.own.xb == (None,) and learn.own.loss is None
    with pytest.raises(AttributeError, match="`smooth_loss` is only known during a run"):
        _ = learn.own.smooth_loss


def test_a_new_name_set_through_the_learner_is_the_learners():
    def act(self):
        self.learn.mark = 3

    assert fit(1, make(before_fit=act)).mark == 3


def test_a_callback_may_make_batches_fit_that_do_not():
    def flatten(self):
        self.learn.xb = (self.x.flatten(1),)

    wide = [(x[:, :, None], y) for x, y in batches(2)]
    learn = Learner(DataLoaders(wide, wide), nn.Linear(3, 2), nn.CrossEntropyLoss(), device="cpu")
    with pytest.raises(DataError):
        fit(1, learn=learn)
    assert len(fit(1, make(before_batch=flatten), learn=learn).recorder.losses) == 2


def test_a_loss_that_compares_all_pairs_is_still_refused():
    data = [(torch.randn(4, 3), torch.randn(4))]
    learn = Learner(DataLoaders(data, None), nn.Linear(3, 1), lambda pred, y: ((pred - y) ** 2).mean(), device="cpu")
    with pytest.raises(DataError, match="each prediction"):
        fit(1, make(before_batch=lambda self: None), learn=learn)


def test_several_targets_reach_the_loss_as_arguments_of_their_own():
    def swap(self):
        self.old, self.learn.loss_func = self.loss_func, lambda pred, y, other: self.old(pred, y) * 0 + len(other)

    def restore(self):
        self.learn.loss_func = self.old

    def double(self):
        if self.training:
            self.learn.yb = (self.y, self.y)
        else:
            raise CancelValidException

    learn = fit(1, make(before_fit=swap, before_batch=double, after_fit=restore))
    assert learn.recorder.losses.tolist() == [4.0, 4.0]
    assert isinstance(learn.loss_func, nn.CrossEntropyLoss)


def test_copies_and_pickles_belong_to_no_learner():
    learn = learner(cbs=Remembers())
    fit(1, learn=learn)
    for twin in (pickle.loads(pickle.dumps(learn.remembers)), deepcopy(learn.remembers)):
        assert twin.losses == learn.remembers.losses
        assert twin.learn is None


class Remembers(Callback):
    def before_fit(self):
        self.losses, self.n = [], 0

    def after_batch(self):
        if self.training:
            self.losses.append(self.loss.item())
            self.n = self.train_iter


def test_a_run_resumes_with_what_it_remembered(tmp_path):
    def run(step):
        learn = learner(n=4, cbs=[Remembers(), StopAt(step)])
        with learn.no_logging():
            learn.fit(3, checkpoint=Checkpoint(tmp_path / "run", every_steps=1))
        return learn

    with pytest.raises(Stop):
        run(6)
    resumed, whole = run(None), fit(3, learn=learner(n=4, cbs=Remembers()))
    assert len(resumed.remembers.losses) == resumed.remembers.n == 12
    assert resumed.remembers.losses == whole.remembers.losses
    assert torch.equal(resumed.model.weight, whole.model.weight)


def test_two_fits_in_a_row_start_their_counts_anew():
    seen = []
    learn = learner(cbs=make(before_fit=lambda self: seen.append((self.train_iter, self.epoch, self.n_epoch))))
    fit(2, learn=learn)
    fit(1, learn=learn)
    assert seen == [(0, 0, 2), (0, 0, 1)]


def test_a_cancel_where_there_is_nothing_to_cancel_is_an_error():
    with pytest.raises(RuntimeError, match="CancelBatchException was raised .* from `before_batch` on"):
        fit(1, raising("before_epoch", CancelBatchException))


def test_fastais_names_of_the_exceptions_are_ours_where_they_mean_the_same():
    assert CancelFitException is CancelFit
