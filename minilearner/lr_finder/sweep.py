"""The learning-rate range test: train for a few steps at rising rates, watch the loss, and leave no trace.

This module owns the settings of a sweep, its rates, and the rule that stops it (`RateSweep`). `lr_finder.result` keeps
the outcome, and `training.snapshot` restores what the sweep has changed.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, section 3.3. The exponential ramp, the
smoothing and the stop rule are fastai's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer

from minilearner import processes
from minilearner.callbacks.gradients import count_updates
from minilearner.checks import check_choice, check_count, check_fraction, check_positive, is_number
from minilearner.lr_finder.recommendation import FEWEST, NoRate, is_settled
from minilearner.lr_finder.result import LRSweep
from minilearner.lr_finder.suggestions import as_functions
from minilearner.models.groups import has_lstm_layers, has_norm_layers
from minilearner.models.restore import restore_buffers
from minilearner.runtime import isolate_rng
from minilearner.smoothed_loss import SmoothedLoss
from minilearner.training.callback import Callback, CancelFit, is_fastai_style, select_for_step
from minilearner.training.loop import Loop
from minilearner.training.missing_state import add_missing_state
from minilearner.training.optimizers import is_adaptive, momentum_key, set_momentum
from minilearner.training.run import Run
from minilearner.training.snapshot import restore_after
from minilearner.training.step import LossFunction, Step
from minilearner.tree import map_tensors, n_items, tensors_of

__all__ = [
    "FixedLoss",
    "RateSweep",
    "SweepSettings",
    "count_batches_to_keep",
    "describe_training",
    "find_rates",
    "ladder",
    "short_sweep",
]


@dataclass(frozen=True)
class SweepSettings:
    """Holds the settings of a sweep. They have the names and the meaning of the arguments of `Learner.lr_find`.

    Raises:
        TypeError, ValueError: the range does not rise from above 0; there are fewer than two steps; both `epochs` and
            `sample_steps` are given; the mode is unknown; the smoothing is outside [0, 1); the stop factor is not above
            1; or a number of points to skip is negative.
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
    sparse: float = 0.0
    """The share of the range, from its start on, in which the rates lie three times as far apart as in the rest."""
    stop_when_settled: bool = False
    """Whether to stop as soon as further steps would not change the recommendation; see `is_settled`."""

    def __post_init__(self) -> None:
        check_positive(self.start_lr, "start_lr")
        check_positive(self.end_lr, "end_lr")
        if self.start_lr >= self.end_lr:
            raise ValueError(
                f"`start_lr` must be below `end_lr`. Received: start_lr={self.start_lr}, end_lr={self.end_lr}."
            )
        check_count(self.num_it, "num_it", least=2)
        for name in ("epochs", "sample_steps"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name)
        if self.epochs is not None and self.sample_steps is not None:
            raise ValueError("give `epochs` or `sample_steps`, not both: each sets the number of updates.")
        check_choice(self.step_mode, "step_mode", ("exp", "linear"))
        check_fraction(self.smoothing, "smoothing", closed="left")
        if self.stop_factor is not None:
            check_stop_factor(self.stop_factor, "stop_factor")
        if self.skip_start is not None:
            check_count(self.skip_start, "skip_start", least=0)
        check_count(self.skip_end, "skip_end", least=0)
        check_fraction(self.sparse, "sparse", closed="left")

    def resolve_steps(self, updates_per_epoch: int) -> SweepSettings:
        """Returns the settings with `num_it` set from `epochs` or `sample_steps`, if one of them is given."""
        epochs = self.epochs
        if self.sample_steps is not None:
            epochs = -(-self.sample_steps // updates_per_epoch)
        return self if epochs is None else replace(self, num_it=epochs * updates_per_epoch)

    def rates(self) -> list[float]:
        """Returns the learning rate of each update: number i is `start_lr * (end_lr / start_lr) ** (i / num_it)`.

        With `step_mode="linear"` it is `start_lr + (end_lr - start_lr) * i / num_it`. As in fastai, i runs from 0 to
        `num_it - 1`, so `end_lr` itself is not reached. The rates of the `sparse` part lie farther apart.
        """
        part = np.arange(self.num_it) / self.num_it
        if self.sparse:
            quick = self.sparse / 3
            part = np.interp(part, [0, quick / (quick + 1 - self.sparse), 1], [0, self.sparse, 1])
        return ladder(self.start_lr, self.end_lr, part, self.step_mode)


def short_sweep(optimizer: Optimizer) -> SweepSettings:
    """Returns the settings of a sweep for "auto": at most 48 steps over five decades in which such optimizers train.

    The loss rarely falls within the first decade and a half, so only 6 of the steps are there. With fewer steps in the
    rest, a deep net without norm layers would break too far above its wall. A short run to come needs as many.
    `tests/benchmarks/lr_bank.py --unseen` prints how many steps it takes and what it loses to the best rate.
    """
    start_lr, end_lr = (1e-5, 1.0) if is_adaptive(optimizer) else (1e-4, 10.0)
    return SweepSettings(start_lr, end_lr, num_it=48, sparse=0.3, stop_when_settled=True)


def check_stop_factor(value: Any, name: str) -> None:
    """Checks for a number above 1. Infinity passes: then only NaN stops the sweep."""
    if not is_number(value):
        raise TypeError(f"`{name}` must be a number. Received: {name}={value!r}.")
    if not value > 1:
        raise ValueError(f"`{name}` must be above 1. Received: {name}={value!r}.")


def ladder(start_lr: float, end_lr: float, part: NDArray[np.float64], step_mode: str) -> list[float]:
    """Returns the rates of a sweep.

    Args:
        start_lr: the rate at part 0.
        end_lr: the rate at part 1.
        part: how far along the range each rate is, in [0, 1].
        step_mode: "exp" for a constant factor between rates, or "linear" for a constant difference.
    """
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
    make_progress: Callable[[int], Callback] | None = None,
    suggest_funcs: Callable[..., Any] | Sequence[Callable[..., Any]] | None = (),
) -> LRSweep:
    """Sweeps the rates over training batches, restores everything to the bit, and returns the curve.

    Args:
        run: a new run with an optimizer.
        settings: what to sweep, and when to stop.
        train: the loader of training batches.
        ratios: the ratio of each layer group's rate to the rate of the sweep. The last one counts for all further
            groups.
        momentum: the momentum to sweep with. None keeps the optimizer's, and so does an optimizer without momentum. The
            effect of a rate builds up over 1 / (1 - momentum) updates, so use the momentum that the run will have at
            its peak rate.
        callbacks: those that are part of the step take part; all others rest.
        make_progress: makes the callback that shows the progress, from the number of updates.
        suggest_funcs: functions that read suggestions off the curve.
    """
    functions = as_functions(suggest_funcs)
    of_step = select_for_step(callbacks)
    restored = [callback for callback in of_step if not is_fastai_style(callback)]  # those keep what they have seen
    momentum = momentum if momentum_key(run.optimizer.param_groups[0]) else None
    updates_per_epoch = count_updates(run, of_step)
    settings = settings.resolve_steps(updates_per_epoch)
    lrs = settings.rates()
    fixed = FixedLoss(run.step.loss_func, max_batches=count_batches_to_keep(settings.num_it))
    sweep = RateSweep(
        lrs,
        smoothing=settings.smoothing,
        stop_factor=settings.stop_factor,
        ratios=[ratios[min(g.get("layer_group", 0), len(ratios) - 1)] for g in run.optimizer.param_groups],
        fixed=fixed,
        confirm=True,
        stop_when_settled=settings.stop_when_settled,
    )
    run.n_epochs = -(-settings.num_it // updates_per_epoch)
    with restore_after(run.model, run.optimizer, run.dls, run.step.loss_func, *restored):
        if momentum is not None:
            _set_momentum_of_all(run.optimizer, momentum)
        shown = [] if make_progress is None else [make_progress(settings.num_it)]
        with _record_updates(run.optimizer) as updates:
            Loop(run, [fixed, *of_step, sweep, *shown], train=train).fit()
    found = LRSweep.from_curve(
        lrs[: len(sweep.losses)],
        sweep.losses,
        fixed=sweep.fixed_losses,
        suggest_funcs=functions,
        stop_reason=sweep.stop_reason,
        broke=sweep.broke,
        ratios=list(ratios),
        momentum=momentum,
        bs=sweep.bs,
        **describe_training(run.model, run.optimizer, fixed, sweep.ratios),
        wd=max(float(group.get("weight_decay", 0.0)) for group in run.optimizer.param_groups),
        **asdict(settings),
    )
    return _withhold_rate(found, run.optimizer) if sweep.losses and not updates else found


def _set_momentum_of_all(optimizer: Optimizer, momentum: float) -> None:
    add_missing_state(optimizer, ["momentum"])
    for group in optimizer.param_groups:
        set_momentum(group, momentum)


@contextmanager
def _record_updates(optimizer: Optimizer) -> Iterator[list[bool]]:
    """Yields a list that gets longer with each update that the optimizer itself makes."""
    updates: list[bool] = []
    hook = optimizer.register_step_post_hook(lambda *_: updates.append(True))
    try:
        yield updates
    finally:
        hook.remove()


def _withhold_rate(sweep: LRSweep, optimizer: Optimizer) -> LRSweep:
    """Returns a sweep without a recommendation, because its rates changed nothing."""
    reason = (
        f"the learner's {type(optimizer).__name__}, whose rate the sweep raises, made no update: a callback trains "
        "with optimizers of its own, so choose their rates there"
    )
    notes = dict.fromkeys(sweep.suggestions, reason)
    return replace(sweep, recommended=NoRate(reason), reason=reason, interval=None, bounds=None, turns={}, notes=notes)


def describe_training(
    model: nn.Module, optimizer: Optimizer, fixed: FixedLoss | None, ratios: Sequence[float] | None
) -> dict[str, Any]:
    """Returns what `recommend` knows besides the curve and the batch size, by the names of its arguments."""
    untrained = fixed is not None and bool(fixed.untrained)
    layers = {"has_norm": has_norm_layers(model), "has_lstm": has_lstm_layers(model)}
    highest = _find_highest(optimizer, ratios)
    return {"adaptive": is_adaptive(optimizer), **layers, "untrained": untrained, "highest": highest}


def _find_highest(optimizer: Optimizer, ratios: Sequence[float] | None) -> float:
    """Returns the highest ratio of a parameter group that learns; without `ratios` it is 1."""
    pairs = zip(optimizer.param_groups, ratios or (), strict=bool(ratios))
    return max((ratio for group, ratio in pairs if any(p.requires_grad for p in group["params"])), default=0.0) or 1.0


class RateSweep(Callback):
    """Sets the next rate of a list before each update, records the loss, and ends the run when it diverges.

    All parameter groups get the same rate, or keep their `ratios` to it. With accumulation, there is one rate and one
    loss per update. The arguments cover the differences between `Learner.lr_find` and `LRFinder`.

    Args:
        lrs: the rates, rising.
        smoothing: the smoothing of the loss that the stop rule reads, in [0, 1).
        stop_factor: the run has diverged when the smoothed loss exceeds this many times its best. None never stops for
            this.
        average: a function that receives each loss and returns the average so far; it replaces `smoothing`.
        grace: number of losses at the start that never count as diverged. NaN and infinity stop the run even then.
        ratios: the ratio of each parameter group's rate to the rate of the list.
        weigh: a function of a batch's inputs: their weight in the mean loss of an update. By default, the number of
            items.
        measure: a function that returns the loss after an update; it replaces the loss of the update's batches.
        fixed: also measured after each update; see `FixedLoss`.
        confirm: only stop for divergence if the fixed loss has risen too, by more than the range of the first ten
            losses. Near 0, the loss of one batch is easily many times that of another.
        stop_when_settled: whether to stop as soon as the fixed losses settle the recommendation; see `is_settled`.

    Attributes:
        losses: the mean loss of each update, before the update; shorter than `lrs` if the sweep was stopped.
        fixed_losses: what `fixed` measured after each update.
        smoothed: the smoothed loss of each update, which the stop rule reads.
        best: the lowest smoothed loss; infinity before the first.
        stop_reason: why the sweep ended, in words.
        broke: whether it ended because the loss became NaN or infinite.
        measures: whether the losses come from `measure`.
        ratios: see the argument; None if all groups get the same rate.
        sizes: items of each update; 0 if batches do not show their size.
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
        stop_when_settled: bool = False,
    ):
        self.lrs = lrs
        self.stop_factor = stop_factor
        self.losses: list[float] = []
        self.fixed_losses: list[float] = []
        self.smoothed: list[float] = []
        self.best = math.inf
        self.stop_reason = "the batches ran out, because some updates were skipped"
        self.broke = False
        self._average = SmoothedLoss(smoothing).update if average is None else average
        self.fixed, self._confirm, self._stop_when_settled = fixed, confirm, stop_when_settled
        self.measures = measure is not None
        self.ratios = ratios
        self._grace, self._weigh, self._measure = grace, weigh, measure
        self.sizes: list[int] = []
        self._sum, self._n, self._items = 0.0, 0, 0

    @property
    def bs(self) -> int | None:
        """The median number of items of an update; None if it is not known."""
        return int(np.median(self.sizes)) or None if self.sizes else None

    def before_batch(self, run: Run) -> None:
        lr, groups = self.lrs[len(self.losses)], run.optimizer.param_groups
        for group, ratio in zip(groups, self.ratios or [1.0] * len(groups), strict=True):
            group["lr"] = lr * ratio

    def after_batch(self, run: Run) -> None:
        if run.loss is None:
            return
        items = run.step.strategy.count_items(run.x)
        n = items if self._weigh is None else self._weigh(run.x)
        self._items += items
        self._sum, self._n = self._sum + float(run.loss.detach()) * n, self._n + n
        self._check_finite(self._sum)
        if run.global_step > len(self.losses):  # an update was made
            self._add_loss(run, self._sum / self._n if self._measure is None else self._measure(run))
            self.sizes.append(self._items)
            self._sum, self._n, self._items = 0.0, 0, 0

    def _add_loss(self, run: Run, loss: float) -> None:
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
        if self._stop_when_settled and is_settled(self.lrs[: len(self.losses)], self.losses, self.fixed_losses):
            self._stop(f"the loss rose and stayed high up to a rate of {lr:.3g}, so the recommendation is settled")

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
        """Returns `factor` times the best loss. If that is 0 or less, adds to it instead."""
        if self.best > 0:
            return factor * self.best
        return self.best + (factor - 1) * max(abs(self.best), abs(self.smoothed[0]))

    def _stop(self, reason: str) -> None:
        self.stop_reason = reason
        raise CancelFit


def count_batches_to_keep(num_it: int) -> int:
    """Returns the most batches that a sweep of so many steps may wait for before it measures the same items.

    It is a seventh of the steps, as 8 of 56, so that a short sweep also has enough losses for a recommendation.
    """
    return max(1, min(8, num_it // (FEWEST - 1)))


class FixedLoss(Callback):
    """Measures the loss of the same few items, the first of the run, after each update.

    Only the weights differ from one value to the next. The items are kept before any mixing, and dropout draws the same
    numbers each time. What a pass changes in buffers and random generators is restored, so the training goes on as if
    nothing had been measured. The cost is one forward pass of the items for each update.

    Args:
        loss_func: the plain loss, before a callback changes it.
        n_items: number of items to measure with. Whole batches are kept until there are as many items.
        max_batches: the largest number of batches to keep.
        compute: returns the loss of a step on `(x, y)`; by default, as a `Learner` computes it, with `loss_func`.

    Attributes:
        untrained: whether the model knew nothing when it was first measured: its loss was hardly lower than with the
            target of the item before in place of each item's own. None if that was not measured (with several
            processes), or if it says nothing: targets are alike, or the loss is not above 0.
    """

    order = -1000  # before mixing changes the batch

    def __init__(
        self,
        loss_func: LossFunction,
        *,
        n_items: int = 128,
        max_batches: int = 8,
        compute: Callable[[Step, Any, Any], torch.Tensor] | None = None,
    ):
        self.loss_func, self.n_items, self.max_batches = loss_func, n_items, max_batches
        self._compute = self._compute_loss if compute is None else compute
        self._batches: list[tuple[Any, Any, int]] = []
        self._is_first = True
        self.untrained: bool | None = None

    @property
    def n_kept(self) -> int:
        """How many items were kept so far."""
        return sum(n for _, _, n in self._batches)

    @property
    def is_ready(self) -> bool:
        """Whether there are enough items."""
        return self.n_kept >= self.n_items or len(self._batches) == self.max_batches

    def before_batch(self, run: Run) -> None:
        if not self.is_ready:
            x, y = map_tensors(lambda t: t.detach().clone(), run.batch)
            self._batches.append((x, y, max(n_items(run.x), 1)))

    def measure(self, run: Run) -> float:
        """Returns the current mean loss over the items, or NaN if there are too few items yet.

        With several processes, it is the mean over the items of all of them.
        """
        n, total = (float(self.n_kept), self._sum_losses(run, self._batches)) if self.is_ready else (0.0, 0.0)
        if run.step.n_processes > 1:
            n, total = processes.add_up([n, total])
        elif n and self._is_first:
            self._is_first, self.untrained = False, self._is_untrained(run, total)
        return total / n if n else math.nan

    def _is_untrained(self, run: Run, total: float) -> bool | None:
        moved = [(x, map_tensors(_move_on, y), n) for x, y, n in self._batches]
        targets, others = (tensors_of([y for _, y, _ in batches]) for batches in (self._batches, moved))
        alike = [float((own == other).float().mean()) for own, other in zip(targets, others, strict=True)]
        if not alike or max(alike) > _ALIKE or not total > 0:
            return None
        return self._sum_losses(run, moved) < _HARDLY * total

    def _sum_losses(self, run: Run, batches: Iterable[tuple[Any, Any, int]]) -> float:
        with isolate_rng(), restore_buffers(run.model), torch.no_grad():
            torch.manual_seed(0)
            return float(sum(self._compute(run.step, x, y) * n for x, y, n in batches))

    def _compute_loss(self, step: Step, x: Any, y: Any) -> torch.Tensor:
        """Computes the loss as the step does, but with the plain loss instead of one that a callback put there."""
        current, step.loss_func = step.loss_func, self.loss_func
        try:
            return step.compute_loss(step.predict(x), y)
        finally:
            step.loss_func = current


_ALIKE = 0.9
"""If more of the targets than this equal the next one, moving them by one says nothing."""

_HARDLY = 1.1
"""A model knows nothing if its loss with the targets of other items is below this many times its own."""


def _move_on(targets: torch.Tensor) -> torch.Tensor:
    """Returns each target in the place of the next item."""
    return targets.roll(1, 0) if targets.ndim else targets
