"""Callbacks by fastai's names and arguments that follow a value over the epochs.

They are written in fastai's style, so that subclasses of a script's own may be, too. What a value is and when it
improves is `callbacks.tracking`'s.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, ClassVar

from minilearner.callbacks.tracking import EarlyStopping, Tracker
from minilearner.checks import check_count
from minilearner.directions import Direction
from minilearner.training.callback import Callback, CancelFit
from minilearner.training.run import Run

__all__ = [
    "EarlyStoppingCallback",
    "SaveModelCallback",
    "TerminateOnNaNCallback",
    "TrackerCallback",
    "direction_of_comparison",
]


class TrackerCallback(Tracker):
    """The base of fastai's callbacks that follow one value over the epochs. They rest outside of a fit.

    Args:
        monitor: "valid_loss", "train_loss", or a metric's name.
        comp: says whether the first of two values is better: `np.less` or `np.greater`. None asks the metric and its
            name, as `Tracker` does; fastai takes all names without "loss" or "error" for values that shall grow.
        min_delta: an improvement must be larger than this.
        reset_on_fit: whether each fit starts over. Otherwise the best value of earlier fits stays.

    Attributes:
        best: the best value so far; None before the first.
        new_best: whether the latest value is the best.
    """

    order = 60

    def __init__(
        self,
        monitor: str = "valid_loss",
        comp: Callable[[float, float], Any] | None = None,
        min_delta: float = 0.0,
        reset_on_fit: bool = True,
    ):
        super().__init__(monitor, mode=direction_of_comparison(comp), min_delta=min_delta)
        self._keep_arguments(comp, reset_on_fit)

    def _keep_arguments(self, comp: Callable[[float, float], Any] | None, reset_on_fit: bool) -> None:
        self.comp, self.reset_on_fit, self.new_best = comp, reset_on_fit, False

    def improved(self, run: Run) -> bool:
        """Reads the latest value into `best` and `new_best`, and returns whether it is the best so far."""
        self.new_best = super().improved(run)
        return self.new_best

    def before_fit(self) -> None:  # type: ignore[override]
        """Prepares for the monitored value."""
        run, best = self.learn.run, self.best
        self.run = run.record is not None
        if self.run:
            super().before_fit(run)
            self.best = self.best if self.reset_on_fit else best

    def after_epoch(self) -> None:  # type: ignore[override]
        """Compares the latest value with the best."""
        self.new_best = False
        if self.monitor in self.learn.run.metrics:  # or this epoch had no validation
            self.improved(self.learn.run)


class EarlyStoppingCallback(TrackerCallback, EarlyStopping):  # type: ignore[misc]  # two styles of events
    """Ends the run if the value has not improved for `patience` epochs in a row: `EarlyStopping` by fastai's arguments.

    Args:
        monitor, comp, min_delta, reset_on_fit: as in `TrackerCallback`.
        patience: how many epochs without improvement end the run.
    """

    order = 63  # after the best model is saved, since no other callback in fastai's style acts once it ends the run

    def __init__(
        self,
        monitor: str = "valid_loss",
        comp: Callable[[float, float], Any] | None = None,
        min_delta: float = 0.0,
        patience: int = 1,
        reset_on_fit: bool = True,
    ):
        mode = direction_of_comparison(comp)
        EarlyStopping.__init__(self, monitor, mode=mode, min_delta=min_delta, patience=patience)
        self._keep_arguments(comp, reset_on_fit)

    def after_epoch(self) -> None:  # type: ignore[override]
        """Ends the run if it is time."""
        self.new_best = False
        EarlyStopping.after_epoch(self, self.learn.run)


class SaveModelCallback(TrackerCallback):
    """Saves the model with ``learn.save`` when the value is best, and loads it at the end of the fit.

    `SaveBest` does so in memory. A fit that an error or an interrupt ends loads nothing.

    Args:
        monitor, comp, min_delta, reset_on_fit: as in `TrackerCallback`.
        fname: the file's name for ``learn.save``.
        every_epoch: saves after each epoch, or each so many, to `fname`_0, `fname`_1 and so on. Nothing is loaded then.
        at_end: saves at the end too, and loads nothing.
        with_opt: whether to save and load the optimizer's state too.

    Raises:
        ValueError: both `every_epoch` and `at_end` are given.
    """

    order = 61
    ignored_arguments: ClassVar[Collection[str] | None] = ("fname", "with_opt")

    def __init__(
        self,
        monitor: str = "valid_loss",
        comp: Callable[[float, float], Any] | None = None,
        min_delta: float = 0.0,
        fname: str = "model",
        every_epoch: bool | int = False,
        at_end: bool = False,
        with_opt: bool = False,
        reset_on_fit: bool = True,
    ):
        super().__init__(monitor, comp, min_delta, reset_on_fit)
        if not isinstance(every_epoch, bool):
            check_count(every_epoch, "every_epoch", least=0)
        if every_epoch and at_end:
            raise ValueError("give `every_epoch` or `at_end`, not both: one of them decides when to save.")
        self.fname, self.every_epoch, self.at_end, self.with_opt = fname, every_epoch, at_end, with_opt
        self._saved = ""  # the newest file; text, so that a resumed run knows it

    @property
    def last_saved_path(self) -> Path | None:
        """The newest file; None before the first."""
        return Path(self._saved) if self._saved else None

    def before_fit(self) -> None:  # type: ignore[override]
        """Prepares for the monitored value."""
        super().before_fit()
        self._saved = "" if self.best is None else self._saved

    def after_epoch(self) -> None:  # type: ignore[override]
        """Saves the model if it is time."""
        if self.every_epoch:
            if self.learn.epoch % self.every_epoch == 0:
                self._save(f"{self.fname}_{self.learn.epoch}")
            return
        super().after_epoch()
        if self.new_best:
            self._save(self.fname)

    def after_fit(self) -> None:  # type: ignore[override]
        """Loads the best model, or saves the last one."""
        if self.at_end:
            self._save(self.fname)
        elif not self.every_epoch and self._saved:
            self.learn.load(self.last_saved_path, with_opt=self.with_opt)
        elif not self.every_epoch:
            warnings.warn(f"{self!r} found no best value, so the model keeps its last weights.", stacklevel=2)

    def _save(self, name: str) -> None:
        self._saved = str(self.learn.save(name, with_opt=self.with_opt))


class TerminateOnNaNCallback(Callback):
    """Ends the fit in good order when a loss is NaN or infinite. Each batch waits for the device.

    The weights are damaged by then. `NonFinite` acts before they are, and says which items are to blame.
    """

    order = -9
    ignored_arguments = ()

    def before_fit(self) -> None:  # type: ignore[override]
        """Rests outside of a fit."""
        self.run = self.learn.run.record is not None

    def after_batch(self) -> None:  # type: ignore[override]
        """Ends the fit if the loss is not finite."""
        learn = self.learn
        if not learn.loss.isfinite().all():
            where = f"{'' if learn.training else 'validation '}batch {learn.iter} of epoch {learn.epoch}"
            reason = f"TerminateOnNaNCallback: the loss of {where} is {learn.loss.item()}"
            learn.run.record.settings["ended"] = reason
            raise CancelFit


def direction_of_comparison(comp: Any) -> Direction | None:
    """Returns which values of fastai's `comp` are better; None for None.

    Raises:
        ValueError: it is not a comparison like `np.less` or `np.greater`.
    """
    if comp is None:
        return None
    try:
        answers = tuple(bool(comp(*pair)) for pair in ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0)))
    except Exception:  # whatever it is
        answers = ()
    if answers not in ((True, False, False), (False, True, False)):
        raise ValueError(f"`comp` must be np.less, np.greater or a function like them. Received: comp={comp!r:.80}.")
    return "min" if answers[0] else "max"
