"""Who is treated worse: a score for each group of items, with an interval that says how sure it is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minilearner.glance import AtAGlance, Glance
from minilearner.plots.rows import plot_groups
from minilearner.results.frames import to_frame
from minilearner.results.intervals import t_interval

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Slice", "Slices", "slice_items", "wilson_interval"]

_MOST_NUMBERS = 10  # a column with more different numbers is cut into ranges
_N_RANGES = 4


@dataclass(frozen=True)
class Slice:
    """A group of items that have the same value in a column."""

    value: str
    """The value, a range of numbers, or "missing"."""
    n_items: int
    """How many items have it."""
    score: float
    """The mean over these items: the accuracy, or the mean absolute error."""
    low: float
    """The lower end of the 95 % interval of the score."""
    high: float
    """The upper end."""
    is_worse: bool
    """Whether the whole interval is on the bad side of the score over all items."""


@dataclass(frozen=True, repr=False)
class Slices(AtAGlance):
    """The groups of one column, the worst first.

    Example: ``interp.slices("camera")``.
    """

    column: str
    """The name of the column."""
    measure: str
    """What `score` is: "accuracy" or "mean absolute error"."""
    overall: float
    """The score over all items."""
    rows: tuple[Slice, ...]
    """The groups, the worst first."""

    def plot(
        self,
        figsize: tuple[float, float] | None = None,
        ax: Axes | None = None,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws each group's score with its interval, and a line at the score over all items.

        Args:
            figsize: width and height in inches.
            ax: where to draw; None makes a new figure.
            save: a file to write the figure to, such as "slices.png".
        """
        return plot_groups(self, figsize=figsize, ax=ax, save=save)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers and text, for JSON."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}

    def to_frame(self) -> Any:
        """Returns a pandas frame with one row for each group.

        Raises:
            ImportError: pandas is not installed.
        """
        return to_frame([asdict(row) for row in self.rows])

    def glance(self) -> Glance:
        """Returns the score of each group with its interval, the worst first."""
        rows = []
        for row in self.rows:
            mark = "worse than the rest" if row.is_worse else ""
            interval = f"{row.low:.4f} to {row.high:.4f}"
            rows.append((row.value, f"{row.score:.4f}", interval, f"{row.n_items:,}", mark))
        title = f"{self.measure} by {self.column}, 95 % intervals; over all items {self.overall:.4f}"
        return Glance(title, {}, (self.column, self.measure, "interval", "items", ""), rows)


def slice_items(name: str, values: Sequence[Any], scores: NDArray[Any], *, measure: str) -> Slices:
    """Groups items by their values.

    Numbers with more than 10 different values are cut into four ranges with equally many items.

    Args:
        name: what the column is called.
        values: one for each item. None and NaN are "missing".
        scores: one for each item. True and False for "accuracy"; else a number of which less is better.
        measure: what the mean of the scores is called.
    """
    groups = _group(values)
    overall = float(np.mean(scores, dtype=np.float64))
    is_share = scores.dtype == np.bool_
    rows = []
    for value, positions in groups.items():
        part = scores[positions]
        low, high = wilson_interval(part) if is_share else t_interval(part)
        is_worse = high < overall if is_share else low > overall
        rows.append(Slice(value, len(part), float(np.mean(part, dtype=np.float64)), low, high, is_worse))
    rows.sort(key=lambda row: row.score if is_share else -row.score)
    return Slices(name, measure, overall, tuple(rows))


def _group(values: Sequence[Any]) -> dict[str, NDArray[np.int64]]:
    keys = _ranges(values) if _are_many_numbers(values) else ["missing" if _is_missing(v) else str(v) for v in values]
    groups: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return {key: np.array(positions) for key, positions in groups.items()}


def _are_many_numbers(values: Sequence[Any]) -> bool:
    known = [value for value in values if not _is_missing(value)]
    is_numeric = all(isinstance(v, (int, float, np.number)) and not isinstance(v, (bool, np.bool_)) for v in known)
    return is_numeric and len(set(known)) > _MOST_NUMBERS


def _ranges(values: Sequence[Any]) -> list[str]:
    numbers = np.array([math.nan if _is_missing(value) else float(value) for value in values])
    edges = np.unique(np.nanquantile(numbers, np.linspace(0, 1, _N_RANGES + 1)))
    names = [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges)]
    place = np.searchsorted(edges[1:-1], numbers).tolist()
    return ["missing" if math.isnan(n) else names[i] for n, i in zip(numbers.tolist(), place, strict=True)]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, (float, np.floating)) and math.isnan(value))


def wilson_interval(is_right: NDArray[Any]) -> tuple[float, float]:
    """Returns the 95 % interval of the share that `is_right` shows."""
    from scipy.stats import binomtest  # takes a second to load

    interval = binomtest(int(is_right.sum()), len(is_right)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
