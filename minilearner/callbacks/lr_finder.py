"""The learning-rate range test: train for a few steps at rising rates, watch the loss, and leave no trace.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, section 3.3; the exponential ramp, the
smoothing and the stop rule are fastai's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minilearner.metrics import SmoothedLoss
from minilearner.results.lr_sweep import LRSweep
from minilearner.training.callback import Callback, CancelFit
from minilearner.training.loop import Loop
from minilearner.training.run import Run
from minilearner.training.state import untouched
from minilearner.tree import n_items

__all__ = ["RateSweep", "SweepSettings", "find_rates"]


@dataclass(frozen=True)
class SweepSettings:
    """What to sweep, and how. The words are those of `Learner.lr_find`.

    Raises:
        ValueError: a range that does not rise from above 0, fewer than two steps, an unknown mode, a smoothing outside
            [0, 1), a stop factor that is not above 1, or a negative number of points to skip.
    """

    start_lr: float = 1e-7
    end_lr: float = 10.0
    num_it: int = 100
    step_mode: str = "exp"
    smoothing: float = 0.98
    stop_factor: float | None = 4.0
    skip_start: int | None = None
    skip_end: int = 5

    def __post_init__(self) -> None:
        if not 0 < self.start_lr < self.end_lr < math.inf:
            raise ValueError(
                "`start_lr` must be above 0 and below `end_lr`. "
                f"Received: start_lr={self.start_lr}, end_lr={self.end_lr}."
            )
        if self.num_it < 2:
            raise ValueError(f"`num_it` must be at least 2. Received: num_it={self.num_it}.")
        if self.step_mode not in ("exp", "linear"):
            raise ValueError(f"`step_mode` must be 'exp' or 'linear'. Received: step_mode={self.step_mode!r}.")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"`smoothing` must lie in [0, 1). Received: smoothing={self.smoothing}.")
        if self.stop_factor is not None and not self.stop_factor > 1:
            raise ValueError(f"`stop_factor` must be above 1. Received: stop_factor={self.stop_factor}.")
        if (self.skip_start or 0) < 0 or self.skip_end < 0:
            raise ValueError("`skip_start` and `skip_end` must not be negative.")

    def rates(self) -> list[float]:
        """The learning rate of each update: number i is `start_lr * (end_lr / start_lr) ** (i / num_it)`.

        With `step_mode="linear"` it is `start_lr + (end_lr - start_lr) * i / num_it`. As in fastai, i runs from 0 to
        `num_it - 1`, so `end_lr` itself is not reached.
        """
        part = np.arange(self.num_it) / self.num_it
        if self.step_mode == "exp":
            return [float(lr) for lr in self.start_lr * (self.end_lr / self.start_lr) ** part]
        return [float(lr) for lr in self.start_lr + (self.end_lr - self.start_lr) * part]


def find_rates(
    run: Run,
    settings: SweepSettings,
    *,
    train: Any,
    callbacks: Iterable[Callback] = (),
    suggest_funcs: Sequence[Callable[..., Any]] = (),
) -> LRSweep:
    """Sweeps the rates over training batches, puts everything back to the bit, and returns the curve.

    Args:
        run: a fresh one, with an optimizer.
        train: the loader of training batches.
        callbacks: those that are part of the step take part; all others rest.
        suggest_funcs: read suggestions off the curve.
    """
    lrs = settings.rates()
    sweep = RateSweep(lrs, smoothing=settings.smoothing, stop_factor=settings.stop_factor)
    taking_part = [callback for callback in callbacks if callback.part_of_step]
    run.n_epochs = 2**31  # the sweep itself knows when to end
    with untouched(run.model, run.optimizer, run.dls):
        Loop(run, [*taking_part, sweep], train=train).fit()
    return LRSweep.from_curve(
        lrs[: len(sweep.losses)],
        sweep.losses,
        suggest_funcs=suggest_funcs,
        stop_reason=sweep.stop_reason,
        **asdict(settings),
    )


class RateSweep(Callback):
    """Sets the next rate of a list before each update, writes down the loss, and ends the run when it diverges.

    All parameter groups get the same rate. With accumulation there is one rate, and one loss, for
    each update.

    Args:
        lrs: the rates, rising.
        smoothing: of the loss that the stop rule watches, in [0, 1).
        stop_factor: how many times the best smoothed loss counts as diverged; None never stops for that.

    Attributes:
        losses: the mean loss of each update, before it; shorter than `lrs` where the sweep was stopped.
        stop_reason: in words.
    """

    order = 60

    def __init__(
        self,
        lrs: Sequence[float],
        *,
        smoothing: float = 0.98,
        stop_factor: float | None = 4.0,
    ):
        self.lrs = lrs
        self.stop_factor = stop_factor
        self.losses: list[float] = []
        self.stop_reason = ""
        self._smoothed = SmoothedLoss(smoothing)
        self._first = self._best = math.inf
        self._sum, self._n, self._n_batches = 0.0, 0, 0

    def before_batch(self, run: Run) -> None:
        lr = self.lrs[len(self.losses)]
        for group in run.optimizer.param_groups:
            group["lr"] = lr

    def after_batch(self, run: Run) -> None:
        if run.loss is None:
            return
        n = n_items(run.x)
        self._sum, self._n, self._n_batches = self._sum + float(run.loss.detach()) * n, self._n + n, self._n_batches + 1
        if not math.isfinite(self._sum):
            self._stop(f"the loss became {self._sum} at a rate of {self.lrs[len(self.losses)]:.3g}")
        if run.global_step > len(self.losses):  # an update has been made
            self._take_in(self._sum / self._n)
            self._sum, self._n = 0.0, 0
        elif self._n_batches > 2 * run.step.n_accumulate * len(self.lrs) + 100:
            self._stop("updates kept being skipped, because gradients overflowed")

    def _take_in(self, loss: float) -> None:
        self.losses.append(loss)
        smoothed = self._smoothed.update(loss)
        if len(self.losses) == 1:
            self._first = smoothed
        self._best = min(self._best, smoothed)
        lr = self.lrs[len(self.losses) - 1]
        if self.stop_factor is not None and smoothed > self._limit(self.stop_factor):
            self._stop(f"the smoothed loss exceeded {self.stop_factor:g} times its best at a rate of {lr:.3g}")
        if len(self.losses) == len(self.lrs):
            self._stop(f"the range was swept to its end, a rate of {lr:.3g}")

    def _limit(self, factor: float) -> float:
        """`factor` times the best; where that is not above 0 and a multiple means nothing, as far above it again."""
        if self._best > 0:
            return factor * self._best
        return self._best + (factor - 1) * max(abs(self._best), abs(self._first))

    def _stop(self, reason: str) -> None:
        self.stop_reason = reason
        raise CancelFit
