"""The script of `test_distributed`, which runs it alone in its own process and with torchrun in several.

    torchrun --nproc-per-node 2 tests/training/distributed_script.py all FOLDER

The global batch size is divided among the processes, so that any number of them does the same training.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from minilearner import (
    EMA,
    SWA,
    Callback,
    CancelBackward,
    CancelBatch,
    ClassificationInterpretation,
    CSVLogger,
    DataLoaders,
    GradientAccumulation,
    GradientClip,
    Learner,
    SaveBest,
    SplitOnOOM,
    accuracy,
    processes,
    set_seed,
)
from minilearner.callbacks.checkpoint import Checkpoint
from minilearner.training import distributed

GLOBAL_BATCH = 24
SGD = partial(torch.optim.SGD, momentum=0.9)
CLASS_WEIGHTS = torch.tensor([1.0, 9.0, 0.3])


def arrays():
    """Returns three overlapping classes of points: 151 to train, which no batch size divides, and 61 to validate."""
    rng = np.random.default_rng(0)
    y = np.arange(212) % 3
    x = (np.array([[0.0, 3.0], [3.0, -2.0], [-3.0, -2.0]])[y] + rng.normal(size=(212, 2)) * 2).astype(np.float32)
    return (x[:151], y[:151]), (x[151:], y[151:])


def batch_size():
    return GLOBAL_BATCH // processes.count()


def loaders(**options):
    return DataLoaders.from_arrays(*arrays(), bs=batch_size(), seed=3, **options)


def net(norm=False):
    # Every process starts with its own weights, and takes those of process 0.
    torch.manual_seed(processes.rank())
    middle = [nn.BatchNorm1d(16)] if norm else []
    return nn.Sequential(nn.Linear(2, 16), *middle, nn.ReLU(), nn.Linear(16, 3))


def weights(learn):
    tensors = learn.model.state_dict().values()
    return torch.cat([processes.whole(t.detach()).double().flatten() for t in tensors]).tolist()


class Distinct:
    """A metric that is not a mean, and needs all items in order."""

    def reset(self):
        self.seen = []

    def update(self, pred, y):
        self.seen += y.tolist()

    def compute(self):
        return sum(i * label for i, label in enumerate(self.seen))


def training(folder):
    learn = Learner(loaders(drop_last=False), net(), metrics=[accuracy, Distinct()], opt_func=SGD, path=folder)
    learn.fit_one_cycle(2, 0.05, cbs=[GradientClip(0.5), CSVLogger(folder / "history.csv")])
    interp = ClassificationInterpretation.from_learner(learn)
    preds, targets = learn.get_preds()
    found = {
        "weights": weights(learn),
        "losses": learn.recorder.losses.tolist(),
        "sizes": learn.recorder.steps["n_items"].tolist(),
        "history": {name: learn.recorder.history[name] for name in ("train_loss", "valid_loss", "distinct")},
        "validate": learn.validate(),
        "matrix": interp.confusion_matrix().tolist(),
        "worst": interp.top_losses(9).indices.tolist(),
        "preds": preds.tolist(),
        "targets": targets.tolist(),
    }
    sweep = learn.lr_find(show_plot=False, num_it=60)
    found["sweep"] = [sweep.losses.tolist(), sweep.recommended, sweep.stop_reason]
    learn.save("model")
    with torch.no_grad():
        learn.model[0].weight.zero_()
    learn.load("model")
    return {**found, "after": weights(learn)}


def accumulation(folder):
    learn = Learner(loaders(drop_last=False), net(), opt_func=SGD)
    learn.fit(2, 0.05, cbs=GradientAccumulation(2))
    return {"weights": weights(learn)}


class SkipLast(Callback):
    """Cancels the backward pass of the last batch, which would have completed the accumulation."""

    def before_backward(self, run):
        if run.iter == run.n_batches - 1:
            raise CancelBackward


def cancelled(folder):
    dls = loaders()
    learn = Learner(dls, net(), opt_func=SGD)
    assert len(dls.train) % 2 == 0
    learn.fit(2, 0.05, cbs=[GradientAccumulation(2), SkipLast()])
    return {"weights": weights(learn)}


class LookEarly(Callback):
    """Reads each training loss before the backward pass."""

    def __init__(self):
        self.losses = []

    def after_loss(self, run):
        if run.training:
            self.losses.append(run.loss.item())


def early(folder):
    look = LookEarly()
    learn = Learner(loaders(drop_last=False), net(), opt_func=SGD)
    learn.fit(2, 0.05, cbs=look)
    return {"weights": weights(learn), "seen": look.losses, "losses": learn.recorder.losses.tolist()}


class LookAgain(Callback):
    """Computes the loss of each batch once more before the update, without the step's own forward pass."""

    def __init__(self):
        self.losses = []

    def before_step(self, run):
        self.losses.append(run.step.compute_loss(run.model(run.x), run.y).item())


def again(folder):
    look = LookAgain()
    learn = Learner(loaders(drop_last=False), net(), opt_func=SGD)
    learn.fit(2, 0.05, cbs=look)
    return {"weights": weights(learn), "seen": look.losses}


class Double(nn.Module):
    """A model in float64."""

    def __init__(self):
        super().__init__()
        self.net = net().double()

    def forward(self, x):
        return self.net(x.double())


def doubles(folder):
    learn = Learner(loaders(drop_last=False), Double(), nn.CrossEntropyLoss(CLASS_WEIGHTS.double()), opt_func=SGD)
    learn.fit(2, 0.05)
    return {"weights": weights(learn), "losses": learn.recorder.losses.tolist()}


@contextmanager
def counting_messages():
    """Yields a list that grows with each message that only adds up numbers."""
    sent, send = [], processes.send_to_add_up
    processes.send_to_add_up = lambda numbers: sent.append(numbers) or send(numbers)
    try:
        yield sent
    finally:
        processes.send_to_add_up = send


def carried(folder):
    """Trains with losses that the gradients take along, and with a user's own wrapper, whose gradients do not."""
    found = {}
    for name, strategy in {"carried": "auto", "alone": DistributedDataParallel}.items():
        learn = Learner(loaders(drop_last=False), net(norm=True), opt_func=SGD, strategy=strategy)
        with counting_messages() as sent, learn.no_logging():
            learn.fit(2, 0.05)
        found[name] = {"weights": weights(learn), "losses": learn.recorder.losses.tolist(), "messages": len(sent)}
    return found


class KeepGradients(Callback):
    """Leaves the gradients of two batches to the next, of which the second is the smaller last one of an epoch."""

    def after_backward(self, run):
        if run.iter in (1, run.n_batches - 1):
            cancel = CancelBatch()
            cancel.keeps_gradients = True
            raise cancel


def kept(folder):
    learn = Learner(loaders(drop_last=False), net(), opt_func=SGD)
    learn.fit(2, 0.05, cbs=KeepGradients())
    return {"weights": weights(learn)}


def last_item(folder):
    """Trains with one item in the last batch, so that only process 0 has one."""
    (x, y), valid = arrays()
    dls = DataLoaders.from_arrays((x[:145], y[:145]), valid, bs=batch_size(), seed=3, drop_last=False)
    learn = Learner(dls, net(), opt_func=SGD)
    learn.recorder.train_metrics = True
    learn.fit(2, 0.05)
    return {"weights": weights(learn), "sizes": learn.recorder.steps["n_items"].tolist()}


def torch_loaders(folder):
    set_seed(processes.rank())  # all processes use the order of process 0
    train, valid = (TensorDataset(torch.tensor(x), torch.tensor(y)) for x, y in arrays())
    dls = DataLoaders(DataLoader(train, batch_size(), shuffle=True), DataLoader(valid, 10))
    learn = Learner(dls, net(), nn.CrossEntropyLoss(), metrics=accuracy, opt_func=SGD)
    learn.fit(2, 0.05)
    return {"weights": weights(learn), "validate": learn.validate()}


class Uncertain(nn.Module):
    """A weighted loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.log_var = nn.Parameter(torch.tensor(float(processes.rank())))  # all take that of process 0
        self.inner = nn.CrossEntropyLoss(CLASS_WEIGHTS)

    def forward(self, pred, y):
        return torch.exp(-self.log_var) * self.inner(pred, y) + self.log_var


class Short(nn.Module):
    """A model for which memory runs out beyond 5 items."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        if self.training and len(x) > 5:
            raise torch.OutOfMemoryError("out of memory")
        return self.net(x)


def weighted(folder):
    """Trains with losses that divide by something else than the number of items."""
    found = {}
    ignoring = nn.CrossEntropyLoss(CLASS_WEIGHTS, ignore_index=2)
    for name, loss, cbs in (
        ("class weights", ignoring, []),
        ("accumulation", ignoring, [GradientAccumulation(2)]),
        ("sum", nn.CrossEntropyLoss(CLASS_WEIGHTS, reduction="sum"), []),
        ("accumulated sum", nn.CrossEntropyLoss(reduction="sum"), [GradientAccumulation(2)]),
        ("parameter", Uncertain(), []),
    ):
        (x, y), valid = arrays()
        dls = DataLoaders.from_arrays((x[:145], y[:145]), valid, bs=batch_size(), seed=3, drop_last=False)
        learn = Learner(dls, net(), loss, opt_func=SGD, path=folder)
        learn.fit(2, 0.002 if "sum" in name else 0.05, cbs=cbs)
        found[name] = [*weights(learn), *(p.item() for p in getattr(loss, "parameters", tuple)())]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, cbs in (("split", []), ("split, accumulation", [GradientAccumulation(2)])):
            learn = Learner(loaders(), Short(), ignoring, opt_func=SGD)
            learn.fit(2, 0.05, cbs=[SplitOnOOM(), *cbs])
            found[name] = weights(learn)
            found[f"{name} losses"] = learn.recorder.losses.tolist()
    return found


def averages(folder):
    found = {}
    for name, averaging in {"ema": EMA(0.9), "swa": SWA(0.0), "best": SaveBest(path=folder / "best.st")}.items():
        learn = Learner(loaders(), net(norm=True), opt_func=SGD, precision="bf16")
        learn.fit(2, 0.05, cbs=averaging)
        found[name] = weights(learn)
    return found


def frozen(folder):
    learn = Learner(
        loaders(), net(), opt_func=SGD, splitter=lambda m: [list(m[0].parameters()), list(m[2].parameters())]
    )
    learn.fine_tune(1, "auto")
    return {"weights": weights(learn), "kinds": [run.kind for run in learn.recorder.runs]}


def sharded(folder):
    """Trains with a part of the weights in each process. Only newer versions of torch have `fully_shard` on CPUs."""
    found = {}
    if processes.count() > 1 and not hasattr(torch.cpu.current_stream(), "record_event"):
        return found
    distributed._LEAST_UNIT = 20
    for name, averaging in {"ema": EMA(0.9), "best": SaveBest(), "clip": GradientClip(0.5)}.items():
        learn = Learner(loaders(drop_last=False), net(), metrics=accuracy, path=folder, strategy="fsdp")
        learn.fit(2, 0.05, cbs=[averaging, GradientAccumulation(2)], checkpoint=folder / name)
        found[name] = weights(learn)
    found["matrix"] = ClassificationInterpretation.from_learner(learn).confusion_matrix().tolist()
    found["validate"] = learn.validate()
    learn.save("sharded")
    learn.fit(1, 0.05)
    return {**found, "after": weights(learn.load("sharded"))}


class Fail(Callback):
    """Raises an error in the second process in the sixth batch."""

    def after_batch(self, run):
        if run.training and run.global_step == 6 and os.environ.get("FAIL") and processes.rank() == 1:
            raise ValueError("the second process has had enough")


def resumed(folder):
    learn = Learner(loaders(), nn.Sequential(net(), nn.Dropout(0.1)), opt_func=SGD, metrics=accuracy)
    set_seed(7 + processes.rank())
    learn.recorder.train_metrics = True
    learn.fit(3, 0.05, cbs=Fail(), checkpoint=Checkpoint(folder / "run", every_steps=4))
    history = learn.recorder.history
    return {"weights": weights(learn), "history": [history["valid_loss"], history["train_accuracy"]]}


def auto_precision(folder):
    """What was chosen, with the times that only one process measured."""
    learn = Learner(loaders(), net(), precision="auto", device="cpu")
    with learn.no_logging():
        learn.fit(1, checkpoint=folder / "auto")
    return learn.recorder.runs[0].settings["auto_precision"]


_ALL = (
    training,
    early,
    again,
    doubles,
    carried,
    accumulation,
    cancelled,
    kept,
    last_item,
    torch_loaders,
    weighted,
    averages,
    frozen,
    sharded,
    resumed,
    auto_precision,
)
PARTS = {part.__name__: part for part in _ALL}


def main(names, folder):
    parts = {name: part for name, part in PARTS.items() if names in ("all", name)}
    found = {name: part(folder) for name, part in parts.items()}
    (folder / f"rank{processes.rank()}.json").write_text(json.dumps(found))
    return found


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
