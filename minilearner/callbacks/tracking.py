"""Follow a value over the epochs: `Tracker` and `EarlyStopping`. Decide when it is measured: `Validate`.

`callbacks.record` computes the values.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

from minilearner.checks import check_choice, check_count, check_not_negative
from minilearner.directions import Direction, direction_of_metric, direction_of_name
from minilearner.errors import closest, plural
from minilearner.training.callback import Callback, CancelFit, CancelValidate
from minilearner.training.run import Moment, Run

__all__ = ["EarlyStopping", "Tracker", "Validate", "check_monitor", "find_direction"]


class Tracker(Callback):
    """The base of callbacks that follow one value over the epochs.

    Args:
        monitor: a name in `run.metrics`: "train_loss", "valid_loss", or a metric's.
        mode: "min" if smaller is better, "max" if larger is better. None asks the metric, whose `higher_is_better`
            counts if it has one, as those of torchmetrics do. Otherwise the words of the name decide: "error", "rmse"
            or "perplexity" for "min", "accuracy", "f1" or "auc" for "max".
        min_delta: an improvement must be larger than this.

    Attributes:
        mode: as above. None if only a run can say it, since only a run has the metric.
        best: the best value so far, None before the first.

    Raises:
        ValueError: `mode` is unknown, or `min_delta` is negative. When a run begins: `monitor` is unknown, or neither
            the metric nor its name says which values are better, so `mode` must.
    """

    order = 65
    ignored_arguments: ClassVar[Collection[str] | None] = ()

    def __init__(
        self,
        monitor: str = "valid_loss",
        *,
        mode: Literal["min", "max"] | None = None,
        min_delta: float = 0.0,
    ):
        if not isinstance(monitor, str):
            raise TypeError(f"`monitor` must be the name of a loss or metric. Received: monitor={monitor!r}.")
        check_choice(mode, "mode", ("min", "max", None))
        check_not_negative(min_delta, "min_delta")
        self.monitor = monitor
        self.mode: Direction | None = mode or direction_of_name(monitor)
        self.min_delta = min_delta
        self.best: float | None = None
        self._given_mode = mode

    def before_fit(self, run: Run) -> None:
        self.best = None
        check_monitor(run, self.monitor)
        self.mode = self._given_mode or find_direction(run, self.monitor)
        if self.mode is None:
            raise ValueError(
                f"`mode` is needed: neither the metric {self.monitor!r} nor its name says which values are better. "
                f'Give {type(self).__name__}({self.monitor!r}, mode="max") if larger values are better, else "min".'
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from the saved state. The direction is this run's, which earlier versions did not know as well."""
        super().load_state_dict({name: value for name, value in state.items() if name not in ("mode", "_given_mode")})

    def improved(self, run: Run) -> bool:
        """Reads the latest value and returns whether it is the best so far. NaN never is."""
        value = run.metrics[self.monitor]
        gain = math.inf if self.best is None else self.best - value if self.mode == "min" else value - self.best
        if math.isnan(value) or not gain > self.min_delta:
            return False
        self.best = value
        return True


class EarlyStopping(Tracker):
    """Ends the run when the monitored value has not improved for `patience` epochs in a row.

    The reason is in the record's `settings["ended"]`, and in a line below the table of epochs.

    Example: `EarlyStopping("accuracy", patience=3)`.

    Args:
        monitor, mode, min_delta: see `Tracker`.
        patience: how many epochs without improvement end the run.

    Raises:
        ValueError: `patience` is below 1; or as in `Tracker`.
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
        check_count(patience, "patience")
        self.patience = patience
        self.wait = 0

    def before_fit(self, run: Run) -> None:
        super().before_fit(run)
        self.wait = 0

    def after_epoch(self, run: Run) -> None:
        if self.monitor not in run.metrics:  # this epoch had no validation
            return
        self.wait = 0 if self.improved(run) else self.wait + 1
        if self.wait >= self.patience:
            if run.record is not None:
                run.record.settings["ended"] = self._reason()
            raise CancelFit

    def _reason(self) -> str:
        best = "" if self.best is None else f"; its best is {self.best:.4g}"
        return f"EarlyStopping: {self.monitor} has not improved for {plural(self.patience, 'epoch')} in a row{best}"

    def __repr__(self) -> str:
        return f"EarlyStopping({self.monitor!r}, mode={self.mode!r}, patience={self.patience})"


class Validate(Callback):
    """Decides when to validate: also in mid-epoch, or only after some epochs.

    A validation in mid-epoch writes a row with its step. Validation draws none of the random numbers of training, so it
    does not change the training. The last epoch is always validated.

    Args:
        every_steps: also validate in mid-epoch, after this many updates.
        every_epochs: validate only after this many epochs.

    Raises:
        ValueError: both or neither are given, one is below 1, or there is no validation set.
    """

    ignored_arguments = ()

    def __init__(self, *, every_steps: int | None = None, every_epochs: int | None = None):
        if (every_steps is None) == (every_epochs is None):
            raise ValueError("`Validate` takes one of `every_steps` and `every_epochs`.")
        for name, value in (("every_steps", every_steps), ("every_epochs", every_epochs)):
            if value is not None:
                check_count(value, name)
        self.every_steps = every_steps
        self.every_epochs = every_epochs

    def before_fit(self, run: Run) -> None:
        self._n_updates = run.global_step
        if run.dls.valid is None:
            raise ValueError("`Validate` needs a validation set. `dls.valid` is None.")

    def after_step(self, run: Run) -> None:
        if run.global_step == self._n_updates:  # the step was cancelled or skipped
            return
        self._n_updates = run.global_step
        if self.every_steps is not None and run.global_step % self.every_steps == 0 and run.validate is not None:
            run.validate()

    def plan_at(self, moment: Moment) -> dict[str, bool]:
        """Returns whether a validation follows the epoch, as it always does after the last one."""
        if self.every_epochs is None:
            return {}
        return {"validation": (moment.epoch + 1) % self.every_epochs == 0 or moment.is_in_last_epoch}

    def before_validate(self, run: Run) -> None:
        if run.in_mid_epoch or self.every_epochs is None:
            return
        if (run.epoch + 1) % self.every_epochs and run.epoch + 1 < run.n_epochs:
            raise CancelValidate

    def __repr__(self) -> str:
        every = f"every_steps={self.every_steps}" if self.every_steps else f"every_epochs={self.every_epochs}"
        return f"Validate({every})"


def find_direction(run: Run, monitor: str) -> Direction | None:
    """Returns which values of a column are better: what its metric says, or else its name. None if neither does."""
    tables = [vars(callback).get(name) for callback in run.callbacks for name in ("metrics", "train_metrics")]
    metrics = [table[monitor] for table in tables if isinstance(table, Mapping) and monitor in table]
    said = [direction for metric in metrics if (direction := direction_of_metric(metric)) is not None]
    return said[0] if said else direction_of_name(monitor)


def check_monitor(run: Run, monitor: str) -> None:
    """Checks that this run will have a value called `monitor`. Call it in `before_fit`.

    Raises:
        ValueError: it will not. The message lists the names and suggests the nearest.
    """
    if monitor not in run.columns:
        raise ValueError(
            f"`monitor` must be one of {', '.join(map(repr, run.columns))}.{closest(monitor, run.columns)} "
            f"Received: monitor={monitor!r}."
        )
