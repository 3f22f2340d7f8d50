"""Learning rates that depend on more than progress: a user's function of the epoch, a metric, a torch scheduler.

Pure functions of progress are `schedule.ParamScheduler`'s. Here, as there, each layer group keeps its rate's ratio to
the others, what is stepped is stepped by optimizer updates that were made, and `fit` puts all rates back at its end.
"""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, SequentialLR
from torch.optim.lr_scheduler import ReduceLROnPlateau as TorchPlateau

from minilearner import processes
from minilearner.callbacks.param_scheduler import claim, ratios_to_last
from minilearner.callbacks.tracking import Tracker, check_monitor
from minilearner.schedules import check_clock, check_schedule
from minilearner.training.callback import Callback
from minilearner.training.run import Run

__all__ = ["LearningRateScheduler", "ReduceLROnPlateau", "TorchScheduler"]


class LearningRateScheduler(Callback):
    """Sets the learning rate at the start of each epoch from a function of yours, as Keras' callback of this name does.

    Example: ``LearningRateScheduler(lambda epoch, lr: lr * 0.9, verbose=1)``.

    Whether the function takes `(epoch, lr)` or `(epoch)` is read from its signature, once: two arguments that can be
    given by position, or one. Errors raised in it reach you as they are; Keras takes any TypeError in a function of
    two for a sign that it wants one.

    Args:
        fn: gets the epoch, from 0, and the rate now, that of the last layer group; returns the rate of that group for
            this epoch: any number, also an integer or NumPy's. The other groups keep their ratio to it.
        verbose: 1 prints a line an epoch, whose epochs count from 1 as Keras' do.

    Raises:
        TypeError: `fn` takes neither one nor two arguments; in a run, it returns no number.
        ValueError: `fn` is a schedule of progress; in a run: it returns a negative, infinite or NaN rate, or another
            schedule drives "lr".
    """

    order = 60
    ignored_arguments = ("verbose",)

    def __init__(self, fn: Callable[..., float], verbose: int = 0):
        check_schedule("fn", fn)
        check_clock(fn, "count")
        self.fn = fn
        self.verbose = verbose
        self._takes_rate = _takes_two(fn)
        self._ratios: list[float] = []
        self._set_for = -1

    def before_fit(self, run: Run) -> None:
        claim(run, self, "lr")
        self._ratios = ratios_to_last(run.optimizer)
        self._set_for = -1

    def before_epoch(self, run: Run) -> None:
        if run.epoch == self._set_for:  # a run that is resumed in the middle of an epoch has its rate already
            return
        self._set_for = run.epoch
        groups = run.optimizer.param_groups
        now = float(groups[-1]["lr"])
        lr = _checked(self.fn(run.epoch, now) if self._takes_rate else self.fn(run.epoch), run.epoch)
        for group, ratio in zip(groups, self._ratios, strict=True):
            group["lr"] = lr * ratio
        if self.verbose and processes.is_first():
            sys.stdout.write(f"Epoch {run.epoch + 1}: LearningRateScheduler setting learning rate to {lr}.\n")

    def __repr__(self) -> str:
        return f"LearningRateScheduler({getattr(self.fn, '__name__', repr(self.fn))})"


class ReduceLROnPlateau(Tracker):
    """Multiplies the learning rate by `factor` when a value has stopped improving: Keras' algorithm.

    After each epoch: an improvement by more than `min_delta` resets the wait, any other epoch outside a cool-down adds
    one to it, and at `patience` the rate falls and the cool-down begins. All layer groups fall by the same factor.

    Args:
        monitor: a name in `run.metrics`: "train_loss", "valid_loss", or a metric's.
        factor: in [0, 1).
        patience: epochs without improvement before the rate falls.
        min_delta: smaller improvements do not count.
        cooldown: epochs after a fall in which nothing is counted.
        min_lr: the rate of the last layer group never falls below this.
        mode: "min", "max", or None to infer it; see `Tracker`.
        verbose: 1 prints a line where the rate falls.

    Raises:
        ValueError: an argument out of range; in a run, an unknown `monitor`, or another schedule drives "lr".
    """

    ignored_arguments = ("verbose",)

    def __init__(
        self,
        monitor: str = "valid_loss",
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        mode: Literal["min", "max"] | None = None,
        verbose: int = 0,
    ):
        super().__init__(monitor, mode=mode, min_delta=min_delta)
        if not 0 <= factor < 1:
            raise ValueError(f"`factor` must be in [0, 1), for the rate is to fall. Received: factor={factor}.")
        if patience < 0 or cooldown < 0 or not 0 <= min_lr < math.inf:
            raise ValueError(
                "`patience`, `cooldown` and `min_lr` must not be negative. "
                f"Received: patience={patience}, cooldown={cooldown}, min_lr={min_lr}."
            )
        self.factor, self.patience, self.cooldown, self.min_lr = factor, patience, cooldown, min_lr
        self.verbose = verbose
        self.wait = self.cooldown_left = 0

    def before_fit(self, run: Run) -> None:
        super().before_fit(run)
        claim(run, self, "lr")
        self.wait = self.cooldown_left = 0

    def after_epoch(self, run: Run) -> None:
        if self.monitor not in run.metrics:  # an epoch without a validation says nothing
            return
        self.cooldown_left = max(self.cooldown_left - 1, 0)
        if self.improved(run):
            self.wait = 0
        elif not self.cooldown_left:
            self.wait += 1
            if self.wait >= self.patience:
                self._reduce(run)

    def _reduce(self, run: Run) -> None:
        groups = run.optimizer.param_groups
        last = float(groups[-1]["lr"])
        if last <= self.min_lr:  # Keras' wait goes on too, and so does nothing
            return
        scale = max(last * self.factor, self.min_lr) / last
        for group in groups:
            group["lr"] = float(group["lr"]) * scale
        self.cooldown_left, self.wait = self.cooldown, 0
        if self.verbose and processes.is_first():
            sys.stdout.write(f"Epoch {run.epoch + 1}: ReduceLROnPlateau reducing learning rate to {last * scale}.\n")

    def __repr__(self) -> str:
        return f"ReduceLROnPlateau({self.monitor!r}, factor={self.factor}, patience={self.patience})"


class TorchScheduler(Callback):
    """Drives a run by any scheduler of `torch.optim.lr_scheduler`, to the bit as in a plain loop.

    Example: ``TorchScheduler(lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=500))``.

    The scheduler is stepped after each optimizer update that was made, so batches gathered by accumulation and updates
    skipped in fp16 do not count and torch has nothing to warn about; or after each epoch. One with an end, such as
    `OneCycleLR`, holds its last rate past it, where torch would raise. What schedulers leave on an optimizer (a wrapped
    `step`, "initial_lr" and other keys of its groups) is taken away after the run.

    Args:
        factory: called with the optimizer when the run begins; returns the scheduler.
        every: "step" (an optimizer update) or "epoch".
        monitor: what torch's own `ReduceLROnPlateau` is given after each epoch; a name in `run.metrics`.

    Attributes:
        scheduler: that of the newest run.

    Raises:
        ValueError: `every` is unknown; in a run: the factory built on another optimizer, a plateau scheduler is to be
            stepped by updates, `monitor` is unknown, or another schedule drives "lr" (or the momentum, if cycled).
        TypeError: in a run: the factory returns no scheduler.
    """

    order = 60  # after the step has been recorded with the rate that it used
    ignored_arguments = ()

    def __init__(
        self,
        factory: Callable[[Optimizer], Any],
        every: Literal["step", "epoch"] = "step",
        monitor: str = "valid_loss",
    ):
        if every not in ("step", "epoch"):
            raise ValueError(f"`every` must be 'step' or 'epoch'. Received: every={every!r}.")
        if not callable(factory):
            raise TypeError(f"`factory` must be a function of the optimizer. Received: factory={factory!r}.")
        self.factory, self.every, self.monitor = factory, every, monitor
        self.scheduler: Any = None
        self._n_seen = 0
        self._before: _Untouched | None = None

    def before_fit(self, run: Run) -> None:
        claim(run, self, "lr")
        self._before = _Untouched(run.optimizer)
        self._n_seen = run.global_step
        self.scheduler = self.factory(run.optimizer)
        self._check(run.optimizer)
        if getattr(self.scheduler, "cycle_momentum", False):
            claim(run, self, "momentum")
        if isinstance(self.scheduler, TorchPlateau):
            check_monitor(run, self.monitor)

    def after_batch(self, run: Run) -> None:
        if run.training and self.every == "step":
            self._catch_up(run)

    def after_train(self, run: Run) -> None:
        if self.every == "step":  # a window of accumulation may have been closed after the last batch
            self._catch_up(run)

    def after_epoch(self, run: Run) -> None:
        if self.every == "epoch":
            self._step(run)

    def after_fit(self, run: Run) -> None:
        if self._before is not None:
            self._before.restore()
            self._before = None

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's own state, and the settings of the optimizer's groups. Empty outside a run.

        The settings, because to build a scheduler anew, as a resumed run does, may change them.
        """
        if self._before is None:
            return {}
        groups = [{k: v for k, v in g.items() if k != "params"} for g in self._before.optimizer.param_groups]
        return {"n_seen": self._n_seen, "scheduler": self.scheduler.state_dict(), "groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Brings the scheduler of this run, and the optimizer that it drives, to that state."""
        if not state:  # of a run that had ended
            return
        if self._before is None:
            raise RuntimeError("a TorchScheduler has nothing to load a state into before its run has begun.")
        groups = self._before.optimizer.param_groups
        odd = [name for one, now in zip(state["groups"], groups, strict=True) for name in one if name not in now]
        odd += [name for name in state["scheduler"] if callable(getattr(type(self.scheduler), name, None))]
        if odd or any("params" in one for one in state["groups"]):
            raise ValueError(f"its state holds what no scheduler keeps: {', '.join(map(str, odd or ['params']))[:80]}.")
        self._n_seen = state["n_seen"]
        self.scheduler.load_state_dict(state["scheduler"])
        for group, settings in zip(groups, state["groups"], strict=True):
            group.update({k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})

    def _catch_up(self, run: Run) -> None:
        while self._n_seen < run.global_step:
            self._n_seen += 1
            self._step(run)

    def _step(self, run: Run) -> None:
        if isinstance(self.scheduler, TorchPlateau):
            if self.monitor in run.metrics:  # an epoch without a validation says nothing
                self.scheduler.step(run.metrics[self.monitor])
            return
        if _has_ended(self.scheduler):
            return
        # An epoch whose updates were all skipped has passed all the same; torch would take it for a wrong order.
        run.optimizer._opt_called = True  # type: ignore[attr-defined]
        with _quiet_at_milestones(self.scheduler):
            self.scheduler.step()

    def _check(self, optimizer: Optimizer) -> None:
        if isinstance(self.scheduler, Optimizer) or not callable(getattr(self.scheduler, "step", None)):
            kind = type(self.scheduler).__name__
            raise TypeError(f"`factory` must return a scheduler of torch.optim.lr_scheduler. Received: {kind}.")
        if getattr(self.scheduler, "optimizer", optimizer) is not optimizer:
            raise ValueError("`factory` must build its scheduler on the optimizer that it is given, not on another.")
        if self.every == "step" and isinstance(self.scheduler, TorchPlateau):
            raise ValueError("a ReduceLROnPlateau waits for epochs. Give every='epoch'.")

    def __repr__(self) -> str:
        kind = "" if self.scheduler is None else f"{type(self.scheduler).__name__}, "
        return f"TorchScheduler({kind}every={self.every!r})"


def _has_ended(scheduler: Any) -> bool:
    """Whether a scheduler that ends, such as `OneCycleLR`, has reached its last step; also as a part of another."""
    n_steps = getattr(scheduler, "total_steps", None)
    if isinstance(scheduler, SequentialLR):
        return _has_ended(scheduler._schedulers[bisect_right(scheduler._milestones, scheduler.last_epoch)])
    if isinstance(scheduler, ChainedScheduler):
        return any(map(_has_ended, scheduler._schedulers))
    return n_steps is not None and scheduler.last_epoch >= n_steps - 1


@contextmanager
def _quiet_at_milestones(scheduler: Any) -> Iterator[None]:
    """At a milestone, torch's `SequentialLR` tells its next part the epoch, which older torch then warns against.

    Elsewhere filters stay as they are: to change them makes Python forget which warnings it has shown.
    """
    if not isinstance(scheduler, SequentialLR) or scheduler.last_epoch + 1 not in scheduler._milestones:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The epoch parameter in", UserWarning)
        yield


class _Untouched:
    """An optimizer as it was before a scheduler was built on it: its own attributes, and the keys of its groups.

    A rate that another scheduler left as "initial_lr" is hidden meanwhile: the new one would start from it.
    """

    def __init__(self, optimizer: Optimizer):
        self.optimizer = optimizer
        self.attributes = {name: vars(optimizer)[name] for name in _LEFT_BY_TORCH if name in vars(optimizer)}
        self.groups = [(group, set(group), group.pop("initial_lr", None)) for group in optimizer.param_groups]

    def restore(self) -> None:
        for name in _LEFT_BY_TORCH:
            vars(self.optimizer).pop(name, None)
        vars(self.optimizer).update(self.attributes)
        for group, keys, initial_lr in self.groups:
            for key in set(group) - keys:
                del group[key]
            if initial_lr is not None:
                group["initial_lr"] = initial_lr


_LEFT_BY_TORCH = ("step", "_opt_called")


def _takes_two(fn: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # builtins without a signature
        return True
    for n_arguments in (2, 1):
        try:
            signature.bind(*[0] * n_arguments)
        except TypeError:
            continue
        return n_arguments == 2
    raise TypeError(f"`fn` must take (epoch, lr) or (epoch). Received: a function of {signature}.")


def _checked(value: Any, epoch: int) -> float:
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise TypeError(f"`fn` must return a number. Received for epoch {epoch}: {value!r}.")
    lr = float(value)
    if not 0 <= lr < math.inf:
        raise ValueError(f"`fn` must return a rate that is finite and not negative. Received for epoch {epoch}: {lr}.")
    return lr
