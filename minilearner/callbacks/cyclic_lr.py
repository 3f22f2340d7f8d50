"""`CyclicLR`: let the rate go up and down between two bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from minilearner import schedules
from minilearner.callbacks.param_scheduler import Scheduler, ratios_to_last
from minilearner.checks import check_count, check_fraction, check_not_negative, is_auto
from minilearner.training.run import Run

__all__ = ["CyclicLR"]


class CyclicLR(Scheduler):
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
        for name, rate in (("max_lr", max_lr), ("base_lr", base_lr)):
            if not is_auto(rate) and (name == "max_lr" or rate is not None):
                check_not_negative(rate, name)
        self._asked = max_lr, base_lr
        self.step_size = step_size
        self.mode = mode
        check_count(step_size, "step_size")
        check_fraction(base_momentum, "base_momentum", closed="left")
        check_fraction(max_momentum, "max_momentum", closed="left")
        if base_momentum > max_momentum:
            raise ValueError(
                f"`base_momentum` must not exceed `max_momentum`. Received: {base_momentum=}, {max_momentum=}."
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
        bottom = top / 4 if bottom is None else min(base_lr, top) if bottom == "auto" else bottom
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
