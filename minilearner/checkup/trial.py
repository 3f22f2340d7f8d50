"""Trains on the first batch for a moment: the loss at the start, the inputs of the first layer, the gradients.

`Trial` runs the true step of a learner, with the callbacks that are part of it, and puts everything back to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from minilearner.callbacks.gradients import GradientAccumulation
from minilearner.checkup.findings import Finding, NotCheckedError
from minilearner.data.dataloaders import DataLoaders
from minilearner.errors import plural, portion
from minilearner.glance import enumerate_names
from minilearner.models.groups import parameters_of
from minilearner.runtime import isolate_rng
from minilearner.training.callback import Callback, CancelFit, is_fastai_style, select_for_step
from minilearner.training.divisor_probe import LossFunction, isolate_loss
from minilearner.training.loop import Loop
from minilearner.training.loss_terms import LossTerms
from minilearner.training.run import Run
from minilearner.training.snapshot import restore_after
from minilearner.training.step import Step
from minilearner.tree import map_tensors, n_items, take_items, tensors_of

__all__ = ["FirstLayer", "Trial", "find_gradient_problems", "find_input_problems", "find_loss_problems", "find_overfit"]

_CLASS_LOSSES = {"cross_entropy", "binary_cross_entropy_with_logits"}
_NUMBER_LOSSES = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"}
_N_OVERFIT = 8  # items: few enough that nearly every model can learn them by heart
_ATTEMPTS = ((1e-3, 12), (1e-2, 12), (1e-1, 12))
"""The rates and the numbers of updates with which a few items are learnt by heart."""
_LEARNT, _STUCK = 0.5, 0.05  # the share by which the loss of those items falls


@dataclass
class FirstLayer:
    """What reaches the first layer with weights in the first batch.

    Attributes:
        name: its path in the model.
        is_norm: whether it normalises its inputs itself.
        shape: the shape of its input.
        mean, std, largest: over all numbers of the input; NaN if they are whole numbers.
    """

    name: str
    is_norm: bool
    shape: tuple[int, ...]
    mean: float = math.nan
    std: float = math.nan
    largest: float = math.nan


@dataclass
class Trial:
    """A moment of training on the first training batch.

    Args:
        make_step: returns a new step without an optimizer.
        dls: the loaders.
        callbacks: those that are part of the step take part.

    Attributes:
        start: what the first batch showed.
        n_items: how many items it has.
    """

    make_step: Callable[[], Step]
    dls: DataLoaders
    callbacks: Iterable[Callback]
    start: _Watch = field(init=False)
    n_items: int = field(init=False)

    def __post_init__(self) -> None:
        taking_part = [one for one in self.callbacks if not isinstance(one, GradientAccumulation)]
        self._of_step = select_for_step(taking_part)
        self._x, self._y = self.dls.train.first_batch()
        self.n_items = n_items(self._x)
        self.start = self._train(1, 1e-4)

    def overfit(self) -> _Watch | None:
        """Trains on a few items only, until their loss has halved. Returns the best attempt.

        Every update draws the same random numbers, so that dropout and mixing do not hide the fall. Returns None if the
        batch has a single item.
        """
        if self.n_items < 2:
            return None
        attempts: list[_Watch] = []
        for lr, n_updates in _ATTEMPTS:
            attempts.append(self._train(n_updates, lr, most=_N_OVERFIT))
            if attempts[-1].fall >= _LEARNT:
                break
        best = max(attempts, key=lambda one: one.fall)
        best.moved = set().union(*(one.moved for one in attempts))
        return best

    def _train(self, n_updates: int, lr: float, *, most: int | None = None) -> _Watch:
        x, y = (take_items(part, slice(most), self.n_items) for part in (self._x, self._y))
        step = self.make_step()
        parameters = parameters_of(step.model, step.loss_func)
        step.optimizer = optimizer = Adam([p for p in parameters if p.requires_grad], lr=lr)
        run = Run(step, self.dls)
        watch = _Watch(target_fall=_LEARNT if n_updates > 1 else math.inf)
        restored = [callback for callback in self._of_step if not is_fastai_style(callback)]
        with restore_after(run.model, optimizer, self.dls, run.step.loss_func, *restored):
            for parameter in parameters:
                parameter.grad = None
            with _see_first_layer(run.model, watch):
                Loop(run, [watch, *self._of_step], train=[(x, y)] * n_updates).fit()
        return watch


class _Watch(Callback):
    """Notes the losses and the gradients of a trial.

    Attributes:
        losses: the loss of each update, before it.
        first: predictions, targets and the loss function of the first batch.
        layer: the first layer with weights; None if there is none.
        absent, broken: the names of parameters without a gradient, and with one that is not finite, in the first batch.
        moved: the names of parameters whose gradient was ever other than 0.
        n_parameters: how many parameters learn.
    """

    order = -2001  # before everything that draws random numbers

    def __init__(self, target_fall: float) -> None:
        self.target_fall = target_fall
        self.losses: list[float] = []
        self.first: tuple[Any, Any, LossFunction] | None = None
        self.layer: FirstLayer | None = None
        self.absent: list[str] = []
        self.broken: list[str] = []
        self.moved: set[str] = set()
        self.learning: dict[str, Tensor] = {}

    @property
    def fall(self) -> float:
        """The share of the first loss by which it has fallen. Minus infinity if it is not finite any more."""
        first, finite = self.losses[0], [loss for loss in self.losses if math.isfinite(loss)]
        if not finite:
            return -math.inf
        return (first - min(finite)) / abs(first) if first else 1.0

    def before_batch(self, run: Run) -> None:
        torch.manual_seed(0)

    def after_loss(self, run: Run) -> None:
        if self.first is None:
            pred, y = map_tensors(lambda t: t.detach().clone(), (run.pred, run.y))
            self.first = pred, y, run.step.loss_func

    def before_step(self, run: Run) -> None:
        if not self.learning:
            self.learning = {name: p for name, p in _list_parameters(run) if p.requires_grad}
            self.absent = [name for name, p in self.learning.items() if p.grad is None]
            self.broken = [name for name, g in self._gradients() if not bool(g.isfinite().all())]
        self.moved |= {name for name, g in self._gradients() if name not in self.moved and bool(g.any())}

    def after_batch(self, run: Run) -> None:
        if run.loss is not None:
            self.losses.append(float(run.loss.detach()))
        if self.losses and self.fall >= self.target_fall:
            raise CancelFit

    def _gradients(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, p.grad) for name, p in self.learning.items() if p.grad is not None)


def find_input_problems(trial: Trial) -> Iterator[Finding]:
    """Finds inputs of the first layer that are far from the mean 0 and the spread 1 that weights are made for."""
    layer = trial.start.layer
    if layer is None:
        raise NotCheckedError("no layer of the model shows its inputs")
    if layer.is_norm or math.isnan(layer.mean):
        return
    size = math.hypot(layer.mean, layer.std)
    values = {"layer": layer.name, "mean": layer.mean, "std": layer.std, "largest": layer.largest}
    what = f"Layer {layer.name!r} receives numbers with mean {layer.mean:.3g} and standard deviation {layer.std:.3g}"
    limit = _LARGEST_IMAGES if len(layer.shape) == 4 else _LARGEST
    if size > limit:
        is_twice = len(layer.shape) == 4 and size < 2 * _LARGEST_IMAGES
        text = f"{what}, far from 0 and 1.{' The images look as if they were normalised twice.' if is_twice else ''}"
        advice = "Scale the inputs: images with `batch_tfms=Normalize()`, columns by their mean and deviation."
        yield Finding("inputs", "warning", text, advice, values)
    elif layer.std < _SMALLEST:
        text = f"{what}, so all inputs look nearly the same to it."
        advice = "Check whether the inputs are scaled twice, such as divided by 255 again; then normalise them."
        yield Finding("inputs", "warning", text, advice, values)


_LARGEST, _LARGEST_IMAGES, _SMALLEST = 20.0, 4.0, 0.01


def find_loss_problems(trial: Trial) -> Iterator[Finding]:
    """Finds a loss that is far above the loss of the same answer for all items."""
    if trial.start.first is None or not trial.start.losses:
        raise NotCheckedError("a callback skipped the batch")
    pred, y, loss_func = trial.start.first
    loss, guess, how = trial.start.losses[0], *_guess(loss_func, pred, y)
    values = {"loss": loss, "guess": guess}
    if how == "classes" and loss > 3 * guess:
        n_classes = pred.shape[1] if pred.ndim > 1 else 1
        n = f", which is ln({n_classes})" if math.isclose(guess, math.log(n_classes), rel_tol=1e-3) else ""
        yield Finding(
            "initial loss",
            "warning",
            f"The loss starts at {loss:.3g}. The same probability for all classes gives {guess:.3g}{n}.",
            "Look at the scale of the inputs and at how the last layer's weights are made. If the model was trained "
            "before, check that its classes are in this order.",
            values,
        )
    elif how == "numbers" and loss > 10 * guess > 0:
        yield Finding(
            "initial loss",
            "warning" if loss > 100 * guess else "note",
            f"The loss starts at {loss:.3g}. Always predicting the mean of the targets gives {guess:.3g}.",
            "Scale the targets to mean 0 and standard deviation 1, or set the last layer's bias to their mean.",
            values,
        )


def _guess(loss_func: LossFunction, pred: Any, y: Any) -> tuple[float, str]:
    """Returns the loss of one answer for all items, and whether it is about "classes" or "numbers"."""
    with isolate_rng(), isolate_loss(loss_func), torch.no_grad():
        with LossTerms(unreduced=True) as seen:
            loss_func(pred, y)
        names = {term.name for term in seen.calls}
        if not isinstance(pred, Tensor) or not names or not pred.numel() or pred.ndim < 1:
            raise NotCheckedError("the loss is not one whose value for a guess is known")
        if names <= _CLASS_LOSSES:
            return float(loss_func(torch.zeros_like(pred), y)), "classes"
        if names <= _NUMBER_LOSSES and isinstance(y, Tensor) and y.numel() == pred.numel() and len(y) == len(pred):
            same = y.float().mean(0, keepdim=True).expand_as(y).reshape(pred.shape).to(pred.dtype)
            return float(loss_func(same, y)), "numbers"
    raise NotCheckedError("the loss is not one whose value for a guess is known")


def find_gradient_problems(trial: Trial) -> Iterator[Finding]:
    """Finds parameters that the first batch cannot train."""
    start = trial.start
    if not start.learning:
        raise NotCheckedError("a callback skipped the update")
    n = len(start.learning)
    if start.broken:
        yield Finding(
            "gradients",
            "error",
            f"{portion(len(start.broken), n, 'parameter', 'gets', 'get')} a gradient that is NaN or infinite: "
            f"{enumerate_names(start.broken)}.",
            "Look for a square root or a norm of 0, a division by 0 or a logarithm of 0 in the model and the loss.",
            {"parameters": start.broken},
        )
    if start.absent:
        yield Finding(
            "gradients",
            "warning",
            f"{portion(len(start.absent), n, 'parameter', 'gets', 'get')} no gradient: "
            f"{enumerate_names(start.absent)}.",
            "Check that `forward` uses them, and that no `detach()` or `no_grad()` lies between them and the loss. "
            "Freeze or remove what is meant to rest.",
            {"parameters": start.absent},
        )


def find_overfit(trial: Trial) -> Iterator[Finding]:
    """Finds a model that cannot learn a few items by heart, and weights that never get a gradient meanwhile."""
    first = trial.start.losses[0] if trial.start.losses else math.nan
    if not math.isfinite(first) or trial.start.broken:
        raise NotCheckedError("the loss or its gradients are not finite")
    watch = trial.overfit()
    if watch is None or not watch.losses:
        raise NotCheckedError("the first batch has fewer than two items" if watch is None else "a callback skipped it")
    n = min(_N_OVERFIT, trial.n_items)
    before, after = watch.losses[0], min(loss for loss in watch.losses if math.isfinite(loss))
    values = {"before": before, "after": after, "items": n, "updates": len(watch.losses)}
    fact = f"The loss of the same {plural(n, 'item')} goes from {before:.3g} to {after:.3g} in some updates"
    if watch.fall < _STUCK and abs(before) > 1e-3:
        advice = (
            "Check that the inputs reach the model, that the loss compares the predictions with their own targets, and "
            "that no activation cuts the gradient off."
        )
        yield Finding("one batch", "warning", f"{fact}, so the model does not learn even these.", advice, values)
    elif watch.fall < _LEARNT and abs(before) > 1e-3:
        advice = "Nothing to do if the model is meant to be simple or is already trained; else try a larger one."
        yield Finding("one batch", "note", f"{fact}: it learns, but slowly.", advice, values)
    still = [
        name
        for name, parameter in watch.learning.items()
        if parameter.ndim > 1 and name not in watch.moved | {*watch.absent} | trial.start.moved
    ]
    if still:
        yield Finding(
            "gradients",
            "warning",
            f"{portion(len(still), len(watch.learning), 'parameter', 'gets', 'get')} only gradients of 0: "
            f"{enumerate_names(still)}.",
            "Look for units that are always off, weights that are all 0, or a factor of 0 behind them.",
            {"parameters": still},
        )


def _list_parameters(run: Run) -> Iterator[tuple[str, Tensor]]:
    yield from run.model.named_parameters()
    if isinstance(run.step.loss_func, nn.Module):
        yield from ((f"loss_func.{name}", p) for name, p in run.step.loss_func.named_parameters())


@contextmanager
def _see_first_layer(model: nn.Module, watch: _Watch) -> Iterator[None]:
    """Notes what the first module with weights of its own receives in the first pass."""

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if watch.layer is None and (tensors := tensors_of(inputs)):
                watch.layer = _describe(name, module, tensors[0].detach())

        return hook

    weighted = [(name, m) for name, m in model.named_modules() if any(p.ndim for p in m.parameters(recurse=False))]
    norms = [(name, m) for name, m in model.named_modules() if "Norm" in type(m).__name__]
    hooks = [m.register_forward_pre_hook(note(name)) for name, m in {**dict(weighted), **dict(norms)}.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _describe(name: str, module: nn.Module, x: Tensor) -> FirstLayer:
    is_norm = "Norm" in type(module).__name__
    if not x.is_floating_point() or not x.numel():
        return FirstLayer(name, is_norm, tuple(x.shape))
    std, mean = torch.std_mean(x.float(), correction=0)
    return FirstLayer(name, is_norm, tuple(x.shape), float(mean), float(std), float(x.abs().max()))
