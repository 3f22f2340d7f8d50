"""The script of `test_trouble`, run alone and with torchrun in two processes. Only one process has trouble."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from functools import partial
from pathlib import Path

import torch
from torch import nn

from minilearner import (
    Callback,
    DataLoaders,
    GradientAccumulation,
    Learner,
    NonFinite,
    NonFiniteError,
    SplitOnOOM,
    accuracy,
    processes,
)
from minilearner.callbacks.checkpoint import Checkpoint
from minilearner.training import distributed

SGD = partial(torch.optim.SGD, momentum=0.9)
SHARDS = hasattr(torch.cpu.current_stream(), "record_event")  # whether this torch has fully_shard on CPUs
BAD = 17  # the number of an item that is not finite


class Small(nn.Module):
    """Has memory for three items in the second process, and for any number elsewhere."""

    def forward(self, x):
        if self.training and processes.rank() == 1 and len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return x


class BadItem(Callback):
    """Makes an item NaN once training has begun, as a transform might. Data that are so at the start are refused."""

    def before_fit(self, run):
        run.dls.train.x[BAD] = float("nan")


class BadGradient(Callback):
    """Makes the gradient infinite under a finite loss, only in the last process's own part of it."""

    def after_backward(self, run):
        if run.iter == 2 and run.epoch == 0 and processes.rank() == processes.count() - 1:
            processes.own_part(run.model[0].weight.grad).view(-1)[0] = float("inf")


class Fail(Callback):
    def after_batch(self, run):
        if not run.training or run.global_step != 6 or "FAIL" not in os.environ:
            return
        if os.environ["FAIL"] != "signals":
            raise ValueError("enough")
        if processes.rank() == 1:
            signal.raise_signal(signal.SIGTERM)  # once as sent to all processes, and once as torchrun passes it on
            signal.raise_signal(signal.SIGTERM)


def learner(strategy="ddp", **options):
    x, y = torch.randn(70, 4, generator=torch.Generator().manual_seed(0)), torch.arange(70) % 3
    dls = DataLoaders.from_arrays((x, y), (x, y), bs=12 // processes.count(), seed=3, drop_last=False)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 16), Small(), nn.Tanh(), nn.Dropout(options.pop("dropout", 0.0)), nn.Linear(16, 3)
    )
    return Learner(dls, model, nn.CrossEntropyLoss(), SGD, strategy=strategy, **options)


def trained(learn, *cbs, **options):
    with learn.no_bar(), learn.no_logging(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learn.fit(2, 0.1, cbs=[*cbs], **options)
    tensors = [processes.whole(t.detach()).double().flatten() for t in learn.model.state_dict().values()]
    return {
        "weights": torch.cat(tensors).tolist(),
        "losses": learn.recorder.losses.tolist(),
        "settings": learn.recorder.runs[-1].settings,
    }


def roomy(learn):
    learn.model[1] = nn.Identity()
    return learn


def poisoned(strategy="ddp"):
    return roomy(learner(strategy, cbs=[BadItem()]))


def raised(strategy="ddp"):
    learn = poisoned(strategy)
    positions = learn.dls.train.indices(0).tolist()
    try:
        trained(learn, NonFinite())
    except NonFiniteError as error:
        return {"message": str(error), "positions": error.positions, "order": positions}


def non_finite(folder):
    found = {"raise": raised()}
    for policy in ("skip", "rollback"):
        found[policy] = trained(poisoned(), NonFinite(policy, every_steps=3))
        found[f"{policy} gradient"] = trained(
            roomy(learner()), NonFinite(policy, every_steps=1), BadGradient(), GradientAccumulation(2)
        )
    return found


def non_finite_sharded(folder):
    if processes.count() > 1 and not SHARDS:
        return {}
    distributed._LEAST_UNIT = 20
    found = {"raise": raised("fsdp")}
    for policy in ("skip", "rollback"):
        found[policy] = trained(poisoned("fsdp"), NonFinite(policy, every_steps=3))
        found[f"{policy} gradient"] = trained(roomy(learner("fsdp")), NonFinite(policy), BadGradient())
    return found


def split(folder):
    found = {"plain": trained(learner(), SplitOnOOM())}
    found["accumulation"] = trained(learner(), SplitOnOOM(), GradientAccumulation(2))
    found["watched"] = trained(learner(), SplitOnOOM(), NonFinite())
    try:
        trained(learner("fsdp"), SplitOnOOM())
    except ValueError as error:
        found["sharded"] = [str(error), getattr(error, "__notes__", [])]
    return found


def resumed(folder):
    """Trains with "ddp" or "fsdp", with dropout and training metrics, and with an interruption at step 6 of 12."""
    strategy = os.environ.get("STRATEGY", "ddp")
    distributed._LEAST_UNIT = 20
    learn = roomy(learner(strategy, dropout=0.3, metrics=accuracy, seed=7 + processes.rank()))
    learn.recorder.train_metrics = True
    found = trained(learn, Fail(), checkpoint=Checkpoint(folder / "run", every_steps=4))
    return {**found, "history": learn.recorder.history["valid_loss"]}


PARTS = {part.__name__: part for part in (non_finite, non_finite_sharded, split, resumed)}


def main(names, folder):
    found = {name: PARTS[name](folder) for name in names.split(",")}
    (folder / f"rank{processes.rank()}.json").write_text(json.dumps(found, default=str))
    return json.loads(json.dumps(found, default=str))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
