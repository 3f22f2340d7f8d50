"""`ScoreTable`: the scores of several fits of one kind, of folds or seeds, with their mean and an interval."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minilearner.errors import plural
from minilearner.files import csv_text, write_atomically
from minilearner.glance import AtAGlance, Glance
from minilearner.keywords import suggest_keywords
from minilearner.results.frames import to_frame
from minilearner.results.intervals import t_interval

__all__ = ["ScoreTable"]


@suggest_keywords
@dataclass(frozen=True, repr=False)
class ScoreTable(AtAGlance):
    """The scores of several fits, as `learn.cross_validate` and `learn.repeat` return them.

    Example::

        scores = learn.cross_validate(5)
        print(scores)  # a row for each fold, then mean, standard deviation and interval
        scores.mean["accuracy"], scores.interval["accuracy"]

    NaN in a fit, such as an area under the curve without positives, makes the mean NaN. So does a metric that only some
    of the fits have.
    """

    by: str
    """What distinguishes the fits: "fold" or "seed"."""
    keys: tuple[int, ...]
    """The number of each fold, from 1, or the seeds."""
    n_items: tuple[int | None, ...]
    """How many items each fit was validated on. None if the loader does not say."""
    scores: Mapping[str, tuple[float, ...]]
    """The values of "valid_loss" and of each metric, one for each fit."""
    overlap: float = 0.0
    """Items for validation divided by items for training, if the fits share training items; else 0."""

    def __len__(self) -> int:
        """The number of fits."""
        return len(self.keys)

    @property
    def mean(self) -> dict[str, float]:
        """The mean of each score over the fits. Each fit counts the same."""
        return {name: float(np.mean(values)) for name, values in self.scores.items()}

    @property
    def std(self) -> dict[str, float]:
        """The standard deviation of each score from fit to fit, with n - 1. NaN for a single fit."""
        return {name: _spread(values) for name, values in self.scores.items()}

    @property
    def interval(self) -> dict[str, tuple[float, float]]:
        """The 95 % interval of each mean, by Student's t.

        Folds share training items, so their scores spread less than those of independent sets. Their interval is
        widened by Nadeau and Bengio's correction (2003). It holds for models trained on as many items. The interval of
        seeds says how much the mean owes to chance in training; the items are the same in all fits.
        """
        return {name: t_interval(values, self.overlap) for name, values in self.scores.items()}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row for each fit: its number, its items and its scores."""
        columns = zip(*self.scores.values(), strict=True)
        return [
            {self.by: key, "items": n, **dict(zip(self.scores, values, strict=True))}
            for key, n, values in zip(self.keys, self.n_items, columns, strict=True)
        ]

    def to_frame(self) -> Any:
        """Returns the rows as a pandas frame.

        Raises:
            ImportError: pandas is not installed.
        """
        return to_frame(self.rows)

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Writes the rows to a CSV file, whole or not at all, and returns its path."""
        header = list(self.rows[0])
        write_atomically(Path(path), csv_text(header, [list(row.values()) for row in self.rows]))
        return Path(path)

    def glance(self) -> Glance:
        """Returns the rows, the mean, the standard deviation and the interval."""
        names = list(self.scores)
        rows = [
            [str(row[self.by]), str(row["items"] or ""), *(f"{row[name]:.4f}" for name in names)] for row in self.rows
        ]
        mean, std, interval = self.mean, self.std, self.interval
        rows += [
            ["mean", "", *(f"{mean[name]:.4f}" for name in names)],
            ["std", "", *(f"{std[name]:.4f}" for name in names)],
            ["95 % from", "", *(f"{interval[name][0]:.4f}" for name in names)],
            ["to", "", *(f"{interval[name][1]:.4f}" for name in names)],
        ]
        return Glance(
            f"{plural(len(self), 'fit')}, by {self.by}",
            columns=[self.by, "items", *names],
            rows=rows,
            after=[self._how()],
        )

    def _how(self) -> str:
        if len(self) < 2:
            return "One fit says nothing about the spread."
        if self.overlap:
            return (
                "The interval is that of the mean, by Student's t, widened by Nadeau and Bengio's correction, since "
                "folds share training items."
            )
        return "The interval is that of the mean, by Student's t."


def _spread(values: tuple[float, ...]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
