"""Tries metrics on one batch before training, so that a wrong one does not cost an epoch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from minilearner.copies import copy_apart
from minilearner.errors import DataError
from minilearner.metrics import Metric, compute_number, disable_exchange
from minilearner.runtime import isolate_rng
from minilearner.training.step import describe

__all__ = ["try_metrics"]

_MISTAKES = AttributeError, ImportError, NameError, NotImplementedError, TypeError
"""What a metric raises if it is wrong, whatever the data. Other errors may go away with more data than one batch."""


def try_metrics(metrics: Mapping[str, Metric], pred: Any, y: Any, *, is_all: bool) -> None:
    """Gives each metric one batch, and computes its value. Afterwards the metrics are as they were before.

    Only a part of a metric that cannot be copied, such as a lock or an open file, takes part itself.

    Args:
        metrics: column -> metric.
        pred: the model's output for the batch.
        y: its targets.
        is_all: whether the whole set is in this batch. Otherwise a metric may need more than that to compute a value.

    Raises:
        DataError: a metric does not take the batch, or computes no number from it.
        TypeError: a metric computes several numbers.
    """
    with isolate_rng(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning that matters comes again in validation
        for name, metric in metrics.items():
            with _lend_copies(metric):
                try:
                    metric.reset()
                    metric.update(pred, y)
                except Exception as error:
                    raise _refusal(name, error, pred, y) from error
                _try_to_compute(name, metric, pred, y, is_all)


@contextmanager
def _lend_copies(metric: Metric) -> Iterator[None]:
    """Gives a metric copies of its attributes. On leaving, it has its own again.

    A copy of the metric itself would lose methods that somebody has replaced: torchmetrics makes them anew.
    """
    if not hasattr(metric, "__dict__"):  # a class with slots
        yield
        return
    own = dict(vars(metric))
    vars(metric).update(copy_apart(own, {id(metric): metric}))
    try:
        yield
    finally:
        vars(metric).clear()
        vars(metric).update(own)


def _try_to_compute(name: str, metric: Metric, pred: Any, y: Any, is_all: bool) -> None:
    try:
        with disable_exchange([metric]):
            value = metric.compute()
    except Exception as error:
        if is_all or isinstance(error, _MISTAKES):
            raise _refusal(name, error, pred, y) from error
        return
    compute_number(name, value)


def _refusal(name: str, error: Exception, pred: Any, y: Any) -> DataError:
    return DataError(
        f"the metric {name!r} fails: {error} A metric takes (pred, target) and returns one number. "
        f"Received: predictions {describe(pred)} and targets {describe(y)}."
    )
