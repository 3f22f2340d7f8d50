"""Writes down what happens: the loss and metrics of a pass, and the rows of the recorder."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from minilearner import processes
from minilearner.metrics import GroupedUpdates, MeanMetric, Metric
from minilearner.results.recorder import RunRecord
from minilearner.training.callback import Callback
from minilearner.training.optimizers import momentum_of
from minilearner.training.packing import data_attributes, load_attributes
from minilearner.training.run import Run
from minilearner.tree import is_empty, map_tensors, n_items, to_device

__all__ = ["Evaluate", "Record"]


class Evaluate(Callback):
    """Computes the loss and the metrics of a validation pass, as means over items, into `run.metrics`.

    Nothing is read from the device until the pass is over. Several processes, each with its share of the batches, come
    to the values of one: losses and metrics that are functions are added up, torchmetrics objects exchange what they
    hold, and any other object is given all batches, in their order, in every process.

    Args:
        metrics: by the name of their column.
    """

    order = -50  # before users' callbacks, which read `run.metrics` and may cancel

    def __init__(self, metrics: dict[str, Metric]):
        self.metrics = metrics
        self._losses: list[Tensor] = []
        self._sizes: list[int] = []
        self._batches: list[tuple[Any, Any]] = []

    def before_fit(self, run: Run) -> None:
        if run.dls.valid is not None:
            run.columns += ["valid_loss", *self.metrics]

    def before_validate(self, run: Run) -> None:
        self._losses, self._sizes, self._batches = [], [], []
        for metric in self.metrics.values():
            metric.reset()

    def after_batch(self, run: Run) -> None:
        if run.training or run.loss is None or is_empty(run.x):
            return
        self._losses.append(run.loss.detach())
        self._sizes.append(n_items(run.x))
        waiting = self._waiting(run)
        if waiting:
            self._batches.append(map_tensors(lambda t: t.detach().cpu(), (run.pred, run.y)))
        for metric in self.metrics.values():
            if not waiting or _adds_up(metric):
                metric.update(run.pred, run.y)

    def after_validate(self, run: Run) -> None:
        total = 0.0
        if self._losses:
            losses = torch.stack(self._losses).double()
            total = float((losses * torch.tensor(self._sizes, dtype=torch.float64, device=losses.device)).sum())
        n, n_batches = float(sum(self._sizes)), float(len(self._losses))
        if run.step.n_processes > 1:
            total, n, n_batches = processes.add_up([total, n, n_batches])
            self._give_all_batches(run)
        if not n_batches:  # cancelled before its first batch: there is nothing to say
            return
        run.metrics["valid_loss"] = total / n if n else math.nan
        for name, metric in self.metrics.items():
            run.metrics[name] = _as_number(name, metric, run)
        self._losses, self._sizes, self._batches = [], [], []

    def _waiting(self, run: Run) -> list[Metric]:
        """The metrics that must wait for the batches of the other processes."""
        return [] if run.step.n_processes == 1 else [one for one in self.metrics.values() if not _adds_up(one)]

    def _give_all_batches(self, run: Run) -> None:
        metrics = self._waiting(run)
        if not metrics:
            return
        rounds = zip_longest(*processes.gather(self._batches))
        for batch in (batch for dealt in rounds for batch in dealt if batch is not None):
            pred, y = to_device(batch, run.dls.device)
            for metric in metrics:
                metric.update(pred, y)


class Record(Callback):
    """Writes the steps and epochs of a run into `run.record`.

    A step's loss is kept as the tensor it is and read at the end of the epoch, so that no batch waits for the device.

    Args:
        train_metrics: also computed on the training batches, at the cost of their time, into columns named "train_"
            and theirs.
    """

    order = -49
    differs_by_process = True  # training metrics see a process's own part

    def __init__(self, train_metrics: dict[str, Metric] | None = None):
        self.train_metrics = {f"train_{name}": metric for name, metric in (train_metrics or {}).items()}
        self._updates = GroupedUpdates(self.train_metrics.values())
        self._began = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Returns how long this epoch has lasted, and what its training metrics have gathered."""
        metrics = {name: data_attributes(metric) for name, metric in self.train_metrics.items()}
        seconds = time.perf_counter() - self._began
        return {"seconds": seconds, "train_metrics": metrics, "waiting": self._updates.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` stood."""
        self._began = time.perf_counter() - state["seconds"]
        for name, attributes in state["train_metrics"].items():
            load_attributes(self.train_metrics[name], attributes)
        self._updates.load_state_dict(state["waiting"])

    def before_fit(self, run: Run) -> None:
        if odd := [name for name, one in self.train_metrics.items() if run.step.n_processes > 1 and not _adds_up(one)]:
            raise ValueError(
                f"several processes cannot join the training metric {odd[0]!r}, for it is neither a function nor from "
                "torchmetrics. Leave it out, or set recorder.train_metrics to False."
            )
        run.columns += ["train_loss", "smooth_loss", *self.train_metrics]

    def before_epoch(self, run: Run) -> None:
        self._began = time.perf_counter()
        run.metrics = {}
        self._updates.reset()
        for metric in self.train_metrics.values():
            metric.reset()

    def after_batch(self, run: Run) -> None:
        if not run.training or run.loss is None:
            return
        group = run.optimizer.param_groups[-1]
        lr = group["lr"] * run.step.lr_factor
        _record(run).add_step(run.global_step, lr, momentum_of(group), run.loss, run.step.items_in(run.x))
        if self.train_metrics and not is_empty(run.x):
            self._updates.update(run.pred.detach(), run.y)

    def before_train(self, run: Run) -> None:
        _record(run).start_epoch(run.epoch)

    def after_train(self, run: Run) -> None:
        record = _record(run)
        self._updates.flush()
        losses = {"train_loss": record.train_loss(run.epoch), "smooth_loss": record.smooth_loss}
        metrics = {name: _as_number(name, metric, run) for name, metric in self.train_metrics.items()}
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


def _adds_up(metric: Metric) -> bool:
    """Whether what several processes gathered can be joined: means, and torchmetrics objects, which do it alone."""
    return isinstance(metric, MeanMetric) or bool(getattr(metric, "sync_on_compute", False))


def _as_number(name: str, metric: Metric, run: Run) -> float:
    if run.step.n_processes > 1 and isinstance(metric, MeanMetric):
        total, n = processes.add_up([float(metric.total), metric.n_items])
        return total / n if n else math.nan
    value = metric.compute()
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the metric {name!r} must compute one number; it computed {type(value).__name__}. "
            "Give one metric for each number wanted, such as an averaged one."
        ) from error
