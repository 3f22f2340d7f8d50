"""A classifier's errors: the confusion matrix, the worst items, scores, curves and calibration, from one pass.

This module knows no model. It takes batches of predictions, and images to show, from any object that fits the
`Predictor` protocol, such as a learner; or predictions that were saved.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from minilearner import processes
from minilearner.checks import check_choice, check_count
from minilearner.errors import DataError, plural
from minilearner.keywords import suggest_keywords
from minilearner.plots import confusion, rows
from minilearner.plots.image_grid import plot_images, verdict_colors
from minilearner.plots.style import inches_of, shorten_middle
from minilearner.results.calibration import Calibration, measure_calibration
from minilearner.results.class_items import batch_of, read_class_items
from minilearner.results.comparison import Comparison, compare_answers
from minilearner.results.confident_learning import RankBy
from minilearner.results.evidence import Evidence
from minilearner.results.label_errors import LabelErrors, find_label_errors
from minilearner.results.origins import Origins, read_column
from minilearner.results.predictions import BatchPrediction, Predictions, find_images
from minilearner.results.report import ClassificationReport, classification_report
from minilearner.results.slices import Slices, slice_items
from minilearner.results.threshold_curves import ClassCurves
from minilearner.results.top_losses import Interpretation, Predictor, refuse_learner
from minilearner.results.training_facts import TrainingFacts

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from minilearner.pages.content import Section

__all__ = ["ClassificationInterpretation"]

_LONGEST_NAME = 30  # letters


@suggest_keywords
class ClassificationInterpretation(Interpretation, ClassCurves):
    """A classifier's predictions for each item of a set, with their probabilities.

    It reads the predictions once. It keeps the counts (classes x classes) and at most 20 bytes per item: the loss, the
    predicted and the actual class, and the probabilities of both. The probabilities of all classes wait in a temporary
    file, which is mapped into memory and disappears with this object, for curves and the temperature. They are kept up
    to 64 MB; ``keep_probs=True`` keeps them whatever their size, and gives them as `probs`.

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
        pictures: Callable[[Sequence[int]], Sequence[Tensor | str]] | None = None,
        origins: Origins | None = None,
        explain: Callable[..., Evidence] | None = None,
    ) -> None:
        """Reads all batches once.

        Args:
            batches: predictions with targets and losses.
            vocab: one label for each class. Without it, labels are the numbers of the classes.
            keep_probs: whether to keep the probabilities of all classes, for `probs`.
            pictures: returns the items at given positions as images, for `plot_top_losses`. A text says why an image
                is missing.
            origins: the files of the items, and the columns of their table.
            explain: returns the evidence in the items at given positions for given classes, for `plot_gradcam`.

        Raises:
            TypeError: this is a learner, which `from_learner` takes.
            DataError: there is no item, targets or losses are missing, or the predictions are not probabilities of
                classes.
            ValueError: the number of labels differs from the number of classes.
        """
        refuse_learner(batches, type(self))
        self._load_images = pictures
        self.origins = origins
        self._explain = explain
        self._has_all_probs = keep_probs
        self._items = items = read_class_items(batches, vocab, keep_probs=keep_probs)
        if origins is not None and len(origins) != len(items):
            raise DataError(
                f"`origins` must name each of {plural(len(items), 'item')}. Received: {plural(len(origins), 'name')}."
            )
        self.vocab = items.vocab
        self.losses, self.predicted, self.actual = items.losses, items.predicted, items.actual
        self.predicted_probs, self.actual_probs = items.predicted_probs, items.actual_probs

    @classmethod
    def from_learner(
        cls,
        learn: Predictor,
        ds_idx: int = 1,
        dl: Any = None,
        act: Callable[[Any], Any] | None = None,
        *,
        keep_probs: bool = False,
    ) -> ClassificationInterpretation:
        """Predicts one set of a learner, once.

        Args:
            learn: the learner.
            ds_idx: 0 for the training set, 1 for the validation set.
            dl: a loader to predict instead.
            act: activates the model's outputs, in place of what belongs to the kind of target.
            keep_probs: whether to keep the probabilities of all classes, for `probs`.
        """
        find_origins, explain = getattr(learn, "origins", None), getattr(learn, "evidence", None)
        made = cls(
            learn.predict_batches(ds_idx=ds_idx, dl=dl, act=act),
            learn.dls.vocab,
            keep_probs=keep_probs,
            origins=None if find_origins is None else find_origins(ds_idx, dl),
            explain=None if explain is None else partial(explain, ds_idx=ds_idx, dl=dl),
        )
        return made._keep_learner(learn, ds_idx, dl)

    @classmethod
    def from_predictions(
        cls,
        predictions: Predictions,
        vocab: Sequence[Any] | None = None,
    ) -> ClassificationInterpretation:
        """Interprets what `learn.get_preds()` returned or `Predictions.load` read. No model and no loader is needed.

        `plot_top_losses` shows the inputs if the predictions hold them, or else reads the items' files. An image that
        is not there is replaced by its name.

        Args:
            predictions: with targets. Without losses, an item's loss is its cross-entropy.
            vocab: one label for each class; by default the predictions' own.
        """
        vocab = predictions.vocab if vocab is None else vocab
        how: dict[str, Any] = {"pictures": find_images(predictions), "origins": predictions.origins}
        return cls([batch_of(predictions)], vocab, keep_probs=True, **how)

    def confusion_matrix(self) -> NDArray[np.int64]:
        """Returns a copy of the counts, (classes, classes): rows are actual classes, columns predicted ones."""
        return np.array(self._items.counts)

    def plot_confusion_matrix(
        self,
        normalize: bool = False,
        title: str = "Confusion matrix",
        cmap: str = "Blues",
        norm_dec: int = 2,
        plot_txt: bool = True,
        figsize: tuple[float, float] | None = None,
        ax: Axes | None = None,
        *,
        order: Literal["vocab", "confusion"] = "vocab",
        most: int | None = None,
        dpi: float | None = None,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws the confusion matrix. For many classes, ``most=20`` draws the most confused ones only.

        Args:
            normalize: whether to divide each row by its sum. The row of a class that does not occur is 0, and hatched.
            title: the title of the plot.
            cmap: the name of a Matplotlib colour map.
            norm_dec: the number of decimals with `normalize`.
            plot_txt: whether to write a number into each cell, if numbers fit.
            figsize: width and height in inches. None is large enough for the classes.
            ax: where to draw. None makes a new figure.
            order: "vocab" draws the classes in their order; "confusion" puts those side by side that are taken for each
                other.
            most: draw only this many classes, those with the most frequent confusions. Shares stay those of all.
            dpi: dots per inch of a new figure.
            save: a file to write the figure to, such as "confusion.png".

        Raises:
            ValueError: `most` is below 2, or `order` is unknown.
        """
        check_choice(order, "order", ("vocab", "confusion"))
        counts, n = self._items.counts, len(self.vocab)
        chosen = list(range(n))
        if most is not None:
            check_count(most, "most", least=2)
            chosen = confusion.find_worst_classes(counts, most)
            title = f"{title}\nthe {len(chosen)} most confused of {plural(n, 'class')}" if most < n else title
        if order == "confusion":
            chosen = [chosen[i] for i in confusion.order_by_confusion(counts[np.ix_(chosen, chosen)])]
        return confusion.plot_confusion(
            counts,
            self._names,
            normalize=normalize,
            title=title,
            cmap=cmap,
            norm_dec=norm_dec,
            plot_txt=plot_txt,
            figsize=figsize,
            ax=ax,
            chosen=chosen,
            dpi=dpi,
            save=save,
        )

    def _draw(self, indices: list[int], *, save: str | os.PathLike[str] | None = None, **layout: Any) -> Figure:
        """Draws items. Titles say both classes with their probabilities, the loss, and the name of the file."""
        if self._load_images is None:
            raise ValueError("There are no images to show: build this with `from_learner`, or pass `pictures`.")
        columns = layout["ncols"] or math.ceil(math.sqrt(len(indices)))
        letters = _letters_in(layout["figsize"], layout.get("ax"), columns)
        return plot_images(
            self._load_images(indices),
            [self._title(i, letters) for i in indices],
            colors=verdict_colors(self.actual[indices] == self.predicted[indices], layout.get("ax")),
            save=save,
            **layout,
        )

    def plot_gradcam(
        self,
        k: int | Sequence[int],
        largest: bool = True,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
        *,
        of: Literal["predicted", "actual"] = "predicted",
        layer: Any = None,
        method: Literal["gradcam", "gradcam++"] = "gradcam",
        ax: Axes | None = None,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws the `k` items with the largest loss, and where the model found the evidence for a class in them.

        Args:
            k: between 1 and the number of items; or places in the order of losses, such as range(9, 18).
            largest: False draws the items with the smallest loss.
            nrows: rows of the grid. None is as many as are needed.
            ncols: columns of the grid. None is as many as are needed.
            figsize: width and height in inches. None is large enough for the images.
            of: whether the evidence is that for the predicted or for the actual class. Each title names the class.
            layer: the layer that is looked at, or its path. None takes the last one with spatial extent. The heading
                names it.
            method: "gradcam", or "gradcam++", which finds several objects of a class better.
            ax: axes whose place the grid takes. None makes a new figure.
            save: a file to write the figure to, such as "gradcam.png".

        Raises:
            ValueError: `k` is out of range, `of`, `layer` or `method` is unknown, or there is no model, because this
                was not built by `from_learner`.
            DataError: no layer of the model has a spatial extent.
        """
        check_choice(of, "of", ("predicted", "actual"))
        if self._explain is None:
            raise ValueError("Grad-CAM needs the model: build this with `from_learner`.")
        indices = self._places(k, largest)
        self._warn_of_other_weights("the heat is that")
        classes = (self.predicted if of == "predicted" else self.actual)[indices].tolist()
        longest = _letters_in(figsize, ax, ncols or math.ceil(math.sqrt(len(indices))))
        titles = [
            f"{self._title(i, longest)}\nevidence for {shorten_middle(self._names[number], longest)}"
            for i, number in zip(indices, classes, strict=True)
        ]
        colors = verdict_colors(self.actual[indices] == self.predicted[indices], ax)
        found = self._explain(indices, classes, layer=layer, method=method)
        return found.plot(titles, colors, nrows=nrows, ncols=ncols, figsize=figsize, ax=ax, save=save)

    def most_confused(self, min_val: int = 1) -> list[tuple[Any, Any, int]]:
        """Returns (actual, predicted, count) for all confusions that occur `min_val` times or more, commonest first.

        Raises:
            ValueError: `min_val` is below 1.
        """
        check_count(min_val, "min_val")
        counts = self._items.counts
        pairs = np.argwhere(counts >= min_val).tolist()
        found = [(self.vocab[a], self.vocab[p], int(counts[a, p])) for a, p in pairs if a != p]
        return sorted(found, key=lambda confusion: -confusion[2])

    def classification_report(self) -> ClassificationReport:
        """Returns precision, recall, F1 and support of each class and their averages; scikit-learn computes them."""
        return classification_report(self._items.counts, self._names)

    def print_classification_report(self) -> None:
        """Prints the report as scikit-learn does."""
        if processes.is_first():
            sys.stdout.write(f"{self.classification_report()}\n")

    def plot_per_class(
        self,
        most: int | None = None,
        figsize: tuple[float, float] | None = None,
        ax: Axes | None = None,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws precision, recall, F1 and the number of items of each class, the lowest F1 first.

        Args:
            most: how many classes at most. None is 40, which fit on a page.
            figsize: width and height in inches. None is large enough for the classes.
            ax: where to draw. None makes a new figure.
            save: a file to write the figure to, such as "per_class.png".

        Raises:
            ValueError: `most` is below 1.
        """
        if most is not None:
            check_count(most, "most")
        scores = self.classification_report().scores
        return rows.plot_class_scores(self._names, scores, most=most, figsize=figsize, ax=ax, save=save)

    def calibration(self, n_bins: int = 15) -> Calibration:
        """Returns how far probabilities are from accuracy, and the temperature that mends it.

        `learn.calibrate()` makes a learner predict with such a temperature.

        Args:
            n_bins: in how many bins of equal width confidence is compared with accuracy.

        Raises:
            ValueError: `n_bins` is below 1.
        """
        probs, is_right = self._items.probs, self.predicted == self.actual
        return measure_calibration(self.predicted_probs, is_right, n_bins=n_bins, probs=probs, actual=self.actual)

    def plot_calibration(
        self,
        n_bins: int = 15,
        figsize: tuple[float, float] | None = None,
        ax: Axes | None = None,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws the accuracy over the confidence, as predicted and with the best temperature.

        Args:
            n_bins: as in `calibration`.
            figsize: width and height in inches.
            ax: where to draw. None makes a new figure.
            save: a file to write the figure to, such as "calibration.png".
        """
        return self.calibration(n_bins).plot(figsize=figsize, ax=ax, save=save)

    def slices(self, column: str | Sequence[Any] | Callable[[Any], Any]) -> Slices:
        """Returns the accuracy of each group of items, the worst first, with 95 % intervals (Wilson).

        Example: ``interp.slices("camera")``, ``interp.slices(lambda path: path.parent.name)``.

        Args:
            column: a column of the table that the items come from, one value for each item, or a function of an item's
                source, such as its path. Many different numbers are cut into four ranges.

        Raises:
            DataError: there is no such column, or not one value for each item.
        """
        name, values = read_column(self.origins, len(self), column)
        return slice_items(name, values, self.predicted == self.actual, measure="accuracy")

    def compare(self, other: ClassificationInterpretation) -> Comparison:
        """Returns what changes if `other`, another model's predictions of the same items, takes the place of these.

        Raises:
            TypeError: `other` is no `ClassificationInterpretation`.
            DataError: the items, the names of their files or their classes differ.
        """
        if not isinstance(other, ClassificationInterpretation):
            raise TypeError(
                f"`other` must be a ClassificationInterpretation. Received: an object of type {type(other).__name__}."
            )
        has_same_names = [str(label) for label in other.vocab] == self._names
        if len(other) != len(self) or not has_same_names or not np.array_equal(other.actual, self.actual):
            raise DataError(
                "`other` must hold predictions of the same items with the same classes, in the same order. "
                f"Received: {plural(len(other), 'item')} of {plural(len(other.vocab), 'class')} beside "
                f"{plural(len(self), 'item')} of {plural(len(self.vocab), 'class')}."
            )
        for i, (own, others) in enumerate(zip(self._file_names(), other._file_names(), strict=False)):
            if own and others and own != others:
                raise DataError(
                    "`other` must hold predictions of the same items, in the same order. "
                    f"Received: file '{others}' beside '{own}' at position {i}."
                )
        return compare_answers(self._names, self.actual, self.predicted, other.predicted)

    def label_errors(self, rank_by: RankBy = "self_confidence") -> LabelErrors:
        """Returns all labels, the most suspicious first, and which of them are probably wrong (confident learning).

        The model must not have been trained on these items, or it has learnt their wrong labels by heart. For the
        labels of a training set, `learn.cross_val_preds()` predicts each item by a model that has not seen it.

        Example::

            found = interp.label_errors()
            found.plot(16)
            found.to_csv("review.csv")

        Source: Northcutt et al., "Confident Learning", 2021. Ranking and errors are those of cleanlab.

        Args:
            rank_by: "self_confidence" ranks by the probability of the given label, which also finds images that belong
                to no class. "normalized_margin" ranks by its distance to the most probable other label.

        Raises:
            ValueError: `rank_by` is unknown, or the probabilities of all classes were not kept.
        """
        check_choice(rank_by, "rank_by", ("self_confidence", "normalized_margin"))
        if self._items.probs is None:
            raise _not_kept_error()
        how: dict[str, Any] = {"origins": self.origins, "images": self._load_images}
        how["are_trained_on"] = self._set_name == "training set"
        return find_label_errors(self._items.probs, self.actual, self._names, rank_by, **how)

    def _sections(self, facts: TrainingFacts | None, n_images: int) -> list[Section]:
        from minilearner.results.class_sections import class_sections  # the star import needs no pages

        how: dict[str, Any] = {"set_name": self._set_name, "n_images": n_images}
        return class_sections(self, facts, load=self._load_images, explain=self._explain, **how)

    @property
    def probs(self) -> NDArray[np.float32]:
        """The probabilities of all classes, (items, classes), mapped from a temporary file.

        Raises:
            ValueError: this was built without ``keep_probs=True``.
        """
        if not self._has_all_probs or self._items.probs is None:
            raise _not_kept_error()
        return self._items.probs

    def __len__(self) -> int:
        return len(self.losses)

    def __repr__(self) -> str:
        share = (self.actual == self.predicted).mean()
        size = f"{plural(len(self), 'item')}, {plural(len(self.vocab), 'class')}"
        return f"ClassificationInterpretation: {size}, accuracy {share:.4f}"

    @property
    def _names(self) -> list[str]:
        return [str(label) for label in self.vocab]

    def _file_names(self) -> list[str]:
        return [] if self.origins is None else [self.origins.name(i) for i in range(len(self))]

    def _one_against_others(self) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        if self._items.probs is None:
            raise _not_kept_error()
        return np.arange(len(self.vocab)) == self.actual[:, None], self._items.probs

    def _title(self, index: int, longest: int = _LONGEST_NAME) -> str:
        actual, predicted = int(self.actual[index]), int(self.predicted[index])
        p_actual, p_predicted = self.actual_probs[index], self.predicted_probs[index]
        actual_name, predicted_name = (shorten_middle(self._names[i], longest) for i in (actual, predicted))
        lines = [
            f"actual: {actual_name} (prob. {p_actual:.4f})",
            f"predicted: {predicted_name} (prob. {p_predicted:.4f})",
            f"loss: {self.losses[index]:.4f}",
        ]
        if self.origins is not None and self.origins.name(index):
            lines.append(shorten_middle(self.origins.name(index), longest + 12))
        return "\n".join(lines)


def _letters_in(figsize: tuple[float, float] | None, ax: Axes | None, n_columns: int) -> int:
    """Returns how long names may be in a title beside "predicted: " and the probability."""
    size = figsize if ax is None else inches_of(ax)
    if size is None:
        return _LONGEST_NAME
    return max(8, min(_LONGEST_NAME, int(size[0] / n_columns / 0.065) - 24))


def _not_kept_error() -> ValueError:
    return ValueError("The full probabilities were not kept: build this with `keep_probs=True`.")
