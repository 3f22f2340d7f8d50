"""`Normalize`, and the statistics of well-known data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor

from minilearner.checks import check_number, check_positive
from minilearner.data.batch_transforms import PixelChange, PixelTransform
from minilearner.keywords import suggest_keywords

__all__ = ["Normalize", "cifar_stats", "imagenet_stats", "mnist_stats"]

imagenet_stats = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""Means and standard deviations of red, green and blue, for ``Normalize.from_stats(*imagenet_stats)``."""

cifar_stats = ([0.491, 0.482, 0.447], [0.247, 0.243, 0.261])
"""The statistics of CIFAR-10, in the form of `imagenet_stats`."""

mnist_stats = ([0.131], [0.308])
"""The statistics of MNIST, for one grey channel."""


Statistics: TypeAlias = "float | Sequence[float] | np.ndarray[Any, Any] | Tensor"
"""One number, or one for each channel."""


_N_MEASURED = 64  # images, or a batch if that has more
_LEAST_STD = 1e-7  # fastai's: a channel that never varies must not divide by zero


@suggest_keywords
class Normalize(PixelTransform):
    """Subtracts a mean and divides by a standard deviation, per channel, in training and validation.

    Create it with `from_stats`. Without statistics, it takes those of one batch of the training set when the loaders
    are built: at least 64 images, always the same, without augmentation. (fastai takes an augmented batch.) `decode`
    undoes it. It runs after lighting and before `RandomErasing`, wherever it is in the list of transforms.

    Args:
        mean: as for `from_stats`; None takes the batch's.
        std: the same.

    Raises:
        TypeError, ValueError: as `from_stats`, or only one of them is given.
    """

    train_only = False
    order: ClassVar[float] = 99

    def __init__(self, mean: Statistics | None = None, std: Statistics | None = None) -> None:
        if (mean is None) != (std is None):
            raise ValueError(f"Give `mean` and `std`, or neither. Received: mean={mean}, std={std}.")
        self.mean, self.std = (
            torch.empty(0) if stats is None else _as_channels(stats, name)
            for name, stats in (("mean", mean), ("std", std))
        )
        for value in self.mean.tolist():
            check_number(value, "mean")
        for value in self.std.tolist():
            check_positive(value, "std")
        if len(self.mean) != len(self.std):
            raise ValueError(f"`mean` and `std` must have the same length. Received: mean={mean}, std={std}.")

    @classmethod
    def from_stats(cls, mean: Statistics, std: Statistics) -> Normalize:
        """Returns the transform for statistics of inputs in [0, 1].

        >>> Normalize.from_stats([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])

        Args:
            mean: one number, or one per channel, as a list, a tuple, an array or a tensor, which may have the shape
                (1, channels, 1, 1). Channels are dimension 1 of a batch.
            std: the same for standard deviations. Both move to the device of the batches.

        Raises:
            TypeError: they are no numbers.
            ValueError: the lengths differ, a number is not finite, or a standard deviation is not positive.
        """
        return cls(mean, std)

    @property
    def needs_setup(self) -> bool:
        """Whether it has no statistics yet."""
        return not len(self.mean)

    def set_up(self, loader: Any) -> Normalize:
        """Returns the transform with the statistics of one batch."""
        x = loader.sample(max(_N_MEASURED, getattr(loader, "bs", 0)), 0).first_batch()[0]
        if not isinstance(x, Tensor) or x.ndim < 2:
            raise ValueError(f"Normalize() measures one input with channels. Received: a {type(x).__name__}.")
        others = [dim for dim in range(x.ndim) if dim != 1]
        return Normalize(x.mean(others), x.std(others) + _LEAST_STD)

    def __call__(self, x: Tensor, rng: torch.Generator | None = None, *, split_idx: int | None = None) -> Tensor:
        """Returns (x - mean) / std, with channels in dimension 1."""
        mean, std = self._stats_for(x)
        return (x - mean).div_(std)

    def drawn(self, n: int, rng: torch.Generator) -> PixelChange:
        """Draws nothing."""

        def normalize(x: Tensor, _: slice) -> None:
            mean, std = self._stats_for(x)
            x.sub_(mean).div_(std)

        return normalize

    def decode(self, x: Tensor) -> Tensor:
        """Returns x * std + mean."""
        mean, std = self._stats_for(x)
        return (x * std).add_(mean)

    def _stats_for(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n = len(self.mean)
        if not n:
            raise ValueError("Normalize() has no statistics before loaders are built. Give some: Normalize.from_stats.")
        if n > 1 and (x.ndim < 2 or x.shape[1] != n):
            raise ValueError(f"{self!r} has {n} channels. Received: x of shape {tuple(x.shape)}.")
        if self.mean.device != x.device:  # happens once: the statistics then stay on the batches' device
            self.mean, self.std = self.mean.to(x.device), self.std.to(x.device)
        shape = (n,) + (1,) * (x.ndim - 2) if x.ndim > 1 else (n,)
        return self.mean.view(shape), self.std.view(shape)

    def __repr__(self) -> str:
        if self.needs_setup:
            return "Normalize()"
        mean, std = ([round(value, 6) for value in stats.tolist()] for stats in (self.mean, self.std))
        return f"Normalize(mean={mean}, std={std})"


def _as_channels(stats: Statistics, name: str) -> Tensor:
    """Returns statistics as float32 (channels,)."""
    try:
        numbers = stats if isinstance(stats, Tensor) else np.asarray(stats)
    except ValueError:  # rows of different lengths
        numbers = None
    if numbers is None or (isinstance(numbers, np.ndarray) and numbers.dtype.kind not in "iuf"):
        raise TypeError(f"`{name}` must be a number, or numbers for the channels. Received: {name}={stats!r:.80}.")
    return torch.as_tensor(numbers).detach().to(torch.float32).reshape(-1)
