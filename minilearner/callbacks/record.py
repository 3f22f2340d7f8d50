"""Writes down what happens: the loss and metrics of a pass, and the rows of the recorder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from minilearner.metrics import Metric
from minilearner.results.recorder import RunRecord
from minilearner.training.callback import Callback
from minilearner.training.optimizers import momentum_of
from minilearner.training.packing import data_attributes
from minilearner.training.run import Run
from minilearner.tree import n_items

__all__ = ["Evaluate", "Record"]


class Evaluate(Callback):
    """Computes the loss and the metrics of a validation pass, as means over items, into `run.metrics`.

    Nothing is read from the device until the pass is over.

    Args:
        metrics: by the name of their column.
    """

    order = -50  # before users' callbacks, which read `run.metrics` and may cancel

    def __init__(self, metrics: dict[str, Metric]):
        self.metrics = metrics
        self._losses: list[Tensor] = []
        self._sizes: list[int] = []

    def before_fit(self, run: Run) -> None:
        if run.dls.valid is not None:
            run.columns += ["valid_loss", *self.metrics]

    def before_validate(self, run: Run) -> None:
        self._losses, self._sizes = [], []
        for metric in self.metrics.values():
            metric.reset()

    def after_batch(self, run: Run) -> None:
        if run.training or run.loss is None:
            return
        self._losses.append(run.loss.detach())
        self._sizes.append(n_items(run.x))
        for metric in self.metrics.values():
            metric.update(run.pred, run.y)

    def after_validate(self, run: Run) -> None:
        if not self._losses:  # cancelled before its first batch: there is nothing to say
            return
        losses = torch.stack(self._losses).double()
        sizes = torch.tensor(self._sizes, dtype=torch.float64, device=losses.device)
        run.metrics["valid_loss"] = float((losses * sizes).sum() / sizes.sum())
        for name, metric in self.metrics.items():
            run.metrics[name] = _as_number(name, metric)
        self._losses, self._sizes = [], []


class Record(Callback):
    """Writes the steps and epochs of a run into `run.record`.

    A step's loss is kept as the tensor it is and read at the end of the epoch, so that no batch waits for the device.

    Args:
        train_metrics: also computed on the training batches, at the cost of their time, into columns named "train_"
            and theirs.
    """

    order = -49

    def __init__(self, train_metrics: dict[str, Metric] | None = None):
        self.train_metrics = {f"train_{name}": metric for name, metric in (train_metrics or {}).items()}
        self._began = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Returns how long this epoch has lasted, and what its training metrics have gathered."""
        metrics = {name: data_attributes(metric) for name, metric in self.train_metrics.items()}
        return {"seconds": time.perf_counter() - self._began, "train_metrics": metrics}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` stood."""
        self._began = time.perf_counter() - state["seconds"]
        for name, attributes in state["train_metrics"].items():
            vars(self.train_metrics[name]).update(attributes)

    def before_fit(self, run: Run) -> None:
        run.columns += ["train_loss", "smooth_loss", *self.train_metrics]

    def before_epoch(self, run: Run) -> None:
        self._began = time.perf_counter()
        run.metrics = {}
        for metric in self.train_metrics.values():
            metric.reset()

    def after_batch(self, run: Run) -> None:
        if not run.training or run.loss is None:
            return
        group = run.optimizer.param_groups[-1]
        lr = group["lr"] * run.step.lr_factor
        _record(run).add_step(run.global_step, lr, momentum_of(group), run.loss, n_items(run.x))
        if self.train_metrics:
            pred = run.pred.detach()
            for metric in self.train_metrics.values():
                metric.update(pred, run.y)

    def before_train(self, run: Run) -> None:
        _record(run).start_epoch(run.epoch)

    def after_train(self, run: Run) -> None:
        record = _record(run)
        losses = {"train_loss": record.train_loss(run.epoch), "smooth_loss": record.smooth_loss}
        metrics = {name: _as_number(name, metric) for name, metric in self.train_metrics.items()}
        run.metrics = {**losses, **metrics, **run.metrics}  # in the order of their columns

    def after_validate(self, run: Run) -> None:
        if run.in_mid_epoch:
            _record(run).add_epoch({"epoch": run.epoch, "step": run.global_step, **run.metrics})

    def after_epoch(self, run: Run) -> None:
        row = {"epoch": run.epoch, **run.metrics, "time_seconds": time.perf_counter() - self._began}
        _record(run).add_epoch(row)


def _record(run: Run) -> RunRecord:
    if run.record is None:
        raise RuntimeError("`Record` needs a run with a record to write to.")
    return run.record


def _as_number(name: str, metric: Metric) -> float:
    value = metric.compute()
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the metric {name!r} must compute one number; it computed {type(value).__name__}. "
            "Give one metric for each number wanted, such as an averaged one."
        ) from error
