"""Learning rates that depend on more than progress: on a function of the epoch, on a metric, or on a torch scheduler.

Pure functions of progress belong to `callbacks.param_scheduler`. Here, as there, each layer group keeps the ratio of
its rate to the others, only updates that were made count as steps, and `fit` restores all rates at its end.
"""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, SequentialLR
from torch.optim.lr_scheduler import ReduceLROnPlateau as TorchPlateau

from minilearner import processes
from minilearner.callbacks.fastai_tracking import direction_of_comparison
from minilearner.callbacks.param_scheduler import claim, ratios_to_last
from minilearner.callbacks.tracking import Tracker, check_monitor, find_direction
from minilearner.checks import check_choice, check_count, check_not_negative
from minilearner.display import write_line
from minilearner.errors import add_note
from minilearner.schedules.clocks import check_clock, check_schedule
from minilearner.training.callback import Callback
from minilearner.training.missing_state import add_missing_state
from minilearner.training.optimizers import n_layer_groups
from minilearner.training.run import Run

__all__ = ["LearningRateScheduler", "ReduceLROnPlateau", "TorchScheduler"]


class LearningRateScheduler(Callback):
    """Sets the learning rate at the start of each epoch from your function, as Keras' callback of this name does.

    Example: ``LearningRateScheduler(lambda epoch, lr: lr * 0.9, verbose=1)``.

    The signature of the function decides once whether it is called with `(epoch, lr)` or with `(epoch)`: what counts is
    how many arguments can be given by position. Errors in the function reach you unchanged. (Keras takes any TypeError
    in a function of two arguments as a sign that it wants only one.)

    Args:
        fn: receives the epoch, from 0, and the current rate of the last layer group. Returns the rate of that group for
            this epoch: any number, also an integer or NumPy's. The other groups keep their ratio to it.
        verbose: 1 prints one line per epoch. Like Keras, it counts epochs from 1.

    Raises:
        TypeError: `fn` takes neither one nor two arguments. In a run: it does not return a number.
        ValueError: `fn` is a schedule of progress. In a run: it returns a negative, infinite or NaN rate, or another
            schedule drives "lr".
    """

    order = 60
    ignored_arguments = ("verbose",)

    def __init__(self, fn: Callable[..., float], verbose: int = 0):
        check_schedule(fn, "fn")
        check_clock(fn, "count")
        _check_verbose(verbose)
        self.fn = fn
        self.verbose = verbose
        self._takes_rate = _takes_two_arguments(fn)
        self._ratios: list[float] = []
        self._set_for = -1

    def before_fit(self, run: Run) -> None:
        claim(run, self, "lr")
        self._ratios = ratios_to_last(run.optimizer)
        self._set_for = -1

    def before_epoch(self, run: Run) -> None:
        if run.epoch == self._set_for:  # a run that resumes in mid-epoch has its rate already
            return
        self._set_for = run.epoch
        groups = run.optimizer.param_groups
        now = float(groups[-1]["lr"])
        lr = _to_rate(self.fn(run.epoch, now) if self._takes_rate else self.fn(run.epoch), run.epoch)
        for group, ratio in zip(groups, self._ratios, strict=True):
            group["lr"] = lr * ratio
        if self.verbose and processes.is_first():
            write_line(f"Epoch {run.epoch + 1}: LearningRateScheduler setting learning rate to {lr}.", sys.stdout)

    def __repr__(self) -> str:
        return f"LearningRateScheduler({getattr(self.fn, '__name__', repr(self.fn))})"


class ReduceLROnPlateau(Tracker):
    """Multiplies the learning rate by `factor` when a value has stopped improving. The algorithm is Keras'.

    After each epoch, an improvement by more than `min_delta` resets the wait. Any other epoch outside a cool-down adds
    one to it. When the wait reaches `patience`, the rate falls and the cool-down begins. All layer groups fall by the
    same factor.

    A `factor` above 1 divides, as fastai's does: ``factor=10.`` is ``factor=0.1``. The defaults of `patience` and
    `min_delta` are then fastai's, 1 and 0, as they are if `comp` or `reset_on_fit` is given.

    Args:
        monitor: a name in `run.metrics`: "train_loss", "valid_loss", or a metric's.
        factor: in [0, 1), or above 1 to divide.
        patience: epochs without improvement before the rate falls. None is 10, or 1 in fastai's way.
        min_delta: smaller improvements do not count. None is 1e-4, or 0 in fastai's way.
        cooldown: epochs after a fall in which nothing is counted.
        min_lr: the lowest rate for the last layer group.
        mode: "min", "max", or None to ask the metric and its name; see `Tracker`.
        verbose: 1 prints a line when the rate falls.
        comp: fastai's way to say `mode`: `np.less` or `np.greater`.
        reset_on_fit: whether each run starts over. Otherwise the best value of earlier runs stays.

    Raises:
        ValueError: an argument is out of range, or both `mode` and `comp` are given. In a run: `monitor` is unknown, or
            another schedule drives "lr".
    """

    ignored_arguments = ("verbose",)

    def __init__(
        self,
        monitor: str = "valid_loss",
        factor: float = 0.1,
        patience: int | None = None,
        min_delta: float | None = None,
        cooldown: int = 0,
        min_lr: float = 0.0,
        mode: Literal["min", "max"] | None = None,
        verbose: int = 0,
        *,
        comp: Callable[[float, float], Any] | None = None,
        reset_on_fit: bool | None = None,
    ):
        check_not_negative(factor, "factor")
        if factor == 1:
            raise ValueError("`factor` must be in [0, 1), or above 1 to divide. Received: factor=1.")
        if mode is not None and comp is not None:
            raise ValueError("give `mode` or `comp`, not both: each says which values are better.")
        is_fastais = factor > 1 or comp is not None or reset_on_fit is not None
        min_delta = (0.0 if is_fastais else 1e-4) if min_delta is None else min_delta
        patience = (1 if is_fastais else 10) if patience is None else patience
        super().__init__(monitor, mode=mode or direction_of_comparison(comp), min_delta=min_delta)
        check_count(patience, "patience", least=0)
        check_count(cooldown, "cooldown", least=0)
        check_not_negative(min_lr, "min_lr")
        _check_verbose(verbose)
        self.factor, self.patience, self.cooldown, self.min_lr = factor, patience, cooldown, min_lr
        self.comp, self.reset_on_fit = comp, reset_on_fit
        self.verbose = verbose
        self.wait = self.cooldown_left = 0

    def before_fit(self, run: Run) -> None:
        best = self.best
        super().before_fit(run)
        self.best = best if self.reset_on_fit is False else self.best
        claim(run, self, "lr")
        self.wait = self.cooldown_left = 0

    def after_epoch(self, run: Run) -> None:
        if self.monitor not in run.metrics:  # this epoch had no validation
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
        if last <= self.min_lr:  # the wait goes on, as in Keras, and has no effect
            return
        factor = self.factor if self.factor < 1 else 1 / self.factor
        scale = max(last * factor, self.min_lr) / last
        for group in groups:
            group["lr"] = float(group["lr"]) * scale
        self.cooldown_left, self.wait = self.cooldown, 0
        if self.verbose and processes.is_first():
            line = f"Epoch {run.epoch + 1}: ReduceLROnPlateau reducing learning rate to {last * scale}."
            write_line(line, sys.stdout)

    def __repr__(self) -> str:
        return f"ReduceLROnPlateau({self.monitor!r}, factor={self.factor}, patience={self.patience})"


class TorchScheduler(Callback):
    """Drives a run by any scheduler of `torch.optim.lr_scheduler`, to the bit as in a plain loop.

    Example: ``TorchScheduler(lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=500))``.

    The scheduler steps after each optimizer update that was made, or after each epoch. Batches between updates of an
    accumulation and updates skipped in fp16 do not count, so torch has nothing to warn about. A scheduler with an end,
    such as `OneCycleLR`, keeps its last rate after the end; in a plain loop, torch raises there. After the run, the
    callback removes what schedulers leave on an optimizer: a wrapped `step`, "initial_lr" and other keys of its groups.

    Where a scheduler takes a list, give one value for each layer group: ``OneCycleLR(opt, max_lr=[1e-3, 1e-2], ...)``.
    The default optimizer splits each layer group in two for weight decay. The scheduler then sees the first half, and
    the second follows. A list with one value for each half works as well.

    Args:
        factory: a function of the optimizer that returns the scheduler. Called when the run begins, and once more if it
            raises a ValueError for the halves of layer groups.
        every: when to step: "step" (after an optimizer update) or "epoch".
        monitor: the value that torch's own `ReduceLROnPlateau` receives after each epoch; a name in `run.metrics`.

    Attributes:
        scheduler: the scheduler of the latest run.

    Raises:
        ValueError: `every` is unknown. In a run: the factory used another optimizer, a plateau scheduler would step by
            updates, `monitor` is unknown or has another direction than a plateau scheduler, or another schedule drives
            "lr" (or the momentum, if it is cycled).
        TypeError: `factory` is not a function. In a run: it does not return a scheduler.
    """

    order = 60  # after the step was recorded with the rate that it used
    ignored_arguments = ()

    def __init__(
        self,
        factory: Callable[[Optimizer], Any],
        every: Literal["step", "epoch"] = "step",
        monitor: str = "valid_loss",
    ):
        check_choice(every, "every", ("step", "epoch"))
        if not callable(factory):
            raise TypeError(f"`factory` must be a function of the optimizer. Received: factory={factory!r}.")
        self.factory, self.every, self.monitor = factory, every, monitor
        self.scheduler: Any = None
        self._n_seen = 0
        self._before: _OptimizerBackup | None = None
        self._by_layer = False

    def before_fit(self, run: Run) -> None:
        claim(run, self, "lr")
        self._n_seen = run.global_step
        add_missing_state(run.optimizer, ["momentum"])  # now: a scheduler that cycles it sets it when it is built
        self.scheduler = self._build(run.optimizer)
        self._check(run.optimizer)
        if getattr(self.scheduler, "cycle_momentum", False):
            claim(run, self, "momentum")
        if isinstance(self.scheduler, TorchPlateau):
            check_monitor(run, self.monitor)
            if self.scheduler.mode == "min" and find_direction(run, self.monitor) == "max":
                raise ValueError(
                    f"`mode` of torch's ReduceLROnPlateau is 'min', its default, but larger values of {self.monitor!r} "
                    "are better. Give it mode='max'."
                )

    def _build(self, optimizer: Optimizer) -> Any:
        """Builds the scheduler for all parameter groups or, if it has one value a layer group, for these."""
        self._before, self._by_layer = _OptimizerBackup(optimizer), False
        try:
            return self.factory(optimizer)
        except ValueError as error:
            if n_layer_groups(optimizer) == len(optimizer.param_groups):
                raise
            refusal = error
        self._before.restore()
        self._before, self._by_layer = _OptimizerBackup(optimizer), True
        try:
            with _show_layer_groups(optimizer):
                return self.factory(optimizer)
        except ValueError:
            n, m = n_layer_groups(optimizer), len(optimizer.param_groups)
            add_note(
                refusal,
                f"The optimizer has {m} parameter groups: {n} layer groups, of which each is split in two if weight "
                "decay spares its norm layers and biases. Give one value for each layer group, or for each half.",
            )
            raise refusal from None

    def after_batch(self, run: Run) -> None:
        if run.training and self.every == "step":
            self._catch_up(run)

    def after_train(self, run: Run) -> None:
        if self.every == "step":  # an accumulation may make its last update after the last batch
            self._catch_up(run)

    def after_epoch(self, run: Run) -> None:
        if self.every == "epoch":
            self._step(run)

    def after_fit(self, run: Run) -> None:
        if self._before is not None:
            self._before.restore()
            self._before = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the scheduler and the settings of the optimizer's groups; empty outside a run.

        A resumed run builds the scheduler again, which may change these settings.
        """
        if self._before is None:
            return {}
        groups = [{k: v for k, v in g.items() if k != "params"} for g in self._before.optimizer.param_groups]
        return {"n_seen": self._n_seen, "scheduler": self.scheduler.state_dict(), "groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the scheduler of this run and the settings of the optimizer that it drives."""
        if not state:  # the saved run had ended
            return
        if self._before is None:
            raise RuntimeError("a TorchScheduler can load a state only after its run has begun.")
        groups = self._before.optimizer.param_groups
        odd = [name for one, now in zip(state["groups"], groups, strict=True) for name in one if name not in now]
        odd += [name for name in state["scheduler"] if callable(getattr(type(self.scheduler), name, None))]
        if odd or any("params" in one for one in state["groups"]):
            entries = ", ".join(map(str, odd or ["params"]))
            raise ValueError(f"the saved state of a TorchScheduler has entries that no scheduler has: {entries:.80}.")
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
            if self.monitor in run.metrics:  # this epoch had no validation
                with self._merge_groups(run.optimizer):
                    self.scheduler.step(run.metrics[self.monitor])
            return
        if _has_ended(self.scheduler):
            return
        # An epoch counts even if all its updates were skipped; torch would warn of a wrong order of calls.
        run.optimizer._opt_called = True  # type: ignore[attr-defined]
        with _silence_milestone_warning(self.scheduler), self._merge_groups(run.optimizer):
            self.scheduler.step()

    def _merge_groups(self, optimizer: Optimizer) -> AbstractContextManager[None]:
        return _show_layer_groups(optimizer) if self._by_layer else nullcontext()

    def _check(self, optimizer: Optimizer) -> None:
        if isinstance(self.scheduler, Optimizer) or not callable(getattr(self.scheduler, "step", None)):
            kind = type(self.scheduler).__name__
            raise TypeError(f"`factory` must return a scheduler of torch.optim.lr_scheduler. Received: {kind}.")
        if getattr(self.scheduler, "optimizer", optimizer) is not optimizer:
            raise ValueError("`factory` must build its scheduler on the optimizer that it receives, not on another.")
        if self.every == "step" and isinstance(self.scheduler, TorchPlateau):
            raise ValueError("`every` must be 'epoch' for a ReduceLROnPlateau. Received: every='step'.")

    def __repr__(self) -> str:
        kind = "" if self.scheduler is None else f"{type(self.scheduler).__name__}, "
        return f"TorchScheduler({kind}every={self.every!r})"


def _has_ended(scheduler: Any) -> bool:
    """Returns whether a scheduler with an end, such as `OneCycleLR`, is there, also as a part of another one."""
    n_steps = getattr(scheduler, "total_steps", None)
    if isinstance(scheduler, SequentialLR):
        return _has_ended(scheduler._schedulers[bisect_right(scheduler._milestones, scheduler.last_epoch)])
    if isinstance(scheduler, ChainedScheduler):
        return any(map(_has_ended, scheduler._schedulers))
    return n_steps is not None and scheduler.last_epoch >= n_steps - 1


@contextmanager
def _silence_milestone_warning(scheduler: Any) -> Iterator[None]:
    """Silences a warning of older torch: at a milestone, its `SequentialLR` passes the epoch to its next part.

    At any other step the filters stay: changing them makes Python forget which warnings it has shown.
    """
    if not isinstance(scheduler, SequentialLR) or scheduler.last_epoch + 1 not in scheduler._milestones:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The epoch parameter in", UserWarning)
        yield


@contextmanager
def _show_layer_groups(optimizer: Optimizer) -> Iterator[None]:
    """Shows a scheduler one parameter group for each layer group. On leaving, the others follow its changes."""
    groups = list(optimizer.param_groups)
    first: dict[int, dict[str, Any]] = {}
    for group in groups:
        first.setdefault(group.get("layer_group", 0), group)
    before = {number: dict(group) for number, group in first.items()}
    optimizer.param_groups[:] = first.values()
    try:
        yield
    finally:
        optimizer.param_groups[:] = groups
        for group in groups:
            number = group.get("layer_group", 0)
            old, new = before[number], first[number]
            if group is not new:
                apart = ("params", "weight_decay")
                group.update({k: v for k, v in new.items() if k not in apart and (k not in old or old[k] is not v)})


class _OptimizerBackup:
    """Remembers an optimizer as it is before a scheduler is built on it: its own attributes and its groups' keys.

    It also hides the "initial_lr" that an earlier scheduler left, because a new one would start from it.
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


def _check_verbose(verbose: Any) -> None:
    """Checks for a number as Keras takes it, or a bool: 0 or False prints nothing."""
    if not isinstance(verbose, bool):
        check_count(verbose, "verbose", least=0)


def _takes_two_arguments(fn: Callable[..., Any]) -> bool:
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


def _to_rate(value: Any, epoch: int) -> float:
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise TypeError(f"`fn` must return a number. Received for epoch {epoch}: {value!r}.")
    lr = float(value)
    if not 0 <= lr < math.inf:
        raise ValueError(f"`fn` must return a rate that is finite and not negative. Received for epoch {epoch}: {lr}.")
    return lr
