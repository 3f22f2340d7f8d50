"""Scores of items with any number of classes each, by fastai's names: scikit-learn's values.

Predictions are (batch, classes), logits or probabilities, and targets are zeros and ones of the same shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minilearner.checks import check_not_negative
from minilearner.keywords import suggest_keywords
from minilearner.scores.accumulated import ScikitLearnScore

__all__ = [
    "APScoreMulti",
    "F1ScoreMulti",
    "FBetaMulti",
    "HammingLossMulti",
    "JaccardMulti",
    "MatthewsCorrCoefMulti",
    "PrecisionMulti",
    "RecallMulti",
    "RocAucMulti",
]


class _OfAnswers(ScikitLearnScore):
    """A score of yes-or-no answers, or of their probabilities."""

    def __init__(self, *, sigmoid: bool, flatten: bool = False, **options: Any) -> None:
        super().__init__(activation="sigmoid" if sigmoid else "no", flatten=flatten, **options)


@suggest_keywords
class _OfManyClasses(_OfAnswers):
    """A score of the yes-or-no answers if each item has any number of classes, averaged over the classes."""

    def __init__(
        self,
        thresh: float = 0.5,
        sigmoid: bool = True,
        labels: Sequence[int] | None = None,
        pos_label: int = 1,
        average: str | None = "macro",
        sample_weight: Sequence[float] | None = None,
    ) -> None:
        options: dict[str, Any] = {"labels": labels, "pos_label": pos_label, "average": average}
        super().__init__(
            thresh=thresh,
            sigmoid=sigmoid,
            sample_weight=sample_weight,
            **options,
        )


class F1ScoreMulti(_OfManyClasses):
    """The F1 score of yes-or-no answers, if each item has any number of classes.

    It is scikit-learn's `f1_score`.

    Args:
        thresh: a class is predicted if its probability is at least this.
        sigmoid: whether the predictions still need the sigmoid.
        labels: the classes that count. None is all.
        pos_label: the class that counts with ``average="binary"``.
        average: how the classes' scores become one: "micro", "macro", "weighted" or "samples".
        sample_weight: the weight of each item of the set.
    """

    score = "f1_score"


@suggest_keywords
class FBetaMulti(_OfAnswers):
    """The F-beta score of yes-or-no answers, if each item has any number of classes: scikit-learn's `fbeta_score`.

    Args:
        beta: as in `FBeta`.
        thresh, sigmoid, labels, pos_label, average, sample_weight: as in `F1ScoreMulti`.
    """

    score = "fbeta_score"

    def __init__(
        self,
        beta: float,
        thresh: float = 0.5,
        sigmoid: bool = True,
        labels: Sequence[int] | None = None,
        pos_label: int = 1,
        average: str | None = "macro",
        sample_weight: Sequence[float] | None = None,
    ) -> None:
        check_not_negative(beta, "beta")
        options: dict[str, Any] = {"labels": labels, "pos_label": pos_label, "average": average}
        super().__init__(
            thresh=thresh,
            sigmoid=sigmoid,
            beta=beta,
            sample_weight=sample_weight,
            **options,
        )


class PrecisionMulti(_OfManyClasses):
    """The precision of yes-or-no answers, if each item has any number of classes.

    It is scikit-learn's `precision_score`.

    Args:
        thresh, sigmoid, labels, pos_label, average, sample_weight: as in `F1ScoreMulti`.
    """

    score = "precision_score"


class RecallMulti(_OfManyClasses):
    """The recall of yes-or-no answers, if each item has any number of classes.

    It is scikit-learn's `recall_score`.

    Args:
        thresh, sigmoid, labels, pos_label, average, sample_weight: as in `F1ScoreMulti`.
    """

    score = "recall_score"


class JaccardMulti(_OfManyClasses):
    """The Jaccard score of yes-or-no answers, if each item has any number of classes.

    It is scikit-learn's `jaccard_score`.

    Args:
        thresh, sigmoid, labels, pos_label, average, sample_weight: as in `F1ScoreMulti`.
    """

    score = "jaccard_score"


@suggest_keywords
class MatthewsCorrCoefMulti(_OfAnswers):
    """The Matthews correlation of all yes-or-no answers of all items together: scikit-learn's `matthews_corrcoef`.

    Args:
        thresh, sigmoid, sample_weight: as in `F1ScoreMulti`.
    """

    score = "matthews_corrcoef"

    def __init__(self, thresh: float = 0.5, sigmoid: bool = True, sample_weight: Sequence[float] | None = None) -> None:
        super().__init__(thresh=thresh, sigmoid=sigmoid, flatten=True, sample_weight=sample_weight)


@suggest_keywords
class HammingLossMulti(_OfAnswers):
    """The share of wrong yes-or-no answers, if each item has any number of classes: scikit-learn's `hamming_loss`.

    Args:
        thresh, sigmoid, sample_weight: as in `F1ScoreMulti`.
    """

    score = "hamming_loss"

    def __init__(self, thresh: float = 0.5, sigmoid: bool = True, sample_weight: Sequence[float] | None = None) -> None:
        super().__init__(thresh=thresh, sigmoid=sigmoid, sample_weight=sample_weight)


@suggest_keywords
class APScoreMulti(_OfAnswers):
    """The average precision by the probability of each of several classes: scikit-learn's `average_precision_score`.

    Args:
        sigmoid, average, pos_label, sample_weight: as in `F1ScoreMulti`.
    """

    score = "average_precision_score"

    def __init__(
        self,
        sigmoid: bool = True,
        average: str | None = "macro",
        pos_label: int = 1,
        sample_weight: Sequence[float] | None = None,
    ) -> None:
        options: dict[str, Any] = {"average": average, "pos_label": pos_label, "sample_weight": sample_weight}
        super().__init__(sigmoid=sigmoid, **options)


@suggest_keywords
class RocAucMulti(_OfAnswers):
    """The area under the ROC curve, if each item has any number of classes: scikit-learn's `roc_auc_score`.

    Args:
        sigmoid: whether the predictions still need the sigmoid.
        average, sample_weight, max_fpr: as in `RocAuc`.
    """

    score = "roc_auc_score"

    def __init__(
        self,
        sigmoid: bool = True,
        average: str | None = "macro",
        sample_weight: Sequence[float] | None = None,
        max_fpr: float | None = None,
    ) -> None:
        options: dict[str, Any] = {"average": average, "sample_weight": sample_weight, "max_fpr": max_fpr}
        super().__init__(sigmoid=sigmoid, **options)
