"""What earlier versions wrote, to be read for ever: a checkpoint folder, an export and a weights file, in `earlier/`.

To write them anew with the code of another day:  PYTHONPATH=<that code> python tests/saving/earlier_files.py
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR

from minilearner import (
    EMA,
    MLP,
    Callback,
    DataLoaders,
    EarlyStopping,
    Learner,
    MixUp,
    SaveBest,
    TorchScheduler,
    accuracy,
    set_seed,
)
from minilearner.callbacks.checkpoint import Checkpoint

EARLIER = Path(__file__).parent / "earlier"
N_EPOCHS = 3


class StopAt(Callback):
    """Ends a run after a batch, as a crash in a user's own code does."""

    order = 200

    def __init__(self, step: int | None) -> None:
        self.step = step
        self.epochs: list[int] = []

    def load_state_dict(self, state: Any) -> None:
        self.epochs = state["epochs"]

    def before_epoch(self, run: Any) -> None:
        self.epochs.append(run.epoch)

    def after_batch(self, run: Any) -> None:
        if run.training and run.global_step == self.step:
            raise InterruptedError


def resumable(stop_at: int | None = None) -> Learner:
    """The learner whose run is in `earlier/folder`, stopped in the second of its three epochs."""
    set_seed(5)
    x, y = torch.rand(20, 2), torch.arange(20) % 2
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]), label_smoothing=0.1)
    cbs = [
        EMA(0.9, debias=True),
        MixUp(),
        EarlyStopping(patience=9, min_delta=0.01),
        SaveBest("accuracy", restore=False),
        TorchScheduler(lambda optimizer: ExponentialLR(optimizer, 0.9)),
        StopAt(stop_at),
    ]
    dls = DataLoaders.from_arrays((x, y), (x[:6], y[:6]), bs=4, seed=2)
    return Learner(dls, nn.Linear(2, 2), loss, metrics=accuracy, cbs=cbs)


def fit(learn: Learner, folder: Path | None) -> Any:
    checkpoint = None if folder is None else Checkpoint(folder, every_steps=2)
    with learn.no_logging():
        return learn.fit(N_EPOCHS, 0.1, checkpoint=checkpoint)


def trained() -> Learner:
    """The learner whose weights and export are in `earlier/`: what it predicts is in `expected`."""
    set_seed(6)
    x, y = torch.rand(12, 2), torch.arange(12) % 2
    dls = DataLoaders.from_arrays((x, y), (x[:6], y[:6]), bs=4, seed=2, vocab=["cat", "dog"])
    learn = Learner(dls, MLP((2, 3, 2)), nn.CrossEntropyLoss(label_smoothing=0.1))
    with learn.no_logging():
        learn.fit(1, 0.1)
    return learn


def write() -> None:
    shutil.rmtree(EARLIER, ignore_errors=True)
    EARLIER.mkdir()
    try:
        fit(resumable(stop_at=8), EARLIER / "folder")
    except InterruptedError:
        (EARLIER / "folder" / ".lock").unlink()
    learn = trained()
    learn.path = EARLIER
    learn.export("export.safetensors")
    learn.save("weights")
    for path in EARLIER.rglob("*"):
        sys.stdout.write(f"{path}: {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    write()
