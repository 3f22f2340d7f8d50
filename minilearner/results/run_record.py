"""The record of one run: a row for each batch and each epoch.

A loss arrives as a tensor that the device may not have computed yet. It is read only when somebody looks at it.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minilearner.batch_values import MOST_LOOSE
from minilearner.errors import plural
from minilearner.glance import AtAGlance, Glance
from minilearner.keywords import suggest_keywords
from minilearner.notebook import cell_number, show
from minilearner.results.epoch_rows import collect_history, format_cells, order_columns
from minilearner.results.growing import GrowingArray
from minilearner.smoothed_loss import SmoothedLoss

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["STEP_FIELDS", "RunRecord", "SweepOutcome"]

STEP_FIELDS = np.dtype(
    [("step", "i8"), ("epoch", "i8"), ("lr", "f8"), ("momentum", "f8"), ("loss", "f8"), ("n_items", "i8")]
)
"""What is kept of each training batch."""


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

    growing = ("epochs", "row_positions", "steps", "smoothed")
    """The parts of a `state_dict` that only get longer as the run goes on."""

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
        self._steps = GrowingArray(np.empty((0, len(STEP_FIELDS.names or ()))))
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
        if len(self._losses) >= MOST_LOOSE:
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
        return rfn.unstructured_to_structured(self._steps.rows, dtype=STEP_FIELDS)

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
        return collect_history(self.epochs)

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
        names = order_columns(self.epochs)
        return Glance(self._title(), columns=names, rows=format_cells(self.epochs, names))

    def _ipython_display_(self) -> None:
        """Shows the record in a notebook, unless its cell has shown the rows while the run went on."""
        if self.shown_in is None or self.shown_in != cell_number():
            show(self._repr_html_(), repr(self))

    def _title(self) -> str:
        return f"Run {self.number}: {self.kind}, {plural(self.n_batches, 'batch')}"
