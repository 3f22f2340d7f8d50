"""`LRFinder`: the learning-rate finder for a plain training loop, without a `Learner` or `DataLoaders`.

The interface is torch-lr-finder's (0.2.2), so that only the import changes. Rates and losses equal torch-lr-finder's.
`lr_finder.plain_loop` adapts the parts of such a loop, and `lr_finder.sweep` sweeps as it does for `Learner.lr_find`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from minilearner.callbacks.progress import Progress
from minilearner.checks import check_choice, check_count, check_fraction, check_number, check_positive, check_rate
from minilearner.data.dataloaders import DataLoaders
from minilearner.glance import PublicNames
from minilearner.keywords import suggest_keywords
from minilearner.lr_finder.plain_loop import (
    DataLoaderIter,
    Feed,
    GivenAutocast,
    PlainLoop,
    StateCacher,
    TrainDataLoaderIter,
    ValDataLoaderIter,
    compute_pred_and_loss,
)
from minilearner.lr_finder.result import LRSweep
from minilearner.lr_finder.sweep import (
    FixedLoss,
    RateSweep,
    check_stop_factor,
    count_batches_to_keep,
    describe_training,
    ladder,
)
from minilearner.plots import lr_curves
from minilearner.runtime import isolate_rng
from minilearner.training.loop import Loop
from minilearner.training.precision import Fp32, Precision
from minilearner.training.preflight import check_model
from minilearner.training.run import Run
from minilearner.training.snapshot import restore_after
from minilearner.training.step import LossFunction, Step
from minilearner.training.strategy import OneProcess

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LRFinder"]


@suggest_keywords
class LRFinder(PublicNames):
    """Runs the learning-rate range test on a plain model, optimizer and loss.

    Example::

        finder = LRFinder(model, optimizer, nn.CrossEntropyLoss(), device="cuda")
        finder.range_test(train_loader, end_lr=100, num_iter=100)
        finder.plot()
        finder.sweep.recommended, finder.sweep.reason  # the rate to take, and why
        finder.reset()  # the model and the optimizer as they were

    To choose by eye, take a rate 10 to 100 times below the largest one that works: near it, training is fast for a
    while and then breaks.

    torch-lr-finder differs in this: it refuses an optimizer that has or had a scheduler (ours overrides the scheduler),
    continues through NaN (ours stops), takes all parameter groups to one `end_lr` (ours keep their ratios), needs
    `amp_config`, unpickles its cache, opens a window for a figure, and prints. apex is not supported.

    Args:
        model: the model, as in your loop.
        optimizer: the optimizer, as in your loop.
        criterion: the loss; `criterion(outputs, labels)` returns the mean loss of a batch.
        device: the device to sweep on; None is the model's.
        memory_cache: whether to keep the state for `reset` in memory; otherwise it is kept in files.
        cache_dir: the folder of these files; None is the system's temporary folder.
        amp_backend: "torch" for mixed precision, with the `grad_scaler` of your loop.
        amp_config: the arguments of `torch.amp.autocast`; by default those of the device.
        grad_scaler: a `torch.amp.GradScaler`. Updates that it skips do not count, and `reset` restores its state.

    Attributes:
        history: {"lr": [...], "loss": [...]} of the latest sweep, one value per update: the first group's rate, and the
            smoothed loss. That is s = smooth_f * loss + (1 - smooth_f) * s, and starts at the first loss.
        best_loss: the lowest smoothed loss; None before a sweep.
        sweep: the latest sweep as an `LRSweep`: raw losses, suggestions, the recommended rate, a range to train in, and
            why it stopped. The recommendation is for the first parameter group. It equals that of `Learner.lr_find` to
            the bit if the batches, the rates, the stopping rule and the settings of the optimizer agree. Mind the
            momentum: `lr_find` sweeps with that of one cycle at its peak, 0.85, even if the optimizer was made without.
            At a momentum of 0, the default of torch's SGD and RMSprop, rates come out two to four times as high. The
            recommendation reads the loss of the same 128 items after each update, which costs one more forward pass of
            them. With a validation set, it reads the losses of that.

    Raises:
        TypeError: `model`, `optimizer` or `criterion` is something else, such as a scheduler or a class.
        ValueError: `amp_backend` is unknown or lacks its scaler, `cache_dir` is not a folder, or `model` has no
            parameters.
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
        self.best_loss: float | Any = None
        self.sweep: LRSweep | Any = None
        self.state_cacher = StateCacher(memory_cache, cache_dir)
        for name, part in self._list_parts():
            self.state_cacher.store(name, part.state_dict())
        self._training = {module: module.training for module in model.modules()}

    def reset(self) -> None:
        """Restores the model, the optimizer and the scaler to their state when this finder was created."""
        for name, part in self._list_parts():
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
        """Trains at rising rates and records the loss of each update. Call `reset` afterwards.

        Update k of n = `num_iter` has the rate start * (end / start)^(k / (n - 1)), so both ends are reached.

        Args:
            train_loader: yields `(inputs, labels, ...)`. For other batches, such as dictionaries, pass your own
                `TrainDataLoaderIter`.
            val_loader: the same for validation. The loss after each update is then the mean over all items of this set:
                slower, and less noisy.
            start_lr: the first rate; None is the optimizer's own. With several parameter groups, pass a list with one
                rate each, or the first group's rate; the other groups then keep their ratio to it.
            end_lr: the last rate of the first group.
            num_iter: number of updates.
            step_mode: "exp" for a constant factor, or "linear" for a constant difference.
            smooth_f: the weight of each new loss in the smoothed loss, in [0, 1); 0 turns smoothing off.
            diverge_th: the sweep ends if the smoothed loss exceeds this many times its best. NaN ends it, too.
            accumulation_steps: number of batches whose losses and gradients are averaged into one update.
            non_blocking_transfer: whether to move batches to the device without waiting, if their memory is pinned.

        Raises:
            TypeError: a rate is not a number, or a count is not an integer.
            ValueError: an argument is out of range, a loader yields no batches, a batch has another form, or every
                parameter of the optimizer is frozen.
        """
        starts = self._start_rates(start_lr)
        _check_range(starts[0], end_lr, num_iter, step_mode, smooth_f, diverge_th, accumulation_steps)
        mode = step_mode.lower()
        batches = _as_iterator(train_loader, TrainDataLoaderIter, "train_loader")
        held_out = None if val_loader is None else _as_iterator(val_loader, ValDataLoaderIter, "val_loader")
        device = torch.device(self.device)
        feed = Feed(batches, num_iter * accumulation_steps, device=device, non_blocking=non_blocking_transfer)
        sweep = RateSweep(
            ladder(starts[0], end_lr, np.arange(num_iter) / (num_iter - 1), mode),
            stop_factor=diverge_th,
            average=_make_moving_average(smooth_f),
            ratios=[start / starts[0] for start in starts],
            weigh=lambda _: 1,  # torch-lr-finder averages over batches, as most loops do
            measure=None if held_out is None else lambda run: feed.mean_loss(run, held_out),
            fixed=_make_fixed_loss(self.criterion, num_iter) if held_out is None else None,
        )
        dls = DataLoaders(feed, device=self.device)
        smoothing = 1 - smooth_f if smooth_f else 0.0
        self._run_sweep(sweep, dls, feed, accumulation_steps, smoothing=smoothing, step_mode=mode)

    def find(self, x: Any, y: Any, start_lr: float, end_lr: float, batch_size: int = 64, epochs: int = 1) -> LRSweep:
        """Sweeps over arrays in whole epochs, by the rule of Keras' finders, and restores everything.

        The rate grows by a constant factor with each batch. Losses are not smoothed. The sweep ends at NaN or, from the
        seventh batch on, at a loss above 4 times the best.

        Args:
            x: the inputs, a NumPy array or tensor (items, ...); see `DataLoaders.from_arrays`.
            y: the targets, likewise.
            start_lr: the first rate.
            end_lr: the end of the range, which itself is not reached.
            batch_size: items per batch. Items are shuffled, and the short last batch is kept.
            epochs: number of epochs over which the rate rises.

        Source: keras_lr_finder. Its loss is Keras' running mean over the epoch; ours is the loss of each batch.
        """
        check_count(batch_size, "batch_size")
        check_count(epochs, "epochs")
        check_positive(start_lr, "start_lr")
        with isolate_rng():  # drawing the seed of the order must not leave a trace either
            dls = DataLoaders.from_arrays((x, y), bs=batch_size, drop_last=False, device=self.device)
        n = epochs * len(dls.train)
        _check_range(start_lr, end_lr, n, "exp", 0.0, 4.0, 1)
        starts = self._start_rates(start_lr)
        sweep = RateSweep(
            ladder(start_lr, end_lr, np.arange(n) / n, "exp"),
            stop_factor=4.0,
            average=float,
            grace=6,
            ratios=[start / starts[0] for start in starts],
            fixed=_make_fixed_loss(self.criterion, n),
        )
        with restore_after(self.model, self.optimizer, dls):
            return self._run_sweep(sweep, dls, dls.train, 1, smoothing=0.0, step_mode="exp")

    @overload
    def plot(
        self,
        skip_start: int = ...,
        skip_end: int = ...,
        log_lr: bool = ...,
        show_lr: float | None = ...,
        ax: Axes | None = ...,
        suggest_lr: Literal[True] = ...,
        *,
        save: str | os.PathLike[str] | None = ...,
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
        save: str | os.PathLike[str] | None = ...,
    ) -> Axes: ...
    def plot(
        self,
        skip_start: int = 10,
        skip_end: int = 5,
        log_lr: bool = True,
        show_lr: float | None = None,
        ax: Axes | None = None,
        suggest_lr: bool = True,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Axes | tuple[Axes, float]:
        """Plots the smoothed loss over the rate, and marks where it falls most steeply.

        Args:
            skip_start: number of points to leave out at the start.
            skip_end: number of points to leave out at the end.
            log_lr: whether the axis of the rate is logarithmic.
            show_lr: a rate to mark.
            ax: the axes to draw on; None makes a new figure. This method does not show it; a notebook does by itself.
            suggest_lr: whether to mark and return the rate of the steepest fall: the lowest gradient by point.
            save: a file to write the figure to, such as "range_test.png".

        Returns:
            The axes, or with `suggest_lr` a pair: the axes and that rate.

        Raises:
            ValueError: a skip is negative.
            RuntimeError: fewer than 2 points are left to find the steepest fall in.
        """
        check_count(skip_start, "skip_start", least=0)
        check_count(skip_end, "skip_end", least=0)
        if show_lr is not None:
            check_number(show_lr, "show_lr")
        n, needed = len(self.history["lr"]), skip_start + skip_end + 2
        if suggest_lr and n < needed:
            raise RuntimeError(
                f"Need at least {needed} iterations to suggest a learning rate. Received: {n}. Skip fewer points, "
                "sweep more iterations, or pass suggest_lr=False."
            )
        shown = slice(skip_start, max(n - skip_end, skip_start))
        lrs, losses = self.history["lr"][shown], self.history["loss"][shown]
        suggestion = lrs[int(np.gradient(np.array(losses)).argmin())] if suggest_lr else None
        marks = {"steepest fall": suggestion, "given": show_lr}
        marked = {name: float(lr) for name, lr in marks.items() if lr is not None}
        ax = lr_curves.plot_range_test(lrs, losses, marked, log=log_lr, ax=ax, save=save)
        return ax if suggestion is None else (ax, suggestion)

    def plot_loss_change(
        self,
        sma: int = 1,
        skip_start: int = 10,
        skip_end: int = 5,
        y_lim: tuple[float, float] | None = (-0.01, 0.01),
        ax: Axes | None = None,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Plots how fast the loss changes at each rate; see `LRSweep.plot_loss_change`.

        Raises:
            RuntimeError: there was no sweep yet.
        """
        if self.sweep is None:
            raise RuntimeError("there is no sweep to plot. Call `range_test` or `find` first.")
        return self.sweep.plot_loss_change(sma, skip_start, skip_end, y_lim, ax, save=save)

    def _run_sweep(self, sweep: RateSweep, dls: DataLoaders, train: Any, n_accumulate: int, **settings: Any) -> LRSweep:
        """Runs the sweep, keeps its curve even if it is interrupted, and returns it."""
        _check_trainable(self.optimizer)
        self.history, self.best_loss, self.sweep = {"lr": [], "loss": []}, None, None
        self.model.to(self.device)
        # The sweep ends by itself. Twice the batches leave room for updates that a scaler skips.
        run = Run(self._step(), dls, n_epochs=2 * -(-len(sweep.lrs) * n_accumulate // len(train)))
        run.step.n_accumulate = n_accumulate
        try:
            fixed = [] if sweep.fixed is None else [sweep.fixed]
            Loop(run, [PlainLoop(), *fixed, sweep, Progress(table=False, sweep=len(sweep.lrs))], train=train).fit()
        except BaseException:
            sweep.stop_reason = "it was interrupted"
            raise
        finally:
            n = len(sweep.losses)
            self.history = {"lr": list(sweep.lrs[:n]), "loss": sweep.smoothed}
            self.best_loss = sweep.best if n else None
            settings = {"start_lr": sweep.lrs[0], "end_lr": sweep.lrs[-1], "num_it": len(sweep.lrs)} | settings
            curve = sweep.lrs[:n], sweep.losses
            settings |= {"stop_reason": sweep.stop_reason, "broke": sweep.broke, "bs": sweep.bs}
            settings |= describe_training(self.model, self.optimizer, sweep.fixed, sweep.ratios)
            same = sweep.losses if sweep.measures else sweep.fixed_losses
            self.sweep = LRSweep.from_curve(*curve, fixed=same, **settings)
        return self.sweep

    def _step(self) -> Step:
        precision: Precision = Fp32()
        if self.grad_scaler is not None and self.amp_backend:
            config = self.amp_config or {"device_type": torch.device(self.device).type}
            precision = GivenAutocast(self.grad_scaler, config)
        return Step(self.model, self.criterion, self.optimizer, precision=precision, strategy=OneProcess())

    def _list_parts(self) -> list[tuple[str, Any]]:
        parts = [("model", self.model), ("optimizer", self.optimizer), ("grad_scaler", self.grad_scaler)]
        return [(name, part) for name, part in parts if part is not None]

    def _start_rates(self, start_lr: float | Sequence[float] | None) -> list[float]:
        own = [float(group["lr"]) for group in self.optimizer.param_groups]
        if start_lr is None:
            return own
        check_rate(start_lr, "start_lr")
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
    own = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
        raise ValueError(
            "`optimizer` must hold parameters of `model`. Received: an optimizer without any of them, which would not "
            f"train the model. Make it anew: {type(optimizer).__name__}(model.parameters(), lr=...)."
        )
    if isinstance(criterion, type) or not callable(criterion):
        raise TypeError(
            "`criterion` must be a loss function or module, such as nn.CrossEntropyLoss(). "
            f"Received: criterion={criterion!r}."
        )


def _check_trainable(optimizer: Optimizer) -> None:
    if not any(parameter.requires_grad for group in optimizer.param_groups for parameter in group["params"]):
        raise ValueError(
            "`optimizer` must hold a parameter that requires a gradient. Received: only frozen ones. Unfreeze some."
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


def _make_moving_average(weight: float) -> Callable[[float], float]:
    """Returns a function that computes s = weight * loss + (1 - weight) * s, or just the loss if the weight is 0."""
    so_far: list[float] = []

    def update(loss: float) -> float:
        so_far.append(weight * loss + (1 - weight) * so_far[-1] if so_far and weight else loss)
        return so_far[-1]

    return update


def _check_range(
    start_lr: float,
    end_lr: float,
    num_iter: int,
    step_mode: str,
    smooth_f: float,
    diverge_th: float,
    n_accumulate: int,
) -> None:
    check_positive(start_lr, "start_lr")
    check_positive(end_lr, "end_lr")
    if start_lr >= end_lr:
        raise ValueError(
            f"the rates must rise: 0 < `start_lr` < `end_lr`. Received: {start_lr=}, {end_lr=}. Without `start_lr`, "
            "the optimizer's own rate is the first; `reset()` restores it after a sweep."
        )
    check_count(num_iter, "num_iter", least=2)
    check_count(n_accumulate, "accumulation_steps")
    check_choice(step_mode.lower() if isinstance(step_mode, str) else step_mode, "step_mode", ("exp", "linear"))
    check_fraction(smooth_f, "smooth_f", closed="left")
    check_stop_factor(diverge_th, "diverge_th")


def _make_fixed_loss(criterion: LossFunction, num_iter: int) -> FixedLoss:
    """Returns what measures the loss of the same items after each update, as this kind of loop computes it."""
    kept = count_batches_to_keep(num_iter)
    return FixedLoss(criterion, max_batches=kept, compute=lambda step, x, y: compute_pred_and_loss(step, x, y)[1])
