"""What an interpretation keeps of each item that has one class, read batch by batch from predictions."""

from __future__ import annotations

import contextlib
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minilearner.errors import DataError, plural
from minilearner.results.predictions import BatchPrediction, Predictions

__all__ = ["ClassItems", "batch_of", "read_class_items"]

_MOST_BYTES = 1 << 26  # of probabilities that are kept unasked: 10,000 items of 1,600 classes


@dataclass(frozen=True)
class ClassItems:
    """One value for each item, in the order of the set."""

    vocab: Sequence[Any]
    """The label of each class."""
    losses: NDArray[np.float32]
    """(items,): the loss of each item."""
    predicted: NDArray[Any]
    """(items,): the number of the predicted class."""
    actual: NDArray[Any]
    """(items,): the number of the actual class."""
    predicted_probs: NDArray[np.float32]
    """(items,): the probability of the predicted class."""
    actual_probs: NDArray[np.float32]
    """(items,): the probability of the actual class."""
    probs: NDArray[np.float32] | None
    """(items, classes), mapped from a temporary file; None if they were not kept."""

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(classes, classes): rows are actual classes, columns predicted ones. 800 MB for ten thousand classes."""
        n = len(self.vocab)
        return np.bincount(self.actual.astype(np.int64) * n + self.predicted, minlength=n * n).reshape(n, n)

    def __len__(self) -> int:
        return len(self.losses)


def read_class_items(
    batches: Iterable[BatchPrediction],
    vocab: Sequence[Any] | None,
    *,
    keep_probs: bool,
) -> ClassItems:
    """Reads all batches once.

    Args:
        batches: predictions with targets and losses.
        vocab: one label for each class. Without it, labels are the numbers of the classes.
        keep_probs: whether to keep the probabilities of all classes, however many there are. Up to 64 MB of them are
            always kept.

    Raises:
        DataError: there is no item, or a batch does not hold probabilities, class numbers and losses.
        ValueError: the number of labels differs from the number of classes.
    """
    columns: list[array[Any]] = []
    labels: list[Any] = []
    with contextlib.ExitStack() as stack:
        # On Linux and macOS this file never has a name, so that not even a crash leaves it behind.
        file: IO[bytes] | None = stack.enter_context(tempfile.TemporaryFile())
        for batch in batches:
            if not columns:
                n_classes = _n_classes(batch)
                labels = _labels(vocab, n_classes)
                columns = _empty_columns(n_classes)
            probs, rows = _check_batch(batch, len(labels))
            for column, values in zip(columns, rows, strict=True):
                column.frombytes(values.astype(column.typecode).tobytes())
            if file is not None:
                file = _append(file, probs, keep_all=keep_probs)
        if not columns or not len(columns[0]):
            raise DataError("There is nothing to interpret: the loader has no item.")
        kept = None if file is None else _map_file(file, (len(columns[0]), len(labels)))
    losses, *others = (np.frombuffer(column, dtype=column.typecode) for column in columns)
    predicted, actual, predicted_probs, actual_probs = others
    return ClassItems(labels, losses, predicted, actual, predicted_probs, actual_probs, kept)


def batch_of(predictions: Predictions) -> BatchPrediction:
    """Returns predictions of a whole set as one batch. Without losses, an item's loss is its cross-entropy.

    Raises:
        DataError: there are no targets, or no probabilities of classes.
    """
    preds, targets, losses = predictions.preds, predictions.targets, predictions.losses
    whole = BatchPrediction(None, preds, targets, losses)
    n_classes = _n_classes(whole)
    if targets is None:
        raise DataError("Interpretation needs targets: these predictions have none.")
    if losses is None:
        actual = _class_numbers(targets, len(preds), n_classes)
        chosen = preds.float().gather(1, actual[:, None])[:, 0]
        losses = -chosen.clamp(min=torch.finfo(torch.float32).tiny).log()
    return BatchPrediction(None, preds, targets, losses, len(preds))


def _append(file: IO[bytes], probs: Tensor, *, keep_all: bool) -> IO[bytes] | None:
    """Writes probabilities to the file. Closes it and returns None if they become too many."""
    if keep_all or file.tell() + 4 * probs.numel() <= _MOST_BYTES:
        try:
            file.write(probs.numpy().tobytes())
            file.flush()
            return file
        except OSError:  # the disk is full, and nobody asked for them
            if keep_all:
                raise
    file.close()
    return None


def _empty_columns(n_classes: int) -> list[array[Any]]:
    """Returns growing arrays for the loss, both classes and both probabilities: 14 to 20 bytes per item."""
    id_type = "B" if n_classes <= 2**8 else "H" if n_classes <= 2**16 else "i"
    return [array(code) for code in ("f", id_type, id_type, "f", "f")]


def _map_file(file: IO[bytes], shape: tuple[int, int]) -> NDArray[np.float32]:
    return np.memmap(file, dtype=np.float32, mode="r", shape=shape)


def _labels(vocab: Sequence[Any] | None, n_classes: int) -> list[Any]:
    labels = list(range(n_classes)) if vocab is None else list(vocab)
    if len(labels) != n_classes:
        raise ValueError(
            f"The vocabulary must have one label for each class, {n_classes}. Received: {plural(len(labels), 'label')}."
        )
    return labels


def _n_classes(batch: BatchPrediction) -> int:
    if not isinstance(batch.preds, Tensor) or batch.preds.ndim != 2 or not batch.preds.is_floating_point():
        shape = tuple(batch.preds.shape) if isinstance(batch.preds, Tensor) else type(batch.preds).__name__
        raise DataError(
            f"Interpretation needs probabilities of shape (batch, classes), one class for each item. Received: {shape}."
        )
    return batch.preds.shape[1]


def _check_batch(batch: BatchPrediction, n_classes: int) -> tuple[Tensor, list[NDArray[Any]]]:
    """Checks a batch. Returns its probabilities and its columns (see `_empty_columns`) on the CPU."""
    if _n_classes(batch) != n_classes:
        raise DataError(f"All batches must have {plural(n_classes, 'class')}. Received: {tuple(batch.preds.shape)}.")
    if batch.targets is None:
        raise DataError("Interpretation needs targets: this loader has only inputs.")
    if batch.losses is None:
        raise DataError("Interpretation needs the loss of each item: these batches have `losses=None`.")
    probs = batch.preds.detach().float().cpu()
    n = len(probs)
    _check_probabilities(probs)
    actual = _class_numbers(batch.targets, n, n_classes)
    if batch.losses.numel() != n:
        raise DataError(
            f"There must be one loss for each of {plural(n, 'item')}. Received: shape {tuple(batch.losses.shape)}."
        )
    losses = batch.losses.detach().float().cpu().reshape(n)
    best = probs.max(dim=1)
    of_actual = probs.gather(1, actual[:, None])[:, 0]
    return probs, [part.numpy() for part in (losses, best.indices, actual, best.values, of_actual)]


def _check_probabilities(probs: Tensor) -> None:
    # NaN fails the comparison too. A tolerance of 0.01 allows for half precision.
    if len(probs) and not bool(((probs.sum(1) - 1).abs() <= 1e-2).all() and (probs >= 0).all()):
        if probs.shape[1] == 1:
            raise DataError(
                "Interpretation needs a model with one output for each of at least two classes. Received: predictions "
                f"of shape {tuple(probs.shape)}, which do not tell classes apart."
            )
        raise DataError(
            "Interpretation needs probabilities that sum to 1 over the classes; these do not, or are NaN. "
            "For several labels, use `MultiLabelInterpretation`; for numbers, `RegressionInterpretation`."
        )


def _class_numbers(targets: Any, n: int, n_classes: int) -> Tensor:
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.numel() != n:
        kind = f"{targets.dtype} of shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets)
        raise DataError(
            f"Interpretation needs one class number for each of {plural(n, 'item')}. Received: targets {kind}."
        )
    actual = targets.detach().cpu().long().reshape(n)
    if n and bool(((actual < 0) | (actual >= n_classes)).any()):
        raise DataError(
            f"Targets must be class numbers from 0 to {n_classes - 1}. "
            f"Received: {int(actual.min())} to {int(actual.max())}."
        )
    return actual
