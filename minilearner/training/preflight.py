"""Finds what cannot work before training starts, and says it in the user's terms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minilearner.data.targets import Target
from minilearner.errors import DataError
from minilearner.runtime import isolated_rng
from minilearner.training.inference import evaluating
from minilearner.training.step import LossFunction, TrainStep
from minilearner.tree import Tree, map_tensors

__all__ = ["check_count", "check_first_batch", "default_loss", "describe"]


def check_count(n: Any, name: str) -> None:
    """Raises where `n`, the argument called `name`, is no integer or below 1.

    Raises:
        TypeError, ValueError: as said.
    """
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"`{name}` must be an integer. Received: {name}={n!r}.")
    if n < 1:
        raise ValueError(f"`{name}` must be at least 1. Received: {name}={n}.")


def default_loss(target: Target | None) -> LossFunction:
    """Returns the loss that belongs to a kind of target.

    Raises:
        ValueError: the kind of target is not known.
    """
    if target is None:
        raise ValueError(
            "`loss_func` is needed, since the loaders do not say what their targets are. "
            "Give one, or tell `DataLoaders` the `vocab` or the `target`."
        )
    return target.loss_func


def check_first_batch(step: TrainStep, x: Tree, y: Any, *, n_classes: int | None = None) -> None:
    """Sends two items through model and loss, in evaluation mode and without a trace.

    Args:
        n_classes: how many classes the whole training set has, where that is known.

    Raises:
        ValueError: every parameter is frozen.
        DataError: the inputs are not finite, or model and loss cannot work with this batch. Names the stage, the shapes
            and the likely reason; the original error is its cause.
    """
    if not any(parameter.requires_grad for parameter in step.model.parameters()):
        raise ValueError("every parameter of the model is frozen, so there is nothing to train. Unfreeze some.")
    _check_finite(x)
    labels = y
    x, y = map_tensors(lambda t: t[:2] if t.ndim else t, (x, y))
    with isolated_rng(), evaluating(step.model), torch.no_grad():
        try:
            pred = step.predict(x)
        except Exception as error:
            raise DataError(
                f"the model cannot take a batch of inputs {describe(x)}: {error} "
                "Check the number of input channels, the size of the images and the order of the axes "
                "(batch, channels, height, width)."
            ) from error
        _check_labels(pred, labels, n_classes)
        try:
            loss = step.compute_loss(pred, y)
        except Exception as error:
            raise DataError(
                f"the loss cannot compare predictions {describe(pred)} with targets {describe(y)}: {error}"
            ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise DataError(
            f"`loss_func` must return one number, the mean over the batch. Received: {describe(loss)} for predictions "
            f"{describe(pred)} and targets {describe(y)}."
        )


def _check_finite(x: Tree) -> None:
    def check(t: Tensor) -> Tensor:
        if t.is_floating_point() and not bool(torch.isfinite(t).all()):
            bad = (~torch.isfinite(t)).reshape(len(t), -1).any(1).nonzero()[0].item() if t.ndim else 0
            raise DataError(f"the inputs hold NaN or infinite values, first in item {bad} of the first batch.")
        return t

    map_tensors(check, x)


def _check_labels(pred: Any, y: Any, n_classes: int | None) -> None:
    """Labels are class numbers where targets are integers without the dimension of classes."""
    if not (isinstance(pred, Tensor) and isinstance(y, Tensor)) or y.is_floating_point() or pred.ndim != y.ndim + 1:
        return
    n_outputs = pred.shape[1]
    low, high = (int(y.min()), int(y.max())) if y.numel() else (0, 0)
    high = max(high, (n_classes or 1) - 1)
    if low < 0 or high >= n_outputs:
        raise DataError(
            f"labels must lie in 0 to {n_outputs - 1}, since the model has {n_outputs} outputs. "
            f"Received: labels from {low} to {high}. Give the model one output for each class."
        )


def describe(tree: Tree) -> str:
    """Returns shape and dtype of every tensor, such as `(64, 1, 32, 32) float32`."""
    if isinstance(tree, Tensor):
        return f"{tuple(tree.shape)} {str(tree.dtype).removeprefix('torch.')}"
    if isinstance(tree, (tuple, list)):
        return "(" + ", ".join(map(describe, tree)) + ")"
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key!r}: {describe(value)}" for key, value in tree.items()) + "}"
    return type(tree).__name__
