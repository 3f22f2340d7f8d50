"""The learning-rate range test: train for a few steps at rising rates, watch the loss, and leave no trace.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, section 3.3; the exponential ramp, the
smoothing and the stop rule are fastai's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from minilearner import processes
from minilearner.callbacks.gradients import GradientAccumulation
from minilearner.checks import check_count, check_number
from minilearner.lr_finder.result import LRSweep
from minilearner.lr_finder.suggestions import as_functions
from minilearner.metrics import SmoothedLoss
from minilearner.models.restore import buffers_kept
from minilearner.runtime import isolated_rng
from minilearner.training.callback import Callback, CancelFit
from minilearner.training.loop import Loop
from minilearner.training.optimizers import is_adaptive, momentum_key, set_momentum
from minilearner.training.run import Run
from minilearner.training.snapshot import untouched
from minilearner.training.step import LossFunction, Step
from minilearner.tree import map_tensors, n_items

__all__ = ["FixedLoss", "RateSweep", "SweepSettings", "find_rates", "ladder"]


@dataclass(frozen=True)
class SweepSettings:
    """What to sweep, and how. The words are those of `Learner.lr_find`.

    Raises:
        TypeError, ValueError: a range that does not rise from above 0, fewer than two steps, both `epochs` and
            `sample_steps`, an unknown mode, a smoothing outside [0, 1), a stop factor that is not above 1, or a
            negative number of points to skip.
    """

    start_lr: float = 1e-7
    end_lr: float = 10.0
    num_it: int = 100
    step_mode: str = "exp"
    smoothing: float = 0.98
    stop_factor: float | None = 4.0
    skip_start: int | None = None
    skip_end: int = 5
    epochs: int | None = None
    sample_steps: int | None = None

    def __post_init__(self) -> None:
        check_number(self.start_lr, "start_lr")
        check_number(self.end_lr, "end_lr")
        if not 0 < self.start_lr < self.end_lr < math.inf:
            raise ValueError(
                "`start_lr` must be above 0 and below `end_lr`. "
                f"Received: start_lr={self.start_lr}, end_lr={self.end_lr}."
            )
        for name in ("num_it", "epochs", "sample_steps"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name)
        if self.epochs is not None and self.sample_steps is not None:
            raise ValueError("give `epochs` or `sample_steps`, not both: each says how many updates to sweep over.")
        if self.num_it < 2:
            raise ValueError(f"`num_it` must be at least 2. Received: num_it={self.num_it}.")
        if self.step_mode not in ("exp", "linear"):
            raise ValueError(f"`step_mode` must be 'exp' or 'linear'. Received: step_mode={self.step_mode!r}.")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"`smoothing` must lie in [0, 1). Received: smoothing={self.smoothing}.")
        if self.stop_factor is not None and not self.stop_factor > 1:
            raise ValueError(f"`stop_factor` must be above 1. Received: stop_factor={self.stop_factor}.")
        for name in ("skip_start", "skip_end"):
            skip = getattr(self, name)
            if skip is not None and (not hasattr(skip, "__index__") or skip < 0):
                raise ValueError(f"`{name}` must be a number of points, 0 or more. Received: {name}={skip!r}.")

    def over(self, updates_per_epoch: int) -> SweepSettings:
        """Returns the settings with the number of updates that `epochs` or `sample_steps` stand for."""
        epochs = self.epochs
        if self.sample_steps is not None:
            epochs = -(-self.sample_steps // updates_per_epoch)
        return self if epochs is None else replace(self, num_it=epochs * updates_per_epoch)

    def rates(self) -> list[float]:
        """The learning rate of each update: number i is `start_lr * (end_lr / start_lr) ** (i / num_it)`.

        With `step_mode="linear"` it is `start_lr + (end_lr - start_lr) * i / num_it`. As in fastai, i runs from 0 to
        `num_it - 1`, so `end_lr` itself is not reached.
        """
        return ladder(self.start_lr, self.end_lr, np.arange(self.num_it) / self.num_it, self.step_mode)


def ladder(start_lr: float, end_lr: float, part: NDArray[np.float64], step_mode: str) -> list[float]:
    """Returns the rates at each `part` of the way, in [0, 1]: by a constant factor ("exp") or in a line ("linear")."""
    if step_mode == "exp":
        return [float(lr) for lr in start_lr * (end_lr / start_lr) ** part]
    return [float(lr) for lr in start_lr + (end_lr - start_lr) * part]


def find_rates(
    run: Run,
    settings: SweepSettings,
    *,
    train: Any,
    ratios: Sequence[float] = (1.0,),
    momentum: float | None = None,
    callbacks: Iterable[Callback] = (),
    shown_by: Callback | None = None,
    suggest_funcs: Callable[..., Any] | Sequence[Callable[..., Any]] | None = (),
) -> LRSweep:
    """Sweeps the rates over training batches, puts everything back to the bit, and returns the curve.

    Args:
        run: a fresh one, with an optimizer.
        train: the loader of training batches.
        ratios: each layer group's rate by the rate of the sweep; the last counts for groups beyond the list.
        momentum: what to sweep with; None, or an optimizer without one, leaves it. The effect of a rate builds up over
            1 / (1 - momentum) updates, so a sweep tells most about a run whose peak has this momentum.
        callbacks: those that are part of the step take part; all others rest.
        shown_by: shows the progress.
        suggest_funcs: read suggestions off the curve.
    """
    functions = as_functions(suggest_funcs)
    taking_part = [callback for callback in callbacks if callback.part_of_step]
    momentum = momentum if momentum_key(run.optimizer.param_groups[0]) else None
    n_accumulate = next((cb.n_batches for cb in taking_part if isinstance(cb, GradientAccumulation)), 1)
    updates_per_epoch = -(-len(train) // n_accumulate)
    settings = settings.over(updates_per_epoch)
    lrs = settings.rates()
    fixed = FixedLoss(run.step.loss_func)
    sweep = RateSweep(
        lrs,
        smoothing=settings.smoothing,
        stop_factor=settings.stop_factor,
        ratios=[ratios[min(g.get("layer_group", 0), len(ratios) - 1)] for g in run.optimizer.param_groups],
        fixed=fixed,
        confirm=True,
    )
    run.n_epochs = -(-settings.num_it // updates_per_epoch)
    with untouched(run.model, run.optimizer, run.dls, run.step.loss_func, *taking_part):
        if momentum is not None:
            for group in run.optimizer.param_groups:
                set_momentum(group, momentum)
        Loop(run, [fixed, *taking_part, sweep, *([] if shown_by is None else [shown_by])], train=train).fit()
    return LRSweep.from_curve(
        lrs[: len(sweep.losses)],
        sweep.losses,
        fixed=sweep.fixed_losses,
        suggest_funcs=functions,
        stop_reason=sweep.stop_reason,
        broke=sweep.broke,
        ratios=list(ratios),
        momentum=momentum,
        bs=sweep.bs,
        adaptive=is_adaptive(run.optimizer),
        wd=max(float(group.get("weight_decay", 0.0)) for group in run.optimizer.param_groups),
        **asdict(settings),
    )


class RateSweep(Callback):
    """Sets the next rate of a list before each update, writes down the loss, and ends the run when it diverges.

    All parameter groups get the same rate, or keep the `ratios` to it. With accumulation there is one rate, and one
    loss, for each update. What `Learner.lr_find` and `LRFinder` differ in, they say here.

    Args:
        lrs: the rates, rising.
        smoothing: of the loss that the stop rule watches, in [0, 1).
        stop_factor: how many times the best smoothed loss counts as diverged; None never stops for that.
        average: smooths the loss instead: called with each, returns the average so far.
        grace: so many losses may be as high as they like at first; only NaN and infinity stop then.
        ratios: each parameter group's rate by the rate of the list.
        weigh: how much a batch of inputs counts in the mean loss of an update; by default, its items do.
        measure: gives the loss of an update instead, by the model as it is after it.
        fixed: is asked after each update, too; see `FixedLoss`.
        confirm: stop for divergence only where the fixed loss has risen, too, by more than the first ten losses differ.
            Near 0 one batch's loss is easily many times another's.

    Attributes:
        losses: the mean loss of each update, before it; shorter than `lrs` where the sweep was stopped.
        fixed_losses: what `fixed` measured after each update, as many.
        smoothed: what the stop rule saw, as many.
        best: the lowest of these; infinity before the first.
        stop_reason: in words.
        broke: whether it is that the loss became NaN or infinite.
        measures: whether the losses are those of `measure`.
        sizes: items of each update; 0 where batches show no number.
    """

    order = 60

    def __init__(
        self,
        lrs: Sequence[float],
        *,
        smoothing: float = 0.98,
        stop_factor: float | None = 4.0,
        average: Callable[[float], float] | None = None,
        grace: int = 0,
        ratios: Sequence[float] | None = None,
        weigh: Callable[[Any], int] | None = None,
        measure: Callable[[Run], float] | None = None,
        fixed: FixedLoss | None = None,
        confirm: bool = False,
    ):
        self.lrs = lrs
        self.stop_factor = stop_factor
        self.losses: list[float] = []
        self.fixed_losses: list[float] = []
        self.smoothed: list[float] = []
        self.best = math.inf
        self.stop_reason = "the batches ran out, for some updates were skipped"
        self.broke = False
        self._average = SmoothedLoss(smoothing).update if average is None else average
        self.fixed, self._confirm = fixed, confirm
        self.measures = measure is not None
        self._grace, self._ratios, self._weigh, self._measure = grace, ratios, weigh, measure
        self.sizes: list[int] = []
        self._sum, self._n, self._items = 0.0, 0, 0

    @property
    def bs(self) -> int | None:
        """The usual number of items of an update, their median; None where it is not known."""
        return int(np.median(self.sizes)) or None if self.sizes else None

    def before_batch(self, run: Run) -> None:
        lr, groups = self.lrs[len(self.losses)], run.optimizer.param_groups
        for group, ratio in zip(groups, self._ratios or [1.0] * len(groups), strict=True):
            group["lr"] = lr * ratio

    def after_batch(self, run: Run) -> None:
        if run.loss is None:
            return
        items = run.step.strategy.count_items(run.x)
        n = items if self._weigh is None else self._weigh(run.x)
        self._items += items
        self._sum, self._n = self._sum + float(run.loss.detach()) * n, self._n + n
        self._check_finite(self._sum)
        if run.global_step > len(self.losses):  # an update has been made
            self._take_in(run, self._sum / self._n if self._measure is None else self._measure(run))
            self.sizes.append(self._items)
            self._sum, self._n, self._items = 0.0, 0, 0

    def _take_in(self, run: Run, loss: float) -> None:
        self._check_finite(loss)
        if self.fixed is not None:
            self.fixed_losses.append(self.fixed.measure(run))
        self.losses.append(loss)
        smoothed = self._average(loss)
        self.smoothed.append(smoothed)
        self.best = min(self.best, smoothed)
        lr = self.lrs[len(self.losses) - 1]
        judged = self.stop_factor is not None and len(self.losses) > self._grace
        if judged and self._is_confirmed() and smoothed > self._limit(self.stop_factor):  # type: ignore[arg-type]
            self._stop(f"the smoothed loss exceeded {self.stop_factor:g} times its best at a rate of {lr:.3g}")
        if len(self.losses) == len(self.lrs):
            self._stop(f"the range was swept to its end, a rate of {lr:.3g}")

    def _is_confirmed(self) -> bool:
        measured = [loss for loss in self.fixed_losses if not math.isnan(loss)]
        if not self._confirm:
            return True
        return len(measured) > 1 and measured[-1] > measured[0] + float(np.ptp(self.losses[:10]))

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            self.broke = True
            self._stop(f"the loss became {loss} at a rate of {self.lrs[len(self.losses)]:.3g}")

    def _limit(self, factor: float) -> float:
        """`factor` times the best; where that is not above 0 and a multiple means nothing, as far above it again."""
        if self.best > 0:
            return factor * self.best
        return self.best + (factor - 1) * max(abs(self.best), abs(self.smoothed[0]))

    def _stop(self, reason: str) -> None:
        self.stop_reason = reason
        raise CancelFit


class FixedLoss(Callback):
    """Measures the loss of the same few items, the first of the run, as it is after each update.

    From one value to the next nothing differs but the weights: the items come before any mixing, dropout draws the same
    numbers, and what a pass leaves in buffers and random generators is taken back, so that the training around it goes
    on as if nothing had been measured. It costs a forward pass of the items for each update.

    Args:
        loss_func: the plain one, before a callback changes it.
        n_items: to measure with; whole batches are kept until there are as many, but not more than `max_batches`.
    """

    order = -1000  # before mixing changes the batch

    def __init__(self, loss_func: LossFunction, *, n_items: int = 128, max_batches: int = 8):
        self.loss_func, self.n_items, self.max_batches = loss_func, n_items, max_batches
        self._batches: list[tuple[Any, Any, int]] = []

    @property
    def n_kept(self) -> int:
        """How many items there are by now."""
        return sum(n for _, _, n in self._batches)

    @property
    def is_ready(self) -> bool:
        """Whether there are enough."""
        return self.n_kept >= self.n_items or len(self._batches) == self.max_batches

    def before_batch(self, run: Run) -> None:
        if not self.is_ready:
            x, y = map_tensors(lambda t: t.detach().clone(), run.batch)
            self._batches.append((x, y, max(n_items(run.x), 1)))

    def measure(self, run: Run) -> float:
        """Returns the mean loss over the items as the model is now; NaN as long as there are too few items.

        Of several processes, over the items of all.
        """
        n, total = (float(self.n_kept), self._total(run)) if self.is_ready else (0.0, 0.0)
        if run.step.n_processes > 1:
            n, total = processes.add_up([n, total])
        return total / n if n else math.nan

    def _total(self, run: Run) -> float:
        with isolated_rng(), buffers_kept(run.model), torch.no_grad():
            torch.manual_seed(0)
            return float(sum(self._loss(run.step, x, y) * n for x, y, n in self._batches))

    def _loss(self, step: Step, x: Any, y: Any) -> torch.Tensor:
        """The step's own computation, with the plain loss in place of what a callback may have put there."""
        meanwhile, step.loss_func = step.loss_func, self.loss_func
        try:
            return step.compute_loss(step.predict(x), y)
        finally:
            step.loss_func = meanwhile
