"""Precision, recall and F1 of each class from a confusion matrix alone. scikit-learn computes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minilearner.errors import plural
from minilearner.glance import AtAGlance, Glance
from minilearner.results.frames import to_frame

__all__ = ["ClassificationReport", "Scores", "classification_report"]


def classification_report(confusion: ArrayLike, labels: Sequence[Any]) -> ClassificationReport:
    """Computes the scores of each class and their averages with scikit-learn, from counts alone.

    A score whose denominator is zero is 0: the precision of a class that is never predicted, and the recall of a class
    that never occurs.

    Args:
        confusion: counts, (classes, classes); rows are actual classes, columns predicted ones.
        labels: the name of each class.

    Example: ``print(classification_report([[2, 1], [0, 3]], ["cat", "dog"]))``.

    Raises:
        ValueError: the matrix is not square or has a negative count, or the number of labels differs from its rows.
    """
    counts = np.asarray(confusion)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size or (counts < 0).any():
        raise ValueError(f"`confusion` must be a square matrix of counts. Received: shape {counts.shape}.")
    if len(labels) != len(counts):
        raise ValueError(
            f"`labels` must name each of the {plural(len(counts), 'class')}. Received: {plural(len(labels), 'label')}."
        )
    by_class = zip(*_compute_scores(counts, None), counts.sum(axis=1).tolist(), strict=True)
    total = int(counts.sum())
    return ClassificationReport(
        labels=tuple(map(str, labels)),
        scores=tuple(Scores(p, r, f1, int(n)) for p, r, f1, n in by_class),
        accuracy=_compute_scores(counts, "micro")[0],  # they are the same if each item has one class
        macro_avg=Scores(*_compute_scores(counts, "macro"), total),
        weighted_avg=Scores(*_compute_scores(counts, "weighted"), total),
    )


def _compute_scores(counts: NDArray[Any], average: str | None) -> tuple[Any, Any, Any]:
    """Returns precision, recall and F1: one number each, or a list with one for each class if `average` is None."""
    from sklearn.metrics import precision_recall_fscore_support  # loads SciPy, which takes a second

    actual, predicted = np.nonzero(counts)  # one weighted sample for each pair that occurs, however many items it has
    if not len(actual):  # scikit-learn refuses to score an empty set
        none: Any = [0.0] * len(counts) if average is None else 0.0
        return none, none, none
    scores = precision_recall_fscore_support(
        actual,
        predicted,
        labels=np.arange(len(counts)),
        sample_weight=counts[actual, predicted].astype(np.float64),
        average=average,
        zero_division=0,
    )
    precision, recall, f1 = np.stack(scores[:3]).tolist()
    return precision, recall, f1


class Scores(NamedTuple):
    """The scores of one class, or an average over classes: each in [0, 1]. `support` is the number of items."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, repr=False)
class ClassificationReport(AtAGlance):
    """The scores of each class and their averages. ``str(report)`` is the text that scikit-learn prints."""

    labels: tuple[str, ...]
    """The names of the classes, in order."""
    scores: tuple[Scores, ...]
    """The scores of each class, in the same order."""
    accuracy: float
    """The share of items whose prediction is right."""
    macro_avg: Scores
    """The mean over all classes, also those that do not occur."""
    weighted_avg: Scores
    """The mean over classes, weighted by support."""

    @property
    def precision(self) -> dict[str, float]:
        """Precision by label."""
        return self._by_label("precision")

    @property
    def recall(self) -> dict[str, float]:
        """Recall by label."""
        return self._by_label("recall")

    @property
    def f1(self) -> dict[str, float]:
        """F1 by label."""
        return self._by_label("f1")

    @property
    def support(self) -> dict[str, int]:
        """The number of items by label."""
        return self._by_label("support")

    def _by_label(self, name: str) -> dict[str, Any]:
        return {label: getattr(scores, name) for label, scores in zip(self.labels, self.scores, strict=True)}

    def as_dict(self) -> dict[str, Any]:
        """Returns a dictionary for each label and average, as scikit-learn does with ``output_dict=True``."""
        named = [*zip(self.labels, self.scores, strict=True)]
        averages = [("macro avg", self.macro_avg), ("weighted avg", self.weighted_avg)]
        return {
            **{label: _as_dict(scores) for label, scores in named},
            "accuracy": self.accuracy,
            **{label: _as_dict(scores) for label, scores in averages},
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns what `as_dict` does, under the name that all results have."""
        return self.as_dict()

    def to_frame(self) -> Any:
        """Returns a pandas frame with a row for each class: label, precision, recall, f1 and support.

        Raises:
            ImportError: pandas is not installed.
        """
        return to_frame([{"label": name, **s._asdict()} for name, s in zip(self.labels, self.scores, strict=True)])

    def glance(self) -> Glance:
        """Returns the scores of each class and the averages."""
        named = [*zip(self.labels, self.scores, strict=True)]
        named += [("macro avg", self.macro_avg), ("weighted avg", self.weighted_avg)]
        rows = [(label, *(f"{value:.4f}" for value in s[:3]), f"{s.support:,}") for label, s in named]
        return Glance(f"accuracy {self.accuracy:.4f}", {}, ("class", "precision", "recall", "F1", "items"), rows)

    def text(self, digits: int = 2) -> str:
        """Returns the table with `digits` digits after the point."""
        # If no item is right, scikit-learn counts in floats, and prints a support of "3.0".
        count = str if self.accuracy else "{}.0".format
        width = max(*map(len, self.labels), len("weighted avg"), digits)
        head = " ".join([" " * width, "", *(f"{name:>9}" for name in ("precision", "recall", "f1-score", "support"))])
        rows = [_row(label, s, width, digits, count) for label, s in zip(self.labels, self.scores, strict=True)]
        blank = f"{'':>9}"
        accuracy = " ".join([f"{'accuracy':>{width}}", "", blank, blank, f"{self.accuracy:>9.{digits}f}"])
        averages = [
            f"{accuracy} {count(self.macro_avg.support):>9}",
            _row("macro avg", self.macro_avg, width, digits, count),
            _row("weighted avg", self.weighted_avg, width, digits, count),
        ]
        return "\n".join([head, "", *rows, "", *averages, ""])

    def __str__(self) -> str:
        return self.text()


def _row(label: str, scores: Scores, width: int, digits: int, count: Callable[[int], str]) -> str:
    numbers = " ".join(f"{value:>9.{digits}f}" for value in scores[:3])
    return f"{label:>{width}}  {numbers} {count(scores.support):>9}"


def _as_dict(scores: Scores) -> dict[str, float]:
    return {"precision": scores.precision, "recall": scores.recall, "f1-score": scores.f1, "support": scores.support}
