"""Every stock callback can be stopped after an epoch and go on, in a fresh instance, as if nothing had happened."""

import csv
import importlib
import inspect
import json
import pkgutil
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import minilearner
from minilearner import (
    EMA,
    SWA,
    ActivationStats,
    BnFreeze,
    Callback,
    CSVLogger,
    CutMix,
    CyclicLR,
    DataLoaders,
    EarlyStopping,
    GradientAccumulation,
    GradientClip,
    LambdaCallback,
    Learner,
    LearningRateScheduler,
    MixUp,
    ParamScheduler,
    ReduceLROnPlateau,
    SaveBest,
    TorchScheduler,
    Validate,
    linear,
)

N_EPOCHS, STOP_AFTER = 6, 3


def torch_scheduler(make, **kwargs):
    return lambda: TorchScheduler(make, **kwargs)


def warm(optimizer):
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[4])


# One maker or several for each stock callback. To add a callback to the package is to add it here.
MAKERS = {
    ActivationStats: [lambda: ActivationStats(every=2, with_hist=True)],
    BnFreeze: [BnFreeze],
    CSVLogger: [lambda: CSVLogger("history.csv")],
    CutMix: [CutMix],
    CyclicLR: [lambda: CyclicLR(0.1, step_size=4)],
    EMA: [lambda: EMA(0.8), lambda: EMA(0.8, every_steps=3, debias=True, start=0.2)],
    EarlyStopping: [lambda: EarlyStopping("score", patience=2)],
    GradientAccumulation: [lambda: GradientAccumulation(2)],
    GradientClip: [lambda: GradientClip(0.1)],
    LambdaCallback: [lambda: LambdaCallback(after_epoch=lambda run: None)],
    LearningRateScheduler: [lambda: LearningRateScheduler(lambda epoch: 0.0 if epoch == 2 else 0.1)],
    MixUp: [MixUp],
    ParamScheduler: [lambda: ParamScheduler({"lr": linear(0.1, 0.01)})],
    ReduceLROnPlateau: [lambda: ReduceLROnPlateau("score", patience=1, cooldown=2)],
    SWA: [lambda: SWA(0.3)],
    SaveBest: [lambda: SaveBest("score")],
    TorchScheduler: [
        torch_scheduler(lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=24)),
        torch_scheduler(warm),
        torch_scheduler(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 24)),
        torch_scheduler(
            lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, "max", patience=1),
            every="epoch",
            monitor="score",
        ),
    ],
    Validate: [lambda: Validate(every_steps=3)],
}
# Made and held by a learner for one call. What they gather belongs to the record, or lasts for one pass. What a
# `Checkpoint` did is on disk.
INTERNAL = {"Evaluate", "Record", "Progress", "FixedLoss", "RateSweep", "Checkpoint"}


def stock_callbacks():
    for module in pkgutil.walk_packages(minilearner.__path__, "minilearner."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, waiting = set(), [Callback]
    while waiting:
        below = [cls for cls in waiting.pop().__subclasses__() if cls.__module__.startswith("minilearner.")]
        found.update(below)
        waiting += below
    abstract = {cls for cls in found if cls.__name__.startswith("_") or cls.__name__ == "Tracker"}
    return {cls for cls in found - abstract if cls.__name__ not in INTERNAL}


def test_none_is_forgotten():
    assert set(MAKERS) == stock_callbacks()


SCORES = [1, 3, 2, 2, 2.5, 1.5]  # falling behind at the stop: what waits, and what is best, differs from the beginning


def halves(model):
    return [list(model[:2].parameters()), list(model[2:].parameters())]


def learner():
    g = torch.Generator().manual_seed(0)
    batches = [(torch.rand(4, 2, 6, 6, generator=g), torch.randint(3, (4,), generator=g)) for _ in range(4)]
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    model[1].requires_grad_(False)
    return Learner(
        DataLoaders(batches, batches[:2], seed=1), model, opt_func=torch.optim.SGD, lr=[0.02, 0.05], splitter=halves
    )


class Scores(Callback):
    """A value for trackers to follow, the same in each run."""

    order = -100

    def before_fit(self, run):
        run.columns += ["score"]

    def after_train(self, run):
        run.metrics["score"] = float(SCORES[run.epoch])


class Stop(Callback):
    """Keeps all that a checkpoint would keep after an epoch, and then breaks the run off."""

    order = -1000

    def __init__(self, callback):
        self.callback, self.kept = callback, None

    def before_epoch(self, run):
        if run.epoch == STOP_AFTER:
            states = run.model.state_dict(), run.optimizer.state_dict(), self.callback.state_dict()
            self.kept = (*map(deepcopy, states), run.global_step, run.metrics)
            raise KeyboardInterrupt


class Resume(Callback):
    """Loads the states into a run that begins: model and optimizer first, the callback after its `before_fit`."""

    order = -1000

    def __init__(self, kept):
        self.kept = kept

    def before_fit(self, run):
        model, optimizer, _, run.global_step, run.metrics = self.kept
        run.model.load_state_dict(model)
        run.optimizer.load_state_dict(optimizer)
        run.epoch = STOP_AFTER


class LoadState(Callback):
    order = 1000

    def __init__(self, callback, state):
        self.callback, self.state = callback, state

    def before_fit(self, run):
        self.callback.load_state_dict(through_files(self.state))


def through_files(state):
    """What comes back of a state whose tensors and whose rest were written apart."""
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, dict):
        assert all(isinstance(key, str) for key in state)
        return {key: through_files(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [through_files(value) for value in state]
    return json.loads(json.dumps(state))


class Trace(Callback):
    order = 500

    def __init__(self):
        self.rows = []

    def after_batch(self, run):
        if run.epoch >= STOP_AFTER:
            self.rows.append((run.epoch, run.global_step, run.training, run.lrs, run.loss.detach()))


def end_of(learn, callback, trace, tmp_path):
    if not isinstance(callback, CSVLogger):
        return [trace.rows, learn.model.state_dict(), callback.state_dict()]
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:  # what the clock says, and what the record, which is not resumed here, smooths over the run
        del row["time_seconds"], row["smooth_loss"]
    return [trace.rows, learn.model.state_dict(), rows]


def assert_equal(a, b):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_equal(x, y)
    else:
        assert a == b


@pytest.mark.parametrize(
    "make", [pytest.param(make, id=f"{cls.__name__}-{i}") for cls in MAKERS for i, make in enumerate(MAKERS[cls])]
)
def test_a_fresh_instance_goes_on_as_the_old_one_would_have(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (whole := learner()).no_logging():
        whole.fit(N_EPOCHS, cbs=[Scores(), first := make(), trace := Trace()])
    expected = end_of(whole, first, trace, tmp_path)

    with (broken := learner()).no_logging(), pytest.raises(KeyboardInterrupt):
        broken.fit(N_EPOCHS, cbs=[Scores(), old := make(), stop := Stop(old)])
    new, trace = make(), Trace()
    with (resumed := learner()).no_logging():
        resumed.fit(N_EPOCHS, cbs=[Resume(stop.kept), Scores(), new, trace, LoadState(new, stop.kept[2])])
    assert_equal(expected, end_of(resumed, new, trace, tmp_path))


def test_a_callback_without_state_has_none():
    assert Callback().state_dict() == {}
    assert Callback().load_state_dict({}) is None


def test_both_halves_are_defined_by_the_same_class():
    for cls in stock_callbacks():
        owners = {next(c for c in inspect.getmro(cls) if name in vars(c)) for name in ("state_dict", "load_state_dict")}
        assert len(owners) == 1, cls
