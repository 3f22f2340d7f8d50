"""Files of earlier versions can still be read: a checkpoint folder, an export and a weights file in `earlier/`.

They were written before constructor arguments were compared:  PYTHONPATH=<that code> python test_earlier_files.py
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR

from minilearner import (
    EMA,
    MLP,
    Callback,
    CheckpointError,
    DataLoaders,
    EarlyStopping,
    Learner,
    MixUp,
    SaveBest,
    TorchScheduler,
    accuracy,
    load_learner,
    set_seed,
)
from minilearner.callbacks.checkpoint import Checkpoint

EARLIER = Path(__file__).parent / "earlier"
N_EPOCHS = 3


class StopAt(Callback):
    """Ends a run after a batch, as a crash in user code would."""

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
    """Returns the learner whose run is in `earlier/folder`, stopped in the second of its three epochs."""
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
    """Returns the learner whose weights and export are in `earlier/`. Its predictions are in `expected`."""
    set_seed(6)
    x, y = torch.rand(12, 2), torch.arange(12) % 2
    dls = DataLoaders.from_arrays((x, y), (x[:6], y[:6]), bs=4, seed=2, vocab=["cat", "dog"])
    learn = Learner(dls, MLP((2, 3, 2)), nn.CrossEntropyLoss(label_smoothing=0.1))
    with learn.no_logging():
        learn.fit(1, 0.1)
    return learn


@pytest.fixture
def folder(tmp_path):
    """A copy of a folder that was written before constructor arguments were compared."""
    return shutil.copytree(EARLIER / "folder", tmp_path / "folder")


def test_a_run_of_an_earlier_version_resumes(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    whole, resumed, again = resumable(), resumable(), resumable()
    expected, record = fit(whole, None), fit(resumed, folder)
    assert record.steps["step"].tolist() == expected.steps["step"].tolist()
    assert [row["epoch"] for row in record.epochs] == [0, 1, 2]
    assert resumed.cbs[-1].epochs == [0, 1, 2]
    # Not the whole run's weights: earlier versions weighed mixed items by other sums of class weights.
    assert bool(torch.isfinite(resumed.model.weight).all())
    assert fit(again, copy).steps["loss"].tolist() == record.steps["loss"].tolist()
    assert torch.equal(again.model.weight, resumed.model.weight)


def test_what_an_earlier_version_compared_is_still_compared(folder):
    learn = resumable()
    learn.loss_func = nn.MultiMarginLoss()
    with pytest.raises(CheckpointError, match=r"loss: saved 'CrossEntropyLoss\(\)', now 'MultiMarginLoss\(\)'"):
        fit(learn, folder)


def test_a_model_that_an_earlier_version_exported_predicts(tmp_path):
    learn = load_learner(EARLIER / "export.safetensors")
    expected = trained()
    x = expected.dls.train.x
    assert learn.predict(x[0])[0] == expected.predict(x[0])[0] and learn.dls.vocab == ("cat", "dog")
    torch.testing.assert_close(learn.model(x), expected.model(x))
    assert learn.loss_func.label_smoothing == 0.1


def test_weights_that_an_earlier_version_saved_are_loaded(tmp_path):
    learn, expected = trained(), trained()
    with torch.no_grad():
        for parameter in learn.model.parameters():
            parameter.zero_()
    learn.path = EARLIER
    learn.load("weights")
    for name, tensor in expected.model.state_dict().items():
        torch.testing.assert_close(learn.model.state_dict()[name], tensor)
    steps = [kept["step"].item() for kept in learn.optimizer.state_dict()["state"].values()]
    assert steps == [kept["step"].item() for kept in expected.optimizer.state_dict()["state"].values()]


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
