"""What a threshold does: precision-recall and ROC curves of each class. scikit-learn computes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ThresholdCurve", "precision_recall_curves", "roc_curves"]


@dataclass(frozen=True)
class ThresholdCurve:
    """The curve of one class against all others."""

    label: str
    """The name of the class."""
    thresholds: NDArray[Any]
    """The probability from which on an item counts as this class, for each point. As scikit-learn returns them."""
    x: NDArray[np.float64]
    """The recall of each point, or the false positive rate of an ROC curve."""
    y: NDArray[np.float64]
    """The precision of each point, or the true positive rate of an ROC curve."""
    area: float
    """The average precision, or the area under an ROC curve."""


def precision_recall_curves(
    labels: Sequence[str], is_actual: NDArray[np.bool_], scores: NDArray[Any]
) -> list[ThresholdCurve]:
    """Returns the curve of each class that occurs. `area` is scikit-learn's average precision.

    Args:
        labels: the name of each class.
        is_actual: (items, classes), whether an item has a class.
        scores: (items, classes), such as probabilities.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve  # loads SciPy, which takes a second

    found = []
    for label, truth, score in _columns(labels, is_actual, scores):
        precision, recall, thresholds = precision_recall_curve(truth, score)
        area = float(average_precision_score(truth, score))
        found.append(ThresholdCurve(label, thresholds, recall, precision, area))
    return found


def roc_curves(labels: Sequence[str], is_actual: NDArray[np.bool_], scores: NDArray[Any]) -> list[ThresholdCurve]:
    """Returns the curve of each class that some items have and others have not; arguments as above."""
    from sklearn.metrics import auc, roc_curve  # loads SciPy, which takes a second

    found = []
    for label, truth, score in _columns(labels, is_actual, scores):
        if not truth.all():
            false, true, thresholds = roc_curve(truth, score)
            found.append(ThresholdCurve(label, thresholds, false, true, float(auc(false, true))))
    return found


def _columns(
    labels: Sequence[str], is_actual: NDArray[np.bool_], scores: NDArray[Any]
) -> Iterator[tuple[str, NDArray[np.bool_], NDArray[Any]]]:
    for i, label in enumerate(labels):
        if is_actual[:, i].any():
            yield label, is_actual[:, i], scores[:, i]
