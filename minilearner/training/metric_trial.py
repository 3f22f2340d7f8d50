"""Tries metrics before training, so that a wrong one does not cost an epoch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

import torch

from minilearner.copies import copy_apart
from minilearner.errors import DataError
from minilearner.metrics import Metric, compute_number, disable_exchange
from minilearner.runtime import isolate_rng
from minilearner.training.step import describe

__all__ = ["try_metrics"]

_MISTAKES = AttributeError, ImportError, NameError, NotImplementedError, TypeError
"""What a metric raises if it is wrong, whatever the data. Other errors may go away with more data than one batch."""


Batches: TypeAlias = Callable[[], AbstractContextManager[Iterable[tuple[Any, Any]]]]
"""Opens a whole set as batches (pred, target)."""


def try_metrics(metrics: Mapping[str, Metric], pred: Any, y: Any, *, is_all: bool, whole_set: Batches | None) -> None:
    """Gives each metric one batch, and computes its value. Afterwards the metrics are as they were before.

    A metric may need more than one batch, as an AUC needs both classes. It then gets more of them until it computes a
    value, at most the whole set. Only a part of a metric that cannot be copied, such as a lock or an open file, takes
    part itself.

    Args:
        metrics: column -> metric.
        pred: the model's output for the batch.
        y: its targets.
        is_all: whether the whole set is in this batch.
        whole_set: opens the set, in which this batch is the first. None if its other batches cannot be had now: then a
            metric may fail here that needs more of them.

    Raises:
        DataError: a metric does not take the batches, or computes no number from them.
        TypeError: a metric computes several numbers.
    """
    with isolate_rng(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning that matters comes again in validation
        for name, metric in metrics.items():
            with _lend_copies(metric):
                metric.reset()
                _update(name, metric, pred, y)
                error = _try_to_compute(name, metric)
                if error is not None and not is_all and not isinstance(error, _MISTAKES):
                    if whole_set is None:
                        continue
                    with whole_set() as batches:
                        error = _try_more(name, metric, batches)
                if error is not None:
                    raise _refusal(name, error, pred, y) from error


def _try_more(name: str, metric: Metric, batches: Iterable[tuple[Any, Any]]) -> Exception | None:
    """Returns the error of the whole set, or None as soon as the metric computes a value."""
    error: Exception | None = None
    metric.reset()
    number = 0
    for number, (pred, y) in enumerate(batches, 1):
        _update(name, metric, pred, y)
        if number & (number - 1) == 0:  # after 1, 2, 4, 8 ... batches, since each value may cost as much as all so far
            error = _try_to_compute(name, metric)
            if error is None or isinstance(error, _MISTAKES):
                return error
    return _try_to_compute(name, metric) if number & (number - 1) else error


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


def _update(name: str, metric: Metric, pred: Any, y: Any) -> None:
    try:
        metric.update(pred, y)
    except Exception as error:
        raise _refusal(name, error, pred, y) from error


def _try_to_compute(name: str, metric: Metric) -> Exception | None:
    """Returns the error that computing raises. Raises a TypeError if the value is not one number."""
    try:
        with disable_exchange([metric]):
            value = metric.compute()
    except Exception as error:
        return error
    compute_number(name, value)
    return None


def _refusal(name: str, error: Exception, pred: Any, y: Any) -> DataError:
    return DataError(
        f"the metric {name!r} fails: {error} A metric takes (pred, target) and returns one number. "
        f"Received: predictions {describe(pred)} and targets {describe(y)}."
    )
