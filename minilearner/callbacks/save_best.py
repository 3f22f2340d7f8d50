"""Keep the best model of a run."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save
from torch import Tensor, nn

from minilearner import processes
from minilearner.callbacks.tracking import Tracker
from minilearner.files import check_writable, write_atomically
from minilearner.training.run import Run

__all__ = ["SaveBest"]


class SaveBest(Tracker):
    """Keeps the model as it was when the monitored value was best, and puts it back when the run ends.

    Weights and buffers are copied to the CPU's memory at each improvement, also at validations in mid-epoch; with
    `path` they are written to a file too, whole or not at all. What is kept is what was validated: with `EMA` or `SWA`
    the averages. Nothing is written or put back by `validate` and `lr_find`, nor ever read from a file of an earlier
    run. An interrupted run leaves the model as it then was; `put_back` is there for it.

    The optimizer keeps the state of the last update. Each run begins anew: `best` is forgotten, and its first value
    is its best so far.

    Example: `SaveBest("accuracy", path="best.safetensors")`, whose file `safetensors.torch.load_file` reads.

    Args:
        monitor, mode, min_delta: see `Tracker`.
        path: a file that always holds the best so far, in safetensors' format; its metadata say which epoch that was.
        restore: False leaves the last weights in the model at the end.

    Attributes:
        best: the best value, None before the first.
        best_epoch: in which epoch (from 0) that was.

    Raises:
        ValueError: as in `Tracker`; when a run begins, `path` cannot be written.
    """

    def __init__(
        self,
        monitor: str = "valid_loss",
        *,
        mode: Literal["min", "max"] | None = None,
        min_delta: float = 0.0,
        path: str | os.PathLike[str] | None = None,
        restore: bool = True,
    ):
        super().__init__(monitor, mode=mode, min_delta=min_delta)
        self.path = None if path is None else Path(path)
        self.restore = restore
        self.best_epoch: int | None = None
        self._weights: dict[str, Tensor] = {}

    def before_fit(self, run: Run) -> None:
        super().before_fit(run)
        self.best_epoch, self._weights = None, {}
        if self.path is not None:
            check_writable(self.path)

    def after_validate(self, run: Run) -> None:
        self._look(run)

    def after_epoch(self, run: Run) -> None:  # what does not come from a validation is known only now
        self._look(run)

    def after_fit(self, run: Run) -> None:
        if run.interrupted:
            return
        if not self._weights:
            warnings.warn(
                f"{self!r} never saw a value that was the best so far, so the model was left as it is. "
                f"Its newest {self.monitor!r} is {run.metrics.get(self.monitor, 'missing')}.",
                stacklevel=2,
            )
        elif self.restore:
            self.put_back(run.model)

    def put_back(self, model: nn.Module) -> None:
        """Gives a model the best weights of the newest run.

        Raises:
            RuntimeError: none have been kept.
        """
        if not self._weights:
            raise RuntimeError(f"{self!r} has kept no weights yet.")
        own = model.state_dict()
        model.load_state_dict({name: processes.laid_out(t, own.get(name, t)) for name, t in self._weights.items()})

    def _look(self, run: Run) -> None:
        if self.monitor not in run.metrics or not self.improved(run):
            return
        self.best_epoch = run.epoch
        # Contiguous, as safetensors wants them, and each a copy of its own, tied weights too.
        self._weights = {
            name: processes.whole(t.detach()).to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, t in run.model.state_dict().items()
        }
        if self.path is not None:
            about = {"monitor": self.monitor, "value": repr(self.best), "epoch": str(run.epoch)}
            write_atomically(self.path, save(self._weights, metadata=about))

    def __repr__(self) -> str:
        return f"SaveBest({self.monitor!r}, mode={self.mode!r})"
