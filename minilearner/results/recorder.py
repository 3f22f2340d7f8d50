"""The record of training: a row for each batch and each epoch, kept as long as the learner.

A `Recorder` is a list of runs. Each call of `fit` adds a `RunRecord`, and none is ever removed. A loss arrives as a
tensor that the device may not have computed yet. It is read only when somebody looks at it.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minilearner.errors import closest, plural
from minilearner.files import csv_text, json_text, write_atomically
from minilearner.glance import AtAGlance, Glance
from minilearner.keywords import suggest_keywords
from minilearner.metrics import SmoothedLoss
from minilearner.notebook import cell_number, show
from minilearner.plots import lines
from minilearner.results.frames import to_frame
from minilearner.results.growing import GrowingArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Recorder", "RunRecord", "csv_columns"]

_CHUNK = 1024  # how many losses wait as separate tensors before they are stacked on their device
_LONG_NAMES = {"lr": "learning rate", "momentum": "momentum"}
_NO_VALUES = {"epoch", "smooth_loss", "time_seconds"}
"""Columns that fastai has elsewhere, or not at all."""
_FIRST = ("epoch", "train_loss", "smooth_loss", "valid_loss")
_STEP_FIELDS = np.dtype(
    [("step", "i8"), ("epoch", "i8"), ("lr", "f8"), ("momentum", "f8"), ("loss", "f8"), ("n_items", "i8")]
)


class SweepOutcome(Protocol):
    """The part of an `LRSweep` that a record uses. This module may not import `lr_finder`."""

    @property
    def recommended(self) -> float:
        """The rate to use, or NaN."""

    @property
    def reason(self) -> str:
        """Why this rate, or why there is none."""

    def summary(self) -> dict[str, Any]:
        """Returns the result as numbers and text."""

    def plot(
        self,
        ax: Axes | None = None,
        skip_start: int | None = None,
        skip_end: int | None = None,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws the sweep."""


@suggest_keywords
class RunRecord(AtAGlance):
    """The record of one call of a `fit` method.

    Attributes:
        number: counts the runs of a recorder, from 1.
        kind: the name of the method, such as "fit_one_cycle".
        settings: its arguments.
        epochs: a row (a dictionary) for each epoch: epoch (from 0), train_loss (the mean over items), smooth_loss (the
            debiased moving average with beta 0.98 at the epoch's end, as in fastai), valid_loss, the metrics and
            time_seconds. A validation in the middle of an epoch has a row too, with `step` and without train_loss.
        sweep: the sweep that found an "auto" rate, or None.
        saved_in: the folder with the checkpoints of a finished run, or None.
        phase: which part of a longer call it is, such as "frozen"; "" if it is the whole call.
        hypers: the settings of each layer group at the run's last update, by fastai's names; see `Learner.opt`.
        shown_in: the number of the notebook's cell that has shown the rows already, or None.
    """

    def __init__(
        self,
        number: int,
        kind: str,
        settings: Mapping[str, Any] | None = None,
        *,
        beta: float = 0.98,
    ) -> None:
        self.number = number
        self.kind = kind
        self.settings = dict(settings or {})
        self.sweep: SweepOutcome | None = None
        self.saved_in: Path | None = None
        self.hypers: list[dict[str, Any]] = []
        self.shown_in: int | None = None
        self.phase = ""
        self.epochs: list[dict[str, Any]] = []
        self.epoch = 0
        self._row_positions: list[int] = []  # the number of recorded batches when each row was added
        self._smooth = SmoothedLoss(beta)
        self._waiting: list[tuple[int, int, float, float, int]] = []
        self._losses: list[Tensor | float] = []
        self._stacked: list[tuple[NDArray[np.float64], Tensor]] = []
        self._steps = GrowingArray(np.empty((0, len(_STEP_FIELDS.names or ()))))
        self._smoothed = GrowingArray(np.empty(0))

    def start_epoch(self, epoch: int) -> None:
        """Sets the epoch (from 0) of the next batches."""
        self.epoch = epoch

    def add_step(self, step: int, lr: float, momentum: float, loss: Tensor | float, n_items: int) -> None:
        """Appends a training batch. It costs two list appends, and does not wait for the device.

        Args:
            step: the number of optimizer updates so far.
            lr: the rate of the last layer group.
            momentum: NaN if the optimizer has none.
            loss: the mean over the items, a number or a 0-d tensor that nobody changes afterwards.
            n_items: the number of items in the batch.
        """
        if type(loss) is not float and loss.requires_grad:  # type: ignore[union-attr]
            loss = loss.detach()  # type: ignore[union-attr]
        self._waiting.append((step, self.epoch, lr, momentum, n_items))
        self._losses.append(loss)
        if len(self._losses) >= _CHUNK:
            self._stack()

    def add_epoch(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Appends the row of an epoch, or of a validation in mid-epoch (a row with `step`), and returns it.

        If the row of an epoch has no train_loss, it gets train_loss and smooth_loss from the recorded batches.
        """
        row = dict(row)
        epoch = row.setdefault("epoch", self.epoch)
        if "step" not in row and "train_loss" not in row:
            losses = {"train_loss": self.train_loss(epoch), "smooth_loss": self.smooth_loss}
            row = {"epoch": epoch, **losses, **row}
        self.epochs.append(row)
        self._row_positions.append(self.n_batches)
        return row

    @property
    def n_batches(self) -> int:
        """The number of recorded training batches. Does not wait for the device."""
        return len(self._steps) + sum(len(rows) for rows, _ in self._stacked) + len(self._waiting)

    @property
    def steps(self) -> NDArray[Any]:
        """One row for each training batch, with the fields step, epoch, lr, momentum, loss and n_items.

        It is a structured array: ``len(steps)``, ``steps["loss"]`` and ``steps[-1]["lr"]`` all work.
        """
        from numpy.lib import recfunctions as rfn  # it loads masked arrays, which take a sixth of the package's import

        self._read()
        return rfn.unstructured_to_structured(self._steps.rows, dtype=_STEP_FIELDS)

    @property
    def smoothed(self) -> NDArray[np.float64]:
        """The smoothed loss after each training batch of the run. It continues from epoch to epoch."""
        self._read()
        return self._smoothed.rows

    @property
    def smooth_loss(self) -> float:
        """The smoothed loss after the last batch. NaN before the first batch."""
        self._read()
        return self._smooth.value

    def train_loss(self, epoch: int) -> float:
        """Returns the mean loss over the items of an epoch's training batches. NaN without any item."""
        self._read()
        rows = self._steps.rows
        epochs = rows[:, 1]  # they rise, so that no epoch looks at all batches before it
        loss, n = rows[bisect_left(epochs, epoch) : bisect_right(epochs, epoch), 4:].T
        return float((loss * n).sum() / n.sum()) if n.sum() else math.nan

    @property
    def history(self) -> Mapping[str, list[float]]:
        """The columns of `epochs`, with one value per epoch: ``history["valid_loss"]``. NaN if a row has no value.

        Validations in mid-epoch are left out. An unknown column raises a KeyError with the nearest name.
        """
        return _history(self.epochs)

    def rows_at(self) -> list[tuple[int, dict[str, Any]]]:
        """Returns the rows of `epochs`, each with the number of training batches before it in this run."""
        return list(zip(self._row_positions, self.epochs, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Returns all rows as plain data for a checkpoint."""
        self._read()
        return {
            "epoch": self.epoch,
            "epochs": [dict(row) for row in self.epochs],
            "row_positions": list(self._row_positions),
            "steps": self._steps.rows,
            "smoothed": self._smoothed.rows,
            "smooth": dict(vars(self._smooth)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a `state_dict`."""
        self.epoch, self.epochs = state["epoch"], [dict(row) for row in state["epochs"]]
        self._row_positions = list(state["row_positions"])
        self._steps, self._smoothed = (GrowingArray(np.asarray(state[name])) for name in ("steps", "smoothed"))
        vars(self._smooth).update(state["smooth"])
        self._waiting, self._losses, self._stacked = [], [], []

    def _stack(self) -> None:
        """Makes one array and one tensor of the rows that wait. The tensor stays on its device: no waiting here."""
        losses = torch.stack([loss if isinstance(loss, Tensor) else torch.tensor(loss) for loss in self._losses])
        self._stacked.append((np.array(self._waiting, dtype=np.float64), losses))
        self._waiting, self._losses = [], []

    def _read(self) -> None:
        """Copies all losses that wait to the CPU. Nothing else in this class waits for the device."""
        if self._losses:
            self._stack()
        if not self._stacked:
            return
        rows = np.concatenate([rows for rows, _ in self._stacked])
        losses = np.concatenate([losses.double().cpu().numpy() for _, losses in self._stacked])
        self._stacked = []
        new = np.column_stack([rows[:, :4], losses, rows[:, 4]])
        self._steps.extend(new)
        self._smoothed.extend([self._smooth.update(loss) for loss in losses.tolist()])

    def glance(self) -> Glance:
        """Returns the run's name and its rows."""
        names = _columns(self.epochs)
        return Glance(self._title(), columns=names, rows=_cells(self.epochs, names))

    def _ipython_display_(self) -> None:
        """Shows the record in a notebook, unless its cell has shown the rows while the run went on."""
        if self.shown_in is None or self.shown_in != cell_number():
            show(self._repr_html_(), repr(self))

    def _title(self) -> str:
        return f"Run {self.number}: {self.kind}, {plural(self.n_batches, 'batch')}"


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
        return np.concatenate([np.empty(0, _STEP_FIELDS), *(run.steps for run in self.runs)])

    @property
    def history(self) -> Mapping[str, list[float]]:
        """The columns of `epochs` over all runs, with one value per epoch; see `RunRecord.history`."""
        return _history(self.epochs)

    @property
    def values(self) -> list[list[Any]]:
        """Rows as fastai has them: train_loss, valid_loss and the metrics for each epoch.

        They are those of all runs, while fastai keeps the latest call's. train_loss is the mean over the items.
        fastai's smoothed loss is the column "smooth_loss" of `history`.
        """
        return [[row[name] for name in _columns([row]) if name not in _NO_VALUES] for row in self._whole_epochs()]

    @property
    def metric_names(self) -> list[str]:
        """The names of fastai's table: "epoch", those of `values`, and "time"."""
        rows = self._whole_epochs()
        return ["epoch", *(name for name in _columns(rows[-1:]) if name not in _NO_VALUES), "time"]

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
            if not _in_mid_epoch(row)
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
        names = [name for name in _columns(rows) if name not in (*_FIRST, "time_seconds")]
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
        header = csv_columns(_columns(rows))
        return write_atomically(path, csv_text(header, [[row.get(name) for name in header] for row in rows]))

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Writes all runs as JSON: number, kind, settings, the epoch rows and the columns of the steps."""
        runs = [
            {"number": r.number, "kind": r.kind, "settings": r.settings, "epochs": r.epochs, "steps": columns}
            for r in self.runs
            for columns in [{name: r.steps[name] for name in _STEP_FIELDS.names or ()}]
        ]
        return write_atomically(path, json_text({"runs": runs}))

    def _whole_epochs(self) -> list[dict[str, Any]]:
        return [row for row in self.epochs if not _in_mid_epoch(row)]

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
        runs = [(sum(not _in_mid_epoch(row) for row in run.epochs), run.phase or run.kind) for run in self.runs]
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
        ended = [f"{name} {row[name]:.4f}" for name in _columns([row]) if isinstance(row.get(name), float)]
        last = [run.kind, plural(len(run.history.get("epoch", ())), "epoch"), *ended[:-1]]
        return ", ".join([*([] if n == 1 else [f"{n}, the last"]), *last])

    def to_frame(self) -> Any:
        """Returns the epoch rows of all runs as a pandas frame, with the columns of `to_csv`.

        Raises:
            ImportError: pandas is not installed.
        """
        rows = self._rows()
        names = csv_columns(_columns(rows))
        return to_frame([{name: row.get(name) for name in names} for row in rows])

    def steps_frame(self) -> Any:
        """Returns the training batches of all runs as a pandas frame: run, kind, and the columns of `steps`.

        Raises:
            ImportError: pandas is not installed.
        """
        names = _STEP_FIELDS.names or ()
        steps = ((run, dict(zip(names, step, strict=True))) for run in self.runs for step in run.steps.tolist())
        return to_frame([{"run": run.number, "kind": run.kind, **step} for run, step in steps])

    def glance(self) -> Glance:
        """Returns the rows of all runs in one table."""
        if not self.runs:
            return Glance("Recorder: no runs yet")
        n_batches = sum(run.n_batches for run in self.runs)
        rows = self._rows()
        names = csv_columns(_columns(rows)) if rows else []
        names = [name for name in names if name != "step" or any("step" in row for row in rows)]
        title = f"Recorder: {plural(len(self.runs), 'run')}, {plural(n_batches, 'batch')}"
        return Glance(title, columns=names, rows=_cells(rows, names))


def csv_columns(names: Iterable[str]) -> list[str]:
    """Returns the columns of a CSV file for rows with these names: the fixed columns, with the metrics among them."""
    start = ("run", "kind", "epoch", "step", "train_loss", "smooth_loss", "valid_loss")
    return [*start, *(name for name in names if name not in (*start, "time_seconds")), "time_seconds"]


def _history(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, list[float]]:
    whole = [row for row in rows if not _in_mid_epoch(row)]
    return _History({name: [row.get(name, math.nan) for row in whole] for name in _columns(whole)})


class _History(dict[str, list[float]]):
    def __missing__(self, name: str) -> list[float]:
        raise KeyError(f"No column {name!r}.{closest(name, self)} Recorded: {', '.join(self) or 'nothing yet'}.")


def _in_mid_epoch(row: Mapping[str, Any]) -> bool:
    return "step" in row and "train_loss" not in row


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns all names: first the losses, then the metrics in the order of their first row, and the time last."""
    seen = dict.fromkeys(name for row in rows for name in row)
    middle = [name for name in seen if name not in (*_FIRST, "time_seconds")]
    return [name for name in (*_FIRST, *middle, "time_seconds") if name in seen]


def _cells(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[list[str]]:
    return [[_cell(row.get(name)) for name in names] for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else str(value)
