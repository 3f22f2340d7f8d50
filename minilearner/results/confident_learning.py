"""Confident learning: which labels are wrong, by the probabilities of a model that has not seen them.

Source: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", 2021. The results
are those of cleanlab's `get_label_quality_scores` and `find_label_issues(filter_by="confident_learning")`.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "RankBy",
    "count_confident",
    "estimate_joint",
    "estimate_noise",
    "find_errors",
    "guess_classes",
    "rate_labels",
]

RankBy = Literal["self_confidence", "normalized_margin"]

_TOLERANCE = 1e-6  # probabilities that differ by less count as equal, as in cleanlab


def rate_labels(probs: NDArray[Any], given: NDArray[Any], rank_by: RankBy) -> NDArray[np.float64]:
    """Returns how good each label is, from 0 (surely wrong) to 1.

    Args:
        probs: (items, classes).
        given: (items,), class numbers.
        rank_by: "self_confidence" is the probability of the given class, p. "normalized_margin" is (p - q + 1) / 2,
            with q the largest probability of the other classes.
    """
    own = _take(probs, given)
    if rank_by == "self_confidence":
        return own
    others = np.array(probs, dtype=np.float64)
    others[np.arange(len(given)), given] = 0
    return np.asarray((own - others.max(axis=1) + 1) / 2)


def guess_classes(probs: NDArray[Any], given: NDArray[Any]) -> NDArray[np.int64]:
    """Returns the class that each item confidently belongs to, (items,); -1 if there is none.

    An item may belong to a class if its probability reaches that class's mean over the items that are labelled so. If
    there are several such classes, it is the most probable one. A class without items has no such mean.
    """
    own, n_classes = _take(probs, given), probs.shape[1]
    support = np.bincount(given, minlength=n_classes)
    means = np.bincount(given, weights=own, minlength=n_classes) / np.maximum(support, 1)
    thresholds = np.where(support > 0, np.maximum(means, 2 * _TOLERANCE), np.inf) - _TOLERANCE
    is_confident = probs >= thresholds
    n_confident = is_confident.sum(axis=1)
    guesses = np.where(n_confident > 1, probs.argmax(axis=1), is_confident.argmax(axis=1))
    return np.where(n_confident > 0, guesses, -1)


def find_errors(probs: NDArray[Any], given: NDArray[Any], guesses: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns whether each label is probably wrong: the item confidently belongs to another class.

    An item whose given class is also the most probable one keeps its label.
    """
    is_likeliest = _take(probs, given) + _TOLERANCE >= probs.max(axis=1)
    return np.asarray((guesses >= 0) & (guesses != given) & ~is_likeliest)


def estimate_joint(given: NDArray[Any], guesses: NDArray[np.int64], n_classes: int) -> NDArray[np.float64]:
    """Returns the estimated share of items for each given class (row) and true class (column); it sums to 1.

    It is the matrix of confident counts, in which each row is scaled to the items that have that label. At least one
    item of each class counts as rightly labelled.
    """
    counts = count_confident(given, guesses, n_classes).astype(np.float64)
    np.fill_diagonal(counts, np.maximum(counts.diagonal(), 1))
    support = np.bincount(given, minlength=n_classes)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True) * support[:, None] / len(given))


def estimate_noise(given: NDArray[Any], guesses: NDArray[np.int64], n_classes: int) -> float:
    """Returns the estimated share of wrong labels: 1 minus the diagonal of `estimate_joint`, without that matrix."""
    support = np.bincount(given, minlength=n_classes)
    n_right = np.bincount(given[guesses == given], minlength=n_classes)
    n_confident = np.bincount(given[guesses >= 0], minlength=n_classes)
    at_least_one = np.maximum(n_right, 1)
    return float(1 - (at_least_one / (n_confident - n_right + at_least_one) * support).sum() / len(given))


def count_confident(given: NDArray[Any], guesses: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    """Returns how many items of each given class (row) confidently belong to each class (column)."""
    is_known = guesses >= 0
    cells = given[is_known].astype(np.int64) * n_classes + guesses[is_known]
    return np.bincount(cells, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def _take(probs: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(probs[np.arange(len(classes)), classes], dtype=np.float64)
