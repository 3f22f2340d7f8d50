"""A classifier's errors: the confusion matrix, the worst items and the report, from one pass over a set.

This module knows no model. It takes batches of predictions, and images to show, from any object that fits the
`Predictor` protocol, such as a learner.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minilearner import processes
from minilearner.checks import check_count
from minilearner.errors import DataError, plural
from minilearner.keywords import suggest_keywords
from minilearner.plots import confusion
from minilearner.plots.image_grid import plot_images
from minilearner.plots.style import wrap_name
from minilearner.results.predictions import BatchPrediction
from minilearner.results.report import ClassificationReport, classification_report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ClassificationInterpretation", "Predictor", "TopLosses"]


class HasVocab(Protocol):
    """Loaders with the names of their classes."""

    @property
    def vocab(self) -> Sequence[Any] | None:
        """One label for each class, in order. None if there are none."""


class Predictor(Protocol):
    """The part of a learner that an interpretation needs."""

    @property
    def dls(self) -> HasVocab:
        """The learner's loaders."""

    def predict_batches(self, ds_idx: int = 1, dl: Any = None) -> Iterator[BatchPrediction]:
        """Predicts set number `ds_idx`, or `dl`, in the order of its dataset, with the loss of each item."""

    def items(self, ds_idx: int, dl: Any, indices: Sequence[int]) -> list[Tensor]:
        """Returns items of that set as images to show: (channels, height, width) each, in [0, 1]."""


class TopLosses(NamedTuple):
    """Items in the order of their losses. Unpacks to ``losses, indices``."""

    losses: Tensor
    """(k,): float32, sorted."""
    indices: Tensor
    """(k,): int64, the positions of the items in the dataset."""


@suggest_keywords
class ClassificationInterpretation:
    """A classifier's predictions for each item of a set, with their probabilities.

    It reads the predictions once. It keeps the counts (classes x classes) and at most 20 bytes per item: the loss, the
    predicted and the actual class, and the probabilities of both. ``keep_probs=True`` keeps all probabilities too, in a
    temporary file that is mapped into memory and disappears with this object.

    Example::

        interp = ClassificationInterpretation.from_learner(learn)
        interp.plot_confusion_matrix(normalize=True)
        interp.most_confused(min_val=5)
    """

    def __init__(
        self,
        batches: Iterable[BatchPrediction],
        vocab: Sequence[Any] | None = None,
        *,
        keep_probs: bool = False,
        pictures: Callable[[Sequence[int]], list[Tensor]] | None = None,
    ) -> None:
        """Reads all batches once.

        Args:
            batches: predictions with targets and losses.
            vocab: one label for each class. Without it, labels are the numbers of the classes.
            keep_probs: whether to keep the probabilities of all classes, for `probs`.
            pictures: returns the items at given positions as images, for `plot_top_losses`.

        Raises:
            TypeError: this is a learner, which `from_learner` takes.
            DataError: there is no item, targets or losses are missing, or the predictions are not probabilities of
                classes.
            ValueError: the number of labels differs from the number of classes.
        """
        if hasattr(batches, "predict_batches"):
            raise TypeError(
                "`batches` must be predictions. Received: a learner. Write "
                "`ClassificationInterpretation.from_learner(learn)`."
            )
        self._load_images = pictures
        self._read(batches, vocab, keep_probs)

    @classmethod
    def from_learner(
        cls,
        learn: Predictor,
        ds_idx: int = 1,
        dl: Any = None,
        keep_probs: bool = False,
    ) -> ClassificationInterpretation:
        """Predicts one set of a learner, once.

        Args:
            learn: the learner.
            ds_idx: 0 for the training set, 1 for the validation set.
            dl: a loader to predict instead.
            keep_probs: whether to keep the probabilities of all classes, for `probs`.
        """
        return cls(
            learn.predict_batches(ds_idx=ds_idx, dl=dl),
            learn.dls.vocab,
            keep_probs=keep_probs,
            pictures=lambda indices: learn.items(ds_idx, dl, indices),
        )

    def confusion_matrix(self) -> NDArray[np.int64]:
        """Returns a copy of the counts, (classes, classes): rows are actual classes, columns predicted ones."""
        return np.array(self._counts)

    def plot_confusion_matrix(
        self,
        normalize: bool = False,
        title: str = "Confusion matrix",
        cmap: str = "Blues",
        norm_dec: int = 2,
        plot_txt: bool = True,
        figsize: tuple[float, float] | None = None,
        ax: Axes | None = None,
    ) -> Figure:
        """Draws the confusion matrix.

        Args:
            normalize: whether to divide each row by its sum. The row of a class that does not occur is 0.
            title: the title of the plot.
            cmap: the name of a Matplotlib colour map.
            norm_dec: the number of decimals with `normalize`.
            plot_txt: whether to write a number into each cell.
            figsize: width and height in inches. None is large enough for the classes.
            ax: where to draw. None makes a new figure.
        """
        return confusion.plot_confusion(
            self._counts,
            self._names,
            normalize=normalize,
            title=title,
            cmap=cmap,
            norm_dec=norm_dec,
            plot_txt=plot_txt,
            figsize=figsize,
            ax=ax,
        )

    def top_losses(self, k: int | None = None, largest: bool = True) -> TopLosses:
        """Returns the `k` largest losses and the positions of their items.

        Equal losses keep the order of the dataset. NaN counts as the largest loss.

        Args:
            k: between 1 and the number of items. None is all items.
            largest: False returns the smallest losses.

        Raises:
            ValueError: `k` is below 1 or above the number of items.
        """
        n = len(self)
        if k is not None:
            check_count(k, "k", least=None)
        if k is not None and not 1 <= k <= n:
            raise ValueError(f"`k` must be between 1 and the {n} items. Received: k={k}.")
        losses = torch.from_numpy(self.losses)
        ordered, indices = torch.sort(losses, descending=largest, stable=True)
        return TopLosses(ordered[:k].clone(), indices[:k].clone())

    def plot_top_losses(
        self,
        k: int,
        largest: bool = True,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> Figure:
        """Draws the `k` items with the largest loss. Titles say the actual and predicted class, probabilities and loss.

        Args:
            k: between 1 and the number of items.
            largest: False draws the items with the smallest loss.
            nrows: rows of the grid. None is as many as are needed.
            ncols: columns of the grid. None is as many as are needed.
            figsize: width and height in inches. None is large enough for the images.

        Raises:
            ValueError: `k` is out of range, the grid is too small, or there are no images to show.
        """
        if self._load_images is None:
            raise ValueError("There are no images to show: build this with `from_learner`, or pass `pictures`.")
        indices = self.top_losses(k, largest).indices.tolist()
        images = [image.detach().cpu().float().numpy() for image in self._load_images(indices)]
        return plot_images(images, list(map(self._title, indices)), nrows=nrows, ncols=ncols, figsize=figsize)

    def most_confused(self, min_val: int = 1) -> list[tuple[Any, Any, int]]:
        """Returns (actual, predicted, count) for all confusions that occur `min_val` times or more, commonest first.

        Raises:
            ValueError: `min_val` is below 1.
        """
        check_count(min_val, "min_val")
        errors = self._counts.copy()
        np.fill_diagonal(errors, 0)
        found = [(self.vocab[a], self.vocab[p], int(errors[a, p])) for a, p in np.argwhere(errors >= min_val).tolist()]
        return sorted(found, key=lambda confusion: -confusion[2])

    def classification_report(self) -> ClassificationReport:
        """Returns precision, recall, F1 and support of each class and their averages; scikit-learn computes them."""
        return classification_report(self._counts, self._names)

    def print_classification_report(self) -> None:
        """Prints the report as scikit-learn does."""
        if processes.is_first():
            sys.stdout.write(f"{self.classification_report()}\n")

    @property
    def probs(self) -> NDArray[np.float32]:
        """The probabilities of all classes, (items, classes), mapped from a temporary file.

        Raises:
            ValueError: this was built without ``keep_probs=True``.
        """
        if self._probs is None:
            raise ValueError("The full probabilities were not kept: build this with `keep_probs=True`.")
        return self._probs

    def __len__(self) -> int:
        return len(self.losses)

    def __repr__(self) -> str:
        share = np.trace(self._counts) / len(self)
        size = f"{plural(len(self), 'item')}, {plural(len(self.vocab), 'class')}"
        return f"ClassificationInterpretation: {size}, accuracy {share:.4f}"

    def _read(self, batches: Iterable[BatchPrediction], vocab: Sequence[Any] | None, keep_probs: bool) -> None:
        columns: list[array[Any]] = []
        n_classes = 0
        with contextlib.ExitStack() as stack:
            # On Linux and macOS this file never has a name, so that not even a crash leaves it behind.
            file = stack.enter_context(tempfile.TemporaryFile()) if keep_probs else None
            for batch in batches:
                if not columns:
                    n_classes = _n_classes(batch)
                    self.vocab: Sequence[Any] = _labels(vocab, n_classes)
                    self._counts: NDArray[np.int64] = np.zeros((n_classes, n_classes), dtype=np.int64)
                    columns = _empty_columns(n_classes)
                probs, rows = _check_batch(batch, n_classes)
                np.add.at(self._counts, (rows[2], rows[1]), 1)
                for column, values in zip(columns, rows, strict=True):
                    column.frombytes(values.astype(column.typecode).tobytes())
                if file is not None:
                    file.write(probs.numpy().tobytes())
            if not columns or not len(columns[0]):
                raise DataError("There is nothing to interpret: the loader has no item.")
            self._probs = None if file is None else _map_file(file, (len(columns[0]), n_classes))
        arrays = [np.frombuffer(column, dtype=column.typecode) for column in columns]
        self.losses, self.predicted, self.actual, self.predicted_probs, self.actual_probs = arrays

    @property
    def _names(self) -> list[str]:
        return [str(label) for label in self.vocab]

    def _title(self, index: int) -> str:
        actual, predicted = int(self.actual[index]), int(self.predicted[index])
        p_actual, p_predicted = self.actual_probs[index], self.predicted_probs[index]
        lines = (
            f"actual: {self._names[actual]} (prob. {p_actual:.4f})",
            f"predicted: {self._names[predicted]} (prob. {p_predicted:.4f})",
            f"loss: {self.losses[index]:.4f}",
        )
        return "\n".join(wrap_name(line, _LONGEST_LINE) for line in lines)


_LONGEST_LINE = 54  # letters: a name of 28 fits into one line


def _empty_columns(n_classes: int) -> list[array[Any]]:
    """Returns growing arrays for the loss, both classes and both probabilities: 14 to 20 bytes per item."""
    id_type = "B" if n_classes <= 2**8 else "H" if n_classes <= 2**16 else "i"
    return [array(code) for code in ("f", id_type, id_type, "f", "f")]


def _map_file(file: IO[bytes], shape: tuple[int, int]) -> NDArray[np.float32]:
    file.flush()
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
        raise DataError(
            "Interpretation needs probabilities that sum to 1 over the classes; these do not, or are NaN. "
            "It is for models that predict one class for each item, not for several labels or regression."
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
