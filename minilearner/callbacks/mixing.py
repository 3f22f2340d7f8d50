"""`MixUp` and `CutMix`: train on mixtures of two items, with the loss mixed in the same proportion.

Labels are never mixed, so any loss will do: the loss is computed for the targets of both items, and the two losses are
averaged item by item. All random draws derive from the loaders' seed and the batch's number. `training.item_losses`
knows how a loss is made of its items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minilearner.checks import check_positive
from minilearner.runtime import derive_seed
from minilearner.training.callback import Callback
from minilearner.training.item_losses import DivisorProbe, LossFunction, measure_loss, mix_losses
from minilearner.training.loss_terms import Divisor
from minilearner.training.run import Run
from minilearner.training.step import describe
from minilearner.tree import Tree, has_items, map_tensors, n_items

__all__ = ["CutMix", "MixUp", "cut_and_paste", "draw_boxes", "interpolate"]


class _Mixing(Callback):
    """The base of both: draws the partners and mixes the loss. Subclasses mix the inputs."""

    part_of_step = True
    ignored_arguments = ()

    def __init__(self, alpha: float):
        check_positive(alpha, "alpha")
        self.alpha = alpha
        self._n_batches = 0
        self._loss: _MixedLoss | None = None

    def mix(self, x: Tree, partner: Tensor, rng: np.random.Generator) -> tuple[Tree, Tensor]:
        """Returns the mixed inputs, and the share of the item itself in each mixture, (batch,), in [0, 1].

        Args:
            x: the inputs of a batch; must stay as they are.
            partner: the index of each item's partner, (batch,).
            rng: the random generator for this batch.
        """
        raise NotImplementedError

    def before_fit(self, run: Run) -> None:
        if isinstance(run.step.loss_func, _MixedLoss):
            raise ValueError(f"{self!r} and another callback would both mix the batches. Give one of them.")
        self._loss = run.step.loss_func = _MixedLoss(run.step.loss_func)

    def before_batch(self, run: Run) -> None:
        if self._loss is None:
            return
        self._loss.other = self._loss.whole = None  # a cancelled batch may have left its values
        if not run.training:
            return
        of_all = run.dls.train.share
        number = self._n_batches * of_all.count + of_all.index
        rng = np.random.default_rng(derive_seed(run.dls.seed, "mix", number))
        self._n_batches += 1
        n, device = n_items(run.x), run.dls.device
        if not has_items(run.y, n):
            raise ValueError(
                f"{self!r} mixes targets with an entry for each item. Received: a batch of {n} items with targets "
                f"{describe(run.y)}. Mix them in the dataset, or train without it."
            )
        partner = torch.from_numpy(rng.permutation(n)).to(device, non_blocking=True)
        run.x, share = self.mix(run.x, partner, rng)
        is_smaller = share < 0.5  # metrics see the target of the item with the larger share
        own = torch.arange(n, device=device)
        larger, smaller = torch.where(is_smaller, partner, own), torch.where(is_smaller, own, partner)
        y = run.y
        run.y = _select(y, larger)
        self._loss.other = self._loss.whole = _select(y, smaller), torch.where(is_smaller, 1 - share, share)

    def after_pred(self, run: Run) -> None:
        if run.part is not None and self._loss is not None:
            self._loss.other = _select(self._loss.whole, run.part)

    def after_loss(self, run: Run) -> None:
        if self._loss is not None:
            self._loss.other = None

    def after_fit(self, run: Run) -> None:
        if self._loss is not None and run.step.loss_func is self._loss:
            run.step.loss_func = self._loss.loss_func
        self._loss = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(alpha={self.alpha})"


class MixUp(_Mixing):
    """Trains on weighted means of two items: ``x = share * x + (1 - share) * x[partner]``, and so for the loss.

    Each item has its own partner in the batch and its own share: the larger part of a draw from Beta(alpha, alpha), so
    between 0.5 and 1. Only training batches are mixed. Weights of a loss, such as class weights, count as they do
    without mixing, for each of the two targets in its share. A loss that calls torch's losses is computed for the whole
    batch at once; one that reduces by hand or picks items may be computed item by item. A loss that needs the whole
    batch, such as a contrastive one, is averaged by the mean share of the batch. Metrics on training batches
    (`recorder.train_metrics`) use the target of the item with the larger share. Batch n is always mixed in the same
    way, whatever else draws random numbers.

    Args:
        alpha: above 0; the larger, the more evenly two items are mixed.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018; shares and default are fastai's.

    Raises:
        ValueError: `alpha` is not above 0. When a run begins: another callback mixes too. In a run: the targets have
            no entry for each item.
        TypeError: in a run: the inputs are not floating-point numbers.
    """

    def __init__(self, alpha: float = 0.4):
        super().__init__(alpha)

    def mix(self, x: Tree, partner: Tensor, rng: np.random.Generator) -> tuple[Tree, Tensor]:
        """Interpolates with the partners; see `_Mixing.mix`."""
        drawn = rng.beta(self.alpha, self.alpha, len(partner))
        share = _to_tensor(np.maximum(drawn, 1 - drawn), partner.device)
        return map_tensors(lambda t: interpolate(t, partner, share), x), share


class CutMix(_Mixing):
    """Trains on images with a pasted rectangle of another image; the loss is divided in proportion to the areas.

    Each image has its own partner in the batch and its own rectangle (fastai draws one per batch). The area of the
    rectangle is a draw from Beta(alpha, alpha), and its centre is uniform. The part outside the image is cut off, and
    the shares of the loss take that into account. Everything else is as in `MixUp`.

    Args:
        alpha: above 0; 1 makes all areas equally likely.

    Source: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", 2019.

    Raises:
        ValueError: `alpha` is not above 0. In a run: another callback mixes too, the inputs are not images, or the
            targets have the size of the images: masks would have to be cut as well.
    """

    def __init__(self, alpha: float = 1.0):
        super().__init__(alpha)

    def before_batch(self, run: Run) -> None:
        if run.training and not (isinstance(run.x, Tensor) and run.x.ndim == 4):
            raise ValueError(
                f"`CutMix` takes images (batch, channels, height, width). Received: {_describe_shape(run.x)}."
            )
        if run.training and isinstance(run.y, Tensor) and run.y.ndim > 2 and run.y.shape[-2:] == run.x.shape[-2:]:
            raise ValueError(f"`CutMix` cannot mix targets of an image's size. Received: {_describe_shape(run.y)}.")
        super().before_batch(run)

    def mix(self, x: Tensor, partner: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Pastes a rectangle of the partner; see `_Mixing.mix`."""
        height, width = x.shape[-2:]
        boxes = draw_boxes(rng.beta(self.alpha, self.alpha, len(x)), height, width, rng)
        top, bottom, left, right = boxes.T
        share = 1 - (bottom - top) * (right - left) / (height * width)
        pasted = cut_and_paste(x, partner, torch.from_numpy(boxes).to(x.device, non_blocking=True))
        return pasted, _to_tensor(share, x.device)


def interpolate(x: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Returns ``share * x + (1 - share) * x[partner]``, with one share for each item of x (batch, ...).

    Raises:
        TypeError: `x` holds no floating-point numbers.
    """
    if not x.is_floating_point():
        raise TypeError(f"`MixUp` mixes floating-point inputs. Received: {x.dtype}.")
    weight = (1 - share).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return torch.lerp(x, x[partner], weight)


def draw_boxes(areas: NDArray[np.float64], height: int, width: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draws a rectangle for each of `areas`, which are fractions of the image in [0, 1], and cuts it off at the border.

    Returns rows (top, bottom, left, right) in pixels; `bottom` and `right` are exclusive.
    """
    edges = []
    for side in (height, width):
        length = np.round(side * np.sqrt(areas)).astype(np.int64)
        start = rng.integers(0, side, len(areas)) - length // 2
        edges += [np.clip(start, 0, side), np.clip(start + length, 0, side)]
    return np.stack(edges, axis=1)


def cut_and_paste(x: Tensor, partner: Tensor, boxes: Tensor) -> Tensor:
    """Returns images (batch, channels, height, width) with their box, a row of `draw_boxes`, taken from the partner.

    The result is a new tensor; `x` stays as it is.
    """
    top, bottom, left, right = (edge.reshape(-1, 1, 1, 1) for edge in boxes.unbind(1))
    rows = torch.arange(x.shape[2], device=x.device).reshape(-1, 1)
    columns = torch.arange(x.shape[3], device=x.device)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    return torch.where(inside, x[partner], x)


class _MixedLoss(nn.Module):
    """Mixes the losses for two targets while `other` is set; otherwise it is the plain loss.

    `other` holds the second targets, and each item's share of its first target. `whole` is `other` for the whole batch,
    while a batch goes through in parts.

    It is a module, so that a loss with a state of its own stays visible.
    """

    def __init__(self, loss_func: LossFunction):
        super().__init__()
        self.loss_func = loss_func
        self.other: tuple[Any, Tensor] | None = None
        self.whole: tuple[Any, Tensor] | None = None

    def forward(self, pred: Any, y: Any) -> Tensor:
        if self.other is None:
            return self.loss_func(pred, y)
        return mix_losses(self.loss_func, pred, y, *self.other)[0]

    def measure(self, pred: Any, y: Any, probe: DivisorProbe | None) -> tuple[Tensor, Divisor | None]:
        """Returns the loss and what it divides by; see `measure_loss`."""
        if self.other is None:
            return measure_loss(self.loss_func, pred, y, probe)
        return mix_losses(self.loss_func, pred, y, *self.other, probe)


def _select(tree: Tree, indices: Tensor | slice) -> Tree:
    return map_tensors(lambda t: t[indices], tree)


def _to_tensor(values: NDArray[np.float64], device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(device, non_blocking=True)


def _describe_shape(tree: Tree) -> str:
    return f"shape {tuple(tree.shape)}" if isinstance(tree, Tensor) else type(tree).__name__
