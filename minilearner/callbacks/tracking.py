"""Watch a value over the epochs: stop early, and decide when to validate."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import ClassVar, Literal

from minilearner.errors import closest
from minilearner.training.callback import Callback, CancelFit, CancelValidate
from minilearner.training.run import Run

__all__ = ["EarlyStopping", "Tracker", "Validate", "check_monitor"]


def check_monitor(run: Run, monitor: str) -> None:
    """Raises where this run will have no value called `monitor`; for `before_fit`.

    Raises:
        ValueError: with the names that there are, and the nearest.
    """
    if monitor not in run.columns:
        raise ValueError(
            f"`monitor` must be one of {', '.join(map(repr, run.columns))}.{closest(monitor, run.columns)} "
            f"Received: monitor={monitor!r}."
        )


class Tracker(Callback):
    """The base of callbacks that follow one value over the epochs.

    Args:
        monitor: a name in `run.metrics`: "train_loss", "valid_loss", or a metric's.
        mode: "min" where smaller is better, "max" where larger is. None infers it: names that hold "loss" or "error"
            are better small, all others large.
        min_delta: an improvement must be larger than this.

    Attributes:
        best: the best value so far, None before the first.

    Raises:
        ValueError: an unknown `mode`, or a negative `min_delta`; when a run begins, an unknown `monitor`.
    """

    order = 65
    ignored_arguments: ClassVar[Collection[str] | None] = ()

    def __init__(
        self, monitor: str = "valid_loss", *, mode: Literal["min", "max"] | None = None, min_delta: float = 0.0
    ):
        if mode not in (None, "min", "max"):
            raise ValueError(f"`mode` must be 'min', 'max' or None. Received: mode={mode!r}.")
        if min_delta < 0:
            raise ValueError(f"`min_delta` must not be negative. Received: min_delta={min_delta}.")
        self.monitor = monitor
        self.mode = mode or ("min" if "loss" in monitor or "error" in monitor else "max")
        self.min_delta = min_delta
        self.best: float | None = None

    def before_fit(self, run: Run) -> None:
        self.best = None
        check_monitor(run, self.monitor)

    def improved(self, run: Run) -> bool:
        """Takes in the newest value and says whether it is the best so far. NaN never is."""
        value = run.metrics[self.monitor]
        gain = math.inf if self.best is None else self.best - value if self.mode == "min" else value - self.best
        if math.isnan(value) or not gain > self.min_delta:
            return False
        self.best = value
        return True


class EarlyStopping(Tracker):
    """Ends the run when the monitored value has not improved for `patience` epochs in a row.

    The run's record says so in its `settings`, under "ended", and a line below the table of epochs.

    Example: `EarlyStopping("accuracy", patience=3)`.

    Raises:
        ValueError: `patience` below 1, and as in `Tracker`.
    """

    def __init__(
        self,
        monitor: str = "valid_loss",
        *,
        mode: Literal["min", "max"] | None = None,
        min_delta: float = 0.0,
        patience: int = 1,
    ):
        super().__init__(monitor, mode=mode, min_delta=min_delta)
        if patience < 1:
            raise ValueError(f"`patience` must be at least 1. Received: patience={patience}.")
        self.patience = patience
        self.wait = 0

    def before_fit(self, run: Run) -> None:
        super().before_fit(run)
        self.wait = 0

    def after_epoch(self, run: Run) -> None:
        if self.monitor not in run.metrics:  # an epoch without a validation says nothing
            return
        self.wait = 0 if self.improved(run) else self.wait + 1
        if self.wait >= self.patience:
            if run.record is not None:
                run.record.settings["ended"] = self._reason()
            raise CancelFit

    def _reason(self) -> str:
        best = "" if self.best is None else f"; its best is {self.best:.4g}"
        return f"EarlyStopping: {self.monitor} has not improved for {self.patience} epochs in a row{best}"

    def __repr__(self) -> str:
        return f"EarlyStopping({self.monitor!r}, mode={self.mode!r}, patience={self.patience})"


class Validate(Callback):
    """Decides when to validate: every so many optimizer updates, or only every so many epochs.

    A validation in the middle of an epoch writes a row that carries its step. Validating draws no random number that
    training would have drawn, so it does not change what is trained. The last epoch is always validated.

    Args:
        every_steps: also validate in the middle of an epoch, after each so many updates.
        every_epochs: validate at the end of each so many epochs only.

    Raises:
        ValueError: both or neither are given, one is below 1, or there is no validation set.
    """

    ignored_arguments = ()

    def __init__(self, *, every_steps: int | None = None, every_epochs: int | None = None):
        if (every_steps is None) == (every_epochs is None):
            raise ValueError("`Validate` takes one of `every_steps` and `every_epochs`.")
        for name, value in (("every_steps", every_steps), ("every_epochs", every_epochs)):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {name}={value}.")
        self.every_steps = every_steps
        self.every_epochs = every_epochs

    def before_fit(self, run: Run) -> None:
        if run.dls.valid is None:
            raise ValueError("`Validate` needs a validation set. `dls.valid` is None.")

    def after_step(self, run: Run) -> None:
        if self.every_steps is not None and run.global_step % self.every_steps == 0 and run.validate is not None:
            run.validate()

    def before_validate(self, run: Run) -> None:
        if run.in_mid_epoch or self.every_epochs is None:
            return
        if (run.epoch + 1) % self.every_epochs and run.epoch + 1 < run.n_epochs:
            raise CancelValidate

    def __repr__(self) -> str:
        every = f"every_steps={self.every_steps}" if self.every_steps else f"every_epochs={self.every_epochs}"
        return f"Validate({every})"
