"""`SaveBest`: keep the best model of a run, and put it back at the end. `callbacks.tracking` says what is best."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor, nn

from minilearner import processes
from minilearner.callbacks.progress import announce
from minilearner.callbacks.tracking import Tracker
from minilearner.copies import copy_apart
from minilearner.files import check_writable, write_atomically
from minilearner.models.tensors import read_extra_state
from minilearner.tensor_file import pack_beside
from minilearner.training.run import Run

__all__ = ["SaveBest"]


class SaveBest(Tracker):
    """Keeps the model as it was when the monitored value was best, and puts it back when the run ends.

    At each improvement, also in mid-epoch, weights, buffers and extra state are copied to the CPU's memory. With `path`
    they are also written to a file, completely or not at all. The copies are of the weights that were validated: with
    `EMA` or `SWA`, the averages. `validate` and `lr_find` neither write nor restore anything, and a file of an earlier
    run is never read. If the run is interrupted, the model stays as it is; call `put_back` to get the best weights.

    A line says what is put back: the epoch, the metric and its value, also if the last epoch was the best. The record's
    `settings["put_back"]` holds the same as data: "monitor", "value", "epoch" (from 0), and "step", the updates before
    it. If nothing is put back, because of `restore=False` or an interrupt, there is neither.

    The optimizer keeps its latest state. Each run starts over: `best` is reset, and the first value is the best so far.

    Example: `SaveBest("accuracy", path="best.safetensors")`; read the file with `safetensors.torch.load_file`.

    Args:
        monitor, mode, min_delta: see `Tracker`.
        path: a file that always holds the best weights so far, in safetensors' format. Its metadata name the epoch.
        restore: whether the model ends with the best weights. If False, it keeps the last ones.

    Attributes:
        best: the best value, None before the first.
        best_epoch: the epoch, from 0, of the best value.
        best_step: how many updates the run had made by then.

    Raises:
        ValueError: as in `Tracker`. When a run begins: `path` cannot be written.
        TypeError: when a run begins: a module has an extra state that is not data, so it cannot be written to `path`.
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
        self.best_step: int | None = None
        self._best_in_mid_epoch = False
        self._is_written = False
        self._weights: dict[str, Tensor] = {}
        self._extra: dict[str, Any] = {}
        self._of_loss: list[Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        """Returns the best weights and what is known of them, but not whether this process has written the file."""
        return {name: part for name, part in super().state_dict().items() if name != "_is_written"}

    def before_fit(self, run: Run) -> None:
        super().before_fit(run)
        self.best_epoch, self.best_step, self._weights, self._extra, self._of_loss = None, None, {}, {}, []
        self._is_written = False
        if self.path is not None:
            check_writable(self.path)
            _pack_extra_state(read_extra_state(run.model))

    def after_validate(self, run: Run) -> None:
        self._keep_if_best(run)

    def after_epoch(self, run: Run) -> None:  # values from training are known only now
        self._keep_if_best(run)

    def after_fit(self, run: Run) -> None:
        if run.interrupted:
            return
        if not self._weights:
            warnings.warn(
                f"{self!r} found no best value, so the model keeps its last weights. "
                f"The latest {self.monitor!r} is {run.metrics.get(self.monitor, 'missing')}.",
                stacklevel=2,
            )
            return
        where = f"epoch {run.label_epoch(self.best_epoch)}"
        if self._best_in_mid_epoch:
            where += f", step {self.best_step}"
        if self.restore:
            self.put_back(run.model, run.step.loss_func)
            announce(run, f"SaveBest put back the weights of {where}: {self.monitor} {self.best:.4f}.")
            if run.record is not None:
                what = {"monitor": self.monitor, "value": self.best, "epoch": self.best_epoch, "step": self.best_step}
                run.record.settings["put_back"] = what
        if self.path is not None:
            if not self._is_written:  # a resumed run that has not improved since: the file may be gone, or another's
                self._write(self.path)
            announce(run, f"SaveBest wrote the weights of {where} to {self.path.resolve()}")

    def put_back(self, model: nn.Module, loss_func: Any = None) -> None:
        """Loads the best weights of the latest run into a model.

        Args:
            model: the model that was trained, or one like it.
            loss_func: the loss. If it has parameters or buffers, they become what they were with the best weights.

        Raises:
            RuntimeError: no weights were kept yet.
        """
        if not self._weights:
            raise RuntimeError(f"{self!r} has kept no weights yet.")
        own = model.state_dict()
        weights = {
            name: processes.distribute_like(t, now if isinstance(now := own.get(name, t), Tensor) else t)
            for name, t in self._weights.items()
        }
        model.load_state_dict(weights | copy_apart(self._extra))
        with torch.no_grad():
            for now, best in zip(_tensors_in(loss_func), self._of_loss, strict=False):  # none without `loss_func`
                now.copy_(best)

    def _keep_if_best(self, run: Run) -> None:
        if self.monitor not in run.metrics or not self.improved(run):
            return
        self.best_epoch, self.best_step = run.epoch, run.global_step
        self._best_in_mid_epoch = run.in_mid_epoch
        state = run.model.state_dict()
        # safetensors needs contiguous tensors that share no memory, so tied weights are copied twice.
        self._weights = {
            name: processes.whole(t.detach()).to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, t in state.items()
            if isinstance(t, Tensor)
        }
        self._of_loss = [t.detach().to("cpu", copy=True) for t in _tensors_in(run.step.loss_func)]
        self._extra = copy_apart({name: value for name, value in state.items() if name.endswith("_extra_state")})
        if self.path is not None:
            self._write(self.path)

    def _write(self, path: Path) -> None:
        about = {"monitor": self.monitor, "value": repr(self.best), "epoch": str(self.best_epoch)}
        extra, beside = _pack_extra_state(self._extra)
        write_atomically(path, save(self._weights | beside, metadata=about | extra))
        self._is_written = True

    def __repr__(self) -> str:
        return f"SaveBest({self.monitor!r}, mode={self.mode!r})"


def _tensors_in(loss_func: Any) -> list[Tensor]:
    """Returns the parameters and buffers of a loss. Their order is the same if a callback has wrapped it."""
    return [*loss_func.parameters(), *loss_func.buffers()] if isinstance(loss_func, nn.Module) else []


def _pack_extra_state(extra: dict[str, Any]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Returns the extra state for a file's metadata, and the tensors in it. One that is a tensor is a weight there."""
    others = {name: value for name, value in extra.items() if not isinstance(value, Tensor)}
    return pack_beside(others) if others else ({}, {})
