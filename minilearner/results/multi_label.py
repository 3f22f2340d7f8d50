"""What a model of several labels for each item gets wrong: labels that it missed, and labels that it made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minilearner.checks import check_choice, check_count, check_fraction
from minilearner.errors import DataError, plural
from minilearner.keywords import suggest_keywords
from minilearner.plots import rows
from minilearner.results.calibration import Calibration, measure_calibration
from minilearner.results.frames import to_frame
from minilearner.results.origins import read_column
from minilearner.results.predictions import Predictions, find_images
from minilearner.results.report import Scores
from minilearner.results.slices import Slices, slice_items
from minilearner.results.threshold_curves import ClassCurves
from minilearner.results.top_losses import Interpretation
from minilearner.results.training_facts import TrainingFacts

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from minilearner.pages.content import Section

__all__ = ["MultiLabelInterpretation"]


@suggest_keywords
class MultiLabelInterpretation(Interpretation, ClassCurves):
    """The predictions of several labels for each item, from one pass.

    Example::

        interp = MultiLabelInterpretation.from_learner(learn)
        interp.plot_errors()
        interp.best_thresholds()

    Attributes:
        vocab: the labels, in order.
        probs: (items, labels), the probability of each label.
        actual: (items, labels), whether an item has a label.
        thresh: from which probability on a label is predicted.
    """

    def __init__(
        self,
        predictions: Predictions,
        vocab: Sequence[Any] | None = None,
        thresh: float = 0.5,
        *,
        show: Callable[..., Figure] | None = None,
    ) -> None:
        """Takes what `learn.get_preds()` returned or `Predictions.load` read.

        Args:
            predictions: with targets of zeros and ones.
            vocab: one name for each label; by default the predictions' own, or else their numbers.
            thresh: from which probability on a label is predicted, in [0, 1].
            show: draws the items at given positions, each with a further line.

        Raises:
            DataError: these are not probabilities of several labels, or there are no targets.
            ValueError: `thresh` is out of range, or there is not one name for each label.
        """
        check_fraction(thresh, "thresh")
        preds, targets = predictions.preds, predictions.targets
        if not _are_labels(preds, targets):
            raise DataError(
                "`MultiLabelInterpretation` needs probabilities (items, labels) and targets of zeros and ones in the "
                f"same shape. Received: predictions {_shape(preds)} and targets {_shape(targets)}."
            )
        names = vocab if vocab is not None else predictions.vocab
        self.vocab = list(range(preds.shape[1])) if names is None else list(names)
        if len(self.vocab) != preds.shape[1]:
            raise ValueError(
                f"`vocab` must name each of {plural(preds.shape[1], 'label')}. "
                f"Received: {plural(len(self.vocab), 'name')}."
            )
        self.probs: NDArray[np.float32] = preds.float().numpy()
        self.actual: NDArray[np.bool_] = targets.bool().numpy()
        self.thresh, self.origins = thresh, predictions.origins
        self._show, self._load_images = show, find_images(predictions)
        self.losses = _losses(predictions)

    @classmethod
    def from_learner(  # type: ignore[override]
        cls, learn: Any, ds_idx: int = 1, dl: Any = None, thresh: float | None = None
    ) -> MultiLabelInterpretation:
        """Predicts one set of a learner, once.

        Args:
            learn: the learner.
            ds_idx: 0 for the training set, 1 for the validation set.
            dl: a loader to predict instead.
            thresh: from which probability on a label is predicted. None is that of the targets, or 0.5.
        """
        own = getattr(learn.dls.target, "thresh", 0.5) if thresh is None else thresh
        predictions = learn.get_preds(ds_idx, dl, with_loss=True)
        return cls(predictions, thresh=own, show=partial(learn.show_items, ds_idx, dl))._keep_learner(learn, ds_idx, dl)

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """(items, labels): whether a label is predicted."""
        return self.probs > self.thresh

    def scores(self) -> dict[str, Scores]:
        """Returns precision, recall, F1 and the number of items of each label; scikit-learn computes them."""
        from sklearn.metrics import precision_recall_fscore_support  # loads SciPy, which takes a second

        found = precision_recall_fscore_support(self.actual, self.predicted, average=None, zero_division=0)
        columns = [column.tolist() for column in found]
        return {name: Scores(*values) for name, *values in zip(self._names, *columns, strict=True)}

    def errors(self) -> list[dict[str, Any]]:
        """Returns a row for each label: how many items have it, how often it was missed, and how often made up."""
        missed, extra = (self.actual & ~self.predicted).sum(0), (~self.actual & self.predicted).sum(0)
        columns = (column.tolist() for column in (self.actual.sum(0), missed, extra))
        names = ("n_items", "missed", "extra")
        return [
            {"label": label, **dict(zip(names, values, strict=True))}
            for label, *values in zip(self._names, *columns, strict=True)
        ]

    def best_thresholds(self) -> dict[str, float]:
        """Returns the threshold with the highest F1 for each label that occurs. Test them on other items than these."""
        best = {}
        for label, curve in self.precision_recall_curves().items():
            f1 = 2 * curve.x * curve.y / np.maximum(curve.x + curve.y, 1e-12)
            at = min(int(f1.argmax()), len(curve.thresholds) - 1)
            # A label counts from just below this probability on: `predicted` asks for more than the threshold.
            best[label] = float(np.nextafter(np.float32(curve.thresholds[at]), np.float32(0)))
        return best

    def plot_per_class(
        self,
        most: int | None = None,
        figsize: tuple[float, float] | None = None,
        ax: Axes | None = None,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws precision, recall, F1 and the number of items of each label, the lowest F1 first.

        Args:
            most: how many labels at most. None is 40, which fit on a page.
            figsize: width and height in inches. None is large enough for the labels.
            ax: where to draw. None makes a new figure.
            save: a file to write the figure to, such as "per_class.png".

        Raises:
            ValueError: `most` is below 1.
        """
        if most is not None:
            check_count(most, "most")
        scores = list(self.scores().values())
        return rows.plot_class_scores(self._names, scores, most=most, figsize=figsize, ax=ax, save=save)

    def plot_errors(
        self,
        figsize: tuple[float, float] | None = None,
        ax: Axes | None = None,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws for each label how often it was missed, to the left, and how often made up, to the right.

        Args:
            figsize: width and height in inches. None is large enough for the labels.
            ax: where to draw. None makes a new figure.
            save: a file to write the figure to, such as "errors.png".
        """
        heading = f"Wrong labels; {np.mean(self._is_right()):.1%} of the items have none"
        sides = (("missed", "missed", "smooth"), ("extra", "made up", "accent"))
        worst = sorted(self.errors(), key=lambda row: -row["missed"] - row["extra"])
        return rows.plot_changes(worst, heading, sides=sides, both_ends=False, figsize=figsize, ax=ax, save=save)

    def calibration(self, n_bins: int = 15, *, label: Any = None) -> Calibration:
        """Returns how far the probability of a label is from the share of items that have it.

        Example: ``{label: interp.calibration(label=label).ece for label in interp.vocab}``.

        Args:
            n_bins: in how many bins of equal width the two are compared.
            label: measure this label alone. None measures all labels together.

        Raises:
            ValueError: `n_bins` is below 1, or there is no such label.
        """
        if label is not None:
            check_choice(str(label), "label", self._names)
        columns = slice(None) if label is None else self._names.index(str(label))
        probs, actual = self.probs[:, columns].ravel(), self.actual[:, columns].ravel()
        return replace(measure_calibration(probs, actual, n_bins=n_bins), is_of_labels=True)

    def plot_calibration(
        self,
        n_bins: int = 15,
        figsize: tuple[float, float] | None = None,
        ax: Axes | None = None,
        *,
        label: Any = None,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws the share of items that have a label over its probability.

        Args:
            n_bins: as in `calibration`.
            figsize: width and height in inches.
            ax: where to draw. None makes a new figure.
            label: draw this label alone. None draws all labels together.
            save: a file to write the figure to, such as "calibration.png".
        """
        return self.calibration(n_bins, label=label).plot(figsize=figsize, ax=ax, save=save)

    def slices(self, column: str | Sequence[Any] | Callable[[Any], Any]) -> Slices:
        """Returns for each group of items the share with all labels right, the worst first, with 95 % intervals.

        Args:
            column: as in `ClassificationInterpretation.slices`.
        """
        name, values = read_column(self.origins, len(self), column)
        return slice_items(name, values, self._is_right(), measure="accuracy")

    def to_frame(self) -> Any:
        """Returns a pandas frame with a row for each label: its scores, and how often it was missed and made up.

        Raises:
            ImportError: pandas is not installed.
        """
        scores = self.scores()
        return to_frame([{**row, **scores[row["label"]]._asdict()} for row in self.errors()])

    def _sections(self, facts: TrainingFacts | None, n_images: int) -> list[Section]:
        from minilearner.results.label_sections import label_sections  # the star import needs no pages

        how: dict[str, Any] = {"set_name": self._set_name, "n_images": n_images, "load": self._load_images}
        return label_sections(self, facts, **how)

    @property
    def _names(self) -> list[str]:
        return [str(label) for label in self.vocab]

    def _one_against_others(self) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        return self.actual, self.probs

    def _is_right(self) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = (self.actual == self.predicted).all(1)
        return right


def _are_labels(preds: Any, targets: Any) -> bool:
    if not isinstance(preds, Tensor) or not isinstance(targets, Tensor) or preds.ndim != 2 or not len(preds):
        return False
    is_unit = bool(((preds >= 0) & (preds <= 1)).all())
    return is_unit and preds.shape == targets.shape and bool(((targets == 0) | (targets == 1)).all())


def _losses(predictions: Predictions) -> Tensor:
    """Returns the loss of each item; by default the binary cross-entropy, as a mean over labels."""
    if predictions.losses is not None:
        return predictions.losses.float()
    p = predictions.preds.float().clamp(1e-7, 1 - 1e-7)
    return torch.nn.functional.binary_cross_entropy(p, predictions.targets.float(), reduction="none").mean(1)


def _shape(value: Any) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
