"""A restored object may change, but the saved state must not, because it may be restored again."""

import random
from collections import deque

import numpy as np
import pytest
import torch
from interruptions import Stop, StopAt
from torch import nn

from minilearner import Callback, CutMix, DataLoaders, Learner, MixUp, set_seed
from minilearner.callbacks.checkpoint import Checkpoint


class Gathering(Callback):
    """Records each epoch in every kind of attribute that a user may choose, at each repeated event."""

    def __init__(self):
        self.rows, self.by_event, self.total, self.nested = [], {}, torch.zeros(1), {"rows": [[]]}
        self.given = []

    def note(self, event, run):
        self.rows.append((event, run.epoch))
        self.by_event[event] = self.by_event.get(event, 0) + 1
        self.total.add_(1)
        self.nested["rows"][0].append(run.epoch)

    def before_epoch(self, run):
        self.note("before_epoch", run)

    def before_train(self, run):
        self.note("before_train", run)


class OwnState(Gathering):
    """Keeps the state that it is given, without a copy."""

    def __init__(self):
        super().__init__()
        self.queue = deque()

    def state_dict(self):
        return {"rows": self.rows, "by_event": self.by_event, "total": self.total, "nested": self.nested}

    def load_state_dict(self, state):
        vars(self).update(state)


class CountingMetric:
    """Accumulates in place, as torchmetrics objects do."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.n = torch.zeros(1)

    def update(self, pred, target):
        self.n += len(target)

    def compute(self):
        return self.n


def make(*cbs, loss=None, **options):
    set_seed(5)
    x, y = torch.rand(30, 1, 4, 4), torch.arange(30) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    dls = DataLoaders.from_arrays((x, y), (x[:7], y[:7]), bs=4, seed=2)
    learn = Learner(dls, model, loss, cbs=[*cbs], **options)
    learn.no_logging().__enter__()
    return learn


def stopped_and_resumed(folder, step, *cbs, **options):
    """Returns the callbacks after a run that was stopped and resumed, and the record."""
    made = [cls() for cls in cbs]
    with pytest.raises(Stop):
        make(*[cls() for cls in cbs], StopAt(step), **options).fit(3, 0.1, checkpoint=Checkpoint(folder, every_steps=2))
    learn = make(*made, StopAt(None), **options)
    learn.fit(3, 0.1, checkpoint=folder)
    return made, learn


@pytest.mark.parametrize("cls", [Gathering, OwnState])
def test_a_callback_counts_the_resumed_epoch_once(cls, tmp_path):
    whole = cls()
    make(whole, StopAt(None)).fit(3, 0.1)
    ((resumed,), _) = stopped_and_resumed(tmp_path, 13, cls)
    assert resumed.rows == whole.rows and len(whole.rows) == 6
    assert resumed.by_event == whole.by_event and resumed.nested == whole.nested
    assert torch.equal(resumed.total, whole.total)


def test_a_metric_that_adds_up_in_place_counts_the_resumed_epoch_once(tmp_path):
    def trained(learn):
        learn.recorder.train_metrics = True
        return learn

    whole = trained(make(StopAt(None), metrics=CountingMetric()))
    whole.fit(3, 0.1)
    first = trained(make(StopAt(13), metrics=CountingMetric()))
    with pytest.raises(Stop):
        first.fit(3, 0.1, checkpoint=Checkpoint(tmp_path, every_steps=2))
    resumed = trained(make(StopAt(None), metrics=CountingMetric()))
    resumed.fit(3, 0.1, checkpoint=tmp_path)
    name = next(name for name in whole.recorder.history if name.startswith("train_") and name != "train_loss")
    assert resumed.recorder.history[name] == whole.recorder.history[name] == [28.0] * 3


@pytest.mark.parametrize("mixing", [MixUp, CutMix])
@pytest.mark.parametrize("step", [8, 13], ids=["between epochs", "mid-epoch"])
def test_a_mixed_loss_with_class_weights_goes_on_and_comes_back(mixing, step, tmp_path):
    def loss():
        return nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))

    whole = make(mixing(), StopAt(None), loss=loss())
    whole.fit(3, 0.1)
    _, resumed = stopped_and_resumed(tmp_path, step, mixing, loss=loss())
    again = make(mixing(), StopAt(None), loss=loss())
    again.fit(3, 0.1, checkpoint=tmp_path)  # finished before
    for learn in (resumed, again):
        assert torch.equal(learn.model[1].weight, whole.model[1].weight)
        assert type(learn.loss_func) is nn.CrossEntropyLoss


def test_fine_tune_with_a_mixed_weighted_loss_goes_on_in_its_second_phase(tmp_path):
    def learner(step):
        return make(MixUp(), StopAt(step), loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])))

    whole = learner(None)
    whole.fine_tune(3, 0.1)
    with pytest.raises(Stop):
        learner(13).fine_tune(3, 0.1, checkpoint=Checkpoint(tmp_path, every_steps=2))
    resumed = learner(None)
    resumed.fine_tune(3, 0.1, checkpoint=Checkpoint(tmp_path, every_steps=2))
    assert torch.equal(resumed.model[1].weight, whole.model[1].weight)


class Handle(Callback):
    """Holds an object during a run, and None otherwise."""

    def __init__(self):
        self.handle = None

    def before_fit(self, run):
        self.handle = object()

    def after_fit(self, run):
        assert type(self.handle) is object
        self.handle = None


def test_what_a_callback_holds_in_a_run_is_there_when_a_finished_run_comes_back(tmp_path):
    for _ in range(2):
        handle = Handle()
        make(handle).fit(1, 0.1, checkpoint=tmp_path)
        assert handle.handle is None


class Drawing(Callback):
    """Draws from generators of its own, of every kind."""

    def __init__(self, given):
        self.given, self.torch, self.python = given, torch.Generator().manual_seed(1), random.Random(2)
        self.numpy, self.old, self.drawn = np.random.default_rng(3), np.random.RandomState(4), []

    def after_batch(self, run):
        if run.training:
            draws = [float(torch.rand(1, generator=one)) for one in (self.given, self.torch)]
            self.drawn.append([*draws, self.python.random(), self.numpy.random(), self.old.rand()])


@pytest.mark.parametrize("step", [5, 8, 9])
def test_a_callbacks_own_generators_go_on_where_they_were(tmp_path, step):
    alone = Drawing(torch.Generator().manual_seed(7))
    make(alone, StopAt(None)).fit(3, 0.1)
    with pytest.raises(Stop):
        stopped = make(Drawing(torch.Generator().manual_seed(7)), StopAt(step))
        stopped.fit(3, 0.1, checkpoint=Checkpoint(tmp_path, every_steps=2))
    resumed = Drawing(torch.Generator().manual_seed(7))
    make(resumed, StopAt(None)).fit(3, 0.1, checkpoint=tmp_path)
    assert resumed.drawn == alone.drawn and len(alone.drawn) > 20
