"""A run cannot resume with a changed argument, and the error names the argument."""

import functools
import inspect
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from interruptions import Stop, StopAt
from torch import nn
from torch.optim import lr_scheduler

import minilearner
from minilearner import (
    EMA,
    SWA,
    ActivationStats,
    Callback,
    CheckpointError,
    CSVLogger,
    CyclicLR,
    DataLoaders,
    EarlyStopping,
    GradientAccumulation,
    GradientCheckpointing,
    GradientClip,
    JSONLinesLogger,
    LambdaCallback,
    Learner,
    LearningRateScheduler,
    Logger,
    MixUp,
    NonFinite,
    ParamScheduler,
    ReduceLROnPlateau,
    SaveBest,
    TorchScheduler,
    Validate,
    accuracy,
    set_seed,
    top_k_accuracy,
)
from minilearner.callbacks.checkpoint import Checkpoint
from minilearner.losses import FocalLoss
from minilearner.saving.identity import compare, identity


def make(stop_at, *, loss=None, cbs=(), train_metrics=False, metrics=accuracy, opt_func=None):
    set_seed(5)
    x, y = torch.rand(12, 4), torch.arange(12) % 3
    dls = DataLoaders.from_arrays((x, y), (x[:6], y[:6]), bs=4, seed=2)
    options = {} if opt_func is None else {"opt_func": opt_func}
    learn = Learner(dls, nn.Linear(4, 3), loss, metrics=metrics, cbs=[*cbs, StopAt(stop_at)], **options)
    learn.recorder.train_metrics = train_metrics
    return learn


def fit(learn, folder, **options):
    with learn.no_logging():
        return learn.fit(2, 0.1, checkpoint=Checkpoint(folder, every_steps=2), **options)


class Weighted(nn.Module):
    """A user's loss with an argument, a buffer and a submodule."""

    def __init__(self, power=1.0, weight=(1.0, 1.0, 1.0), base=None):
        super().__init__()
        self.power = power
        self.base = nn.CrossEntropyLoss() if base is None else base
        self.register_buffer("weight", torch.tensor(weight), persistent=False)

    def forward(self, pred, y):
        return self.base(pred * self.weight, y) ** self.power


class Callable:
    """A user's loss that is not a module. Metrics can be objects of this kind too."""

    def __init__(self, scale, nested=None):
        self.scale, self.nested = scale, nested

    def __call__(self, pred, y):
        return self.scale * F.cross_entropy(pred, y)

    def method(self, pred, y):
        return self.scale * F.cross_entropy(pred, y)


class Gathered:
    """A user's metric."""

    def __init__(self, scale):
        self.scale = scale
        self.reset()

    def reset(self):
        self.total, self.n = 0.0, 0

    def update(self, pred, y):
        self.total, self.n = self.total + self.scale * len(y), self.n + 1

    def compute(self):
        return self.total / self.n


def scaled(scale):
    return lambda pred, y: scale * F.cross_entropy(pred, y)


def by_default(scale):
    def loss(pred, y, scale=scale):
        return scale * F.cross_entropy(pred, y)

    return loss


def exponential(gamma):
    return lambda optimizer: lr_scheduler.ExponentialLR(optimizer, gamma)


def step_by(config):
    return lambda optimizer: lr_scheduler.StepLR(optimizer, config["size"], config["gamma"])


def decorated(factor):
    def decorate(function):
        @functools.wraps(function)
        def wrapped(*args):
            return factor * function(*args)

        return wrapped

    return decorate(F.cross_entropy)


RATE = 0.1


def of_global():
    return LearningRateScheduler(lambda epoch: RATE)


def helper():
    return RATE


def of_helper():
    return LearningRateScheduler(lambda epoch: helper())


def change_global(monkeypatch):
    monkeypatch.setattr(f"{__name__}.RATE", 0.2)


WEIGHT = torch.tensor([1.0, 2.0, 1.0])
CHANGES = {
    "label_smoothing": (
        {"loss": nn.CrossEntropyLoss()},
        {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
        "loss.label_smoothing: saved 0.0, now 0.1",
    ),
    "class weights": (
        {"loss": nn.CrossEntropyLoss(WEIGHT)},
        {"loss": nn.CrossEntropyLoss(WEIGHT * 2)},
        r"loss.weight: saved float32 \[1.0, 2.0, 1.0\], now float32 \[2.0, 4.0, 2.0\]",
    ),
    "no class weights": ({"loss": nn.CrossEntropyLoss()}, {"loss": nn.CrossEntropyLoss(WEIGHT)}, "loss.weight: saved"),
    "focal loss": ({"loss": FocalLoss(gamma=2.0)}, {"loss": FocalLoss(gamma=1.0)}, "loss.gamma: saved 2.0, now 1.0"),
    "a module's argument": ({"loss": Weighted(1.0)}, {"loss": Weighted(2.0)}, "loss.power: saved 1.0, now 2.0"),
    "a module's buffer": ({"loss": Weighted()}, {"loss": Weighted(weight=(1.0, 2.0, 1.0))}, "loss.weight: saved"),
    "a module's part": (
        {"loss": Weighted()},
        {"loss": Weighted(base=nn.CrossEntropyLoss(label_smoothing=0.2))},
        "loss.base.label_smoothing: saved 0.0, now 0.2",
    ),
    "another module": (
        {"loss": nn.CrossEntropyLoss()},
        {"loss": Weighted()},
        "loss: saved CrossEntropyLoss, now Weigh",
    ),
    "a callable": ({"loss": Callable(1.0)}, {"loss": Callable(2.0)}, "loss.scale: saved 1.0, now 2.0"),
    "a callable's part": (
        {"loss": Callable(1.0, Callable(1))},
        {"loss": Callable(1.0, Callable(2))},
        "loss.nested.scale: saved 1, now 2",
    ),
    "a bound method": ({"loss": Callable(1.0).method}, {"loss": Callable(2.0).method}, "loss.self.scale: saved 1.0"),
    "a lambda": (
        {"loss": lambda pred, y: F.cross_entropy(pred, y)},
        {"loss": lambda pred, y: F.cross_entropy(pred, y) * 2},
        "loss: the code of the function changed",
    ),
    "a constant": (
        {"loss": lambda pred, y: F.cross_entropy(pred, y) * 3},
        {"loss": lambda pred, y: F.cross_entropy(pred, y) * 2},
        "loss: the code of the function changed",
    ),
    "a name in a lambda": (
        {"loss": lambda pred, y: F.cross_entropy(pred, y)},
        {"loss": lambda pred, y: F.multi_margin_loss(pred, y)},
        "loss: the code of the function changed",
    ),
    "a closure": ({"loss": scaled(1.0)}, {"loss": scaled(2.0)}, "loss.scale: saved 1.0, now 2.0"),
    "a default": ({"loss": by_default(1.0)}, {"loss": by_default(2.0)}, "loss.scale: saved 1.0, now 2.0"),
    "a partial": (
        {"loss": partial(F.cross_entropy, label_smoothing=0.1)},
        {"loss": partial(F.cross_entropy, label_smoothing=0.2)},
        "loss.label_smoothing: saved 0.1, now 0.2",
    ),
    "a decorator": ({"loss": decorated(1.0)}, {"loss": decorated(2.0)}, "loss.factor: saved 1.0, now 2.0"),
    "another function": (
        {"loss": F.cross_entropy},
        {"loss": F.multi_margin_loss},
        "loss: saved the function torch: cros",
    ),
    "EarlyStopping": (
        {"cbs": [EarlyStopping(patience=9)]},
        {"cbs": [EarlyStopping(patience=9, min_delta=0.5)]},
        r"EarlyStopping.min_delta: saved 0.0, now 0.5",
    ),
    "the second of a class": (
        {"cbs": [EarlyStopping(patience=9), EarlyStopping(patience=8)]},
        {"cbs": [EarlyStopping(patience=9), EarlyStopping(patience=8, min_delta=1.0)]},
        r"EarlyStopping \(2\).min_delta: saved 0.0, now 1.0",
    ),
    "ReduceLROnPlateau": (
        {"cbs": [ReduceLROnPlateau()]},
        {"cbs": [ReduceLROnPlateau(min_lr=0.01)]},
        "ReduceLROnPlateau.min_lr: saved 0.0, now 0.01",
    ),
    "SaveBest min_delta": ({"cbs": [SaveBest()]}, {"cbs": [SaveBest(min_delta=0.1)]}, "SaveBest.min_delta: saved 0.0"),
    "SaveBest restore": ({"cbs": [SaveBest()]}, {"cbs": [SaveBest(restore=False)]}, "SaveBest.restore: saved True"),
    "SaveBest path": (
        {"cbs": [SaveBest(path="a")]},
        {"cbs": [SaveBest(path="b")]},
        "SaveBest.path: saved 'a', now 'b'",
    ),
    "EMA at_end": ({"cbs": [EMA(0.9)]}, {"cbs": [EMA(0.9, at_end=False)]}, "EMA.at_end: saved True, now False"),
    "EMA debias": ({"cbs": [EMA(0.9)]}, {"cbs": [EMA(0.9, debias=True)]}, "EMA.debias: saved False, now True"),
    "EMA start": ({"cbs": [EMA(0.9)]}, {"cbs": [EMA(0.9, start=0.5)]}, "EMA.start: saved 0.0, now 0.5"),
    "CyclicLR gamma": (
        {"cbs": [CyclicLR(0.1, step_size=2, mode="exp_range", gamma=0.9)]},
        {"cbs": [CyclicLR(0.1, step_size=2, mode="exp_range", gamma=0.8)]},
        "CyclicLR.gamma: saved 0.9, now 0.8",
    ),
    "CyclicLR base_momentum": (
        {"cbs": [CyclicLR(0.1, step_size=2, cycle_momentum=True)]},
        {"cbs": [CyclicLR(0.1, step_size=2, cycle_momentum=True, base_momentum=0.7)]},
        "CyclicLR.base_momentum: saved",
    ),
    "CyclicLR scale_fn": (
        {"cbs": [CyclicLR(0.1, step_size=2, scale_fn=lambda n: 1.0)]},
        {"cbs": [CyclicLR(0.1, step_size=2, scale_fn=lambda n: 0.5)]},
        "CyclicLR.scale_fn: the code",
    ),
    "SWA": ({"cbs": [SWA(0.1)]}, {"cbs": [SWA(0.1, at_end=False)]}, "SWA.at_end: saved True, now False"),
    "NonFinite": ({"cbs": [NonFinite()]}, {"cbs": [NonFinite(limit=3)]}, "NonFinite.limit: saved 10, now 3"),
    "MixUp": ({"cbs": [MixUp(0.4)]}, {"cbs": [MixUp(0.3)]}, r"run:\n  MixUp.alpha: saved 0.4, now 0.3\nPut"),
    "TorchScheduler": (
        {"cbs": [TorchScheduler(exponential(0.9))]},
        {"cbs": [TorchScheduler(exponential(0.5))]},
        "TorchScheduler.factory.gamma: saved 0.9, now 0.5",
    ),
    "TorchScheduler, constant": (
        {"cbs": [TorchScheduler(lambda o: lr_scheduler.ExponentialLR(o, 0.9))]},
        {"cbs": [TorchScheduler(lambda o: lr_scheduler.ExponentialLR(o, 0.5))]},
        "TorchScheduler.factory: the code",
    ),
    "TorchScheduler, partial": (
        {"cbs": [TorchScheduler(partial(lr_scheduler.ExponentialLR, gamma=0.9))]},
        {"cbs": [TorchScheduler(partial(lr_scheduler.ExponentialLR, gamma=0.5))]},
        "factory.gamma: saved 0.9, now 0.5",
    ),
    "TorchScheduler, class": (
        {"cbs": [TorchScheduler(partial(lr_scheduler.ExponentialLR, gamma=0.9))]},
        {"cbs": [TorchScheduler(partial(lr_scheduler.StepLR, gamma=0.9, step_size=1))]},
        "factory.func: saved the class",
    ),
    "TorchScheduler, dictionary": (
        {"cbs": [TorchScheduler(step_by({"size": 1, "gamma": 0.9}))]},
        {"cbs": [TorchScheduler(step_by({"size": 1, "gamma": 0.5}))]},
        r"config\['gamma'\]: saved 0.9, now 0.5",
    ),
    "LearningRateScheduler": (
        {"cbs": [LearningRateScheduler(lambda epoch, lr: lr * 0.9)]},
        {"cbs": [LearningRateScheduler(lambda epoch, lr: lr * 0.8)]},
        "LearningRateScheduler.fn: the code",
    ),
    "LambdaCallback": (
        {"cbs": [LambdaCallback(after_epoch=lambda run: None)]},
        {"cbs": [LambdaCallback(after_epoch=lambda run: run.lrs)]},
        r"LambdaCallback.functions\['after_epoch'\]: the code of the function changed",
    ),
    "LambdaCallback, event": (
        {"cbs": [LambdaCallback(after_epoch=lambda run: None)]},
        {"cbs": [LambdaCallback(after_train=lambda run: None)]},
        r"functions\['after_train'\]: saved nothing",
    ),
    "train_metrics": ({}, {"train_metrics": True}, "training metrics: saved nothing, now train_accuracy"),
    "a metric's argument": (
        {"metrics": partial(top_k_accuracy, k=1)},
        {"metrics": partial(top_k_accuracy, k=2)},
        "metric top_k_accuracy.function.k: saved 1, now 2",
    ),
    "a metric object's argument": ({"metrics": Gathered(1)}, {"metrics": Gathered(2)}, "scale: saved 1, now 2"),
}


@pytest.mark.parametrize("is_finished", [False, True], ids=["stopped", "finished"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_argument_is_refused_by_name(change, is_finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved, now, named = CHANGES[change]
    if is_finished:
        fit(make(None, **saved), "run")
    else:
        with pytest.raises(Stop):
            fit(make(4, **saved), "run")
    learn = make(None, **now)
    before = learn.model.weight.clone()
    with pytest.raises(CheckpointError, match=named) as refused:
        fit(learn, "run")
    assert str(refused.value).endswith(
        "Put the arguments back to go on with that run, or use another folder for a new one."
    )
    assert torch.equal(learn.model.weight, before)
    fit(make(None, **saved), "run")  # the folder is unchanged


@pytest.mark.parametrize("make_scheduler", [of_global, of_helper])
def test_a_changed_global_that_a_function_reads_is_refused_by_name(make_scheduler, tmp_path, monkeypatch):
    with pytest.raises(Stop):
        fit(make(4, cbs=[make_scheduler()]), tmp_path)
    monkeypatch.setattr(f"{__name__}.RATE", 0.2)
    with pytest.raises(CheckpointError, match=r"LearningRateScheduler.fn(.helper)?.RATE: saved 0.1, now 0.2"):
        fit(make(None, cbs=[make_scheduler()]), tmp_path)


def test_every_difference_has_its_line(tmp_path):
    with pytest.raises(Stop):
        fit(make(4, loss=nn.CrossEntropyLoss(), cbs=[EMA(0.9), EarlyStopping(patience=9)]), tmp_path)
    other = make(None, loss=nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1), cbs=[EMA(0.8), EarlyStopping(patience=8)])
    with pytest.raises(CheckpointError) as refused, other.no_logging():
        other.fit(3, 0.1, checkpoint=tmp_path)
    _, *lines, _ = str(refused.value).splitlines()
    places = {line.strip().partition(":")[0] for line in lines}
    assert places == {"loss.label_smoothing", "loss.weight", "EMA.decay", "EarlyStopping.patience", "n_epochs"}


def test_the_learner_of_a_stopped_run_goes_on_itself(tmp_path):
    """State that callbacks, metrics and schedulers have gathered is not an argument."""
    seen = []
    cbs = [TorchScheduler(exponential(0.9)), EMA(0.9), SaveBest(), LambdaCallback(after_train=lambda run: seen)]
    learn = make(4, cbs=cbs, metrics=[accuracy, Gathered(1)], train_metrics=True, loss=Weighted())
    with pytest.raises(Stop):
        fit(learn, tmp_path)
    learn.cbs[-1].step = None
    assert len(fit(learn, tmp_path).epochs) == 2


@pytest.mark.filterwarnings("default:.*could not be compared:UserWarning")
def test_what_cannot_be_compared_is_said(tmp_path):
    def drawing(generator):
        return LambdaCallback(after_epoch=lambda run: torch.rand(1, generator=generator))

    with pytest.raises(Stop):
        fit(make(4, cbs=[drawing(torch.Generator())]), tmp_path)
    with pytest.raises(CheckpointError) as refused:
        fit(make(None, loss=F.multi_margin_loss, cbs=[drawing(torch.Generator())]), tmp_path)
    place = (
        r"LambdaCallback.functions['after_epoch'].generator (an object of class Generator: its content cannot be read)"
    )
    assert f"{place} could not be compared" in str(refused.value)
    with pytest.warns(UserWarning, match="as far as can be seen: LambdaCallback.*generator.*could not be compared"):
        fit(make(None, cbs=[drawing(torch.Generator())]), tmp_path)


def test_the_code_of_another_version_of_python_cannot_be_compared(saved_identity):
    saved = saved_identity(LambdaCallback(after_epoch=lambda run: None))
    saved["parts"]["callbacks"]["LambdaCallback"]["functions"]["parts"]["['after_epoch']"]["code"] = "cpython-39 0f"
    found = compare(saved, saved_identity(LambdaCallback(after_epoch=lambda run: run.lrs)))
    assert not found.changed and "its code was saved by cpython-39" in found.unknown[0]


@pytest.fixture(scope="module")
def saved_identity():
    """Returns a function that returns the identity of a run with the given callbacks."""
    learn = make(1)
    with pytest.raises(Stop), learn.no_logging():
        learn.fit(1, 0.1)
    run = learn.cbs[-1].run

    def of(*callbacks):
        run.callbacks = callbacks
        return identity(run, "fit")

    return of


def sub(x):
    return x


LINEAR = nn.Linear(2, 2)
BASE = {
    CyclicLR: {"max_lr": 0.1, "step_size": 2},
    CSVLogger: {},
    JSONLinesLogger: {},
    GradientAccumulation: {"n_batches": 2},
    LearningRateScheduler: {"fn": lambda epoch: 0.1},
    ParamScheduler: {"schedules": {"lr": sub}},
    Validate: {"every_steps": 3},
    TorchScheduler: {"factory": sub},
    LambdaCallback: {"after_fit": sub},
}
OTHER = {
    (ActivationStats, "modules"): [LINEAR],
    (ActivationStats, "every"): 3,
    (CSVLogger, "path"): "other.csv",
    (CSVLogger, "fname"): "other.csv",
    (JSONLinesLogger, "path"): "other.jsonl",
    (JSONLinesLogger, "fname"): "other.jsonl",
    (GradientAccumulation, "n_acc"): 32,
    (ReduceLROnPlateau, "comp"): np.greater,
    (ReduceLROnPlateau, "min_delta"): 0.5,
    (ReduceLROnPlateau, "patience"): 3,
    (ReduceLROnPlateau, "reset_on_fit"): False,
    (CyclicLR, "base_lr"): 0.01,
    (CyclicLR, "mode"): "triangular2",
    (CyclicLR, "scale_fn"): lambda n: 1.0,
    (CyclicLR, "scale_mode"): "iterations",
    (CyclicLR, "max_momentum"): 0.95,
    (CyclicLR, "base_momentum"): 0.7,
    (EarlyStopping, "monitor"): "accuracy",
    (EarlyStopping, "mode"): "max",
    (GradientCheckpointing, "layers"): [LINEAR],
    (GradientClip, "norm_type"): math.inf,
    (LambdaCallback, "functions"): {"after_fit": lambda run: 1},
    (LearningRateScheduler, "fn"): lambda epoch: 0.2,
    (NonFinite, "policy"): "skip",
    (ParamScheduler, "schedules"): {"lr": lambda p: p / 2},
    (ParamScheduler, "clock"): "step",
    (ReduceLROnPlateau, "monitor"): "accuracy",
    (ReduceLROnPlateau, "mode"): "max",
    (SaveBest, "monitor"): "accuracy",
    (SaveBest, "mode"): "max",
    (SaveBest, "path"): "best",
    (TorchScheduler, "factory"): lambda o: None,
    (TorchScheduler, "every"): "epoch",
    (TorchScheduler, "monitor"): "accuracy",
    (Validate, "every_epochs"): 2,
}

INSTEAD_OF = {(Validate, "every_epochs"): "every_steps", (GradientAccumulation, "n_acc"): "n_batches"}


def other_value(cls, name, value):
    """Returns another value that is valid for this argument."""
    if (cls, name) in OTHER:
        return OTHER[cls, name]
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else (value + 1) / 4 if isinstance(value, float) else None


EXPORTED = [
    thing
    for name in minilearner.__all__
    for thing in [getattr(minilearner, name)]
    if inspect.isclass(thing) and issubclass(thing, Callback) and thing is not Callback
    if thing is Logger or not issubclass(thing, Logger)  # services need libraries that are not here
]
ARGUMENTS = [(cls, name) for cls in EXPORTED for name in inspect.signature(cls).parameters]


@pytest.mark.parametrize(("cls", "name"), ARGUMENTS, ids=[f"{cls.__name__}.{name}" for cls, name in ARGUMENTS])
def test_every_argument_of_every_callback_counts_unless_it_is_declared_not_to(cls, name, saved_identity, tmp_path):
    base = BASE.get(cls, {}) if cls is not Checkpoint else {"folder": tmp_path}
    given = inspect.signature(cls).bind(**base)
    given.apply_defaults()
    value = given.arguments[name]
    other = other_value(cls, name, value)
    assert other is not None or name in cls.ignored_arguments, f"give OTHER a second value for {cls.__name__}.{name}"
    changed = {**base, **(other if name == "functions" else {name: other})}
    changed.pop(INSTEAD_OF.get((cls, name)), None)
    if name in cls.ignored_arguments:
        return
    before, after, again = saved_identity(cls(**base)), saved_identity(cls(**changed)), saved_identity(cls(**base))
    assert not compare(before, again).changed and not compare(before, again).unknown
    assert any(line.startswith(f"{cls.__name__}.{name}") for line in compare(before, after).changed)


def test_declared_names_are_names_of_arguments():
    for cls in EXPORTED:
        assert cls.ignored_arguments is not None, cls
        assert set(cls.ignored_arguments) <= set(inspect.signature(cls).parameters), cls


def test_the_arguments_of_a_users_callback_may_change_and_are_shown(tmp_path, capsys):
    class Own(Callback):
        def __init__(self, threshold, order=50):
            self.threshold = threshold

    with pytest.raises(Stop):
        fit(make(4, cbs=[Own(1)]), tmp_path)
    make(None, cbs=[Own(2)]).fit(2, 0.1, checkpoint=tmp_path)
    assert f"{tmp_path}: Own.threshold: saved 1, now 2\n" in capsys.readouterr().out


def test_a_users_callback_may_ask_for_its_arguments_to_be_compared(tmp_path):
    class Own(Callback):
        ignored_arguments = ("shown",)

        def __init__(self, threshold, shown=True):
            pass

    with pytest.raises(Stop):
        fit(make(4, cbs=[Own(1)]), tmp_path)
    with pytest.raises(CheckpointError, match="Own.threshold: saved 1, now 2"):
        fit(make(None, cbs=[Own(2)]), tmp_path)
    fit(make(None, cbs=[Own(1, shown=False)]), tmp_path)
