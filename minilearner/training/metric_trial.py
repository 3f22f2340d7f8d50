"""Tries metrics on one batch before training, so that a wrong one does not cost an epoch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
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
    """Gives each metric one batch, and computes its value. The metrics stay as they are: copies are tried.

    A part of a metric that cannot be copied, such as a lock or an open file, is shared with the copy.

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
            tried = copy_apart(metric)
            try:
                tried.reset()
                tried.update(pred, y)
            except Exception as error:
                raise _refusal(name, error, pred, y) from error
            _try_to_compute(name, tried, pred, y, is_all)


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
