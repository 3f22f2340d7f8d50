"""Metrics of numbers by fastai's names: errors, explained variance and correlations.

Predictions and targets may differ in form, such as (batch, 1) and (batch,): they are compared one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from minilearner.keywords import suggest_keywords
from minilearner.scores.accumulated import AccumMetric, Activation, ScikitLearnScore, flatten_both

__all__ = [
    "ExplainedVariance",
    "PearsonCorrCoef",
    "R2Score",
    "SpearmanCorrCoef",
    "exp_rmspe",
    "mae",
    "mse",
    "msle",
    "rmse",
]


def mse(pred: Tensor, target: Tensor) -> Tensor:
    """Returns the mean squared error of numbers. Shapes may differ in form, such as (batch, 1) and (batch,).

    Raises:
        ValueError: there are more or fewer targets than predictions.
    """
    return F.mse_loss(*flatten_both(pred, target))


def mae(pred: Tensor, target: Tensor) -> Tensor:
    """Returns the mean absolute error of numbers, as `mse` does."""
    return F.l1_loss(*flatten_both(pred, target))


def msle(pred: Tensor, target: Tensor) -> Tensor:
    """Returns the mean squared error of log(1 + number), as `mse` does, for numbers above -1."""
    pred, target = flatten_both(pred, target)
    return F.mse_loss(pred.log1p(), target.log1p())


def rmse(pred: Tensor, target: Tensor) -> Tensor:
    """Returns the root of the mean squared error. As a metric, it is that of the whole set."""
    return mse(pred, target).sqrt()


def exp_rmspe(pred: Tensor, target: Tensor) -> Tensor:
    """Returns the root mean square error, in percent of the target, of numbers whose logarithms are given.

    As a metric, it is that of the whole set. For (batch, 1) predictions of the logarithm of a price, for example.
    """
    pred, target = (t.exp() for t in flatten_both(pred, target))
    return ((target - pred) / target).square().mean().sqrt()


@suggest_keywords
class _OfNumbers(ScikitLearnScore):
    def __init__(self, sample_weight: Sequence[float] | None = None) -> None:
        super().__init__(sample_weight=sample_weight)


class ExplainedVariance(_OfNumbers):
    """The share of the targets' variance that the predictions explain: scikit-learn's `explained_variance_score`.

    Args:
        sample_weight: the weight of each item of the set.
    """

    score = "explained_variance_score"


class R2Score(_OfNumbers):
    """The coefficient of determination of numbers: scikit-learn's `r2_score`.

    Args:
        sample_weight: the weight of each item of the set.
    """

    score = "r2_score"


@suggest_keywords
class _Correlation(AccumMetric):
    """A correlation of predictions and targets, by its name in `scipy.stats`."""

    _function: ClassVar[str]
    higher_is_better = True

    def __init__(
        self, dim_argmax: int | None = None, *, activation: Activation = "no", thresh: float | None = None
    ) -> None:
        correlate = partial(_correlate, self._function)
        super().__init__(correlate, dim_argmax, activation, thresh, to_np=True, name=self._function)


class PearsonCorrCoef(_Correlation):
    """The linear correlation of predictions and targets, in [-1, 1]: SciPy's `pearsonr`.

    Args:
        dim_argmax, activation, thresh: as in `AccumMetric`.
    """

    _function = "pearsonr"


class SpearmanCorrCoef(_Correlation):
    """The correlation of the ranks of predictions and targets, in [-1, 1]: SciPy's `spearmanr`.

    Args:
        dim_argmax, activation, thresh: as in `AccumMetric`.
    """

    _function = "spearmanr"


def _correlate(name: str, pred: Any, target: Any) -> float:
    from scipy import stats  # takes a second to load

    return float(getattr(stats, name)(pred, target)[0])
