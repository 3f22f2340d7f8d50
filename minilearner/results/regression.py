"""How far predicted numbers are from the actual ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from minilearner.checks import check_count
from minilearner.errors import DataError, portion
from minilearner.keywords import suggest_keywords
from minilearner.plots.predicted_numbers import plot_predicted_numbers, plot_residuals
from minilearner.results.origins import read_column
from minilearner.results.predictions import Predictions, find_images
from minilearner.results.slices import Slices, slice_items
from minilearner.results.top_losses import Interpretation
from minilearner.results.training_facts import TrainingFacts

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from minilearner.pages.content import Section

__all__ = ["NumberScores", "RegressionInterpretation"]


class NumberScores(NamedTuple):
    """The errors of one predicted number over all items."""

    mae: float
    """The mean absolute error."""
    rmse: float
    """The root of the mean squared error."""
    r2: float
    """The share of the variance that is explained."""
    bias: float
    """The mean of predicted minus actual."""


@suggest_keywords
class RegressionInterpretation(Interpretation):
    """Predicted numbers beside the actual ones, from one pass.

    Example::

        interp = RegressionInterpretation.from_learner(learn)
        interp.plot_predictions()

    Attributes:
        predicted, actual: (items, numbers).
    """

    def __init__(self, predictions: Predictions, *, show: Callable[..., Figure] | None = None) -> None:
        """Takes what `learn.get_preds()` returned or `Predictions.load` read.

        Args:
            predictions: numbers, with targets of as many numbers. Without losses, an item's loss is its mean squared
                error.
            show: draws the items at given positions, each with a further line.

        Raises:
            DataError: these are not numbers with targets of as many numbers.
        """
        preds, targets = predictions.preds, predictions.targets
        are_numbers = isinstance(preds, Tensor) and isinstance(targets, Tensor) and len(preds) > 0
        if not are_numbers or preds.numel() != targets.numel() or len(preds) != len(targets):
            shapes = [tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__ for t in (preds, targets)]
            raise DataError(
                "`RegressionInterpretation` needs as many predicted numbers as actual ones for each item. "
                f"Received: predictions {shapes[0]} and targets {shapes[1]}."
            )
        n = len(preds)
        self.predicted: NDArray[np.float64] = preds.double().reshape(n, -1).numpy()
        self.actual: NDArray[np.float64] = targets.double().reshape(n, -1).numpy()
        self.origins, self._show = predictions.origins, show
        self._load_images = find_images(predictions)
        squares = (preds.float().reshape(n, -1) - targets.float().reshape(n, -1)) ** 2
        self.losses = squares.mean(1) if predictions.losses is None else predictions.losses.float()

    @classmethod
    def from_learner(  # type: ignore[override]
        cls, learn: Any, ds_idx: int = 1, dl: Any = None
    ) -> RegressionInterpretation:
        """Predicts one set of a learner, once.

        Args:
            learn: the learner.
            ds_idx: 0 for the training set, 1 for the validation set.
            dl: a loader to predict instead.
        """
        return cls(
            learn.get_preds(ds_idx, dl, with_loss=True), show=partial(learn.show_items, ds_idx, dl)
        )._keep_learner(learn, ds_idx, dl)

    def scores(self, number: int = 0) -> NumberScores:
        """Returns the errors of one of the numbers over all items; scikit-learn computes them.

        Args:
            number: which of the numbers of an item, from 0.

        Raises:
            ValueError: there is no such number.
        """
        from sklearn import metrics  # loads SciPy, which takes a second

        actual, predicted = self._columns(number)
        r2 = float(metrics.r2_score(actual, predicted)) if len(actual) > 1 else float("nan")
        errors = metrics.mean_absolute_error(actual, predicted), metrics.mean_squared_error(actual, predicted) ** 0.5
        return NumberScores(float(errors[0]), float(errors[1]), r2, float(np.mean(predicted - actual)))

    def plot_predictions(
        self,
        number: int = 0,
        figsize: tuple[float, float] | None = None,
        ax: Axes | None = None,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws predicted over actual numbers, which agree on the diagonal.

        Args:
            number: which of the numbers of an item, from 0.
            figsize: width and height in inches.
            ax: where to draw. None makes a new figure.
            save: a file to write the figure to, such as "predictions.png".
        """
        found = self.scores(number)
        heading = f"MAE {found.mae:.3g}, RMSE {found.rmse:.3g}, R\N{SUPERSCRIPT TWO} {found.r2:.3f}"
        return plot_predicted_numbers(*self._columns(number), heading, figsize=figsize, ax=ax, save=save)

    def plot_residuals(
        self,
        number: int = 0,
        figsize: tuple[float, float] | None = None,
        ax: Axes | None = None,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws predicted minus actual numbers: over the prediction, and how often each occurs.

        Args:
            number: which of the numbers of an item, from 0.
            figsize: width and height in inches.
            ax: axes whose place the two panels take. None makes a new figure.
            save: a file to write the figure to, such as "residuals.png".
        """
        actual, predicted = self._columns(number)
        heading = f"mean error {self.scores(number).bias:.3g}"
        return plot_residuals(predicted, predicted - actual, heading, figsize=figsize, ax=ax, save=save)

    def slices(self, column: str | Sequence[Any] | Callable[[Any], Any], number: int = 0) -> Slices:
        """Returns the mean absolute error of each group of items, the worst first, with 95 % intervals (t).

        Args:
            column: as in `ClassificationInterpretation.slices`.
            number: which of the numbers of an item, from 0.
        """
        actual, predicted = self._columns(number)
        name, values = read_column(self.origins, len(self), column)
        return slice_items(name, values, np.abs(predicted - actual), measure="mean absolute error")

    def _sections(self, facts: TrainingFacts | None, n_images: int) -> list[Section]:
        from minilearner.results.number_sections import number_sections  # the star import needs no pages

        how: dict[str, Any] = {"set_name": self._set_name, "n_images": n_images, "load": self._load_images}
        return number_sections(self, facts, **how)

    def _columns(self, number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        check_count(number, "number", least=0)
        n_items, n = self.actual.shape
        if number >= n:
            raise ValueError(f"`number` must be below {n}, the numbers of an item. Received: number={number}.")
        actual, predicted = self.actual[:, number], self.predicted[:, number]
        odd = np.flatnonzero(~np.isfinite(actual) | ~np.isfinite(predicted))
        if len(odd):
            raise DataError(
                f"Scores and plots need finite numbers. {portion(len(odd), n_items, 'item', 'has', 'have')} NaN or "
                f"infinite ones, such as item {odd[0]}: predicted {predicted[odd[0]]}, actual {actual[odd[0]]}. If the "
                "training diverged, use a smaller rate."
            )
        return actual, predicted
