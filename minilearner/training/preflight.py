"""Find out before training starts what cannot work, and say it in the user's terms."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sized
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from minilearner.data.dataloaders import DataLoaders
from minilearner.data.loader import Loader
from minilearner.data.targets import Target
from minilearner.errors import DataError
from minilearner.metrics import Metric
from minilearner.models.restore import evaluation_mode, restore_buffers
from minilearner.runtime import isolate_rng
from minilearner.training.metric_trial import try_metrics
from minilearner.training.step import LossFunction, Step, describe, loss_error
from minilearner.tree import Tree, map_tensors

__all__ = ["Preflight", "check_data", "check_model", "check_parts", "default_loss"]


def check_parts(model: Any, loss_func: Any) -> None:
    """Raises if a learner's part is a class or a function in place of the object that it makes.

    Raises:
        TypeError: as said.
    """
    check_model(model)
    if isinstance(loss_func, type):
        raise TypeError(
            f"`loss_func` must be a function or an object, not a class. Received: {loss_func.__name__}. Write "
            f"{loss_func.__name__}()."
        )


def check_model(model: Any) -> None:
    """Raises a TypeError if `model` is not a module, but for example a class."""
    if not isinstance(model, nn.Module):
        name = getattr(model, "__name__", None)
        advice = f" Received: {name}, which makes one: write {name}(...)." if callable(model) and name else ""
        raise TypeError(f"`model` must be a torch module.{advice or f' Received: {type(model).__name__}.'}")


def default_loss(target: Target | None) -> LossFunction:
    """Returns the default loss for a kind of target.

    Raises:
        ValueError: the kind of target is not known.
    """
    if target is None:
        raise ValueError(
            "`loss_func` is needed, since the loaders do not say what their targets are. "
            "Give one, or give `DataLoaders` the `vocab` or the `target`."
        )
    return target.loss_func


class Preflight:
    """Runs `check_data` once for each combination of model, loss and data, because it costs a few batches."""

    def __init__(self) -> None:
        self._passed: list[Any] = []

    def check(self, step: Step, dls: DataLoaders, metrics: Mapping[str, Metric]) -> None:
        """Runs `check_data`, unless exactly these parts passed it the last time."""
        parts = [*step.model.parameters(), step.loss_func, dls, *metrics.values()]
        if [id(part) for part in self._passed] != [id(part) for part in parts]:
            check_data(step, dls, metrics)
            self._passed = parts


def check_data(step: Step, dls: DataLoaders, metrics: Mapping[str, Metric]) -> None:
    """Sends two items through model and loss, in evaluation mode and without a trace, and checks the data at hand.

    Checks the first batch of each loader and, if that needs no reading (tensors and lists in memory), all data: inputs
    must be finite, and labels must be numbers of classes that the model has. Metrics are tried on the first validation
    batch; see `try_metrics`.

    Raises:
        ValueError: every parameter is frozen, or batch norm would meet a single value.
        DataError: this model and loss cannot train on the data. The message names the stage, the shapes and the likely
            reason; the original error is its cause.
    """
    if not any(parameter.requires_grad for parameter in step.model.parameters()):
        raise ValueError("every parameter of the model is frozen, so there is nothing to train. Unfreeze some.")
    with ExitStack() as kept:
        for module in (step.model, step.loss_func):
            if isinstance(module, nn.Module):
                kept.enter_context(restore_buffers(module))
        _check_sets(step, dls, metrics)


def _check_sets(step: Step, dls: DataLoaders, metrics: Mapping[str, Metric]) -> None:
    for split in ("training", "validation")[: 1 if dls.valid is None else 2]:
        ds_idx = int(split == "validation")
        x, y = dls.one_batch(ds_idx)
        _check_finite(x, f"the first {split} batch")
        n_outputs = _check_pair(step, x, y, split, n_classes=dls.c)
        if ds_idx:
            _check_metrics(step, x, y, metrics, is_all=len(dls.loader(ds_idx)) == 1)
        else:
            _check_lone_item(step, x, dls.train)
        for number, (x, y) in enumerate(dls.loader(ds_idx).data_in_memory()):
            where = f"the {split} data" + (f", batch {number}" if number else "")
            _check_finite(x, where)
            _check_labels(n_outputs, y, where)


def _check_pair(step: Step, x: Tree, y: Any, split: str, *, n_classes: int | None) -> int | None:
    """Returns the number of classes that the model distinguishes, or None if the targets are not class numbers."""
    two_x, two_y = map_tensors(lambda t: t[:2] if t.ndim else t, (x, y))
    with isolate_rng(), evaluation_mode(step.model), torch.no_grad():
        try:
            pred = step.predict(two_x)
        except Exception as error:
            raise DataError(
                f"the model cannot take a {split} batch of inputs {describe(x)}: {error} {_advice(x)}"
            ) from error
        n_outputs = _n_classes(pred, y)
        _check_labels(n_outputs, y, f"the first {split} batch", n_classes)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="Using a target size")  # a broadcast that nobody wants
                loss = step.compute_loss(pred, two_y)
        except DataError:
            raise
        except Exception as error:
            raise loss_error(pred, two_y, error) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise DataError(
            f"`loss_func` must return one number, the mean over the batch. Received: {describe(loss)} for predictions "
            f"{describe(pred)} and targets {describe(two_y)}."
        )
    return n_outputs


def _check_metrics(step: Step, x: Tree, y: Any, metrics: Mapping[str, Metric], *, is_all: bool) -> None:
    if not metrics:
        return
    with isolate_rng(), evaluation_mode(step.model), torch.no_grad():
        pred = step.predict(x)
    try_metrics(metrics, pred, y, is_all=is_all)


def _check_lone_item(step: Step, x: Tree, loader: Loader) -> None:
    """Raises if the last training batch is a single item that gives a batch norm one value a channel."""
    if _last_batch_size(loader) != 1:
        return
    starved: list[str] = []
    with ExitStack() as hooks, isolate_rng(), evaluation_mode(step.model), torch.no_grad():
        for name, norm in step.model.named_modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm) and _takes_statistics(norm):
                hook = norm.register_forward_pre_hook(
                    lambda norm, args, name=name: starved.append(name) if args[0].numel() == args[0].shape[1] else None
                )
                hooks.callback(hook.remove)
        step.predict(map_tensors(lambda t: t[:1] if t.ndim else t, x))
    if starved:
        raise ValueError(
            f"the last training batch is a single item, and batch norm ({starved[0]!r} in the model) needs more than "
            "one value a channel. Give another `bs`, or leave the short batch out: drop_last=True."
        )


def _takes_statistics(norm: nn.Module) -> bool:
    """Whether a norm computes statistics in training. `BnFreeze` keeps frozen norms in evaluation mode."""
    return all(parameter.requires_grad for parameter in norm.parameters())


def _last_batch_size(loader: Loader) -> int | None:
    """Returns the size of the last batch of a pass, or None if it is not known.

    With several processes, returns the smallest of their sizes. A process without an item does not count, because
    another item stands in.
    """
    source = getattr(loader, "source", loader)
    if isinstance(source, DataLoader):
        bs, n = source.batch_size, len(source.sampler) if isinstance(source.sampler, Sized) else None
    else:
        bs, n = getattr(loader, "bs", None), loader.n_items
    if bs is None or n is None:
        return None
    left = n - (len(loader) - 1) * bs * loader.share.count
    return min(bs, max(1, left // loader.share.count))


def _advice(x: Tree) -> str:
    if isinstance(x, Tensor) and x.dtype != torch.float32:
        return "Models compute in float32: convert the inputs with `x.float()` when you make them."
    return (
        "Check the number of input channels, the size of the images and the order of the axes "
        "(batch, channels, height, width)."
    )


def _check_finite(x: Tree, where: str) -> None:
    def check(t: Tensor) -> Tensor:
        if t.is_floating_point() and not bool(torch.isfinite(t).all()):
            bad = int((~torch.isfinite(t)).reshape(len(t), -1).any(1).nonzero()[0]) if t.ndim else 0
            raise DataError(f"the inputs hold NaN or infinite values: first in item {bad} of {where}.")
        return t

    map_tensors(check, x)


def _n_classes(pred: Any, y: Any) -> int | None:
    """Targets are class numbers if they are integers and lack the dimension of classes."""
    if not (isinstance(pred, Tensor) and isinstance(y, Tensor)) or y.is_floating_point() or pred.ndim != y.ndim + 1:
        return None
    if pred.shape[2:] != y.shape[1:]:  # the dimension of classes is elsewhere, as in (batch, positions, classes)
        return None
    return int(pred.shape[1])


def _check_labels(n_outputs: int | None, y: Any, where: str, n_classes: int | None = None) -> None:
    if n_outputs is None or not isinstance(y, Tensor) or not y.numel():
        return
    low, high = int(y.min()), max(int(y.max()), (n_classes or 1) - 1)
    if low < 0 or high >= n_outputs:
        raise DataError(
            f"labels must lie in 0 to {n_outputs - 1}, since the model has {n_outputs} outputs. Received, in {where}: "
            f"labels from {low} to {high}. Give the model one output for each class."
        )
