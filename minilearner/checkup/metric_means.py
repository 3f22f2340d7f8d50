"""Whether a metric function is the mean over items that it is taken for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from minilearner.checkup.findings import Finding, NotCheckedError
from minilearner.data.dataloaders import DataLoaders
from minilearner.glance import enumerate_names
from minilearner.metrics import MeanMetric, Metric
from minilearner.models.restore import evaluation_mode, restore_buffers
from minilearner.runtime import isolate_rng
from minilearner.training.step import Step
from minilearner.tree import map_tensors, n_items, take_items

__all__ = ["find_metrics_without_mean"]

_CLOSE = 1e-3


def find_metrics_without_mean(step: Step, dls: DataLoaders, metrics: Mapping[str, Metric]) -> Iterator[Finding]:
    """Finds functions whose value for a batch is not the mean of their values for its halves.

    `metrics.is_no_mean` knows many such functions by their names, and they get the whole set at once. This finds others
    by what they compute.
    """
    functions = {name: metric.function for name, metric in metrics.items() if isinstance(metric, MeanMetric)}
    if not functions:
        return
    x, y = dls.loader(0 if dls.valid is None else 1).first_batch()
    n = n_items(y)
    if n < 4:
        raise NotCheckedError("the first batch has too few items to be halved")
    with isolate_rng(), evaluation_mode(step.model), restore_buffers(step.model), torch.no_grad():
        pred = step.predict(x)
        # An untrained model may predict one class only. Then F1 is 0 in each part, and looks like a mean.
        trials = [(pred, y), _invent(pred, y)]
        odd = [name for name, f in functions.items() if not all(_is_mean(f, *trial, n) for trial in trials)]
    if odd:
        yield Finding(
            "metrics",
            "warning",
            f"The value of a batch is not the mean over its items: {enumerate_names(odd)}. As functions they are "
            "averaged over batches, and differ from the value of the whole set.",
            "Give WholeSetMetric(function) instead, or a class of `minilearner.scores`, such as F1Score().",
            {"metrics": odd},
        )


def _value(function: Any, pair: tuple[Any, Any]) -> float:
    """Returns the function's value, or NaN if a few items are not enough for it."""
    try:
        return float(function(*pair))
    except Exception:
        return math.nan


def _invent(pred: Any, y: Any) -> tuple[Any, Any]:
    """Returns random predictions, and class numbers to them; other targets stay."""
    noise = map_tensors(lambda t: torch.randn_like(t) if t.is_floating_point() else t, pred)
    has_classes = isinstance(y, Tensor) and isinstance(pred, Tensor) and not y.is_floating_point()
    if has_classes and pred.ndim == y.ndim + 1 and pred.shape[1] > 1:
        return noise, torch.randint_like(y, pred.shape[1])
    return noise, y


def _is_mean(function: Any, pred: Any, y: Any, n: int) -> bool:
    """Whether a value is the mean of its parts' values, as far as they are known."""
    parts = [slice(0, n // 4), slice(n // 4, n)]  # of unequal size, as batches may be
    whole = _value(function, (pred, y))
    values = [_value(function, (take_items(pred, part, n), take_items(y, part, n))) for part in parts]
    mean = sum(value * (part.stop - part.start) for value, part in zip(values, parts, strict=True)) / n
    return not math.isfinite(whole - mean) or abs(whole - mean) <= _CLOSE * max(1e-3, abs(whole))
