"""The labels of a set in the order of suspicion: which are probably wrong, and what they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from minilearner.checks import check_count
from minilearner.errors import agree, plural, portion
from minilearner.glance import AtAGlance, Glance
from minilearner.plots.image_grid import plot_images, verdict_colors
from minilearner.plots.style import shorten_middle
from minilearner.results.confident_learning import (
    RankBy,
    count_confident,
    estimate_joint,
    estimate_noise,
    find_errors,
    guess_classes,
    rate_labels,
)
from minilearner.results.frames import to_frame
from minilearner.results.origins import Origins
from minilearner.review_file import Suspect, write_review

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LABEL_ERROR", "LabelError", "LabelErrors", "find_label_errors"]

LABEL_ERROR = "label error"
"""The problem that a review names."""

_MOST_ROWS = 20  # that show themselves
_MOST_NOISE = 0.3
_WEAK_MODEL = (
    "So many errors mean a weak model more often than wrong labels: train it longer, or begin with trained weights."
)
_LONGEST_NAME = 30  # letters

_SEEN = (
    "The model was trained on these items, so it hides wrong labels. Take the predictions of learn.cross_val_preds()."
)


class LabelError(NamedTuple):
    """One label, and how suspicious it is."""

    item: int
    """The position of the item in its set."""
    path: str
    """The item's file. Empty if the item does not come from a file."""
    given: str
    """The label that the item has."""
    suggested: str
    """The label that the model predicts."""
    suspicion: float
    """From 0 to 1: 1 minus the quality of the label."""
    is_error: bool
    """Whether the label is probably wrong."""
    given_prob: float
    """The probability of the given label."""
    suggested_prob: float
    """The probability of the suggested label."""


@dataclass(frozen=True, repr=False)
class LabelErrors(AtAGlance):
    """All labels of a set, the most suspicious first.

    Example::

        found = interp.label_errors()
        found[0], found.n_errors
        found.plot(16)
        found.to_csv("review.csv")
    """

    labels: tuple[str, ...]
    """The names of the classes."""
    given: NDArray[Any]
    """(items,): the class numbers of the labels, in the order of the set."""
    suggested: NDArray[Any]
    """(items,): the predicted class numbers."""
    given_probs: NDArray[Any]
    """(items,): the probability of the given class."""
    suggested_probs: NDArray[Any]
    """(items,): the probability of the predicted class."""
    quality: NDArray[np.float64]
    """(items,): how good each label is, from 0 (surely wrong) to 1."""
    is_error: NDArray[np.bool_]
    """(items,): whether each label is probably wrong."""
    guesses: NDArray[np.int64]
    """(items,): the number of the class that each item confidently belongs to; -1 if there is none."""
    origins: Origins | None = None
    """The files of the items."""
    images: Callable[[Sequence[int]], Sequence[Tensor | str]] | None = field(default=None, compare=False)
    """Returns the items at given positions as images, for `plot`."""
    are_trained_on: bool = False
    """Whether the model was trained on these items, and so has learnt their wrong labels."""

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """(items,): the positions of the items, the most suspicious first."""
        return np.argsort(self.quality, kind="stable")

    @cached_property
    def confident_joint(self) -> NDArray[np.int64]:
        """(classes, classes): how many items of each given class (row) confidently belong to each class (column)."""
        return count_confident(self.given, self.guesses, len(self.labels))

    @cached_property
    def joint(self) -> NDArray[np.float64]:
        """(classes, classes): the estimated share of items for each given class (row) and true class (column)."""
        return estimate_joint(self.given, self.guesses, len(self.labels))

    @property
    def caveats(self) -> list[str]:
        """Why these labels may say less than they seem to, in sentences; often there are none."""
        weak = [_WEAK_MODEL] if self.noise > _MOST_NOISE else []
        return [*weak, *([_SEEN] if self.are_trained_on else [])]

    @property
    def n_errors(self) -> int:
        """How many labels are probably wrong."""
        return int(self.is_error.sum())

    @property
    def noise(self) -> float:
        """The estimated share of wrong labels, in [0, 1], by the joint of given and true classes."""
        return estimate_noise(self.given, self.guesses, len(self.labels))

    @property
    def errors(self) -> list[LabelError]:
        """The labels that are probably wrong, the most suspicious first."""
        return [self._row(i) for i in self.order.tolist() if self.is_error[i]]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int | slice) -> Any:
        """Returns the label at a place of the order, or a list of them for a slice."""
        chosen = self.order[place]
        return [self._row(i) for i in chosen.tolist()] if isinstance(place, slice) else self._row(int(chosen))

    def __iter__(self) -> Iterator[LabelError]:
        return map(self._row, self.order.tolist())

    def suspects(self, most: int | None = None) -> list[Suspect]:
        """Returns the first `most` labels, or all, as rows of a review."""
        if most is not None:
            check_count(most, "most")
        return [
            Suspect(row.path, row.item, row.given, row.suggested, row.suspicion, LABEL_ERROR if row.is_error else "")
            for row in islice(self, most)
        ]

    def load_images(self, items: Sequence[int]) -> Sequence[Tensor | str]:
        """Returns the images of items by their positions, or a text that says what is missing."""
        return ["no image"] * len(items) if self.images is None else self.images(items)

    def to_csv(self, path: str | os.PathLike[str], most: int | None = None, *, encoding: str = "utf-8") -> Path:
        """Writes the labels to a CSV file to review, the most suspicious first, and returns its path.

        The column `problem` says "label error" if a label is probably wrong. A reviewer writes "keep", "delete" or
        "relabel" into `action`, and the right label into `new_label`. `DataBlock.relabel` and `relabel=` of
        `ImageDataLoaders` read the file again.

        Args:
            path: the file.
            most: how many rows at most. None writes all items.
            encoding: "utf-8-sig" adds the mark by which Excel knows UTF-8.

        Raises:
            ValueError: `most` is below 1, or the encoding does not fit the labels.
        """
        return write_review(path, self.suspects(most), encoding)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers and text, for JSON."""
        return {
            "n_items": len(self),
            "n_errors": self.n_errors,
            "noise": self.noise,
            "labels": list(self.labels),
            "confident_joint": self.confident_joint.tolist(),
            "rows": [row._asdict() for row in self],
        }

    def to_frame(self) -> Any:
        """Returns a pandas frame with a row for each label, the most suspicious first.

        Raises:
            ImportError: pandas is not installed.
        """
        return to_frame([row._asdict() for row in self])

    def plot(
        self,
        k: int = 9,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
        *,
        ax: Axes | None = None,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws the `k` items with the most suspicious labels. Titles are red if a label is probably wrong.

        Args:
            k: between 1 and the number of items.
            nrows: rows of the grid. None is as many as are needed.
            ncols: columns of the grid. None is as many as are needed.
            figsize: width and height in inches. None is large enough for the images.
            ax: axes whose place the grid takes. None makes a new figure.
            save: a file to write the figure to, such as "label_errors.png".

        Raises:
            ValueError: `k` is out of range, or there are no images to show.
        """
        check_count(k, "k")
        if k > len(self):
            raise ValueError(f"`k` must be between 1 and the {len(self)} items. Received: k={k}.")
        if self.images is None:
            raise ValueError("There are no images to show: build the interpretation with `from_learner`.")
        rows = self[:k]
        return plot_images(
            self.images([row.item for row in rows]),
            list(map(_title, rows)),
            colors=verdict_colors([False if row.is_error else None for row in rows], ax),
            nrows=nrows,
            ncols=ncols,
            figsize=figsize,
            ax=ax,
            save=save,
        )

    def glance(self) -> Glance:
        """Returns how many labels are probably wrong, and the most suspicious ones."""
        found = portion(self.n_errors, len(self), "label", "is", "are")
        accuracy = float((self.given == self.suggested).mean())
        facts = {
            "estimated share of wrong labels": f"{100 * self.noise:.1f} %",
            "the model agrees with": f"{100 * accuracy:.1f} % of the labels",
        }
        rows = [
            (row.path or f"item {row.item}", row.given, row.suggested, f"{row.suspicion:.4f}", "yes" * row.is_error)
            for row in self[:_MOST_ROWS]
        ]
        shown = [tuple(shorten_middle(cell, 2 * _LONGEST_NAME) for cell in row) for row in rows]
        rest = len(self) - len(rows)
        after = [f"... and {plural(rest, 'label')} that {agree(rest, 'is', 'are')} less suspicious"] if rest else []
        after += self.caveats
        columns = ("item", "given", "suggested", "suspicion", "error")
        return Glance(f"{found} probably wrong", facts, columns, shown, after)

    def _row(self, i: int) -> LabelError:
        return LabelError(
            i,
            "" if self.origins is None else self.origins.path(i),
            self.labels[self.given[i]],
            self.labels[self.suggested[i]],
            float(1 - self.quality[i]),
            bool(self.is_error[i]),
            float(self.given_probs[i]),
            float(self.suggested_probs[i]),
        )


def find_label_errors(
    probs: NDArray[Any],
    given: NDArray[Any],
    labels: Sequence[str],
    rank_by: RankBy = "self_confidence",
    *,
    origins: Origins | None = None,
    images: Callable[[Sequence[int]], Sequence[Tensor | str]] | None = None,
    are_trained_on: bool = False,
) -> LabelErrors:
    """Finds wrong labels by confident learning.

    Args:
        probs: (items, classes), of a model that was not trained on these items.
        given: (items,), the class numbers of the labels.
        labels: the names of the classes.
        rank_by: as in `confident_learning.rate_labels`.
        origins: the files of the items.
        images: returns the items at given positions as images.
        are_trained_on: whether the model was trained on these items all the same.
    """
    guesses, predicted = guess_classes(probs, given), probs.argmax(axis=1)
    of_given, of_predicted = (
        np.take_along_axis(probs, numbers[:, None].astype(np.int64), axis=1)[:, 0] for numbers in (given, predicted)
    )
    return LabelErrors(
        tuple(labels),
        given,
        predicted,
        of_given,
        of_predicted,
        rate_labels(probs, given, rank_by),
        find_errors(probs, given, guesses),
        guesses,
        origins,
        images,
        are_trained_on,
    )


def _title(row: LabelError) -> str:
    lines = [
        f"given: {shorten_middle(row.given, _LONGEST_NAME)} (prob. {row.given_prob:.4f})",
        f"suggested: {shorten_middle(row.suggested, _LONGEST_NAME)} (prob. {row.suggested_prob:.4f})",
    ]
    name = row.path.replace("\\", "/").rsplit("/", 1)[-1]
    return "\n".join([*lines, shorten_middle(name, _LONGEST_NAME + 12)] if name else lines)
