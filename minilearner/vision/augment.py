"""Whole-batch augmentation on the device: geometry fused into one resampling, and normalisation.

A geometric transform draws, for every picture, an affine map from output to source positions. Neighbouring transforms
compose their maps, so that a picture is resampled once: no blur on blur. Positions are in pixels, counted from the
picture's centre; a map is a (2, 3) matrix over (vertical, horizontal, 1). Positions outside take the nearest border pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from minilearner.data.transforms import BatchTransform

__all__ = ["Flip", "Geometric", "Normalize", "RandomShift", "resample"]

# Up to this side, two small matrix products a picture beat grid_sample on a CPU; their cost grows with the cube.
_SEPARABLE_SIDE = 64


class Geometric(BatchTransform):
    """Moves pixels. Subclasses draw the maps; resampling and fusing happen here."""

    axis_aligned: bool = True
    """Rows stay rows and columns columns: no rotation, no shear."""

    whole: bool = False
    """Every output pixel is exactly one source pixel, so nothing is interpolated."""

    def draw(self, n: int, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Returns one map a picture, (n, 2, 3) on `rng`'s device, for pictures of `size` (height, width)."""
        raise NotImplementedError(f"{type(self).__name__} must define `draw(self, n, size, rng)`.")

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Returns the moved pictures; x: (batch, channels, height, width)."""
        if x.ndim != 4:
            raise ValueError(
                f"{self!r} takes pictures (batch, channels, height, width). Received: x of shape {tuple(x.shape)}."
            )
        maps = self.draw(len(x), (x.shape[2], x.shape[3]), rng)
        return resample(x, maps, axis_aligned=self.axis_aligned, whole=self.whole)

    def merge(self, later: BatchTransform) -> BatchTransform | None:
        """Fuses with any other geometric transform."""
        return _Fused((*_parts(self), *_parts(later))) if isinstance(later, Geometric) else None


@dataclass(frozen=True)
class RandomShift(Geometric):
    """Shifts each picture by its own distance, filled with the nearest border pixel.

    Args:
        fraction: the largest shift as a part of the side, in [0, 1]; each direction uniform in ±fraction.
        p: the probability that a picture is shifted at all.
        whole_pixels: every whole number of pixels within ±fraction with the same probability; exact and faster, where
            otherwise shifts are continuous and pictures bilinearly interpolated.

    Raises:
        ValueError: `fraction` or `p` is outside [0, 1], or, at the first batch, a positive `fraction` with
            `whole_pixels` is less than one pixel in both directions.
    """

    fraction: float = 0.1
    p: float = 1.0
    whole_pixels: bool = False

    def __post_init__(self) -> None:
        _check_fraction("fraction", self.fraction)
        _check_fraction("p", self.p)

    @property
    def whole(self) -> bool:  # type: ignore[override]
        """As `whole_pixels`."""
        return self.whole_pixels

    def draw(self, n: int, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Draws two numbers a picture, and a third where `p` is less than 1."""
        distances = torch.rand(n, 2, generator=rng, device=rng.device)
        furthest = torch.tensor([side * self.fraction for side in size], device=rng.device)
        if self.whole_pixels:
            furthest = self._whole_furthest(size, furthest)
            distances = (distances * (2 * furthest + 1)).floor_() - furthest
        else:
            distances = (distances * 2 - 1) * furthest
        if self.p < 1:
            distances *= torch.rand(n, 1, generator=rng, device=rng.device) < self.p
        maps = torch.eye(2, 3, device=rng.device).repeat(n, 1, 1)
        maps[:, :, 2] = distances
        return maps

    def _whole_furthest(self, size: tuple[int, int], furthest: Tensor) -> Tensor:
        # 0.1 * 30 must be 3 pixels, whatever the last bit of the product says.
        whole = (furthest + 1e-4).floor()
        if self.fraction > 0 and not whole.any():
            raise ValueError(
                f"`fraction` is less than one whole pixel of a {size[0]} x {size[1]} picture, so nothing would move. "
                f"Received: fraction={self.fraction}. Raise it, or leave out whole_pixels=True."
            )
        return whole


@dataclass(frozen=True)
class Flip(Geometric):
    """Mirrors each picture left to right with probability `p`, its own draw. Alone it is exact: ``x.flip(-1)``.

    Raises:
        ValueError: `p` is outside [0, 1].
    """

    p: float = 0.5
    whole = True

    def __post_init__(self) -> None:
        _check_fraction("p", self.p)

    def draw(self, n: int, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Draws one number a picture."""
        maps = torch.eye(2, 3, device=rng.device).repeat(n, 1, 1)
        maps[:, 1, 1] -= 2 * (torch.rand(n, generator=rng, device=rng.device) < self.p).float()
        return maps


class _Fused(Geometric):
    """Several geometric transforms as one resampling."""

    def __init__(self, parts: tuple[Geometric, ...]) -> None:
        self.parts = parts
        self.axis_aligned = all(part.axis_aligned for part in parts)
        self.whole = all(part.whole for part in parts)

    def draw(self, n: int, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        maps = self.parts[0].draw(n, size, rng)
        for part in self.parts[1:]:
            later = part.draw(n, size, rng)
            # Output -> source runs against the order of the parts: the earlier map is applied to the later's result.
            # Written out, since a matrix product may run in reduced precision.
            offset = maps[:, :, 2]
            maps = maps[:, :, 0, None] * later[:, None, 0] + maps[:, :, 1, None] * later[:, None, 1]
            maps[:, :, 2] += offset
        return maps

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))


def _parts(transform: Geometric) -> tuple[Geometric, ...]:
    return transform.parts if isinstance(transform, _Fused) else (transform,)


def resample(x: Tensor, maps: Tensor, *, axis_aligned: bool = False, whole: bool = False) -> Tensor:
    """Returns pictures whose pixels come from where `maps` says, bilinear, the border repeated outside.

    x: (batch, channels, height, width). maps: (batch, 2, 3), see the module's text. The flags promise what the maps
    are, and only choose a faster way to the same picture; `whole` is bit-exact copying.
    """
    maps = maps.to(x.device, non_blocking=True)
    if axis_aligned and whole:
        return _copied(x, *_sources(x, maps))
    if axis_aligned and x.device.type == "cpu" and max(x.shape[2:]) <= _SEPARABLE_SIDE:
        return _separable(x, *_sources(x, maps))
    return _grid_sampled(x, maps)


def _sources(x: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Returns source positions of the rows (batch, height) and columns (batch, width), clamped to the picture."""
    rows, columns = (
        (torch.arange(n, device=x.device) - (n - 1) / 2) * maps[:, axis, axis, None]
        + (maps[:, axis, 2, None] + (n - 1) / 2)
        for axis, n in enumerate(x.shape[2:])
    )
    return rows.clamp_(0, x.shape[2] - 1), columns.clamp_(0, x.shape[3] - 1)


def _copied(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    b, c, h, w = x.shape
    first_row = torch.arange(0, b * c * h, h, device=x.device).view(b, c, 1)
    chosen = (first_row + rows.round_().long()[:, None]).view(-1)
    moved = x.reshape(-1, w).index_select(0, chosen).view(b, c, h, w)
    return moved.gather(3, columns.round_().long()[:, None, None].expand(b, c, h, w))


def _separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    # (height, height) @ (height, width) @ (width, width) a picture. Measured against two gathers and a lerp and against
    # grid_sample in tests/benchmarks/pipeline.py.
    vertical = _hat_weights(rows).to(x.dtype)[:, None]
    horizontal = _hat_weights(columns).to(x.dtype)[:, None]
    return vertical @ x @ horizontal.transpose(2, 3)


def _hat_weights(sources: Tensor) -> Tensor:
    """Returns the linear interpolation weights (batch, output position, source position)."""
    n = sources.shape[1]
    distance = sources[:, :, None] - torch.arange(n, device=sources.device)
    return distance.abs_().neg_().add_(1).relu_()


def _grid_sampled(x: Tensor, maps: Tensor) -> Tensor:
    # affine_grid counts (horizontal, vertical), with half a side as its unit.
    half = torch.tensor([x.shape[3] / 2, x.shape[2] / 2], device=x.device)
    maps = torch.cat([maps[:, :, :2].flip(2), maps[:, :, 2:]], dim=2).flip(1)
    unit = torch.cat([half, half.new_ones(1)])
    theta = (maps * unit / half[:, None]).to(x.dtype)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


class Normalize(BatchTransform):
    """Subtracts a mean and divides by a standard deviation, per channel, in training and validation.

    Made by `from_stats`. `decode` undoes it.
    """

    train_only = False

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean, std

    @classmethod
    def from_stats(cls, mean: float | Sequence[float], std: float | Sequence[float]) -> Normalize:
        """Returns the transform for statistics of inputs in [0, 1]: a number, or one number a channel.

        >>> Normalize.from_stats([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])

        Raises:
            ValueError: the lengths differ, or a standard deviation is not positive.
        """
        means, stds = (torch.as_tensor(stats, dtype=torch.float32).reshape(-1) for stats in (mean, std))
        if len(means) != len(stds):
            raise ValueError(f"`mean` and `std` must be of one length. Received: mean={mean}, std={std}.")
        if not bool((stds > 0).all()):
            raise ValueError(f"`std` must be positive. Received: std={std}.")
        return cls(means, stds)

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Returns (x - mean) / std, the channels in dimension 1."""
        mean, std = self._stats_for(x)
        return (x - mean).div_(std)

    def decode(self, x: Tensor) -> Tensor:
        """Returns x * std + mean."""
        mean, std = self._stats_for(x)
        return (x * std).add_(mean)

    def _stats_for(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n = len(self.mean)
        if n > 1 and (x.ndim < 2 or x.shape[1] != n):
            raise ValueError(f"{self!r} has {n} channels. Received: x of shape {tuple(x.shape)}.")
        if self.mean.device != x.device:  # once: the statistics then stay where the batches are
            self.mean, self.std = self.mean.to(x.device), self.std.to(x.device)
        shape = (n,) + (1,) * (x.ndim - 2) if x.ndim > 1 else (n,)
        return self.mean.view(shape), self.std.view(shape)

    def __repr__(self) -> str:
        mean, std = ([round(value, 6) for value in stats.tolist()] for stats in (self.mean, self.std))
        return f"Normalize(mean={mean}, std={std})"


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be between 0 and 1. Received: {name}={value}.")
