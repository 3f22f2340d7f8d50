"""Compute the loss and the metrics of a pass, and write the recorder's rows.

`Evaluate` is for validation, `Record` for training. `metrics` computes the values, `results.recorder` keeps the rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any, TypeAlias

import torch
from torch import Tensor

from minilearner import processes
from minilearner.batch_values import BatchValues
from minilearner.metrics import (
    MeanMetric,
    Metric,
    compute_number,
    disable_exchange,
    list_parts,
    mean_over,
)
from minilearner.training.attributes import data_attributes, load_attributes
from minilearner.training.callback import Callback
from minilearner.training.grouped_updates import GroupedUpdates
from minilearner.training.optimizers import momentum_of
from minilearner.training.run import Run
from minilearner.tree import is_empty, map_tensors, n_items, to_device

__all__ = ["Evaluate", "Record"]

Totals: TypeAlias = "dict[str, list[tuple[float, int]]]"
"""Column -> the total and the number of items of each batch."""


class Evaluate(Callback):
    """Computes the loss and the metrics of a validation pass, as means over items, and puts them into `run.metrics`.

    Until the pass is over, it reads nothing from the device, and processes do not wait for each other. Several
    processes, each with its share of the batches, get the numbers of one process with the same batches: they gather the
    values of losses and metric functions for each batch. Metrics of torchmetrics that count exchange their counts. Any
    other metric object receives all batches, in their order, in every process. With another batch size or number of
    threads, losses may differ in their last bits, as they do in one process. Counts stay the same if predictions do.

    Args:
        metrics: column -> metric.
    """

    ignored_arguments = ("metrics",)  # an identity compares them by name
    order = -50  # before users' callbacks, which read `run.metrics` and may cancel

    def __init__(self, metrics: dict[str, Metric]):
        self.metrics = metrics
        self._losses = BatchValues()
        self._sizes: list[int] = []
        self._batches: list[tuple[Any, Any]] = []
        self._at_once = list(metrics.values())
        self._waiting: list[Metric] = []

    def before_fit(self, run: Run) -> None:
        if run.dls.valid is not None:
            run.columns += ["valid_loss", *self.metrics]

    def before_validate(self, run: Run) -> None:
        self._losses.reset()
        self._sizes, self._batches = [], []
        self._at_once, self._waiting = [], []
        for metric in self.metrics.values():
            metric.reset()
            is_exact = run.step.n_processes == 1 or _combines_exactly(metric)
            (self._at_once if is_exact else self._waiting).append(metric)

    def after_batch(self, run: Run) -> None:
        if run.training or run.loss is None or is_empty(run.x):
            return
        self._losses.add(run.loss)
        self._sizes.append(n_items(run.x))
        if self._waiting:
            self._batches.append(map_tensors(lambda t: t.detach().cpu(), (run.pred, run.y)))
        for metric in self._at_once:
            metric.update(run.pred, run.y)

    def after_validate(self, run: Run) -> None:
        own = _collect_totals(self.metrics)
        own["valid_loss"] = [(loss * n, n) for loss, n in zip(self._losses.read().tolist(), self._sizes, strict=True)]
        gathered, batches = _gather(own, self._batches, run)
        for pred, y in (to_device(batch, run.dls.device) for batch in batches):
            for metric in self._waiting:
                metric.update(pred, y)
        if not gathered["valid_loss"]:  # the pass was cancelled before its first batch
            return
        run.metrics["valid_loss"] = mean_over(gathered["valid_loss"])
        with disable_exchange(self._waiting):
            run.metrics.update(_compute_values(self.metrics, gathered))
        self._losses.reset()
        self._sizes, self._batches = [], []

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty dict; each validation begins anew."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Leaves out what earlier versions saved; each validation begins anew."""


class Record(Callback):
    """Writes the steps and epochs of a run into `run.record`.

    The loss of a step stays a tensor until the end of the epoch, so that no batch waits for the device.

    Args:
        train_metrics: metrics to compute on the training batches too, which takes time. Each column is named "train_"
            and the metric's name.
    """

    order = -49
    ignored_arguments = ("train_metrics",)  # an identity compares them by name
    differs_by_process = True  # training metrics see this process's share

    def __init__(self, train_metrics: dict[str, Metric] | None = None):
        self.train_metrics = {f"train_{name}": metric for name, metric in (train_metrics or {}).items()}
        self._updates = GroupedUpdates(self.train_metrics.values())
        self._began = 0.0
        self._device = torch.device("cpu")

    def state_dict(self) -> dict[str, Any]:
        """Returns how long this epoch has taken so far, and the state of its training metrics."""
        metrics = {name: list(map(data_attributes, list_parts(one))) for name, one in self.train_metrics.items()}
        seconds = time.perf_counter() - self._began
        return {"seconds": seconds, "train_metrics": metrics, "waiting": self._updates.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from the saved state."""
        self._began = time.perf_counter() - state["seconds"]
        for name, saved in state["train_metrics"].items():
            of_parts = [saved] if isinstance(saved, Mapping) else saved  # early versions saved the outer metric alone
            for part, attributes in zip(list_parts(self.train_metrics[name]), of_parts, strict=False):
                load_attributes(part, to_device(attributes, self._device))
        self._updates.load_state_dict(to_device(state["waiting"], self._device))

    def before_fit(self, run: Run) -> None:
        if run.record is None:
            raise RuntimeError("`Record` needs a run with a record to write to.")
        odd = [name for name, metric in self.train_metrics.items() if not _can_combine(metric)]
        if odd and run.step.n_processes > 1:
            raise ValueError(
                f"several processes cannot combine the training metric {odd[0]!r}: it is neither a function nor from "
                "torchmetrics. Remove it, or set `recorder.train_metrics` to False."
            )
        run.columns += ["train_loss", "smooth_loss", *self.train_metrics]
        self._record = run.record
        self._device = run.dls.device  # `load_state_dict` moves saved tensors there

    def before_epoch(self, run: Run) -> None:
        self._began = time.perf_counter()
        run.metrics = {}
        self._updates.reset()
        for metric in self.train_metrics.values():
            metric.reset()

    def after_batch(self, run: Run) -> None:
        if not run.training or run.loss is None:
            return
        step, group = run.step, run.optimizer.param_groups[-1]
        n = step.strategy.count_items(run.x)
        self._record.add_step(run.global_step, group["lr"] * step.lr_factor, momentum_of(group), run.loss, n)
        if self.train_metrics and not is_empty(run.x):
            self._updates.update(map_tensors(Tensor.detach, run.pred), run.y)

    def before_train(self, run: Run) -> None:
        self._record.start_epoch(run.epoch)

    def after_train(self, run: Run) -> None:
        self._updates.flush()
        losses = {"train_loss": self._record.train_loss(run.epoch), "smooth_loss": self._record.smooth_loss}
        gathered, _ = _gather(_collect_totals(self.train_metrics), [], run) if self.train_metrics else ({}, None)
        metrics = _compute_values(self.train_metrics, gathered)
        run.metrics = {**losses, **metrics, **run.metrics}  # in the order of their columns

    def after_validate(self, run: Run) -> None:
        if run.in_mid_epoch:
            self._record.add_epoch({"epoch": run.epoch, "step": run.global_step, **run.metrics})

    def after_epoch(self, run: Run) -> None:
        row = {"epoch": run.epoch, **run.metrics, "time_seconds": time.perf_counter() - self._began}
        self._record.add_epoch(row)


def _collect_totals(metrics: dict[str, Metric]) -> Totals:
    return {name: metric.totals() for name, metric in metrics.items() if type(metric) is MeanMetric}


def _gather(totals: Totals, batches: list[Any], run: Run) -> tuple[Totals, Iterator[Any]]:
    """Gathers the totals of all processes for each metric, and their batches in the order of the data set."""
    if run.step.n_processes == 1:
        return totals, iter(())
    of_each = processes.gather((totals, batches))
    rounds = zip_longest(*(batches for _, batches in of_each))
    in_order = (batch for dealt in rounds for batch in dealt if batch is not None)
    return {name: [pair for totals, _ in of_each for pair in totals[name]] for name in totals}, in_order


def _compute_values(metrics: dict[str, Metric], gathered: Totals) -> dict[str, float]:
    return {
        name: mean_over(gathered[name]) if name in gathered else compute_number(name, metric.compute())
        for name, metric in metrics.items()
    }


def _can_combine(metric: Metric) -> bool:
    """Returns whether several processes can combine a metric: means can, and torchmetrics objects, by themselves."""
    return type(metric) is MeanMetric or bool(getattr(metric, "sync_on_compute", False))


def _combines_exactly(metric: Metric) -> bool:
    """Returns whether combining gives exactly the number of one process: for means, and torchmetrics that count."""
    if type(metric) is MeanMetric:
        return True
    if not _can_combine(metric):
        return False
    states = [state for one in list_parts(metric) for state in getattr(one, "metric_state", {}).values()]
    return bool(states) and all(isinstance(t, Tensor) and not t.is_floating_point() for t in states)
