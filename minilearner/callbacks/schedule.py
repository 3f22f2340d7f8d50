"""Drive learning rate, momentum and other settings of the optimizer over a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from torch.optim import Optimizer

from minilearner import schedules
from minilearner.curves import check_choice, check_clock, check_rates, check_schedule, checked_positive
from minilearner.errors import closest
from minilearner.training.callback import Callback
from minilearner.training.optimizers import Rate, check_rate, set_momentum
from minilearner.training.preflight import check_count, check_number
from minilearner.training.run import Run

__all__ = [
    "CyclicLR",
    "ParamScheduler",
    "claim",
    "fine_tune_rates",
    "flat_cosine_scheduler",
    "one_cycle_scheduler",
    "ratios_to_last",
    "sgdr_epochs",
    "sgdr_scheduler",
]

Schedule: TypeAlias = Callable[[float], Any]


def claim(run: Run, owner: Callback, *names: str) -> None:
    """Makes `owner` the one master of these settings in this run. (`fit` puts all settings back at its end.)

    Raises:
        ValueError: the optimizer has no such setting, or another schedule already drives it.
    """
    known = {"momentum" if key == "betas" else key for key in run.optimizer.param_groups[0]}
    known -= {"params", "layer_group"}
    for name in names:
        if name in run.driven:
            raise ValueError(f"both {run.driven[name]} and {owner!r} schedule {name!r}. Give one of them.")
        if name not in known:
            raise ValueError(
                f"{type(run.optimizer).__name__} has no {name!r} to schedule; it has {sorted(known)}."
                f"{closest(name, known)}"
            )
        run.driven[name] = repr(owner)


def ratios_to_last(optimizer: Optimizer) -> list[float]:
    """Returns each parameter group's rate by that of the last; 1 where that is 0 and there is no ratio."""
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    return [rate / rates[-1] if rates[-1] else 1.0 for rate in rates]


class _Scheduler(Callback):
    """What schedules of ours have in common."""

    order = 60
    drives: tuple[str, ...] = ()

    def before_fit(self, run: Run) -> None:
        claim(run, self, *self.drives)

    @staticmethod
    def set(group: dict[str, Any], name: str, value: float) -> None:
        """Sets one setting of a parameter group; "momentum" also where the group keeps it as the first beta."""
        if name == "momentum":
            set_momentum(group, value)
        else:
            group[name] = value


class ParamScheduler(_Scheduler):
    """Sets hyperparameters before each training batch from functions of time.

    Args:
        schedules: setting -> function of time, or a list with one function for each layer group. "lr" and "momentum"
            (also for optimizers that call it beta) are common; any key of the parameter groups will do. One function
            for "lr" gives the rate of the last group; the others keep their ratio to it.
        clock: what the functions are given: "progress", of the run, in [0, 1); "step", the updates made before; or
            "epoch", from 0.

    Example: `ParamScheduler({"lr": cosine(1e-2, 1e-5)})`.

    Raises:
        TypeError: `schedules` is no dict of functions.
        ValueError: `clock` is unknown, or not that of a schedule. When the run begins: the optimizer has no such
            setting, a list does not fit its groups, or another schedule already drives the setting. In the run: a
            function gives a negative, infinite or NaN value.
    """

    def __init__(
        self,
        schedules: Mapping[str, Schedule | Sequence[Schedule]],
        clock: Literal["progress", "step", "epoch"] = "progress",
    ):
        check_choice("clock", clock, ("progress", "step", "epoch"))
        if not isinstance(schedules, Mapping):
            raise TypeError(f'`schedules` must be a dict such as {{"lr": cosine(0.1, 0)}}. Received: {schedules!r}.')
        self.schedules, self.clock = dict(schedules), clock
        for name, given in self.schedules.items():
            for schedule in given if isinstance(given, Sequence) else [given]:
                check_schedule(name, schedule)
                check_clock(schedule, "progress" if clock == "progress" else "count")
        self.drives = tuple(self.schedules)
        self._plan: list[tuple[dict[str, Any], str, Schedule, float]] = []

    def before_fit(self, run: Run) -> None:
        super().before_fit(run)
        groups, ratios = run.optimizer.param_groups, ratios_to_last(run.optimizer)
        self._plan = [
            (group, name, self._function(name, group, run), ratio if name == "lr" and callable(given) else 1.0)
            for name, given in self.schedules.items()
            for group, ratio in zip(groups, ratios, strict=True)
        ]

    def before_batch(self, run: Run) -> None:
        if run.training:
            values: dict[Schedule, float] = {}
            time = {"progress": run.progress, "step": run.global_step, "epoch": run.epoch}[self.clock]
            for group, name, schedule, ratio in self._plan:
                if schedule not in values:
                    values[schedule] = float(schedule(time))
                    if not 0 <= values[schedule] < math.inf:  # seldom: no call more in every batch
                        check_rates(positive=False, **{name: values[schedule]})
                self.set(group, name, values[schedule] * ratio)

    def _function(self, name: str, group: Mapping[str, Any], run: Run) -> Schedule:
        given = self.schedules[name]
        if not isinstance(given, Sequence):
            return given
        n_groups = 1 + max(g.get("layer_group", 0) for g in run.optimizer.param_groups)
        if len(given) != n_groups:
            raise ValueError(f"{name!r} has {len(given)} schedules for {n_groups} layer groups.")
        return given[int(group.get("layer_group", 0))]

    def __repr__(self) -> str:
        return f"ParamScheduler({', '.join(self.schedules)})"


def one_cycle_scheduler(
    rates: Sequence[float], *, div: float, div_final: float, pct_start: float, moms: tuple[float, float, float] | None
) -> ParamScheduler:
    """One cycle for each layer group's peak rate, and one for the momentum of all, unless `moms` is None."""
    cycles = [schedules.one_cycle(lr, div=div, div_final=div_final, pct_start=pct_start, moms=moms) for lr in rates]
    momentum = {} if moms is None else {"momentum": cycles[0]["momentum"]}
    return ParamScheduler({"lr": [cycle["lr"] for cycle in cycles], **momentum})


def fine_tune_rates(
    epochs: int, freeze_epochs: int, base_lr: float | Literal["auto"], lr_mult: float
) -> tuple[Rate, Rate]:
    """Returns the rates of fine-tuning's two phases: of the head alone, then of all layer groups.

    Raises:
        TypeError, ValueError: an argument is no positive number, or a number of epochs not even a whole one.
    """
    check_count(epochs, "epochs")
    check_count(freeze_epochs, "freeze_epochs")
    for name, value in (("base_lr", 1.0 if base_lr == "auto" else base_lr), ("lr_mult", lr_mult)):
        check_number(value, name)
        checked_positive(name, value)
    if base_lr == "auto":
        return "auto", "auto"
    return slice(base_lr), slice(base_lr / 2 / lr_mult, base_lr / 2)


class CyclicLR(_Scheduler):
    """Cyclical learning rates: up and down between two bounds, by a straight line, `step_size` updates each way.

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", 2017; values equal those of torch's scheduler
    of the same name. Its advice: `step_size` of 2 to 10 epochs, `base_lr` a third or a quarter of `max_lr`, and stop at
    the end of a cycle, where the rate is lowest. The error is worse for a while as the rate climbs; that is expected.

    Args:
        max_lr: the upper bound, in the first cycle at least, of the last layer group; the others keep the ratio of the
            rates that the run was given. "auto" has `Learner.fit` find it by a sweep before it
            trains, anew for each run.
        base_lr: the lower bound; None is a quarter of `max_lr`, and "auto" as before.
        step_size: optimizer updates in half a cycle.
        mode: "triangular"; "triangular2" halves the amplitude after each cycle; "exp_range" shrinks it by `gamma` with
            each update.
        gamma: for "exp_range".
        scale_fn: instead of a mode, scales the amplitude: a function of the cycle's number (from 1), or of the update's
            number, as `scale_mode` says ("cycle" or "iterations").
        cycle_momentum: also move the momentum, against the rate, between `max_momentum` and `base_momentum`.

    Raises:
        ValueError: `step_size` below 1, an unknown mode, bounds or momenta negative or in the wrong order.
    """

    def __init__(
        self,
        max_lr: float | Literal["auto"],
        base_lr: float | Literal["auto"] | None = None,
        *,
        step_size: int,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[Any], Any] | None = None,
        scale_mode: Literal["cycle", "iterations"] = "cycle",
        cycle_momentum: bool = False,
        base_momentum: float = 0.8,
        max_momentum: float = 0.9,
    ):
        self._asked = max_lr, base_lr
        self.step_size = step_size
        self.mode = mode
        if not 0 <= base_momentum <= max_momentum < 1:
            raise ValueError(
                "the momenta must be 0 <= `base_momentum` <= `max_momentum` < 1. "
                f"Received: {base_momentum=}, {max_momentum=}."
            )
        self.base_momentum, self.max_momentum = base_momentum, max_momentum
        self.drives = ("lr", "momentum") if cycle_momentum else ("lr",)
        self._shape: dict[str, Any] = {
            "mode": mode,
            "gamma": gamma,
            "scale_fn": scale_fn,
            "scale_mode": scale_mode,
            "step_size": step_size,
        }
        self._ratios: list[float] = []
        self.max_lr = self.base_lr = 0.0
        if not self.is_auto:
            self.take_bounds(0.0, 0.0)
        self.rate_at(0)  # the schedule checks its arguments; better here than when training begins

    @property
    def is_auto(self) -> bool:
        """Whether a bound is to be found by a sweep."""
        return "auto" in self._asked

    def take_bounds(self, base_lr: float, max_lr: float) -> None:
        """Takes these bounds in place of those that are "auto"."""
        top, bottom = self._asked
        top = max_lr if top == "auto" else top
        check_rate(top, "max_lr")
        bottom = top / 4 if bottom is None else min(base_lr, top) if bottom == "auto" else bottom
        check_rate(bottom, "base_lr")
        if not bottom <= top:
            raise ValueError(f"`base_lr` must not exceed `max_lr`. Received: base_lr={bottom}, max_lr={top}.")
        self.base_lr, self.max_lr = bottom, top

    def before_fit(self, run: Run) -> None:
        if not self.max_lr and self.is_auto:
            raise ValueError('`CyclicLR` with "auto" bounds needs a fit of a `Learner`, which finds them.')
        super().before_fit(run)
        self._ratios = ratios_to_last(run.optimizer)

    def rate_at(self, step: Any) -> Any:
        """The learning rate at an update's number, or at an array of them."""
        return schedules.cyclic(step, base_lr=self.base_lr, max_lr=self.max_lr, **self._shape)

    def momentum_at(self, step: Any) -> Any:
        """The momentum at an update's number: highest where the rate is lowest."""
        low, high = self.base_momentum, self.max_momentum
        return high - schedules.cyclic(step, base_lr=0.0, max_lr=high - low, **self._shape)

    def before_batch(self, run: Run) -> None:
        if not run.training:
            return
        lr = float(self.rate_at(run.global_step))
        momentum = float(self.momentum_at(run.global_step)) if "momentum" in self.drives else None
        for group, ratio in zip(run.optimizer.param_groups, self._ratios, strict=True):
            self.set(group, "lr", lr * ratio)
            if momentum is not None:
                self.set(group, "momentum", momentum)

    def __repr__(self) -> str:
        if self.is_auto and not self.max_lr:
            return f"CyclicLR('auto', step_size={self.step_size}, mode={self.mode!r})"
        return f"CyclicLR({self.max_lr:g}, {self.base_lr:g}, step_size={self.step_size}, mode={self.mode!r})"


def flat_cosine_scheduler(rates: Sequence[float], *, div_final: float, pct_start: float) -> ParamScheduler:
    """`schedules.flat_cosine` for each layer group's rate; the momentum stays as it is."""
    return ParamScheduler({"lr": [schedules.flat_cosine(lr, pct_start=pct_start, div_final=div_final) for lr in rates]})


def sgdr_scheduler(rates: Sequence[float], *, n_cycles: int, cycle_mult: float) -> ParamScheduler:
    """`schedules.sgdr`, down to 0 in each cycle, for each layer group's peak rate."""
    return ParamScheduler({"lr": [schedules.sgdr(lr, n_cycles, cycle_mult=cycle_mult) for lr in rates]})


def sgdr_epochs(n_cycles: int, cycle_len: int, cycle_mult: float) -> int:
    """Returns how many epochs the cycles last together: the sum of cycle_len cycle_mult^i, i from 0 to n_cycles - 1.

    Raises:
        ValueError: an argument is not positive, or the sum is no whole number.
    """
    if n_cycles < 1 or cycle_len < 1 or cycle_mult <= 0:
        raise ValueError(
            "`n_cycles` and `cycle_len` must be at least 1 and `cycle_mult` positive. "
            f"Received: {n_cycles=}, {cycle_len=}, {cycle_mult=}."
        )
    n_epoch = sum(cycle_len * cycle_mult**i for i in range(n_cycles))
    if n_epoch != int(n_epoch):
        raise ValueError(
            f"`cycle_len` and `cycle_mult` must give whole epochs in all. Received: {cycle_len=}, {cycle_mult=}, which "
            f"make {n_epoch:g}."
        )
    return int(n_epoch)
