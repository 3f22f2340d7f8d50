"""Predict without training: evaluation mode, no gradients, no trace on flags or random generators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import torch

from minilearner import processes
from minilearner.data.loader_state import restore_loaders
from minilearner.data.share import WHOLE
from minilearner.models.restore import evaluation_mode
from minilearner.results.predictions import BatchPrediction
from minilearner.runtime import isolate_rng
from minilearner.training.item_losses import LossFunction, make_item_loss
from minilearner.training.step import Step
from minilearner.tree import is_empty, map_tensors, n_items

__all__ = ["predict_batches"]


def predict_batches(
    step: Step,
    loader: Iterable[Any],
    *,
    activate: Callable[[Any], Any] | None = None,
    with_loss: bool = False,
    watch: Callable[[Any], Iterable[Any]] = iter,
) -> Iterator[BatchPrediction]:
    """Yields the predictions for each batch, activated, with its targets and, if wanted, the loss of each item.

    If several processes share the loader, each predicts its own batches, and all get all of them, in order, on the CPU.
    Nothing is kept from one batch to the next, so memory does not grow with the data. Afterwards the model's flags, the
    loader's position and all random generators are as they were before.

    Args:
        step: predicts in its own precision and holds the loss function.
        loader: yields `(x, y)`; `y` is None for data without labels.
        activate: turns the model's outputs into predictions, such as probabilities.
        with_loss: adds the losses `(items,)`; batches without labels have none.
        watch: receives the loader and yields its batches, for instance to show progress.
    """
    item_loss = make_item_loss(step.loss_func) if with_loss else None
    with restore_loaders(loader), isolate_rng(), evaluation_mode(step.model), torch.no_grad():
        own: Iterator[BatchPrediction] = (_predict_batch(step, x, y, activate, item_loss) for x, y in watch(loader))
        if isinstance(loader, Sized) and getattr(loader, "share", WHOLE).count > 1:
            own = _gather_batches(own, len(loader))
        yield from own


def _predict_batch(
    step: Step,
    x: Any,
    y: Any,
    activate: Callable[[Any], Any] | None,
    item_loss: LossFunction | None,
) -> BatchPrediction:
    pred = step.predict(x)
    losses = item_loss(pred, y) if item_loss is not None and y is not None else None
    shown = map_tensors(activate, pred) if activate is not None else pred
    return BatchPrediction(x=x, preds=shown, targets=y, losses=losses, n_items=n_items(x))


def _gather_batches(own: Iterator[BatchPrediction], n_batches: int) -> Iterator[BatchPrediction]:
    """Yields the batches that all processes predict, each its share of them, in the order of the data set."""
    for _ in range(max(processes.gather(n_batches))):
        mine = next(own, None)
        for batch in processes.gather(None if mine is None else _to_cpu(mine)):
            if batch is not None and not is_empty(batch.preds):
                yield batch


def _to_cpu(batch: BatchPrediction) -> BatchPrediction:
    parts = (batch.x, batch.preds, batch.targets, batch.losses)
    x, preds, targets, losses = map_tensors(lambda t: t.detach().cpu(), parts)
    return BatchPrediction(x, preds, targets, losses, batch.n_items)
