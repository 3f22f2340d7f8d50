"""Two models on the same items: which errors the second one fixed, which it made, and whether that can be chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minilearner.errors import plural
from minilearner.glance import AtAGlance, Glance
from minilearner.plots.rows import plot_changes
from minilearner.results.frames import to_frame

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Comparison", "compare_answers"]


@dataclass(frozen=True, repr=False)
class Comparison(AtAGlance):
    """What changes if the second model takes the place of the first.

    Example::

        change = before.compare(after)
        print(change)
        change.plot()
    """

    labels: tuple[str, ...]
    """The names of the classes."""
    actual: NDArray[Any]
    """(items,): class numbers."""
    is_right: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    """(items,) for each of the two models."""

    @property
    def fixed(self) -> NDArray[np.int64]:
        """The positions of items that only the second model gets right."""
        return np.flatnonzero(~self.is_right[0] & self.is_right[1])

    @property
    def broken(self) -> NDArray[np.int64]:
        """The positions of items that only the first model gets right."""
        return np.flatnonzero(self.is_right[0] & ~self.is_right[1])

    @property
    def accuracy(self) -> tuple[float, float]:
        """The share of right items of each model."""
        return float(self.is_right[0].mean()), float(self.is_right[1].mean())

    @property
    def p_value(self) -> float:
        """McNemar's exact test: how often chance alone gives a difference like this. Below 0.05, it is hardly chance.

        Source: McNemar, "Note on the sampling error of the difference between correlated proportions", 1947.
        """
        from scipy.stats import binomtest  # takes a second to load

        n_fixed, n_broken = len(self.fixed), len(self.broken)
        return float(binomtest(n_fixed, n_fixed + n_broken).pvalue) if n_fixed + n_broken else 1.0

    def by_class(self) -> list[dict[str, Any]]:
        """Returns a row for each class: label, n_items, fixed, broken, and the change of its recall."""
        n = len(self.labels)
        support = np.bincount(self.actual, minlength=n)
        fixed, broken = (np.bincount(self.actual[part], minlength=n) for part in (self.fixed, self.broken))
        change = (fixed - broken) / np.maximum(support, 1)
        columns = (support.tolist(), fixed.tolist(), broken.tolist(), change.tolist())
        names = ("n_items", "fixed", "broken", "recall_change")
        return [
            {"label": label, **dict(zip(names, values, strict=True))}
            for label, *values in zip(self.labels, *columns, strict=True)
        ]

    def plot(
        self,
        figsize: tuple[float, float] | None = None,
        ax: Axes | None = None,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws for each class how many errors the second model fixed, and how many it made.

        Args:
            figsize: width and height in inches.
            ax: where to draw; None makes a new figure.
            save: a file to write the figure to, such as "comparison.png".
        """
        rows = self._worst_first()
        sides = (("broken", "newly wrong", "accent"), ("fixed", "newly right", "right"))
        return plot_changes(rows, self._heading, sides=sides, both_ends=True, figsize=figsize, ax=ax, save=save)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers and text, for JSON."""
        return {
            "accuracy": list(self.accuracy),
            "p_value": self.p_value,
            "fixed": self.fixed.tolist(),
            "broken": self.broken.tolist(),
            "by_class": self.by_class(),
        }

    def to_frame(self) -> Any:
        """Returns `by_class` as a pandas frame.

        Raises:
            ImportError: pandas is not installed.
        """
        return to_frame(self.by_class())

    def glance(self) -> Glance:
        """Returns how much changed, and the classes that changed, those that became worse first."""
        both_wrong = int((~self.is_right[0] & ~self.is_right[1]).sum())
        counts = f"fixed {len(self.fixed)}, broken {len(self.broken)}, both wrong {both_wrong}"
        columns = ("class", "items", "newly right", "newly wrong", "recall")
        rows = [
            (row["label"], f"{row['n_items']:,}", str(row["fixed"]), str(row["broken"]), f"{row['recall_change']:+.4f}")
            for row in self._worst_first()
            if row["fixed"] or row["broken"]
        ]
        title = f"{self._heading}; {counts}, of {plural(len(self.actual), 'item')}"
        return Glance(title, {}, columns if rows else (), rows)

    @property
    def _heading(self) -> str:
        first, second = self.accuracy
        return f"accuracy {first:.4f} \N{RIGHTWARDS ARROW} {second:.4f} (McNemar p = {self.p_value:.3g})"

    def _worst_first(self) -> list[dict[str, Any]]:
        return sorted(self.by_class(), key=lambda row: (row["fixed"] - row["broken"], -row["broken"]))


def compare_answers(
    labels: Sequence[str], actual: NDArray[Any], first: NDArray[Any], second: NDArray[Any]
) -> Comparison:
    """Compares the class numbers that two models predicted for the same items."""
    return Comparison(tuple(labels), actual, (first == actual, second == actual))
