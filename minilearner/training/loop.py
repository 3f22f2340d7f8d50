"""The one loop. `Callback`'s docstring is this file in pseudo-code."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from minilearner.errors import add_note
from minilearner.models.restore import evaluation_mode
from minilearner.runtime import isolated_rng
from minilearner.training.callback import (
    Callback,
    Cancel,
    CancelBackward,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelStep,
    CancelTrain,
    CancelValidate,
    Events,
)
from minilearner.training.preflight import loss_error
from minilearner.training.run import Run
from minilearner.tree import n_items

__all__ = ["Loop"]


class Loop:
    """Runs a `Run` through its epochs and tells the callbacks what happens. The only caller of the step.

    Args:
        run: where the state of the call lives.
        callbacks: told of the events; sorted by their `order`.
        train, valid: loaders of `(x, y)` batches with a length; `valid` may be None.

    Built afresh for each call. Between batches it adds a few microseconds to a hand-written loop: it neither reads a
    tensor's value nor calls a callback that does not listen.
    """

    def __init__(self, run: Run, callbacks: Iterable[Callback] = (), *, train: Any = None, valid: Any = None):
        self.run = run
        self.step = run.step
        self.train = train
        self.valid = valid
        self.events = Events(callbacks)
        run.validate = self.validate_now
        run.callbacks = self.events.callbacks

    def fit(self) -> None:
        """Trains for `run.n_epochs` epochs."""
        self._whole(self._epochs)

    def validate(self) -> None:
        """Makes one validation pass, inside its fit and epoch events."""
        self._whole(lambda: self._section("epoch", CancelEpoch, self.validate_now))

    def validate_now(self) -> None:
        """Makes a validation pass here, and puts the run back to the batch where it was.

        Random numbers drawn in it leave no trace, so how often one validates does not change what is trained.
        """
        run = self.run
        before = run.training, run.iter, run.n_batches, run.x, run.y, run.pred, run.loss
        run.training = False
        run.n_batches = len(self.valid)
        try:
            with isolated_rng(), evaluation_mode(self.step.model), torch.no_grad():
                self._section("validate", CancelValidate, self._validation_batches)
        finally:
            run.training, run.iter, run.n_batches, run.x, run.y, run.pred, run.loss = before

    def _whole(self, body: Callable[[], None]) -> None:
        try:
            self._until_cancelled(body)
        except BaseException as error:
            self.run.interrupted = True
            try:
                self.events.finish(self.run)
            except Exception as second:
                add_note(error, f"While undoing what callbacks had changed, this happened too: {second!r}")
            raise
        self.events.finish(self.run)

    def _until_cancelled(self, body: Callable[[], None]) -> None:
        try:
            self.events.start(self.run)
            body()
        except CancelFit:
            self.events.emit("after_cancel_fit", self.run)
        except Cancel as stray:
            name = type(stray).__name__
            raise RuntimeError(
                f"{name} was raised where there is nothing for it to cancel. It may be raised from "
                f"`before_{name.removeprefix('Cancel').lower()}` on, until that stretch ends."
            ) from stray

    def _section(self, name: str, cancel: type[Exception], body: Callable[[], None]) -> None:
        try:
            self.events.emit(f"before_{name}", self.run)
            body()
        except cancel:
            self.events.emit(f"after_cancel_{name}", self.run)
        self.events.emit(f"after_{name}", self.run)

    def _epochs(self) -> None:
        run = self.run
        updates = -(-len(self.train) // self.step.n_accumulate)
        run.n_positions = updates * run.n_epochs
        for epoch in range(run.epoch, run.n_epochs):
            run.epoch = epoch
            run.position = run.epoch * updates
            self._section("epoch", CancelEpoch, self._epoch)

    def _epoch(self) -> None:
        run = self.run
        run.training = run.in_mid_epoch = True
        run.n_batches = len(self.train)
        self.step.model.train()
        self.step.zero_grad()  # nothing of what came before, not of a cancelled epoch either, belongs to this one
        try:
            self._section("train", CancelTrain, self._training_batches)
        except Cancel:  # of the epoch or the fit, whose last events must not see a training pass
            run.training = run.in_mid_epoch = False
            raise
        run.training = run.in_mid_epoch = False
        if self.valid is not None:
            self.validate_now()

    def _training_batches(self) -> None:
        self._each(*self._training_pass(), self._training_batch)
        if self.step.is_pending:  # the batch that should have closed the window of accumulation was cancelled
            self._update()

    def _training_pass(self) -> tuple[Any, int]:
        """The training batches and the number of the first: a whole pass, or the rest of a resumed one."""
        start, self.run.start_batch = self.run.start_batch, 0
        batches = self.train.iterate(start) if start else iter(self.train)
        if self.run.at_start is not None:
            self.run.at_start()
        return batches, start

    def _validation_batches(self) -> None:
        self._each(self.valid, 0, self._validation_batch)

    def _each(self, batches: Iterable[Any], start: int, one: Callable[[], None]) -> None:
        try:
            self._each_batch(batches, start, one)
        except Cancel:
            raise
        except BaseException as error:
            _tell_where(error, self.run)
            raise

    def _each_batch(self, batches: Iterable[Any], start: int, one: Callable[[], None]) -> None:
        run, after_batch, after_cancel = self.run, self.events.of["after_batch"], self.events.of["after_cancel_batch"]
        for run.iter, (run.x, run.y) in enumerate(batches, start):
            run.pred = run.loss = None  # what a cancelled batch leaves undone must not be the last batch's
            try:
                one()
            except CancelBatch:
                for act in after_cancel:
                    act(run)
                if run.training and self.step.n_accumulate == 1:
                    self.step.zero_grad()
            for act in after_batch:
                act(run)

    def _training_batch(self) -> None:
        run, step, of = self.run, self.step, self.events.of
        for act in of["before_batch"]:
            act(run)
        if run.in_parts is None:
            self._gather()
        else:
            run.in_parts(self._gather)
        for act in of["after_backward"]:
            act(run)
        if step.is_due(run.n_batches - 1 - run.iter):
            self._update()

    def _gather(self) -> None:
        """Adds the gradients of the batch, or of that part of it that `run.x` and `run.y` hold."""
        run = self.run
        self._predict()
        try:
            for act in self.events.of["before_backward"]:
                act(run)
            self.step.backward(run.loss, n_items(run.x))  # type: ignore[arg-type]
        except CancelBackward:
            self.events.emit("after_cancel_backward", run)

    def _validation_batch(self) -> None:
        for act in self.events.of["before_batch"]:
            act(self.run)
        self._predict()

    def _predict(self) -> None:
        run, step, of = self.run, self.step, self.events.of
        run.pred = step.predict(run.x)
        for act in of["after_pred"]:
            act(run)
        try:
            run.loss = step.compute_loss(run.pred, run.y)
        except torch.OutOfMemoryError:
            raise
        except (IndexError, TypeError, ValueError, RuntimeError) as error:
            raise loss_error(run.pred, run.y, error) from error
        if run.training and step.n_processes > 1:
            run.loss = step.together(run.loss, n_items(run.x))
        for act in of["after_loss"]:
            act(run)

    def _update(self) -> None:
        run, of = self.run, self.events.of
        try:
            for act in of["before_step"]:
                act(run)
            if self.step.update():
                run.global_step += 1
                run.position += 1
        except CancelStep:
            self.events.emit("after_cancel_step", run)
        for act in of["after_step"]:
            act(run)
        self.step.zero_grad()


def _tell_where(error: BaseException, run: Run) -> None:
    """Adds to an error the place in the run where it happened."""
    stage = "training" if run.training else "validation"
    add_note(error, f"This happened in {stage}, epoch {run.epoch} of {run.n_epochs}, batch {run.iter}.")
