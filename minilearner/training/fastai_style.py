"""What callbacks in fastai's style see: `self.learn`, by fastai's names. Their exceptions, and their names.

`training.fastai_session` lets them act.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from minilearner.errors import closest
from minilearner.training.callback import (
    Callback,
    CancelBackward,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelStep,
    CancelTrain,
    CancelValidate,
    defines,
    is_fastai_style,
)
from minilearner.training.run import Run
from minilearner.tree import map_tensors

__all__ = [
    "CancelBackwardException",
    "CancelBatchException",
    "CancelEpochException",
    "CancelFitException",
    "CancelStepException",
    "CancelTrainException",
    "CancelValidException",
    "LearnerView",
    "Several",
    "SpreadingLoss",
    "may_change_batches",
    "name_of",
]

CancelEpochException = CancelEpoch
CancelFitException = CancelFit
CancelStepException = CancelStep
CancelTrainException = CancelTrain
CancelValidException = CancelValidate


class CancelBatchException(CancelBatch):
    """Skips the rest of this batch, as fastai's does: gradients stay, and the next batch adds to them.

    Raised in `before_step`, it gathers gradients over several batches. `after_cancel_batch` and `after_batch` follow.
    """

    keeps_gradients = True


class CancelBackwardException(CancelBackward):
    """Skips the backward pass alone, as fastai's does, for callbacks that make it themselves in `before_backward`.

    `after_cancel_backward`, `after_backward` and the update follow.
    """

    keeps_update = True


def may_change_batches(callbacks: Iterable[Callback]) -> bool:
    """Whether one of the callbacks in fastai's style may change what the model or the loss receives."""
    events = ("before_fit", "before_epoch", "before_train", "before_validate", "before_batch", "after_pred")
    return any(
        is_fastai_style(callback) and any(defines(callback, event) for event in events) for callback in callbacks
    )


_MARKS = {"lr_find": "lr_finder", "get_preds": "gather_preds"}
"""The callbacks that fastai adds for a kind of run. Others ask whether the learner has them."""


def name_of(callback: Callback) -> str:
    """Returns the name by which a learner has a callback: "early_stopping" for an EarlyStoppingCallback."""
    own = vars(callback).get("name", getattr(type(callback), "name", None))
    if isinstance(own, str):
        return own
    name = re.sub("Callback$", "", type(callback).__name__) or "callback"
    return re.sub("([a-z0-9])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()


class LearnerView:
    """What stands for the learner in fastai's style: the session by fastai's names, and all else of the learner.

    `xb`, `yb`, `pred`, `loss`, `loss_grad` and `loss_func` may be set, as may the numbers. What is set by a name of its
    own becomes an attribute of the learner.

    Args:
        learner: the learner. None if there is none, as in a loop without one.
    """

    _OF_SESSION = frozenset(["training", "epoch", "n_epoch", "iter", "n_iter", "train_iter", "pct_train", "dl"])
    _FIXED_IN_RUNS = frozenset(["dls", "model", "opt", "opt_func"])

    def __init__(self, learner: Any) -> None:
        vars(self).update(learner=learner, session=None)

    learner: Any
    session: Any  # the latest `Session`; None before the first

    @property
    def run(self) -> Run:
        """The run in our own style."""
        return self._open_session().run  # type: ignore[no-any-return]

    @property
    def xb(self) -> tuple[Any, ...]:
        """The inputs."""
        return _as_tuple(self._current("x"))

    @xb.setter
    def xb(self, xb: tuple[Any, ...]) -> None:
        session = self._open_session()
        _check_tuple("xb", xb)
        session.run.x = xb[0] if len(xb) == 1 else tuple(xb)

    @property
    def yb(self) -> tuple[Any, ...]:
        """The targets; empty if the data have none."""
        y = self._current("y")
        return () if y is None else _as_tuple(y)

    @yb.setter
    def yb(self, yb: tuple[Any, ...]) -> None:
        session = self._open_session()
        _check_tuple("yb", yb)
        session.replace_targets(tuple(yb))

    @property
    def x(self) -> Any:
        """The input; a tuple if there are several."""
        return _without_tuple(self.xb)

    @property
    def y(self) -> Any:
        """The target; a tuple if there are several, None if there is none."""
        return _without_tuple(self.yb)

    @property
    def pred(self) -> Any:
        """What the model returned."""
        return self._current("pred")

    @pred.setter
    def pred(self, pred: Any) -> None:
        self._open_session().run.pred = pred

    @property
    def loss(self) -> Any:
        """The loss that is recorded."""
        return None if self.session is None else self.session.current_loss

    @loss.setter
    def loss(self, loss: Any) -> None:
        self._open_session().loss = loss

    @property
    def loss_grad(self) -> Any:
        """The loss that goes backward."""
        return None if self.session is None else self.session.current_loss_grad

    @loss_grad.setter
    def loss_grad(self, loss: Any) -> None:
        self._open_session().replace_loss_grad(loss)

    @property
    def loss_func(self) -> Any:
        """The loss function."""
        if self.session is None or not self.session.is_open:
            return self.learner.loss_func
        used = self.session.run.step.loss_func
        return used.loss_func if isinstance(used, SpreadingLoss) else used

    @loss_func.setter
    def loss_func(self, loss_func: Any) -> None:
        if self.session is not None and self.session.is_open:
            self.session.run.step.loss_func = loss_func
        if self.learner is not None:
            self.learner.loss_func = loss_func

    @property
    def smooth_loss(self) -> Tensor:
        """The moving average of the training loss."""
        record = self._open_session().run.record
        return torch.tensor(0.0 if record is None else record.smooth_loss)

    @property
    def opt(self) -> Any:
        """The optimizer, with fastai's `hypers`. None without a learner."""
        return None if self.learner is None else self.learner.opt

    @property
    def model(self) -> torch.nn.Module:
        """The model."""
        is_open = self.session is not None and self.session.is_open
        return self.session.run.model if is_open else self.learner.model  # type: ignore[no-any-return]

    def to_detach(self, b: Any, cpu: bool = True, gather: bool = True) -> Any:
        """Returns tensors without their graph, on the CPU unless `cpu` is False. They are never gathered."""
        return map_tensors(lambda t: t.detach().cpu() if cpu else t.detach(), b)

    def show_to(self, callbacks: Iterable[Callback]) -> None:
        """Becomes the `learn` of the callbacks in fastai's style."""
        for callback in callbacks:
            if is_fastai_style(callback):
                callback.learn = self

    def announce_creation(self, callbacks: Iterable[Callback]) -> None:
        """Calls fastai's event `after_create` of those that define it."""
        for callback in sorted(callbacks, key=lambda callback: callback.order):
            if is_fastai_style(callback) and (act := getattr(type(callback), "after_create", None)) is not None:
                act(callback)

    def look_up(self, callback: Callback, name: str) -> Any:
        """Returns what a callback means by an attribute that it does not have itself."""
        if name in ("run", "run_train", "run_valid"):
            return True
        if name == "name":
            return name_of(callback)
        try:
            return getattr(self, name)
        except AttributeError as error:
            raise AttributeError(f"{type(callback).__name__} has no attribute {name!r}: {error}") from None

    def __getattr__(self, name: str) -> Any:
        if hasattr(type(self), name):  # a property that found no run
            raise AttributeError(f"`{name}` is only known during a run.")
        session, learner = vars(self).get("session"), vars(self).get("learner")
        if name in self._OF_SESSION and session is not None:
            return getattr(session, name)
        if session is not None and session.is_open:
            if name in (
                session.kind.replace("lr_find", "lr_finder"),
                session.kind.replace("get_preds", "gather_preds"),
            ):
                return session
            for guest in session.run.callbacks:
                if is_fastai_style(guest) and name_of(guest) == name:
                    return guest
        for owner in (learner, getattr(learner, "model", None)):
            if owner is not None and hasattr(owner, name):
                return getattr(owner, name)
        raise AttributeError(f"the learner has no {name!r}.{closest(name, self._names())}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "session" or isinstance(getattr(type(self), name, None), property):
            self._check_may_set(name)
            object.__setattr__(self, name, value)
        elif name in self._OF_SESSION:
            setattr(self._open_session(), name, value)
        else:
            self._check_may_set(name)
            setattr(self.learner, name, value)

    def _check_may_set(self, name: str) -> None:
        if name in self._FIXED_IN_RUNS and self.session is not None and self.session.is_open:
            raise AttributeError(f"`{name}` of a learner cannot change during a run. Change it between two fits.")
        of_class = getattr(type(self), name, None)
        if isinstance(of_class, property) and of_class.fset is None:
            hint = f" Set `{name}b`, a tuple." if name in ("x", "y") else ""
            raise AttributeError(f"`{name}` of a learner cannot be set.{hint}")

    def _open_session(self) -> Any:
        if self.session is None or not self.session.is_open:
            raise AttributeError("a batch is only known during a run.")
        return self.session

    def _current(self, name: str) -> Any:
        return None if self.session is None else self.session.current(name)

    def _names(self) -> list[str]:
        return [
            *self._OF_SESSION,
            *(name for name in (*dir(type(self)), *dir(self.learner)) if not name.startswith("_")),
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        """Makes copies and pickles of a callback belong to no learner."""
        return type(None), ()

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Returns None, as `__reduce__` does. Otherwise the learner's own method would be found."""

    def __repr__(self) -> str:
        return f"LearnerView({self.learner!r})"


class Several(tuple):  # type: ignore[type-arg]
    """Several targets in place of one."""


class SpreadingLoss:
    """Passes several targets on as arguments of their own.

    Args:
        loss_func: the loss, called with the prediction and the targets.
    """

    def __init__(self, loss_func: Callable[..., Any]) -> None:
        self.loss_func = loss_func

    def __call__(self, pred: Any, y: Any) -> Any:
        """Returns the loss."""
        return self.loss_func(pred, *y) if isinstance(y, Several) else self.loss_func(pred, y)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _without_tuple(batch: tuple[Any, ...]) -> Any:
    return None if not batch else batch[0] if len(batch) == 1 else batch


def _check_tuple(name: str, value: Any) -> None:
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"`{name}` must be a tuple, as in `self.learn.{name} = (batch,)`. Received: {value!r:.80}.")
