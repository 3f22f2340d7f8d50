"""The records of all runs of a learner: their rows as arrays, figures, CSV, JSON and pandas frames.

A `Recorder` is a list of runs. Each call of `fit` adds a `RunRecord`, and none is ever removed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minilearner.errors import closest, plural
from minilearner.files import csv_text, json_text, write_atomically
from minilearner.glance import AtAGlance, Glance
from minilearner.keywords import suggest_keywords
from minilearner.plots import lines
from minilearner.results.epoch_rows import (
    collect_history,
    csv_columns,
    format_cells,
    is_in_mid_epoch,
    list_metrics,
    order_columns,
)
from minilearner.results.frames import to_frame
from minilearner.results.run_record import STEP_FIELDS, RunRecord, SweepOutcome
from minilearner.smoothed_loss import SmoothedLoss

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Recorder"]

_LONG_NAMES = {"lr": "learning rate", "momentum": "momentum"}
_NO_VALUES = {"epoch", "smooth_loss", "time_seconds"}
"""Columns that fastai has elsewhere, or not at all."""


@suggest_keywords
class Recorder(AtAGlance):
    """The records of all runs of a learner, in order. Nothing here is ever removed, except by `drop_empty`.

    Example::

        run = recorder.start_run("fit", n_epoch=3)
        run.add_step(1, 0.1, 0.9, loss, 64)
        run.add_epoch({"valid_loss": 0.4})
        recorder.losses, recorder.lrs  # over all runs
    """

    train_metrics: bool = False
    """Set it to True to compute the metrics on training batches too, which takes extra time."""

    sweep: Any = None
    """The latest sweep of `learn.lr_find`, or None."""

    def __init__(self) -> None:
        self.runs: list[RunRecord] = []

    def start_run(self, kind: str, /, **settings: Any) -> RunRecord:
        """Appends a new, empty run and returns it."""
        self.runs.append(RunRecord(len(self.runs) + 1, kind, settings))
        return self.runs[-1]

    def drop_empty(self) -> None:
        """Removes the latest run if it has no rows, as after an error in a callback's `before_fit`."""
        if self.runs and not self.runs[-1].n_batches and not self.runs[-1].epochs:
            self.runs.pop()

    @property
    def losses(self) -> NDArray[np.float64]:
        """The loss of each training batch of all runs."""
        return self._column("loss")

    @property
    def smoothed(self) -> NDArray[np.float64]:
        """The smoothed loss after each training batch. It goes on over all runs."""
        average = SmoothedLoss()
        return np.array([average.update(loss) for loss in self.losses.tolist()])

    @property
    def lrs(self) -> NDArray[np.float64]:
        """The rate of the last layer group for each training batch of all runs."""
        return self._column("lr")

    @property
    def momenta(self) -> NDArray[np.float64]:
        """The momentum for each training batch of all runs. NaN if the optimizer has none."""
        return self._column("momentum")

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The rows of all runs, in order."""
        return [row for run in self.runs for row in run.epochs]

    @property
    def steps(self) -> NDArray[Any]:
        """The rows of all training batches of all runs; see `RunRecord.steps`."""
        return np.concatenate([np.empty(0, STEP_FIELDS), *(run.steps for run in self.runs)])

    @property
    def history(self) -> Mapping[str, list[float]]:
        """The columns of `epochs` over all runs, with one value per epoch; see `RunRecord.history`."""
        return collect_history(self.epochs)

    @property
    def values(self) -> list[list[Any]]:
        """Rows as fastai has them: train_loss, valid_loss and the metrics for each epoch.

        They are those of all runs, while fastai keeps the latest call's. train_loss is the mean over the items.
        fastai's smoothed loss is the column "smooth_loss" of `history`.
        """
        return [[row[name] for name in order_columns([row]) if name not in _NO_VALUES] for row in self._whole_epochs()]

    @property
    def metric_names(self) -> list[str]:
        """The names of fastai's table: "epoch", those of `values`, and "time"."""
        rows = self._whole_epochs()
        return ["epoch", *(name for name in order_columns(rows[-1:]) if name not in _NO_VALUES), "time"]

    @property
    def log(self) -> list[Any]:
        """The newest row of fastai's table: the epoch, its `values`, and its time as text. Empty before the first."""
        rows = self._whole_epochs()
        if not rows:
            return []
        seconds = round(rows[-1].get("time_seconds", 0))
        return [rows[-1]["epoch"], *self.values[-1], f"{seconds // 60:02d}:{seconds % 60:02d}"]

    @property
    def iters(self) -> list[int]:
        """The number of training batches of all runs before the end of each epoch."""
        return [
            offset + at
            for offset, run in zip(self.starts(), self.runs, strict=True)
            for at, row in run.rows_at()
            if not is_in_mid_epoch(row)
        ]

    def plot_loss(
        self,
        skip_start: int = 5,
        with_valid: bool = True,
        log: bool = False,
        show_epochs: bool = False,
        ax: Axes | None = None,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws the loss of each batch, raw and smoothed, and each validation loss.

        Args:
            skip_start: how many batches at the start to leave out; their loss is often far above the rest.
            with_valid: whether to draw the validation loss.
            log: whether the axis of the loss is logarithmic.
            show_epochs: whether to mark where each epoch ends, besides where each run begins.
            ax: where to draw; None makes a new figure.
            save: a file to write the figure to, such as "loss.png".
        """
        valid = self.at_batches("valid_loss") if with_valid else ([], [])
        starts: Any = sorted({*self.starts(), *self.iters}) if show_epochs else self.starts()
        return lines.plot_loss(
            self.losses, self.smoothed, valid, skip_start=skip_start, log=log, starts=starts, ax=ax, save=save
        )

    def plot_lr_find(
        self,
        skip_start: int | None = None,
        skip_end: int | None = None,
        ax: Axes | None = None,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws the latest sweep of `learn.lr_find`; see `LRSweep.plot`.

        Args:
            skip_start, skip_end: points to leave out. None is as in `LRSweep.plot`.
            ax: where to draw. None makes a new figure.
            save: a file to write the figure to, such as "sweep.png".

        Raises:
            ValueError: there was no sweep.
        """
        if self.sweep is None:
            raise ValueError("There is no sweep to plot. Write learn.lr_find(), which draws it too.")
        sweep: SweepOutcome = self.sweep
        return sweep.plot(ax, skip_start, skip_end, save=save)

    def plot_metrics(self, ax: Axes | None = None, *, save: str | os.PathLike[str] | None = None) -> Figure:
        """Draws the loss and each metric over the epochs of all runs, with one line each for training and validation.

        Thin lines say where runs began, as in `plot_loss`.

        Args:
            ax: axes whose place the panels take. None makes a new figure.
            save: a file to write the figure to, such as "metrics.png".

        Raises:
            ValueError: no epoch is recorded.
        """
        panels = self.epoch_panels()
        if not panels:
            raise ValueError("There is nothing to plot: no epoch has been recorded yet.")
        return lines.plot_epochs(panels, starts=self._epoch_starts(), ax=ax, save=save)

    def epoch_panels(self) -> dict[str, dict[str, list[float]]]:
        """Returns the loss and each metric over the epochs of all runs, on training and validation.

        Example: ``recorder.epoch_panels()["loss"]["validation"]``. NaN stands where an epoch has no value.
        """
        rows = self._whole_epochs()
        if not rows:
            return {}
        names = list_metrics(rows)
        own = [
            name for name in names if name.removeprefix("train_") == name or name.removeprefix("train_") not in names
        ]
        sources = {"loss": ("train_loss", "valid_loss"), **{name: (f"train_{name}", name) for name in own}}
        return {
            title: {
                label: [row.get(name, math.nan) for row in rows]
                for label, name in zip(("training", "validation"), pair, strict=True)
                if any(name in row for row in rows)
            }
            for title, pair in sources.items()
        }

    def plot_sched(
        self,
        keys: str | Sequence[str] | None = None,
        ax: Axes | None = None,
        *,
        figsize: tuple[float, float] | None = None,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws the rate and the momentum of each batch over all runs.

        Args:
            keys: "lr", "momentum" or both in a list. None is both, or only "lr" if there is no momentum.
            ax: where to draw everything. None makes a new figure, with one plot below the other.
            figsize: size of a new figure in inches.
            save: a file to write the figure to, such as "schedule.png".

        Raises:
            ValueError: a key is unknown, or no batch is recorded.
        """
        series = {"lr": self.lrs, "momentum": self.momenta}
        wanted = [keys] if isinstance(keys, str) else keys
        for key in wanted or ():
            if key not in series:
                raise ValueError(f"`keys` must be among 'lr' and 'momentum'.{closest(key, series)} Received: {key!r}.")
        if not len(self.lrs):
            raise ValueError("There is no schedule to plot: no batch has been trained on yet.")
        chosen = wanted or [key for key, column in series.items() if not np.isnan(column).all()]
        named = {_LONG_NAMES[key]: series[key] for key in chosen}
        how: dict[str, Any] = {"starts": self.starts(), "ax": ax, "figsize": figsize, "save": save}
        return lines.plot_series(named, xlabel="batch", first=1, **how)

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Writes the epoch rows of all runs as CSV: run, kind, epoch, step, the losses, the metrics, time_seconds.

        The columns always have this order. A cell is empty if the row has no value for it.
        """
        rows = self._rows()
        header = csv_columns(order_columns(rows))
        return write_atomically(path, csv_text(header, [[row.get(name) for name in header] for row in rows]))

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Writes all runs as JSON: number, kind, settings, the epoch rows and the columns of the steps."""
        runs = [
            {"number": r.number, "kind": r.kind, "settings": r.settings, "epochs": r.epochs, "steps": columns}
            for r in self.runs
            for columns in [{name: r.steps[name] for name in STEP_FIELDS.names or ()}]
        ]
        return write_atomically(path, json_text({"runs": runs}))

    def _whole_epochs(self) -> list[dict[str, Any]]:
        return [row for row in self.epochs if not is_in_mid_epoch(row)]

    def _rows(self) -> list[dict[str, Any]]:
        """Returns the epoch rows of all runs, with the number and the kind of their run."""
        return [{"run": run.number, "kind": run.kind, **row} for run in self.runs for row in run.epochs]

    def _column(self, name: str) -> NDArray[np.float64]:
        return np.concatenate([np.empty(0), *(run.steps[name] for run in self.runs)])

    def starts(self) -> dict[int, str]:
        """Returns the number of batches before each run, with the run's name."""
        ends = np.cumsum([0, *(run.n_batches for run in self.runs)]).tolist()
        return {start: run.phase or run.kind for start, run in zip(ends, self.runs, strict=False)}

    def _epoch_starts(self) -> dict[float, str]:
        """Returns a place before the first epoch of each run, with the run's name; epochs count from 1 over all runs.

        0, which is before the axis, stands for the first run.
        """
        runs = [(sum(not is_in_mid_epoch(row) for row in run.epochs), run.phase or run.kind) for run in self.runs]
        before = np.cumsum([0, *(n for n, _ in runs)]).tolist()
        return {at and at + 0.5: name for at, (n, name) in zip(before, runs, strict=False) if n}

    def at_batches(self, name: str) -> tuple[list[int], list[float]]:
        """Returns the values of a column, and the number of batches of all runs before each value."""
        found = [
            (offset + at, row[name])
            for offset, run in zip(self.starts(), self.runs, strict=True)
            for at, row in run.rows_at()
            if row.get(name) is not None
        ]
        return [at for at, _ in found], [value for _, value in found]

    def describe_last(self) -> str:
        """Returns what the latest run was and how it ended, in a few words."""
        if not self.runs:
            return "none yet"
        run, n = self.runs[-1], len(self.runs)
        row = run.epochs[-1] if run.epochs else {}
        ended = [f"{name} {row[name]:.4f}" for name in order_columns([row]) if isinstance(row.get(name), float)]
        last = [run.kind, plural(len(run.history.get("epoch", ())), "epoch"), *ended[:-1]]
        return ", ".join([*([] if n == 1 else [f"{n}, the last"]), *last])

    def to_frame(self) -> Any:
        """Returns the epoch rows of all runs as a pandas frame, with the columns of `to_csv`.

        Raises:
            ImportError: pandas is not installed.
        """
        rows = self._rows()
        names = csv_columns(order_columns(rows))
        return to_frame([{name: row.get(name) for name in names} for row in rows])

    def steps_frame(self) -> Any:
        """Returns the training batches of all runs as a pandas frame: run, kind, and the columns of `steps`.

        Raises:
            ImportError: pandas is not installed.
        """
        names = STEP_FIELDS.names or ()
        steps = ((run, dict(zip(names, step, strict=True))) for run in self.runs for step in run.steps.tolist())
        return to_frame([{"run": run.number, "kind": run.kind, **step} for run, step in steps])

    def glance(self) -> Glance:
        """Returns the rows of all runs in one table."""
        if not self.runs:
            return Glance("Recorder: no runs yet")
        n_batches = sum(run.n_batches for run in self.runs)
        rows = self._rows()
        names = csv_columns(order_columns(rows)) if rows else []
        names = [name for name in names if name != "step" or any("step" in row for row in rows)]
        title = f"Recorder: {plural(len(self.runs), 'run')}, {plural(n_batches, 'batch')}"
        return Glance(title, columns=names, rows=format_cells(rows, names))
