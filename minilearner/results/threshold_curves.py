"""What a threshold does: precision-recall and ROC curves of each class. scikit-learn computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minilearner.errors import closest
from minilearner.keywords import suggest_keywords
from minilearner.plots import curves

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ClassCurves", "ThresholdCurve", "precision_recall_curves", "roc_curves"]


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


@suggest_keywords
class ClassCurves:
    """The curves of an interpretation that knows for each item and class whether it is right, and how likely."""

    @property
    def _names(self) -> list[str]:
        raise NotImplementedError

    def _one_against_others(self) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Returns whether items have classes, and their probabilities, (items, classes) both."""
        raise NotImplementedError

    def precision_recall_curves(self) -> dict[str, ThresholdCurve]:
        """Returns the precision-recall curve of each class that occurs, against all others; scikit-learn computes them.

        Raises:
            ValueError: the probabilities of all classes were not kept.
        """
        return {curve.label: curve for curve in precision_recall_curves(self._names, *self._one_against_others())}

    def roc_curves(self) -> dict[str, ThresholdCurve]:
        """Returns the ROC curve of each class that occurs, against all others; scikit-learn computes them.

        Raises:
            ValueError: the probabilities of all classes were not kept.
        """
        return {curve.label: curve for curve in roc_curves(self._names, *self._one_against_others())}

    def plot_precision_recall(
        self,
        classes: Sequence[Any] | None = None,
        figsize: tuple[float, float] | None = None,
        ax: Axes | None = None,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws the precision-recall curves. With more than 8 classes, the 8 worst are named.

        Args:
            classes: the labels of the classes to draw. None draws all.
            figsize: width and height in inches.
            ax: where to draw. None makes a new figure.
            save: a file to write the figure to, such as "precision_recall.png".

        Raises:
            ValueError: a class is unknown, or the probabilities of all classes were not kept.
        """
        return self._plot_curves("precision-recall", self.precision_recall_curves, classes, figsize, ax, save)

    def plot_roc(
        self,
        classes: Sequence[Any] | None = None,
        figsize: tuple[float, float] | None = None,
        ax: Axes | None = None,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws the ROC curves; the arguments and errors are those of `plot_precision_recall`."""
        return self._plot_curves("ROC", self.roc_curves, classes, figsize, ax, save)

    def _plot_curves(
        self,
        kind: str,
        compute: Callable[[], dict[str, ThresholdCurve]],
        classes: Sequence[Any] | None,
        figsize: tuple[float, float] | None,
        ax: Axes | None,
        save: str | os.PathLike[str] | None,
    ) -> Figure:
        wanted = self._names if classes is None else list(map(str, classes))
        for name in wanted:
            if name not in self._names:
                raise ValueError(
                    f"`classes` must be labels of the vocabulary.{closest(name, self._names)} Received: {name!r}."
                )
        found = compute()
        drawn = [found[name] for name in wanted if name in found]
        return curves.plot_threshold_curves(
            drawn, kind=kind, n_left_out=len(wanted) - len(drawn), figsize=figsize, ax=ax, save=save
        )


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
