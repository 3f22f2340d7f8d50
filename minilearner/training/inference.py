"""Predict without training: evaluation mode, no gradients, no trace on flags or random generators.

Several threads may predict with one model; see `threads`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import torch

from minilearner import processes
from minilearner.data.loader_state import parts_of, restore_loaders
from minilearner.data.share import WHOLE
from minilearner.display import shorten_interrupts
from minilearner.models.restore import evaluation_mode
from minilearner.results.predictions import BatchPrediction
from minilearner.runtime import isolate_rng, rng_state, set_rng_state
from minilearner.threads import alone_with, turn_of
from minilearner.training.item_losses import LossFunction, make_item_loss
from minilearner.training.step import Step
from minilearner.tree import is_empty, map_tensors, n_items

__all__ = ["Passing", "predict_all", "predict_batches"]

Passing: TypeAlias = Callable[[Iterable[Any]], Iterable[tuple[Any, Any, Any]]]
"""Receives a loader, and yields inputs, predictions and targets of each batch: a pass in which callbacks act."""


def predict_batches(
    step: Step,
    loader: Iterable[Any],
    *,
    activate: Callable[[Any], Any] | None = None,
    with_loss: bool = False,
    watch: Callable[[Any], Iterable[Any]] = iter,
    passing: Passing | None = None,
) -> Iterator[BatchPrediction]:
    """Yields the predictions for each batch, activated, with its targets and, if wanted, the loss of each item.

    If several processes share the loader, each predicts its own batches, and all get all of them, in order, on the CPU.
    Nothing is kept from one batch to the next, so memory does not grow with the data. Whenever a batch is yielded, the
    model's flags and all random generators are as they were before; at the end, so is the loader's position. The one
    who takes the batches may train, predict, or take them in another thread.

    Args:
        step: predicts in its own precision and holds the loss function.
        loader: yields `(x, y)`; `y` is None for data without labels.
        activate: turns the model's outputs into predictions, such as probabilities.
        with_loss: adds the losses `(items,)`; batches without labels have none.
        watch: receives the loader and yields its batches, for instance to show progress.
        passing: makes the pass in place of the step; see `Passing`.
    """
    inside = partial(_predict_inside, step, loader, activate, with_loss, watch, passing)
    with restore_loaders(loader):
        batches = None
        rng: dict[str, Any] | None = None
        while True:
            with alone_with(parts_of(loader)), isolate_rng(), evaluation_mode(step.model), torch.no_grad():
                if rng is not None:
                    set_rng_state(rng)
                batches = inside() if batches is None else batches
                with shorten_interrupts("while predicting"):
                    batch = next(batches, None)
                rng = rng_state()
            if batch is None:
                return
            yield batch


@contextmanager
def predict_all(
    step: Step,
    loader: Iterable[Any],
    *,
    activate: Callable[[Any], Any] | None = None,
    with_loss: bool = False,
    watch: Callable[[Any], Iterable[Any]] = iter,
    passing: Passing | None = None,
    is_shared: bool = True,
) -> Iterator[Iterator[BatchPrediction]]:
    """As `predict_batches`, for one who takes all batches at once, inside the context. This saves work for each batch.

    Another thread that reads from the same source, or trains the model, waits until the context ends. `is_shared` is
    False for a loader that no other thread can know.
    """
    reading = alone_with(parts_of(loader)) if is_shared else nullcontext()
    own = _predict_inside(step, loader, activate, with_loss, watch, passing)
    # Closed here, and not only when an error's traceback is dropped: a bar may be open.
    with (
        shorten_interrupts("while predicting"),
        reading,
        restore_loaders(loader),
        closing(own) as batches,
        isolate_rng(),
        evaluation_mode(step.model),
        torch.no_grad(),
    ):
        yield batches


def _predict_inside(
    step: Step,
    loader: Iterable[Any],
    activate: Callable[[Any], Any] | None,
    with_loss: bool,
    watch: Callable[[Any], Iterable[Any]],
    passing: Passing | None,
) -> Generator[BatchPrediction, None, None]:
    item_loss = make_item_loss(step.loss_func) if with_loss else None
    if passing is None:
        turn = turn_of(step.model)
        own = (_predict_batch(step, turn, x, y, activate, item_loss) for x, y in watch(loader))
    else:
        passed = passing(_Watched(loader, watch))
        own = (_describe_batch(x, pred, y, activate, item_loss) for x, pred, y in passed)
    if isinstance(loader, Sized) and getattr(loader, "share", WHOLE).count > 1:
        own = _gather_batches(own, len(loader))
    return own


def _predict_batch(
    step: Step,
    turn: AbstractContextManager[Any],
    x: Any,
    y: Any,
    activate: Callable[[Any], Any] | None,
    item_loss: LossFunction | None,
) -> BatchPrediction:
    with turn:
        return _describe_batch(x, step.predict(x), y, activate, item_loss)


def _describe_batch(
    x: Any, pred: Any, y: Any, activate: Callable[[Any], Any] | None, item_loss: LossFunction | None
) -> BatchPrediction:
    losses = item_loss(pred, y) if item_loss is not None and y is not None else None
    shown = map_tensors(activate, pred) if activate is not None else pred
    return BatchPrediction(x=x, preds=shown, targets=y, losses=losses, n_items=n_items(x))


class _Watched:
    """A loader that is watched while one iterates over it."""

    def __init__(self, loader: Any, watch: Callable[[Any], Iterable[Any]]) -> None:
        self.loader, self.watch = loader, watch

    def __iter__(self) -> Iterator[Any]:
        return iter(self.watch(self.loader))

    def __len__(self) -> int:
        return len(self.loader)


def _gather_batches(own: Iterator[BatchPrediction], n_batches: int) -> Generator[BatchPrediction, None, None]:
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
