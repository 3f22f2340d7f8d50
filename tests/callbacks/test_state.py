"""A run can stop anywhere and resume with new instances of all our callbacks as if it had not stopped."""

import csv
import importlib
import json
import pkgutil
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple

import numpy as np
import pytest
import torch
from interruptions import Stop, StopAt
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
    GradientCheckpointing,
    GradientClip,
    JSONLinesLogger,
    LambdaCallback,
    Learner,
    LearningRateScheduler,
    MixUp,
    NonFinite,
    ParamScheduler,
    ProgressiveResize,
    ReduceLROnPlateau,
    SaveBest,
    SplitOnOOM,
    TorchScheduler,
    Validate,
    linear,
)
from minilearner.callbacks.checkpoint import Checkpoint
from minilearner.callbacks.fastai_tracking import (
    EarlyStoppingCallback,
    SaveModelCallback,
    TerminateOnNaNCallback,
    TrackerCallback,
)
from minilearner.callbacks.hook_callback import HookCallback
from minilearner.callbacks.mixed_precision import MixedPrecision
from minilearner.callbacks.show_graph import ShowGraphCallback

N_EPOCHS = 6


def torch_scheduler(make, **kwargs):
    return lambda: TorchScheduler(make, **kwargs)


def warm(optimizer):
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[4])


class Poison(Callback):
    """Makes a gradient infinite at the given places: (epoch, batch)."""

    def __init__(self, *places):
        self.places = places

    def after_backward(self, run):
        if (run.epoch, run.iter) in self.places:
            next(p.grad for p in run.model.parameters() if p.grad is not None).view(-1)[0] = float("inf")


class ShortOfMemory(Callback):
    """Runs out of memory with more than this many items."""

    def __init__(self, n):
        self.n = n

    def after_pred(self, run):
        if run.training and len(run.pred) > self.n:
            raise torch.OutOfMemoryError("CUDA out of memory.")


# One or several makers for each of our callbacks; a maker may return more callbacks. Add every new callback here.
MAKERS = {
    ActivationStats: [lambda: ActivationStats(every=2, with_hist=True)],
    BnFreeze: [BnFreeze],
    CSVLogger: [lambda: CSVLogger("history.csv")],
    JSONLinesLogger: [lambda: JSONLinesLogger("history.jsonl")],
    CutMix: [CutMix],
    CyclicLR: [lambda: CyclicLR(0.1, step_size=4)],
    EMA: [lambda: EMA(0.8), lambda: EMA(0.8, every_steps=3, debias=True, start=0.2)],
    EarlyStopping: [lambda: EarlyStopping("score", patience=2)],
    GradientCheckpointing: [GradientCheckpointing],
    GradientAccumulation: [lambda: GradientAccumulation(2)],
    HookCallback: [HookCallback],
    GradientClip: [lambda: GradientClip(0.1)],
    LambdaCallback: [lambda: LambdaCallback(after_epoch=lambda run: None)],
    LearningRateScheduler: [lambda: LearningRateScheduler(lambda epoch: 0.0 if epoch == 2 else 0.1)],
    MixUp: [MixUp],
    NonFinite: [
        lambda: [NonFinite("skip"), Poison((1, 2), (3, 1))],
        lambda: [NonFinite("rollback", every_steps=5), Poison((2, 1), (4, 2)), EMA(0.8)],
    ],
    ParamScheduler: [lambda: ParamScheduler({"lr": linear(0.1, 0.01)})],
    ProgressiveResize: [lambda: ProgressiveResize(multiple=1)],
    ReduceLROnPlateau: [lambda: ReduceLROnPlateau("score", patience=1, cooldown=2)],
    SWA: [lambda: SWA(0.3)],
    SaveBest: [lambda: SaveBest("score")],
    SplitOnOOM: [lambda: [SplitOnOOM(), ShortOfMemory(2)]],
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
    EarlyStoppingCallback: [lambda: EarlyStoppingCallback("score", patience=2)],
    MixedPrecision: [lambda: MixedPrecision("bf16")],
    SaveModelCallback: [lambda: SaveModelCallback("score")],
    ShowGraphCallback: [ShowGraphCallback],
    TerminateOnNaNCallback: [TerminateOnNaNCallback],
    TrackerCallback: [lambda: TrackerCallback("score")],
}
# These need libraries that are not here, and are tested with them in `tests/extras`; `Logger` is their base.
IN_EXTRAS = {"Logger", "MLflowLogger", "TensorBoardLogger", "WandbLogger"}
# A learner creates these for one call. Their data are in the record, on disk, or last for one pass.
INTERNAL = {"Evaluate", "Record", "Progress", "FixedLoss", "RateSweep", "PlainLoop", "Checkpoint", "Session"}


def stock_callbacks():
    for module in pkgutil.walk_packages(minilearner.__path__, "minilearner."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, waiting = set(), [Callback]
    while waiting:
        below = [cls for cls in waiting.pop().__subclasses__() if cls.__module__.startswith("minilearner.")]
        found.update(below)
        waiting += below
    abstract = {cls for cls in found if cls.__name__.startswith("_") or cls.__name__ in ("Scheduler", "Tracker")}
    return {cls for cls in found - abstract if cls.__name__ not in INTERNAL | IN_EXTRAS}


def test_every_callback_has_a_maker():
    assert set(MAKERS) == stock_callbacks()


SCORES = [1, 3, 2, 2, 2.5, 1.5]  # when the run stops, `wait` and `best` differ from their initial values


def halves(model):
    return [list(model[:2].parameters()), list(model[2:].parameters())]


def learner():
    g = torch.Generator().manual_seed(0)
    batches = [(torch.rand(4, 2, 6, 6, generator=g), torch.randint(3, (4,), generator=g)) for _ in range(4)]
    torch.manual_seed(0)
    block = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())
    model = nn.Sequential(nn.Conv2d(2, 4, 3), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    model[1].requires_grad_(False)
    return Learner(
        DataLoaders(batches, batches[:2], seed=1), model, opt_func=torch.optim.SGD, lr=[0.02, 0.05], splitter=halves
    )


class Scores(Callback):
    """Adds a metric for trackers that is the same in each run."""

    order = -100

    def before_fit(self, run):
        run.columns += ["score"]

    def after_train(self, run):
        run.metrics["score"] = float(SCORES[run.epoch])


class Trace(Callback):
    """Keeps the rates and losses of all batches. A resumed run keeps them too, because they are data."""

    order = 99  # runs before the checkpoint, which saves it

    def __init__(self):
        self.rows = []

    def after_batch(self, run):
        loss = None if run.loss is None else run.loss.detach()  # None if the batch was left out
        self.rows.append((run.epoch, run.iter, run.global_step, run.training, run.lrs, loss))


class PowerCut(Callback):
    """Ends a run before a batch, without a chance to save anything."""

    def __init__(self, epoch=None, batch=None):
        self.at = epoch, batch

    def load_state_dict(self, state):
        """Restores nothing, because the power must stay on in the second run."""

    def before_batch(self, run):
        if run.training and (run.epoch, run.iter) == self.at:
            raise RuntimeError("the lights went out")


def fit(make, *cut, checkpoint=None):
    """Runs the script. Returns the outcome to compare, or None if the power was cut."""
    learn, trace, made = learner(), Trace(), make()
    callback, *others = made if isinstance(made, list) else [made]
    with learn.no_logging():
        try:
            learn.fit(N_EPOCHS, cbs=[Scores(), callback, *others, trace, PowerCut(*cut)], checkpoint=checkpoint)
        except RuntimeError:
            return None
    outcome = [trace.rows, learn.model.state_dict(), learn.optimizer.state_dict()]
    if isinstance(callback, CSVLogger):
        with open(callback.path, newline="") as file:
            return [*outcome, [row | {"time_seconds": None, "finished_at": None} for row in csv.DictReader(file)]]
    if isinstance(callback, JSONLinesLogger):
        lines = [json.loads(line) for line in callback.path.read_text().splitlines()]
        return [*outcome, [line | {"time_seconds": None, "finished_at": None} for line in lines]]
    return [*outcome, callback.state_dict()]


def assert_equal(a, b):
    if isinstance(a, (torch.Tensor, np.ndarray)):
        a, b = torch.as_tensor(a), torch.as_tensor(b)
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


@pytest.mark.filterwarnings("ignore:NonFinite", "ignore:a batch of")
@pytest.mark.parametrize(
    ("cut", "saved"), [((3, 0), {"every_epochs": 1}), ((3, 2), {"every_steps": 7})], ids=["between epochs", "mid-epoch"]
)
@pytest.mark.parametrize(
    "make", [pytest.param(make, id=f"{cls.__name__}-{i}") for cls in MAKERS for i, make in enumerate(MAKERS[cls])]
)
def test_a_new_instance_continues_as_the_old_one_would_have(make, cut, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = fit(make)
    for name in ("history.csv", "history.jsonl"):
        (tmp_path / name).unlink(missing_ok=True)
    checkpoint = Checkpoint("run", **saved)
    assert fit(make, *cut, checkpoint=checkpoint) is None
    resumed = fit(make, checkpoint=checkpoint)
    assert_equal(expected, resumed)
    ended = fit(make, checkpoint=checkpoint)  # nothing is left to train; the saved outcome is restored
    if isinstance(ended[-1], dict):  # without training, more attributes keep their initial values
        ended[-1] = {name: ended[-1][name] for name in expected[-1]}
    assert_equal(expected[1:], ended[1:])


class Kinds(Callback):
    """Keeps attributes of many kinds, and changes each in every epoch and batch."""

    def __init__(self):
        self.array, self.small = np.zeros((2, 2)), np.zeros((1, 2), np.uint8)
        self.counts, self.lists, self.ordered = Counter(), defaultdict(list), OrderedDict()
        self.latest, self.names, self.raw, self.point = deque(maxlen=2), set(), b"", Point(0, 0)

    def before_epoch(self, run):
        self.note(run.epoch)

    def after_batch(self, run):
        self.note(run.global_step)

    def note(self, n):
        self.array += n
        self.small += np.uint8(1)
        self.counts[n] += 1
        self.lists[n % 2].append(n)
        self.ordered.setdefault(n, n)
        self.ordered.move_to_end(n)
        self.latest.append(n)
        self.names.add(str(n))
        self.raw += b"x"
        self.point = self.point._replace(x=n)


Point = namedtuple("Point", "x y")


def test_attributes_of_every_kind_go_on_as_they_were(tmp_path):
    def train(step=None, **options):
        torch.manual_seed(0)
        batches = [(torch.randn(4, 2), torch.randn(4, 1)) for _ in range(4)]
        learn = Learner(DataLoaders(batches, batches[:1]), nn.Linear(2, 1), nn.MSELoss(), torch.optim.SGD)
        kinds = Kinds()
        with learn.no_logging():
            learn.fit(2, 0.1, cbs=[kinds, StopAt(step)], **options)
        return kinds.state_dict()

    whole = train()
    with pytest.raises(Stop):
        train(6, checkpoint=Checkpoint(tmp_path, every_steps=1))
    resumed = train(checkpoint=Checkpoint(tmp_path, every_steps=1))
    assert len(whole) == 9
    for name, value in whole.items():
        assert type(resumed[name]) is type(value), name
        assert np.array_equal(resumed[name], value) if isinstance(value, np.ndarray) else resumed[name] == value
