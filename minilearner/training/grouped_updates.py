"""Several small training batches at once for the metrics that are means over items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minilearner.metrics import MeanMetric, Metric, accuracy, accuracy_multi, error_rate, top_k_accuracy

__all__ = ["GroupedUpdates"]

_GROUP, _SMALL = 64, 1 << 16  # how many batches a metric receives at once, and the most numbers that each may have
_FULL = 1 << 20  # numbers of predictions: a group with so many is full, so that few bytes wait


class GroupedUpdates:
    """Passes batches to metrics: up to 64 small ones at once to our own means over items, one by one to others.

    On a tiny model, three such metrics on every batch take a third of the training step, nearly all of it in calls of
    small operations. The mean over the items of several batches is the same number. Batches that wait are copied, since
    the model or the loader may reuse their memory. The first batch of a pass does not wait, so errors come at once.

    Args:
        metrics: they are updated here. Their owner resets them, and computes them after `flush`.
    """

    def __init__(self, metrics: Iterable[Metric]) -> None:
        metrics = list(metrics)
        self._grouped = [metric for metric in metrics if _is_item_mean(metric)]
        self._others = [metric for metric in metrics if not _is_item_mean(metric)]
        self.reset()

    def reset(self) -> None:
        """Forgets the batches that wait, for a new pass."""
        self._preds: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._kind: Any = None
        self._room = 1

    def update(self, pred: Any, target: Any) -> None:
        """Adds one batch, now or together with its group."""
        for metric in self._others:
            metric.update(pred, target)
        if not self._grouped:
            return
        kind = _kind_of(pred, target)
        if kind != self._kind:
            self.flush()
            self._kind = kind
        if kind is None:
            for metric in self._grouped:
                metric.update(pred, target)
            return
        self._preds.append(pred.clone())
        self._targets.append(target.clone())
        if len(self._preds) >= self._room or len(self._preds) * pred.numel() >= _FULL:
            self.flush()

    def flush(self) -> None:
        """Passes the batches that wait to the metrics."""
        if not self._preds:
            return
        pred, target = torch.cat(self._preds), torch.cat(self._targets)
        self._preds, self._targets, self._room = [], [], _GROUP
        for metric in self._grouped:
            metric.update(pred, target)

    def state_dict(self) -> dict[str, Any]:
        """Returns the batches that wait, so that a resumed run forms the same groups, and so has the same numbers."""
        return {"preds": list(self._preds), "targets": list(self._targets), "room": self._room}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a `state_dict`."""
        self._preds, self._targets, self._room = list(state["preds"]), list(state["targets"]), state["room"]
        self._kind = _kind_of(self._preds[-1], self._targets[-1]) if self._preds else None


def _is_item_mean(metric: Metric) -> bool:
    """Whether several batches may be joined: for a function of `metrics`, unless a partial changes its axis."""
    function = metric.function if type(metric) is MeanMetric else None
    if isinstance(function, partial) and not function.args and "axis" not in function.keywords:
        function = function.func
    return function in (accuracy, error_rate, accuracy_multi, top_k_accuracy)


def _kind_of(pred: Any, target: Any) -> Any:
    """Returns what joined batches have in common. None for a batch that is large, or is not made of two tensors."""
    if not (isinstance(pred, Tensor) and isinstance(target, Tensor) and pred.ndim > 1 and target.ndim):
        return None
    if pred.numel() > _SMALL or target.numel() > _SMALL:
        return None
    return pred.shape[1:], pred.dtype, pred.device, target.shape[1:], target.dtype
