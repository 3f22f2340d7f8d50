"""The one loop. `Callback`'s docstring shows it without its details."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from minilearner.data.loader_state import parts_of
from minilearner.display import shorten_interrupt
from minilearner.errors import add_note
from minilearner.models.restore import evaluation_mode
from minilearner.runtime import find_kept_memory, isolate_rng, set_rng_state
from minilearner.threads import train, turn_of
from minilearner.tracebacks import drop_frames
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
from minilearner.training.fastai_session import open_session
from minilearner.training.run import Run
from minilearner.tree import n_items

__all__ = ["Loop"]

_LOOK_EVERY = 8  # batches: how often to look at the memory that the process keeps


class Loop:
    """Takes a `Run` through its epochs and calls the callbacks at each event. The only caller of the step's `update`.

    It is made afresh for each call. It adds a few microseconds a batch to a hand-written loop: it reads no tensor's
    value, and calls a callback only at the events that it defines.

    Args:
        run: holds the state of the call.
        callbacks: act in the order of their `order`.
        train, valid: loaders of `(x, y)` batches with a length; `valid` may be None.
        predicts: whether it only predicts, with `predict`.
    """

    def __init__(
        self,
        run: Run,
        callbacks: Iterable[Callback] = (),
        *,
        train: Any = None,
        valid: Any = None,
        predicts: bool = False,
    ):
        self.run = run
        self.step = run.step
        self.train = train
        self.valid = valid
        kind = (
            "get_preds" if predicts else "validate" if train is None else "fit" if run.record is not None else "lr_find"
        )
        callbacks = list(callbacks)
        self._session = session = open_session(callbacks, run, train=train, valid=valid, kind=kind)
        self.events = Events(callbacks) if session is None else Events(session.add_to(callbacks), session.bind)
        self._is_trained = self._carries_gradients = False
        self._memory = find_kept_memory()
        run.validate = self.validate_now
        run.process_batch = self._process_batch
        run.callbacks = self.events.callbacks

    def fit(self) -> None:
        """Trains for `run.n_epochs` epochs."""
        run = self.run
        with train(run.model, parts_of(self.train, self.valid)), self._whole_run():
            self.events.start(run)
            n_updates = -(-len(self.train) // self.step.n_accumulate)
            run.n_positions = n_updates * run.n_epochs
            for epoch in range(run.epoch, run.n_epochs):
                run.epoch = epoch
                run.position = run.epoch * n_updates
                self._is_trained = False
                try:
                    with self._stretch("epoch", CancelEpoch):
                        self.events.emit("before_epoch", run)
                        self._train()
                        if self.valid is not None:
                            self.validate_now()
                except (CancelFit, KeyboardInterrupt):
                    run.ending = True
                    if self._is_trained:  # the logs and files have this epoch too
                        self._emit_to_all("after_epoch")
                    raise

    def validate(self) -> None:
        """Makes one validation pass, inside its fit and epoch events."""
        with self._whole_run():
            self.events.start(self.run)
            with self._stretch("epoch", CancelEpoch):
                self.events.emit("before_epoch", self.run)
                self.validate_now()

    def predict(self) -> Iterator[Run]:
        """Goes through the validation batches without training, and yields the run after each.

        The caller sees to evaluation mode, gradients and random generators, as `inference` does. Targets may be None.
        """
        run, of = self.run, self.events.of
        with self._whole_run():
            self.events.start(run)
            with self._stretch("epoch", CancelEpoch):
                self.events.emit("before_epoch", run)
                run.n_batches = len(self.valid)
                with self._stretch("validate", CancelValidate):
                    self.events.emit("before_validate", run)
                    for run.iter, (run.x, run.y) in enumerate(self.valid):
                        if self._memory is not None and run.iter % _LOOK_EVERY == 0:
                            self._memory.check()
                        run.pred = run.loss = None
                        try:
                            self._predict_batch()
                        except CancelBatch as cancel:
                            what = f"batch {run.iter} was cancelled by a callback, so its items have no predictions."
                            raise RuntimeError(what) from cancel
                        for act in of["after_batch"]:
                            act(run)
                        yield run

    def validate_now(self) -> None:
        """Makes a validation pass here, and puts the run back to the batch where it was.

        Random numbers drawn in it leave no trace, so how often one validates does not change what is trained.
        """
        run = self.run
        before = run.training, run.iter, run.n_batches, run.x, run.y, run.pred, run.loss
        run.training = False
        run.n_batches = len(self.valid)
        try:
            stretch = self._stretch("validate", CancelValidate)
            with isolate_rng(), evaluation_mode(self.step.model), torch.no_grad(), stretch:
                self.events.emit("before_validate", run)
                self._go_through(self.valid, 0, self._evaluate_batch)
        finally:
            run.training, run.iter, run.n_batches, run.x, run.y, run.pred, run.loss = before

    def _train(self) -> None:
        run, step = self.run, self.step
        run.training = run.in_mid_epoch = True
        run.n_batches = len(self.train)
        step.model.train()
        if not self._carries_gradients:
            step.zero_grad()  # no gradient from before, such as from a cancelled epoch, belongs to this one
        try:
            with self._stretch("train", CancelTrain):
                self.events.emit("before_train", run)
                self._go_through(*self._start_pass(), self._train_batch)
                if step.is_pending:  # the batch that should have closed the window was cancelled
                    self._update()
                self._is_trained = True
        except Cancel:  # of the epoch or the fit, whose last events must not see a training pass
            run.training = run.in_mid_epoch = False
            raise
        run.training = run.in_mid_epoch = False

    def _start_pass(self) -> tuple[Iterable[Any], int]:
        """Returns the training batches and the number of the first: a whole pass, or the rest of a resumed one."""
        point, self.run.resume = self.run.resume, None
        if point is None:
            return iter(self.train), 0
        batches = self.train.iterate(point.batch)
        set_rng_state(point.rng)
        return batches, point.batch

    def _go_through(self, batches: Iterable[Any], start: int, act_on_batch: Callable[[], None]) -> None:
        run, of, memory = self.run, self.events.of, self._memory
        try:
            for run.iter, (run.x, run.y) in enumerate(batches, start):
                if memory is not None and run.iter % _LOOK_EVERY == 0:
                    memory.check()
                run.pred = run.loss = None  # a cancelled batch must not show those of the batch before
                try:
                    act_on_batch()
                except CancelBatch as cancel:
                    self.events.emit("after_cancel_batch", run)
                    self._carries_gradients |= run.training and cancel.keeps_gradients
                    if run.training and self.step.n_accumulate == 1 and not cancel.keeps_gradients:
                        self.step.zero_grad()
                for act in of["after_batch"]:
                    act(run)
        except Cancel:
            raise
        except BaseException as error:
            stage = "training" if run.training else "validation"
            add_note(error, f"This happened in {stage}, epoch {run.epoch} of {run.n_epochs}, batch {run.iter}.")
            raise

    def _train_batch(self) -> None:
        run, step, of = self.run, self.step, self.events.of
        is_cancelled = False
        for act in of["before_batch"]:
            act(run)
        try:
            run.process_batch()
        except CancelBackward as cancel:
            is_cancelled = not cancel.keeps_update
            self.events.emit("after_cancel_backward", run)
        if run.loss is None and not is_cancelled:
            raise RuntimeError("`run.process_batch` must set `run.loss`, or raise a cancel. It did neither.")
        for act in of["after_backward"]:
            act(run)
        if is_cancelled and not step.is_pending:
            step.zero_grad()  # what an update made by hand has left must not be in the next one
        elif step.is_due(run.n_batches - 1 - run.iter):
            self._update()

    def _evaluate_batch(self) -> None:
        for act in self.events.of["before_batch"]:
            act(self.run)
        with turn_of(self.step.model):
            self._process_batch()

    def _predict_batch(self) -> None:
        run, of = self.run, self.events.of
        for act in of["before_batch"]:
            act(run)
        with turn_of(self.step.model):
            run.pred = self.step.predict(run.x)
            for act in of["after_pred"]:
                act(run)
            if run.y is not None:
                run.loss = self.step.compute_loss(run.pred, run.y)
            for act in of["after_loss"]:
                act(run)

    def _process_batch(self) -> None:
        """Makes the forward pass of a batch, or of a part of it, and in training the backward pass."""
        run, step, of = self.run, self.step, self.events.of
        is_watched = of["after_pred"] or of["after_loss"] or of["before_backward"]
        run.pred = step.predict(run.x, may_be_late=run.training and not is_watched)
        for act in of["after_pred"]:
            act(run)
        run.loss = step.compute_loss(run.pred, run.y)
        for act in of["after_loss"]:
            act(run)
        if run.training:
            for act in of["before_backward"]:
                act(run)
            step.backward(run.loss, n_items(run.x))

    def _update(self) -> None:
        run, step, of = self.run, self.step, self.events.of
        try:
            if step.n_processes > 1 or step.precision.scales_loss or step.window.terms:
                step.settle_gradients()  # callbacks shall see what the update takes
            for act in of["before_step"]:
                act(run)
            if step.update():
                run.count_update()
        except CancelStep:
            self.events.emit("after_cancel_step", run)
        try:
            for act in of["after_step"]:
                act(run)
        finally:
            step.zero_grad()

    @contextmanager
    def _stretch(self, name: str, cancel: type[Cancel]) -> Iterator[None]:
        """Emits the last events of a stretch, which `cancel` may end. Any other exception skips them."""
        try:
            yield
        except cancel as caught:
            drop_frames(caught)
            self.events.emit(f"after_cancel_{name}", self.run)
        self._emit_to_all(f"after_{name}")

    def _emit_to_all(self, event: str) -> None:
        """Calls each callback at the end of a stretch, also if one of them ends the run or is interrupted."""
        end: BaseException | None = None
        if event == "after_epoch":
            self._is_trained = False  # it comes once
        for act in self.events.of[event]:
            try:
                act(self.run)
            except (Cancel, KeyboardInterrupt, SystemExit) as error:
                end = end or error
                self.run.ending = self.run.ending or not isinstance(error, Cancel) or isinstance(error, CancelFit)
        try:
            if end is not None:
                raise end
        finally:
            del end  # its traceback holds this frame

    def _where(self) -> str:
        run = self.run
        if self.train is None:
            return f"in validation, batch {run.iter + 1}/{len(self.valid)}"
        if run.record is None:
            return f"in a learning-rate sweep, update {run.global_step + 1}"
        return f"in epoch {run.label_epoch()}, batch {run.iter + 1}/{len(self.train)}"

    @contextmanager
    def _whole_run(self) -> Iterator[None]:
        """Emits `after_fit` at the end, also after an error, which is raised again."""
        run = self.run
        try:
            try:
                yield
            except CancelFit as caught:
                drop_frames(caught)
                self.events.emit("after_cancel_fit", run)
            except Cancel as stray:
                raise RuntimeError(
                    f"{type(stray).__name__} was raised where there is nothing for it to cancel. It may be raised from "
                    f"`before_{stray.stretch}` on, until that stretch ends."
                ) from stray
        except BaseException as error:
            run.interrupted = True
            if isinstance(error, KeyboardInterrupt):
                shorten_interrupt(error, self._where())
            try:
                self.events.finish(run)
            except Exception as second:
                add_note(error, f"While callbacks undid their changes, another error happened: {second!r}")
            raise
        else:
            self.events.finish(run)
        finally:
            run.process_batch = self._process_batch
            if self._session is not None:
                self._session.close()
