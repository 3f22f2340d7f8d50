"""Scores of items with one class each, by fastai's names: scikit-learn's values.

Unless a class says otherwise, predictions are scores (batch, classes) or (batch, ..., classes), and targets are class
numbers (batch,) or (batch, ...). `sample_weight` has one weight for each item of the whole set, in its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from minilearner.checks import check_choice, check_not_negative
from minilearner.keywords import suggest_keywords
from minilearner.scores.accumulated import ScikitLearnScore

__all__ = [
    "APScoreBinary",
    "BalancedAccuracy",
    "BrierScore",
    "CohenKappa",
    "F1Score",
    "FBeta",
    "HammingLoss",
    "Jaccard",
    "MatthewsCorrCoef",
    "Precision",
    "Recall",
    "RocAuc",
    "RocAucBinary",
]


@suggest_keywords
class _OfOneClass(ScikitLearnScore):
    """A score of the most likely class of each item, averaged over the classes."""

    def __init__(
        self,
        axis: int = -1,
        labels: Sequence[int] | None = None,
        pos_label: int = 1,
        average: str | None = "binary",
        sample_weight: Sequence[float] | None = None,
    ) -> None:
        options: dict[str, Any] = {"labels": labels, "pos_label": pos_label, "average": average}
        super().__init__(axis=axis, sample_weight=sample_weight, **options)


class F1Score(_OfOneClass):
    """The F1 score, the harmonic mean of precision and recall, of the most likely classes.

    It is scikit-learn's `f1_score`.

    Args:
        axis: the dimension of the classes in the predictions.
        labels: the classes that count. None is all that occur.
        pos_label: the class that counts with ``average="binary"``.
        average: how the classes' scores become one: "binary", "micro", "macro" or "weighted".
        sample_weight: the weight of each item of the set.
    """

    score = "f1_score"


@suggest_keywords
class FBeta(ScikitLearnScore):
    """The F-beta score of the most likely classes: scikit-learn's `fbeta_score`.

    Args:
        beta: how many times as important recall is as precision; not negative.
        axis, labels, pos_label, average, sample_weight: as in `F1Score`.
    """

    score = "fbeta_score"

    def __init__(
        self,
        beta: float,
        axis: int = -1,
        labels: Sequence[int] | None = None,
        pos_label: int = 1,
        average: str | None = "binary",
        sample_weight: Sequence[float] | None = None,
    ) -> None:
        check_not_negative(beta, "beta")
        options: dict[str, Any] = {"labels": labels, "pos_label": pos_label, "average": average}
        super().__init__(axis=axis, beta=beta, sample_weight=sample_weight, **options)


class Precision(_OfOneClass):
    """The precision: of the items predicted as a class, the share that belongs to it.

    It is scikit-learn's `precision_score`.

    Args:
        axis, labels, pos_label, average, sample_weight: as in `F1Score`.
    """

    score = "precision_score"


class Recall(_OfOneClass):
    """The recall: of the items that belong to a class, the share that is predicted as it.

    It is scikit-learn's `recall_score`.

    Args:
        axis, labels, pos_label, average, sample_weight: as in `F1Score`.
    """

    score = "recall_score"


class Jaccard(_OfOneClass):
    """The Jaccard score: items with the class in both prediction and target, over those with it in either.

    It is scikit-learn's `jaccard_score`.

    Args:
        axis, labels, pos_label, average, sample_weight: as in `F1Score`.
    """

    score = "jaccard_score"


@suggest_keywords
class BalancedAccuracy(ScikitLearnScore):
    """The mean recall of all classes: scikit-learn's `balanced_accuracy_score`.

    Args:
        axis: the dimension of the classes in the predictions.
        sample_weight: the weight of each item of the set.
        adjusted: whether chance is 0 instead of one over the number of classes.
    """

    score = "balanced_accuracy_score"

    def __init__(self, axis: int = -1, sample_weight: Sequence[float] | None = None, adjusted: bool = False) -> None:
        super().__init__(axis=axis, sample_weight=sample_weight, adjusted=adjusted)


@suggest_keywords
class CohenKappa(ScikitLearnScore):
    """Cohen's kappa, the agreement of prediction and target beyond chance: scikit-learn's `cohen_kappa_score`.

    Args:
        axis: the dimension of the classes in the predictions.
        labels: the classes that count. None is all that occur.
        weights: how the distance of two classes counts: None, "linear" or "quadratic".
        sample_weight: the weight of each item of the set.
    """

    score = "cohen_kappa_score"

    def __init__(
        self,
        axis: int = -1,
        labels: Sequence[int] | None = None,
        weights: str | None = None,
        sample_weight: Sequence[float] | None = None,
    ) -> None:
        super().__init__(axis=axis, labels=labels, weights=weights, sample_weight=sample_weight)


@suggest_keywords
class MatthewsCorrCoef(ScikitLearnScore):
    """The Matthews correlation of predicted and true classes: scikit-learn's `matthews_corrcoef`.

    Args:
        sample_weight: the weight of each item of the set.
        axis: the dimension of the classes in the predictions.
    """

    score = "matthews_corrcoef"

    def __init__(self, sample_weight: Sequence[float] | None = None, *, axis: int = -1) -> None:
        super().__init__(axis=axis, sample_weight=sample_weight)


@suggest_keywords
class HammingLoss(ScikitLearnScore):
    """The share of wrong classes: scikit-learn's `hamming_loss`.

    Args:
        axis: the dimension of the classes in the predictions.
        sample_weight: the weight of each item of the set.
    """

    score = "hamming_loss"

    def __init__(self, axis: int = -1, sample_weight: Sequence[float] | None = None) -> None:
        super().__init__(axis=axis, sample_weight=sample_weight)


@suggest_keywords
class BrierScore(ScikitLearnScore):
    """The mean squared distance of the predicted class, 0 or 1, from the true one: scikit-learn's `brier_score_loss`.

    As in fastai, it is that of the class and not of its probability. With probabilities, give `AccumMetric` the
    activation "binarysoftmax".

    Args:
        axis: the dimension of the classes in the predictions.
        sample_weight: the weight of each item of the set.
        pos_label: the class that counts as 1.
    """

    score = "brier_score_loss"

    def __init__(
        self, axis: int = -1, sample_weight: Sequence[float] | None = None, pos_label: int | None = None
    ) -> None:
        options = {} if pos_label is None else {"pos_label": pos_label}
        super().__init__(axis=axis, sample_weight=sample_weight, **options)


@suggest_keywords
class APScoreBinary(ScikitLearnScore):
    """The average precision of two classes, by the softmax of two scores: scikit-learn's `average_precision_score`.

    Args:
        axis: the dimension of the classes in the predictions.
        average, sample_weight: as in `F1Score`.
        pos_label: the class that counts as found.
    """

    score = "average_precision_score"

    def __init__(
        self,
        axis: int = -1,
        average: str | None = "macro",
        pos_label: int = 1,
        sample_weight: Sequence[float] | None = None,
    ) -> None:
        options: dict[str, Any] = {"average": average, "pos_label": pos_label, "sample_weight": sample_weight}
        super().__init__(axis=axis, activation="binarysoftmax", **options)


@suggest_keywords
class RocAuc(ScikitLearnScore):
    """The area under the ROC curve of three or more classes: scikit-learn's `roc_auc_score`.

    Args:
        axis: the dimension of the classes in the predictions.
        average: how the classes' areas become one: "macro" or "weighted".
        sample_weight: the weight of each item of the set.
        max_fpr: only the part of the curve up to this rate of false positives, in (0, 1]. None is all.
        multi_class: compares each class with all others, "ovr", or with each other, "ovo".

    Raises:
        ValueError: an unknown `multi_class`.
    """

    score = "roc_auc_score"

    def __init__(
        self,
        axis: int = -1,
        average: str | None = "macro",
        sample_weight: Sequence[float] | None = None,
        max_fpr: float | None = None,
        multi_class: str = "ovr",
    ) -> None:
        check_choice(multi_class, "multi_class", ("ovr", "ovo"))
        options: dict[str, Any] = {"average": average, "sample_weight": sample_weight, "max_fpr": max_fpr}
        super().__init__(axis=axis, activation="softmax", flatten=False, multi_class=multi_class, **options)

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Adds one batch. Targets of shape (batch, 1) are taken as (batch,)."""
        super().update(pred, target.flatten())


@suggest_keywords
class RocAucBinary(ScikitLearnScore):
    """The area under the ROC curve of two classes, by the softmax of two scores: scikit-learn's `roc_auc_score`.

    Args:
        axis, average, sample_weight, max_fpr: as in `RocAuc`.
        multi_class: as in `RocAuc`; without effect for two classes.
    """

    score = "roc_auc_score"

    def __init__(
        self,
        axis: int = -1,
        average: str | None = "macro",
        sample_weight: Sequence[float] | None = None,
        max_fpr: float | None = None,
        multi_class: str = "raise",
    ) -> None:
        check_choice(multi_class, "multi_class", ("raise", "ovr", "ovo"))
        options: dict[str, Any] = {"average": average, "sample_weight": sample_weight, "max_fpr": max_fpr}
        super().__init__(axis=axis, activation="binarysoftmax", multi_class=multi_class, **options)
