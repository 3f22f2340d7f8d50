"""The learning-rate finder for a training loop that one already has: no Learner, no DataLoaders, one import changed.

The interface is torch-lr-finder's (0.2.2); the sweep is the one of `Learner.lr_find`: the same loop, the same step, the
same callback. Rates and losses equal torch-lr-finder's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from minilearner.callbacks.progress import Progress
from minilearner.checks import check_count
from minilearner.data.dataloaders import DataLoaders
from minilearner.lr_finder.plain_loop import (
    DataLoaderIter,
    Feed,
    GivenAutocast,
    PlainLoop,
    StateCacher,
    TrainDataLoaderIter,
    ValDataLoaderIter,
)
from minilearner.lr_finder.result import LRSweep
from minilearner.lr_finder.sweep import RateSweep, ladder
from minilearner.plots import lr_curves
from minilearner.runtime import isolated_rng
from minilearner.training.loop import Loop
from minilearner.training.optimizers import check_rate, is_adaptive
from minilearner.training.precision import Fp32, Precision
from minilearner.training.preflight import check_model
from minilearner.training.run import Run
from minilearner.training.snapshot import untouched
from minilearner.training.step import LossFunction, Step
from minilearner.training.strategy import OneProcess

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LRFinder"]


class LRFinder:
    """The learning-rate range test on a plain model, optimizer and loss.

    Example::

        finder = LRFinder(model, optimizer, nn.CrossEntropyLoss(), device="cuda")
        finder.range_test(train_loader, end_lr=100, num_iter=100)
        finder.plot()
        finder.reset()  # the model and the optimizer as they were

    Train 10 to 100 times below the largest rate that works: near it a run is fast for a while and then breaks.

    Where torch-lr-finder differs: it refuses an optimizer that has, or once had, a scheduler (ours sets the rates over
    it), goes on through NaN (ours stops), draws all parameter groups to one `end_lr` (ours keep their ratios), needs
    `amp_config`, unpickles its cache, opens a figure's window, and prints. apex is not supported.

    Args:
        model, optimizer, criterion: as in your loop. `criterion(outputs, labels)` gives the mean loss of a batch.
        device: where to sweep; where the model is when None.
        memory_cache: keep the state for `reset` in memory, or else in files.
        cache_dir: the folder of these files; the system's temporary one when None.
        amp_backend: "torch" for mixed precision, with the `grad_scaler` of your loop.
        amp_config: the arguments of `torch.amp.autocast`; by default those of the device.
        grad_scaler: a `torch.amp.GradScaler`. Updates that it skips do not count, and its state is part of `reset`.

    Attributes:
        history: {"lr": [...], "loss": [...]} of the newest sweep, a value an update: the first group's rate, and the
            loss smoothed by s = smooth_f loss + (1 - smooth_f) s, from the first loss on.
        best_loss: the lowest of these; None before a sweep.
        sweep: the newest sweep as an `LRSweep`: raw losses, suggestions, the rate that is recommended, a range to train
            in, why it stopped. The recommendation is read from the losses of the validation set where there is one, and
            else from those of the batches, which takes about 100 steps to be sure; nothing more than the loop's own
            passes is computed.

    Raises:
        TypeError: `model`, `optimizer` or `criterion` is something else, such as a scheduler or a class.
        ValueError: `amp_backend` is unknown or lacks its scaler; `cache_dir` is no folder; `model` has no parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        criterion: LossFunction,
        device: str | torch.device | None = None,
        memory_cache: bool = True,
        cache_dir: str | os.PathLike[str] | None = None,
        amp_backend: str | None = None,
        amp_config: Mapping[str, Any] | None = None,
        grad_scaler: torch.amp.GradScaler | None = None,
    ):
        _check_parts(model, optimizer, criterion)
        if amp_backend not in (None, "", "torch"):
            raise ValueError(f"`amp_backend` must be 'torch' or None. Received: amp_backend={amp_backend!r}.")
        if amp_backend and grad_scaler is None:
            raise ValueError("`grad_scaler` is needed with amp_backend='torch': the torch.amp.GradScaler of your loop.")
        self.model, self.optimizer, self.criterion = model, optimizer, criterion
        self.model_device = next(model.parameters()).device
        self.device = device or self.model_device
        self.memory_cache, self.cache_dir = memory_cache, cache_dir
        self.amp_backend, self.amp_config, self.grad_scaler = amp_backend, amp_config, grad_scaler
        self.history: dict[str, list[float]] = {"lr": [], "loss": []}
        self.best_loss: float | None = None
        self.sweep: LRSweep | None = None
        self.state_cacher = StateCacher(memory_cache, cache_dir)
        for name, part in self._parts():
            self.state_cacher.store(name, part.state_dict())
        self._training = {module: module.training for module in model.modules()}

    def reset(self) -> None:
        """Puts model, optimizer and scaler back to what they were when this finder was made."""
        for name, part in self._parts():
            part.load_state_dict(self.state_cacher.retrieve(name))
        for module, flag in self._training.items():
            module.training = flag
        self.model.to(self.model_device)

    def range_test(
        self,
        train_loader: Any,
        val_loader: Any = None,
        start_lr: float | Sequence[float] | None = None,
        end_lr: float = 10,
        num_iter: int = 100,
        step_mode: str = "exp",
        smooth_f: float = 0.05,
        diverge_th: float = 5,
        accumulation_steps: int = 1,
        non_blocking_transfer: bool = True,
    ) -> None:
        """Trains at rising rates and writes down the loss of each update. Call `reset` afterwards.

        Update k of n = `num_iter` has the rate start (end / start)^(k / (n - 1)), so both ends are reached.

        Args:
            train_loader: yields `(inputs, labels, ...)`; for other batches, such as dictionaries, a
                `TrainDataLoaderIter` of your own.
            val_loader: the same for validation. The loss is then that of this whole set after each update, the mean
                over its items: slower, and less noisy.
            start_lr: the first rate; the optimizer's own when None. For several parameter groups a list with one each,
                or the first group's, to which the others keep their ratio.
            end_lr: the last rate, of the first group.
            num_iter: updates.
            step_mode: "exp", or "linear" in a line.
            smooth_f: the weight of each new loss in the smoothed one, in [0, 1); 0 smooths nothing.
            diverge_th: the sweep ends where the smoothed loss exceeds so many times its best. NaN ends it, too.
            accumulation_steps: batches whose losses and gradients are averaged into one update.
            non_blocking_transfer: move batches to the device without waiting, where their memory is pinned.

        Raises:
            TypeError: a rate is no number, or a count no integer.
            ValueError: an argument is out of range, a loader yields no batches, or a batch has another form.
        """
        starts = self._starts(start_lr)
        _check_range(starts[0], end_lr, num_iter, step_mode, smooth_f, diverge_th, accumulation_steps)
        mode = step_mode.lower()
        batches = _as_iterator(train_loader, TrainDataLoaderIter, "train_loader")
        held_out = None if val_loader is None else _as_iterator(val_loader, ValDataLoaderIter, "val_loader")
        device = torch.device(self.device)
        feed = Feed(batches, num_iter * accumulation_steps, device=device, non_blocking=non_blocking_transfer)
        sweep = RateSweep(
            ladder(starts[0], end_lr, np.arange(num_iter) / (num_iter - 1), mode),
            stop_factor=diverge_th,
            average=_moving_average(smooth_f),
            ratios=[start / starts[0] for start in starts],
            weigh=lambda _: 1,  # torch-lr-finder's mean is over batches, as loops usually write it
            measure=None if held_out is None else lambda run: feed.mean_loss(run, held_out),
        )
        dls = DataLoaders(feed, device=self.device)
        self._sweep(sweep, dls, feed, accumulation_steps, smoothing=1 - smooth_f if smooth_f else 0.0, step_mode=mode)

    def find(self, x: Any, y: Any, start_lr: float, end_lr: float, batch_size: int = 64, epochs: int = 1) -> LRSweep:
        """Sweeps arrays in whole epochs by the rule of Keras' finders, and puts everything back.

        The rate grows by a constant factor with each batch; nothing is smoothed; NaN ends the sweep, and from the
        seventh batch on a loss above 4 times the best.

        Args:
            x, y: NumPy arrays or tensors, (items, ...); see `DataLoaders.from_arrays`.
            start_lr, end_lr: the range.
            batch_size: items a batch, shuffled; the short last one is kept.
            epochs: over which the range is spread.

        Source: keras_lr_finder, whose loss is Keras' running mean over the epoch, where ours is each batch's own.
        """
        check_count(epochs, "epochs")
        with isolated_rng():  # for the seed of the order, which is to leave no trace either
            dls = DataLoaders.from_arrays((x, y), bs=batch_size, drop_last=False, device=self.device)
        n = epochs * len(dls.train)
        _check_range(start_lr, end_lr, n, "exp", 0.0, 4.0, 1)
        starts = self._starts(start_lr)
        sweep = RateSweep(
            ladder(start_lr, end_lr, np.arange(n) / n, "exp"),
            stop_factor=4.0,
            average=float,
            grace=6,
            ratios=[start / starts[0] for start in starts],
        )
        with untouched(self.model, self.optimizer, dls):
            return self._sweep(sweep, dls, dls.train, 1, smoothing=0.0, step_mode="exp")

    @overload
    def plot(
        self,
        skip_start: int = ...,
        skip_end: int = ...,
        log_lr: bool = ...,
        show_lr: float | None = ...,
        ax: Axes | None = ...,
        suggest_lr: Literal[True] = ...,
    ) -> tuple[Axes, float]: ...
    @overload
    def plot(
        self,
        skip_start: int = ...,
        skip_end: int = ...,
        log_lr: bool = ...,
        show_lr: float | None = ...,
        ax: Axes | None = ...,
        *,
        suggest_lr: Literal[False],
    ) -> Axes: ...
    def plot(
        self,
        skip_start: int = 10,
        skip_end: int = 5,
        log_lr: bool = True,
        show_lr: float | None = None,
        ax: Axes | None = None,
        suggest_lr: bool = True,
    ) -> Axes | tuple[Axes, float]:
        """Draws the smoothed loss over the rate, and marks where it falls most steeply.

        Args:
            skip_start, skip_end: points left out at either end.
            log_lr: a logarithmic axis.
            show_lr: a rate to mark.
            ax: where to draw; a new figure when None. It is not shown; a notebook does that by itself.
            suggest_lr: mark, and return, the rate of the steepest fall: the lowest gradient by point.

        Returns:
            The axes, and with `suggest_lr` that rate beside them.

        Raises:
            ValueError: a skip is negative.
            RuntimeError: fewer than 2 points are left to find the steepest fall in.
        """
        if skip_start < 0 or skip_end < 0:
            raise ValueError(f"`skip_start` and `skip_end` cannot be negative. Received: {skip_start=}, {skip_end=}.")
        n, needed = len(self.history["lr"]), skip_start + skip_end + 2
        if suggest_lr and n < needed:
            raise RuntimeError(
                f"Need at least {needed} iterations to suggest a learning rate. Got {n}. Skip fewer points, sweep more "
                "iterations, or give suggest_lr=False."
            )
        shown = slice(skip_start, max(n - skip_end, skip_start))
        lrs, losses = self.history["lr"][shown], self.history["loss"][shown]
        suggestion = lrs[int(np.gradient(np.array(losses)).argmin())] if suggest_lr else None
        marks = {"steepest fall": suggestion, "given": show_lr}
        marked = {name: float(lr) for name, lr in marks.items() if lr is not None}
        ax = lr_curves.plot_range_test(lrs, losses, marked, log=log_lr, ax=ax)
        return ax if suggestion is None else (ax, suggestion)

    def plot_loss_change(
        self,
        sma: int = 1,
        skip_start: int = 10,
        skip_end: int = 5,
        y_lim: tuple[float, float] | None = (-0.01, 0.01),
        ax: Axes | None = None,
    ) -> Figure:
        """Draws how fast the loss changes at each rate; see `LRSweep.plot_loss_change`.

        Raises:
            RuntimeError: nothing has been swept yet.
        """
        if self.sweep is None:
            raise RuntimeError("there is no sweep to plot. Call `range_test` or `find` first.")
        return self.sweep.plot_loss_change(sma, skip_start, skip_end, y_lim, ax)

    def _sweep(self, sweep: RateSweep, dls: DataLoaders, train: Any, n_accumulate: int, **settings: Any) -> LRSweep:
        """Runs the sweep, writes down its curve, also when it is interrupted, and returns it."""
        self.history, self.best_loss, self.sweep = {"lr": [], "loss": []}, None, None
        self.model.to(self.device)
        # The sweep knows when to end; as many batches again are for updates that a scaler skips.
        run = Run(self._step(), dls, n_epochs=2 * -(-len(sweep.lrs) * n_accumulate // len(train)))
        run.step.n_accumulate = n_accumulate
        try:
            Loop(run, [PlainLoop(), sweep, Progress(table=False)], train=train).fit()
        except BaseException:
            sweep.stop_reason = "it was interrupted"
            raise
        finally:
            n = len(sweep.losses)
            self.history = {"lr": list(sweep.lrs[:n]), "loss": sweep.smoothed}
            self.best_loss = sweep.best if n else None
            settings = {"start_lr": sweep.lrs[0], "end_lr": sweep.lrs[-1], "num_it": len(sweep.lrs)} | settings
            curve = sweep.lrs[:n], sweep.losses
            fixed = sweep.losses if sweep.measures else ()
            settings |= {"stop_reason": sweep.stop_reason, "broke": sweep.broke}
            settings |= {"bs": sweep.bs, "adaptive": is_adaptive(self.optimizer)}
            self.sweep = LRSweep.from_curve(*curve, fixed=fixed, **settings)
        return self.sweep

    def _step(self) -> Step:
        precision: Precision = Fp32()
        if self.grad_scaler is not None and self.amp_backend:
            config = self.amp_config or {"device_type": torch.device(self.device).type}
            precision = GivenAutocast(self.grad_scaler, config)
        return Step(self.model, self.criterion, self.optimizer, precision=precision, strategy=OneProcess())

    def _parts(self) -> list[tuple[str, Any]]:
        parts = [("model", self.model), ("optimizer", self.optimizer), ("grad_scaler", self.grad_scaler)]
        return [(name, part) for name, part in parts if part is not None]

    def _starts(self, start_lr: float | Sequence[float] | None) -> list[float]:
        own = [float(group["lr"]) for group in self.optimizer.param_groups]
        if not start_lr:
            return own
        if isinstance(start_lr, (list, tuple)):
            if len(start_lr) != len(own):
                raise ValueError(
                    f"`start_lr` must have one value for each of the {len(own)} parameter groups. Received: {start_lr}."
                )
            return [float(lr) for lr in start_lr]
        return [float(start_lr) * (lr / own[0] if own[0] else 1.0) for lr in own]  # type: ignore[arg-type]


def _check_parts(model: Any, optimizer: Any, criterion: Any) -> None:
    check_model(model)
    if next(model.parameters(), None) is None:
        raise ValueError(f"`model` must have parameters to train. Received: a {type(model).__name__} without any.")
    if not hasattr(optimizer, "param_groups"):
        raise TypeError(f"`optimizer` must be a torch optimizer. Received: a {type(optimizer).__name__}.")
    if isinstance(criterion, type) or not callable(criterion):
        raise TypeError(
            "`criterion` must be a loss function or module, such as nn.CrossEntropyLoss(). "
            f"Received: criterion={criterion!r}."
        )


def _as_iterator(loader: Any, kind: Any, name: str) -> Any:
    if isinstance(loader, kind):
        return loader
    if isinstance(loader, DataLoaderIter):
        raise ValueError(f"`{name}` must be a {kind.__name__}. Received: a {type(loader).__name__}.")
    try:
        return kind(loader)
    except ValueError as error:
        raise ValueError(str(error).replace("`data_loader`", f"`{name}`")) from None


def _moving_average(weight: float) -> Callable[[float], float]:
    """Returns s <- weight loss + (1 - weight) s, which starts at the first loss; a weight of 0 smooths nothing."""
    so_far: list[float] = []

    def update(loss: float) -> float:
        so_far.append(weight * loss + (1 - weight) * so_far[-1] if so_far and weight else loss)
        return so_far[-1]

    return update


def _check_range(
    start_lr: float, end_lr: float, num_iter: int, step_mode: str, smooth_f: float, diverge_th: float, n_accumulate: int
) -> None:
    check_rate(start_lr, "start_lr")
    check_rate(end_lr, "end_lr")
    if not 0 < start_lr < end_lr < math.inf:
        raise ValueError(
            f"the rates must rise: 0 < `start_lr` < `end_lr`. Received: {start_lr=}, {end_lr=}. Without `start_lr` the "
            "optimizer's own rate is the first; `reset()` puts it back after a sweep."
        )
    check_count(num_iter, "num_iter")
    check_count(n_accumulate, "accumulation_steps")
    if num_iter == 1:
        raise ValueError(f"`num_iter` must be larger than 1. Received: num_iter={num_iter}.")
    if str(step_mode).lower() not in ("exp", "linear"):
        raise ValueError(f"`step_mode` must be 'exp' or 'linear'. Received: step_mode={step_mode!r}.")
    if not 0 <= smooth_f < 1:
        raise ValueError(f"`smooth_f` must lie in [0, 1). Received: smooth_f={smooth_f}.")
    if not diverge_th > 1:
        raise ValueError(f"`diverge_th` must be above 1. Received: diverge_th={diverge_th}.")
