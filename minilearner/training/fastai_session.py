"""Callbacks in fastai's style: events that take only `self`, and see the training through `self.learn`.

    class Tally(Callback):
        def before_fit(self):
            self.n = 0

        def after_batch(self):
            if self.training:
                self.n += len(self.yb[0])

Such callbacks follow fastai's rules. They act in each fit and, outside a fit, in `validate`, `lr_find`, `get_preds` and
all else that predicts. A `Session` lets them act in one run, between callbacks in our own style. It keeps what fastai's
learner knows then. A `LearnerView` is their `self.learn`: it shows the session by fastai's names, and otherwise the
learner.

Four things are different on purpose. The recorder has a batch's or an epoch's values before callbacks of any order act.
A validation or prediction that a callback makes itself calls no callback in this style again. In `get_preds`, the batch
that a callback cancels has no predictions, so it is an error. Gradients that are left when a fit ends are dropped.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from minilearner.tracebacks import stacklevel_of_user
from minilearner.training.callback import Act, Callback, Cancel, defines, is_fastai_style
from minilearner.training.fastai_style import LearnerView, Several, SpreadingLoss
from minilearner.training.run import Run
from minilearner.tree import map_tensors

__all__ = ["Session", "open_session"]

_OF_BATCH = {"before_batch", "after_pred", "after_loss", "before_backward", "after_cancel_backward", "after_backward"}
_OF_BATCH |= {"before_step", "after_step", "after_cancel_batch", "after_batch"}
"""The events that `run_train` and `run_valid` switch."""


_SETTABLE = {"xb", "yb", "pred", "loss", "loss_grad", "loss_func"}
"""What a guest may set through its learner."""


def open_session(
    callbacks: Sequence[Callback], run: Run, *, train: Any = None, valid: Any = None, kind: str = "fit"
) -> Session | None:
    """Returns the session of a run if some callbacks are in fastai's style. They are its guests.

    Args:
        callbacks: of both styles.
        run: the run.
        train, valid: its loaders; None for those that it does not read.
        kind: what the run does: "fit", "lr_find", "validate" or "get_preds".
    """
    guests = [callback for callback in callbacks if is_fastai_style(callback)]
    if not guests:
        return None
    view = next((view for guest in guests if (view := getattr(guest, "learn", None)) is not None), LearnerView(None))
    return Session(view, guests, run, {True: train, False: valid}, kind)


class Session(Callback):
    """Keeps what fastai's learner knows during one run, and decides which guests act at an event. It acts first.

    Args:
        view: what the guests see as `self.learn`.
        guests: the callbacks in fastai's style.
        run: the run.
        loaders: by whether they train.
        kind: as in `open_session`.

    Attributes:
        loss: the loss that is recorded. `run.loss` is the one that goes backward, until it has gone.
        x, y, pred: of the latest batch that is done.
        is_open: whether the run is under way.
    """

    order = -2000
    ignored_arguments = ("view", "guests", "run", "loaders", "kind")

    def __init__(self, view: LearnerView, guests: list[Callback], run: Run, loaders: dict[bool, Any], kind: str):
        self.view, self.guests, self.run, self.loaders, self.kind = view, guests, run, loaders, kind
        self.is_open = self.training = self.in_pass = False
        self.epoch = self.iter = self.train_iter = 0
        self.n_epoch, self.n_iter, self.pct_train = run.n_epochs, 0, 0.0
        self.dl: Any = None
        self.loss: Any = torch.tensor(0.0)
        self.loss_grad: Any = None
        self.x: Any = None
        self.y: Any = None
        self.pred: Any = None
        self._going_backward: Tensor | None = None
        self._ended_at: Any = None
        self._warned: list[Callback] = []

    def add_to(self, callbacks: Sequence[Callback]) -> list[Callback]:
        """Returns all callbacks that take part. Inside another session of the learner, no guests do."""
        if self.view.session is not None and self.view.session.is_open:  # a callback validates or predicts by itself
            return [callback for callback in callbacks if callback not in self.guests]
        return [self, *callbacks]

    def state_dict(self) -> dict[str, Any]:
        """Returns how many batches were trained."""
        return {"train_iter": self.train_iter, "pct_train": self.pct_train}

    def bind(self, callback: Callback, event: str) -> Act:
        """Returns what to call with the run for a callback of either style at an event."""
        method = getattr(callback, event)
        if callback not in self.guests or not defines(callback, event):
            return method  # type: ignore[no-any-return]

        def act(run: Run) -> None:
            if self._lets_act(callback, event):
                try:
                    method()
                except Cancel:
                    self._ended_at = self._place(event)
                    raise
            if event == "after_fit":
                vars(callback)["run"] = True

        return act

    def before_fit(self, run: Run) -> None:
        self.is_open = True
        self.view.session = self
        for guest in self.guests:
            guest.learn = self.view

    def before_epoch(self, run: Run) -> None:
        self.epoch = run.epoch

    def before_train(self, run: Run) -> None:
        self._begin_pass(run)
        self.pct_train = self.epoch / self.n_epoch

    def before_validate(self, run: Run) -> None:
        self._begin_pass(run)

    def before_batch(self, run: Run) -> None:
        self._begin_pass(run)
        self._going_backward = None

    def after_loss(self, run: Run) -> None:
        if run.loss is not None:
            self._going_backward = run.loss
            self.loss = run.loss.clone()

    def after_backward(self, run: Run) -> None:
        self._settle_loss(run)

    def after_batch(self, run: Run) -> None:
        self._settle_loss(run)
        self._begin_pass(run)  # a validation in mid-epoch may lie between
        self.x, self.y = run.x, run.y
        if run.pred is not None:
            self.pred = map_tensors(Tensor.detach, run.pred)
        if run.training:
            self.pct_train += 1.0 / (self.n_iter * self.n_epoch)
            self.train_iter += 1

    def after_train(self, run: Run) -> None:
        self.in_pass = False
        self._warn_of_hidden_names()

    def after_validate(self, run: Run) -> None:
        self.in_pass, self._going_backward = False, None
        self._warn_of_hidden_names()

    def close(self) -> None:
        """Ends the session after the last event. Forgets the batch."""
        if not self.is_open:
            return
        self.in_pass = self.is_open = False
        self.dl = self.x = self.y = self.pred = self.loss = self.loss_grad = self._going_backward = None
        for guest in self.guests:
            if not defines(guest, "after_fit"):
                vars(guest)["run"] = True

    def current(self, name: str) -> Any:
        """Returns `x`, `y` or `pred` of the batch that is under way or, between passes, of the latest one."""
        now = getattr(self.run, name) if self.in_pass else None
        return getattr(self, name) if (now is None and name == "pred") or not self.in_pass else now

    @property
    def current_loss(self) -> Any:
        """The loss that will be recorded."""
        is_replaced = self._going_backward is not None and self.run.loss is not self._going_backward
        return self.run.loss if is_replaced else self.loss

    @property
    def current_loss_grad(self) -> Any:
        """The loss that goes backward or, afterwards, has gone."""
        return self.loss_grad if self._going_backward is None else self.run.loss

    def replace_loss_grad(self, loss: Tensor) -> None:
        """Lets another loss go backward. What is recorded stays."""
        if self._going_backward is None:
            self.loss_grad = loss
        else:
            self.run.loss = self._going_backward = loss

    def replace_targets(self, yb: tuple[Any, ...]) -> None:
        """Changes the targets. The loss function gets several as arguments of their own, as in fastai."""
        is_own = type(self.run.y) is tuple and len(self.run.y) == len(yb)
        if len(yb) < 2 or is_own:
            self.run.y = yb if is_own else yb[0] if yb else None
            return
        self.run.y, step = Several(yb), self.run.step
        if not isinstance(step.loss_func, SpreadingLoss):
            step.loss_func = SpreadingLoss(step.loss_func)

    def _warn_of_hidden_names(self) -> None:
        """Warns, once for each guest, of what was probably meant for the learner."""
        for guest in self.guests:
            hidden = _SETTABLE & vars(guest).keys() - guest.constructor_arguments.keys()
            if hidden and guest not in self._warned:
                self._warned.append(guest)
                name, kind = min(hidden), type(guest).__name__
                warnings.warn(
                    f"{kind} sets `self.{name}`, which hides the learner's and changes nothing there. "
                    f"Write self.learn.{name} = ... to change the learner's, or take another name.",
                    stacklevel=stacklevel_of_user(),
                )

    def _begin_pass(self, run: Run) -> None:
        self.training, self.iter, self.n_iter, self.in_pass = run.training, run.iter, run.n_batches, True
        self.dl = self.loaders[run.training]

    def _settle_loss(self, run: Run) -> None:
        """Puts the loss that is recorded into the run, when its backward pass is over."""
        if self._going_backward is not None and run.loss is self._going_backward:
            self.loss_grad, run.loss = run.loss, self.loss
        elif run.loss is not None:
            self.loss = run.loss
        self._going_backward = None

    def _place(self, event: str) -> tuple[Any, ...]:
        return event, self.run.epoch, self.run.iter, self.run.training

    def _lets_act(self, callback: Callback, event: str) -> bool:
        """Whether a guest acts at this event by fastai's rules.

        An event ends with the first guest that cancels in it, and a fit with the first CancelFit: only
        `after_cancel_fit` and `after_fit` follow. After an error, nothing does.
        """
        guest: Any = callback  # whose switches are True unless it sets them
        is_on = guest.run and (event not in _OF_BATCH or (guest.run_train if self.training else guest.run_valid))
        is_at_end = event in ("after_cancel_fit", "after_fit")
        is_over = self.run.interrupted if is_at_end else self.run.ending or self._ended_at == self._place(event)
        return is_on and not is_over
