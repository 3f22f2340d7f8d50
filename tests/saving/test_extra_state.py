"""What a module keeps by `get_extra_state` survives whatever its weights survive."""

import threading
from collections import deque

import numpy as np
import pytest
import torch
from interruptions import Stop, StopAt
from safetensors.torch import load_file
from torch import nn

from minilearner import (
    EMA,
    SWA,
    Checkpoint,
    DataLoaders,
    FileFormatError,
    GradientCheckpointing,
    LambdaCallback,
    Learner,
    NonFinite,
    SaveBest,
    load_learner,
    register,
)
from minilearner.models.restore import restore_model

KINDS = {
    "number": lambda seen: {"n": len(seen)},
    "growing tensor": lambda seen: torch.tensor(seen),
    "growing list": lambda seen: {"all": list(seen), "pair": (len(seen), "seen")},
    "array": lambda seen: {"seen": np.array(seen, dtype=np.float64), "bytes": np.array([seen], dtype=np.uint8)},
    "mixed": lambda seen: {"set": set(seen), "deque": deque(seen, 3), "text": b"a", "half": torch.ones(2).half()},
    "none": lambda seen: None if not seen else {"n": len(seen)},
}


class Counts(nn.Module):
    """Notes its training batches outside of its tensors, and predicts by their number."""

    def __init__(self, kind="number"):
        super().__init__()
        self.kind, self.line, self.seen = kind, nn.Linear(2, 1), []

    def forward(self, x):
        if self.training:
            self.seen.append(len(self.seen))
        return self.line(x) * (1 + 0.01 * len(self.seen))

    def get_extra_state(self):
        return KINDS[self.kind](self.seen)

    def set_extra_state(self, state):
        """Checks that what comes back is what was given."""
        n = {
            "number": lambda: state["n"],
            "growing tensor": lambda: len(state),
            "growing list": lambda: state["pair"][0],
            "array": lambda: state["seen"].shape[0],
            "mixed": lambda: len(state["set"]),
            "none": lambda: 0 if state is None else state["n"],
        }[self.kind]()
        self.seen = list(range(n))
        torch.testing.assert_close(state, self.get_extra_state(), rtol=0, atol=0) if self.kind == "array" else None
        assert type(state) is type(self.get_extra_state()) and str(state) == str(self.get_extra_state())


register(Counts)


class Net(nn.Sequential):
    """The module in the middle of a model."""

    def __init__(self, kind):
        super().__init__(nn.Linear(2, 2), nn.BatchNorm1d(2), Counts(kind))

    @property
    def n(self):
        return len(self[2].seen)


def learner(kind="number", loss=None, **options):
    torch.manual_seed(0)
    x = torch.randn(16, 2)
    dls = DataLoaders.from_arrays((x, x.sum(1, keepdim=True)), (x[:4], x[:4].sum(1, keepdim=True)), bs=4, seed=1)
    return Learner(dls, Net(kind), loss or nn.MSELoss(), torch.optim.SGD, device="cpu", **options)


def fit(learn, *cbs, n_epoch=2, **options):
    with learn.no_logging():
        learn.fit(n_epoch, 0.05, cbs=list(cbs), **options)
    return learn.model


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_goes_on_with_it(tmp_path, kind):
    whole = fit(learner(kind))
    with pytest.raises(Stop):
        fit(learner(kind), StopAt(3), checkpoint=Checkpoint(tmp_path, every_steps=1))
    for _ in range(2):  # the second time the run is finished already
        again = fit(learner(kind), StopAt(None), checkpoint=Checkpoint(tmp_path, every_steps=1))
        assert again.n == whole.n == 8 and torch.equal(weights(again), weights(whole))


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_bring_it_back(tmp_path, kind):
    learn = learner(kind, path=tmp_path)
    fit(learn)
    for with_opt in (True, False):
        learn.save("model", with_opt=with_opt)
        learn.model[2].seen = []
        learn.load("model", with_opt=with_opt)
        assert learn.model.n == 8


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_has_it(tmp_path, kind):
    learn = learner(kind)
    fit(learn)
    learn.export(tmp_path / "export.safetensors")
    loaded = load_learner(tmp_path / "export.safetensors", model=Net(kind))
    assert loaded.model.n == 8
    x, _ = learn.dls.one_batch()
    assert torch.equal(loaded.model.eval()(x), learn.model.eval()(x))


@pytest.mark.parametrize("kind", KINDS)
def test_the_sweep_and_the_check_of_the_data_leave_no_trace_on_it(kind):
    learn = learner(kind)
    with learn.no_logging():
        learn.lr_find(num_it=5, show_plot=False)
    assert learn.model.n == 0
    assert torch.equal(weights(fit(learn)), weights(fit(learner(kind))))


@pytest.mark.parametrize("kind", KINDS)
def test_save_best_puts_that_of_the_best_epoch_back_and_writes_it(tmp_path, kind):
    worse = LambdaCallback(after_validate=lambda run: run.metrics.update(valid_loss=float(run.epoch)))
    learn = learner(kind, path=tmp_path)
    model = fit(learn, worse, SaveBest(path=tmp_path / "best.safetensors"), n_epoch=3)
    assert model.n == 4
    model[2].seen = []
    learn.load("best.safetensors", with_opt=False)
    assert model.n == 4
    assert ("2._extra_state" in load_file(tmp_path / "best.safetensors")) is (kind == "growing tensor")


@pytest.mark.parametrize("average", [EMA, SWA])
def test_averages_of_weights_leave_it_to_the_model(average):
    """SWA sends the training data through the model once more; these passes do not count."""
    learn = learner()
    assert fit(learn, average(), n_epoch=4).n == 16


def test_a_batch_that_is_repeated_or_left_out_counts_as_without(tmp_path):
    def spoil(run):
        if run.training and run.global_step == 2 and not spoiled:
            spoiled.append(run.model[2].get_extra_state())
            run.x = run.x * float("nan")

    spoiled = []
    learn = learner()
    with pytest.warns(RuntimeWarning, match="NonFinite"):
        model = fit(learn, NonFinite("skip"), LambdaCallback(before_batch=spoil))
    assert model.n == 7
    learn = learner()
    assert fit(learn, GradientCheckpointing([learn.model[2]])).n == 8


def test_a_trial_puts_it_back_after_an_error():
    model = Net("growing list")
    with pytest.raises(Stop), restore_model(model):
        model(torch.randn(4, 2))
        raise Stop
    assert model.n == 0


class CountingLoss(nn.MSELoss):
    """A loss that counts, too."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, pred, y):
        if torch.is_grad_enabled():
            self.calls.append(len(y))
        return super().forward(pred, y) * (1 + 0.01 * len(self.calls))

    def get_extra_state(self):
        return {"calls": list(self.calls)}

    def set_extra_state(self, state):
        self.calls = list(state["calls"])


def test_that_of_a_loss_survives_too(tmp_path):
    whole = learner(loss=CountingLoss())
    fit(whole)
    with pytest.raises(Stop):
        fit(learner(loss=CountingLoss()), StopAt(3), checkpoint=Checkpoint(tmp_path, every_steps=1))
    again = learner(loss=CountingLoss())
    fit(again, StopAt(None), checkpoint=Checkpoint(tmp_path, every_steps=1))
    assert again.loss_func.calls == whole.loss_func.calls and torch.equal(weights(again.model), weights(whole.model))
    n = len(whole.loss_func.calls)
    with whole.no_logging():
        whole.lr_find(num_it=4, show_plot=False)
    assert len(whole.loss_func.calls) == n


class Locked(Counts):
    """Has an extra state that is no data."""

    def get_extra_state(self):
        return {"lock": threading.Lock()}

    def set_extra_state(self, state):
        pass


def test_what_is_no_data_is_refused_before_training(tmp_path):
    def locked():
        learn = learner(path=tmp_path)
        learn.model[2] = Locked()
        return learn

    steps = LambdaCallback(after_step=lambda run: pytest.fail("a step was made"))
    for options in ({"checkpoint": tmp_path / "run"}, {"cbs": SaveBest(path=tmp_path / "x.safetensors")}):
        learn = locked()
        learn.cbs.append(steps)
        with learn.no_logging(), pytest.raises(TypeError, match="lock.* is not data and cannot be saved"):
            learn.fit(1, 0.05, **options)
    with pytest.raises(TypeError, match="not data and cannot be saved"):
        learn.save("model")
    fit(locked(), SaveBest(), n_epoch=1)  # copies in memory need no data


def test_a_file_without_it_or_with_one_that_a_module_refuses_changes_nothing(tmp_path):
    learn = learner(path=tmp_path)
    fit(learn)
    learn.save("model")
    other = learner("growing list", path=tmp_path)
    before = weights(other.model).clone()
    with pytest.raises(FileFormatError, match="does not accept its extra state: KeyError"):
        other.load("model", with_opt=False)
    assert torch.equal(weights(other.model), before) and other.model.n == 0
    torch.manual_seed(0)
    plain = Learner(
        learn.dls, nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Identity()), nn.MSELoss(), path=tmp_path
    )
    plain.save("plain", with_opt=False)
    with pytest.raises(FileFormatError, match="2._extra_state"):
        other.load("plain", with_opt=False)


def test_a_checkpoint_of_an_earlier_version_goes_on_with_a_warning(tmp_path, monkeypatch):
    from minilearner.saving import run_state

    with monkeypatch.context() as earlier, pytest.raises(Stop):
        earlier.setattr(run_state, "read_extra_state", lambda model: {})
        fit(learner(), StopAt(3), checkpoint=Checkpoint(tmp_path, every_steps=1))
    with pytest.warns(UserWarning, match="has no extra state"):
        fit(learner(), StopAt(None), checkpoint=Checkpoint(tmp_path, every_steps=1))
