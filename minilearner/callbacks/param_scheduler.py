"""`ParamScheduler`: let schedules drive the learning rate, the momentum and other settings during a run.

The schedules are pure functions in `schedules`. This module sets their values, and makes sure that one callback alone
drives each setting. `fit` restores all settings at its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from torch.optim import Optimizer

from minilearner.checks import check_choice, check_not_negative
from minilearner.errors import closest
from minilearner.schedules.clocks import check_clock, check_schedule
from minilearner.training.callback import Callback
from minilearner.training.missing_state import add_missing_state
from minilearner.training.optimizers import set_momentum
from minilearner.training.run import Moment, Run

__all__ = ["ParamScheduler", "Scheduler", "claim", "ratios_to_last"]

Schedule: TypeAlias = Callable[[float], Any]

_FASTAIS = {"mom": "momentum", "wd": "weight_decay"}


class Scheduler(Callback):
    """The base of our schedules: reserves the settings named in `drives`, and sets their values."""

    order = 60
    drives: tuple[str, ...] = ()
    ignored_arguments = ()

    def before_fit(self, run: Run) -> None:
        claim(run, self, *self.drives)

    @staticmethod
    def set(group: dict[str, Any], name: str, value: float) -> None:
        """Sets one setting of a parameter group; "momentum" may also be stored as the first beta."""
        if name == "momentum":
            set_momentum(group, value)
        else:
            group[name] = value


class ParamScheduler(Scheduler):
    """Sets hyperparameters before each training batch, from functions of time.

    Args:
        schedules: setting -> function of time, or a list with one function per layer group. "lr" and "momentum"
            (also for optimizers that call it beta) are common; any key of the parameter groups will do. One function
            for "lr" gives the rate of the last group; the other groups keep their ratio to it. Weight decay spares
            norms and biases as before. "mom" and "wd" are fastai's names of "momentum" and "weight_decay".
        clock: what the functions receive: "progress", the fraction of the run in [0, 1); "step", the number of updates
            made before; or "epoch", from 0.

    Example: `ParamScheduler({"lr": cosine(1e-2, 1e-5)})`.

    Raises:
        TypeError: `schedules` is not a dict of functions.
        ValueError: `clock` is unknown, or does not fit a schedule. When the run begins: the optimizer has no such
            setting, a list does not fit its groups, or another schedule drives the setting. In the run: a function
            returns a negative, infinite or NaN value.
    """

    def __init__(
        self,
        schedules: Mapping[str, Schedule | Sequence[Schedule]],
        clock: Literal["progress", "step", "epoch"] = "progress",
    ):
        check_choice(clock, "clock", ("progress", "step", "epoch"))
        if not isinstance(schedules, Mapping):
            raise TypeError(f'`schedules` must be a dict such as {{"lr": cosine(0.1, 0)}}. Received: {schedules!r}.')
        self.schedules, self.clock = {_FASTAIS.get(name, name): one for name, one in schedules.items()}, clock
        for name, given in self.schedules.items():
            for schedule in given if isinstance(given, Sequence) else [given]:
                check_schedule(schedule, name)
                check_clock(schedule, "progress" if clock == "progress" else "count")
        self.drives = tuple(self.schedules)
        self._plan: list[tuple[dict[str, Any], str, Schedule, float]] = []

    def before_fit(self, run: Run) -> None:
        super().before_fit(run)
        groups, ratios = run.optimizer.param_groups, ratios_to_last(run.optimizer)
        self._plan = [
            (group, name, self._pick_schedule(name, group, run), ratio if name == "lr" and callable(given) else 1.0)
            for name, given in self.schedules.items()
            for group, ratio in zip(groups, ratios, strict=True)
            if not (name == "weight_decay" and _is_spared(group, groups))
        ]

    def before_batch(self, run: Run) -> None:
        if run.training:
            values: dict[Schedule, float] = {}
            time = {"progress": run.progress, "step": run.global_step, "epoch": run.epoch}[self.clock]
            for group, name, schedule, ratio in self._plan:
                if schedule not in values:
                    values[schedule] = float(schedule(time))
                    if not 0 <= values[schedule] < math.inf:  # checked here, to save a call in each batch
                        check_not_negative(values[schedule], name)
                self.set(group, name, values[schedule] * ratio)

    def plan_at(self, moment: Moment) -> dict[str, list[float]]:
        """Returns the settings, one value for each schedule. By steps and epochs, they do not depend on the length."""
        if self.clock != "progress":
            return {}
        given = {name: one if isinstance(one, Sequence) else [one] for name, one in self.schedules.items()}
        return {name: [float(schedule(moment.progress)) for schedule in each] for name, each in given.items()}

    def _pick_schedule(self, name: str, group: Mapping[str, Any], run: Run) -> Schedule:
        given = self.schedules[name]
        if not isinstance(given, Sequence):
            return given
        n_groups = 1 + max(g.get("layer_group", 0) for g in run.optimizer.param_groups)
        if len(given) != n_groups:
            raise ValueError(
                f"{name!r} must have one schedule for each of the {n_groups} layer groups. Received: {len(given)}."
            )
        return given[int(group.get("layer_group", 0))]

    def __repr__(self) -> str:
        return f"ParamScheduler({', '.join(self.schedules)})"


def _is_spared(group: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> bool:
    return not group["weight_decay"] and any(one["weight_decay"] for one in groups)


def claim(run: Run, owner: Callback, *names: str) -> None:
    """Reserves these settings for `owner` in this run, so that no other callback drives them.

    If a setting is 0 so far, the optimizer's state gets what only an optimizer that uses the setting keeps.

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
    add_missing_state(run.optimizer, names)


def ratios_to_last(optimizer: Optimizer) -> list[float]:
    """Returns the ratio of each parameter group's rate to that of the last group; 1 if the last rate is 0."""
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    return [rate / rates[-1] if rates[-1] else 1.0 for rate in rates]
