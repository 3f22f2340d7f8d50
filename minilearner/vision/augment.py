"""Whole-batch augmentation on the device: geometry fused into one resampling, and normalisation.

A geometric transform draws, for every picture, an affine map from output to source positions. Neighbouring transforms
compose their maps, so that a picture is resampled once: no blur on blur. Positions are in pixels, counted from the
picture's centre; a map is a (2, 3) matrix over (vertical, horizontal, 1). Outside lies the nearest border pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from minilearner.data.transforms import BatchTransform

__all__ = ["Flip", "Geometric", "Normalize", "RandomShift", "resample"]

# Up to this width a small matrix product a picture beats grid_sample on a CPU; its cost grows with the width squared.
_SEPARABLE_SIDE = 48


class Geometric(BatchTransform):
    """Moves pixels. Subclasses draw the maps; resampling and fusing happen here."""

    axis_aligned: bool = True
    """Rows stay rows and columns columns: no rotation, no shear."""

    whole: bool = False
    """Every output pixel is exactly one source pixel, so nothing is interpolated."""

    def draw_onto(self, maps: Tensor, size: tuple[int, int], rng: torch.Generator) -> None:
        """Draws one map a picture and composes it, in place, onto those of the transforms before.

        maps: (batch, 2, 3) on `rng`'s device; a map M becomes M · D for the drawn D, both seen as 3 x 3 matrices, since
        output-to-source runs against the order of the transforms. size: (height, width) of the pictures.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `draw_onto(self, maps, size, rng)`.")

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Returns the moved pictures; x: (batch, channels, height, width)."""
        if x.ndim != 4:
            raise ValueError(
                f"{self!r} takes pictures (batch, channels, height, width). Received: x of shape {tuple(x.shape)}."
            )
        maps = torch.eye(2, 3, device=rng.device).expand(len(x), 2, 3).contiguous()
        self.draw_onto(maps, (x.shape[2], x.shape[3]), rng)
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

    def draw_onto(self, maps: Tensor, size: tuple[int, int], rng: torch.Generator) -> None:
        """Draws two numbers a picture, and a third where `p` is less than 1."""
        n, device = len(maps), maps.device
        distances = torch.rand(n, 2, generator=rng, device=device)
        if self.whole_pixels:
            furthest = torch.tensor(self._whole_furthest(size), device=device)
            distances = distances.mul_(2 * furthest + 1).floor_().sub_(furthest)
        else:
            furthest = torch.tensor([side * self.fraction for side in size], device=device)
            distances.mul_(2).sub_(1).mul_(furthest)
        if self.p < 1:
            distances.mul_(torch.rand(n, 1, generator=rng, device=device) < self.p)
        # Written out, here and in `_sources`: a matrix product may run in reduced precision.
        maps[:, :, 2].add_((maps[:, :, :2] * distances[:, None]).sum(2))

    def _whole_furthest(self, size: tuple[int, int]) -> list[float]:
        # 0.1 * 30 must be 3 pixels, whatever the last bit of the product says.
        furthest = [float(int(side * self.fraction + 1e-6)) for side in size]
        if self.fraction > 0 and not any(furthest):
            raise ValueError(
                f"`fraction` is less than one whole pixel of a {size[0]} x {size[1]} picture, so nothing would move. "
                f"Received: fraction={self.fraction}. Raise it, or leave out whole_pixels=True."
            )
        return furthest


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

    def draw_onto(self, maps: Tensor, size: tuple[int, int], rng: torch.Generator) -> None:
        """Draws one number a picture."""
        sign = (torch.rand(len(maps), 1, generator=rng, device=maps.device) < self.p).float().mul_(-2).add_(1)
        maps[:, :, 1].mul_(sign)


class _Fused(Geometric):
    """Several geometric transforms as one resampling."""

    def __init__(self, parts: tuple[Geometric, ...]) -> None:
        self.parts = parts
        self.axis_aligned = all(part.axis_aligned for part in parts)
        self.whole = all(part.whole for part in parts)

    def draw_onto(self, maps: Tensor, size: tuple[int, int], rng: torch.Generator) -> None:
        for part in self.parts:
            part.draw_onto(maps, size, rng)

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))


def _parts(transform: Geometric) -> tuple[Geometric, ...]:
    return transform.parts if isinstance(transform, _Fused) else (transform,)


def resample(x: Tensor, maps: Tensor, *, axis_aligned: bool = False, whole: bool = False) -> Tensor:
    """Returns pictures whose pixels come from where `maps` says, bilinear, the border repeated outside.

    x: (batch, channels, height, width). maps: (batch, 2, 3), see the module's text. The flags promise what the maps
    are, and only choose a faster way to the same picture; with `whole` pixels are copied bit for bit.
    """
    maps = maps.to(x.device, non_blocking=True)
    if axis_aligned and whole:
        return _copied(x, _sources(maps, 0, x.shape[2]), _sources(maps, 1, x.shape[3]))
    if axis_aligned and x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[3] <= _SEPARABLE_SIDE:
        return _separable(x, _sources(maps, 0, x.shape[2]), _sources(maps, 1, x.shape[3]))
    return _grid_sampled(x, maps)


def _sources(maps: Tensor, axis: int, side: int) -> Tensor:
    """Returns where each row (axis 0) or column (axis 1) comes from: (batch, side), clamped to the picture."""
    centre = (side - 1) / 2
    positions = torch.arange(-centre, centre + 0.5, device=maps.device)
    return torch.addcmul(maps[:, axis, 2:] + centre, maps[:, axis, axis, None], positions).clamp_(0, side - 1)


def _copied(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    b, c, h, w = x.shape
    first_row = torch.arange(0, b * c * h, h, device=x.device).view(b, c, 1)
    chosen = (first_row + rows.round_().long()[:, None]).view(-1)
    moved = x.reshape(-1, w).index_select(0, chosen).view(b, c, h, w)
    return moved.gather(3, columns.round_().long()[:, None, None].expand(b, c, h, w))


def _separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    # Rows: a weighted sum of two neighbours, as one bag lookup. Columns: a small matrix product a picture. Chosen by
    # measurement; temporaries are few because beyond a megabyte glibc hands memory back and faults it in every batch.
    b, c, h, w = x.shape
    above = rows.floor()
    part = rows - above
    first = torch.arange(0, b * c * h, h, device=x.device).view(b, c, 1) + above.long()[:, None]
    pairs = torch.stack([first, first + (part > 0)[:, None]], dim=-1).view(-1, 2)
    weights = torch.stack([1 - part, part], dim=-1)[:, None].expand(b, c, h, 2).reshape(-1, 2)
    moved = F.embedding_bag(pairs, x.reshape(-1, w), per_sample_weights=weights, mode="sum").view(b, c * h, w)
    return torch.bmm(moved, _hat_weights(columns).transpose(1, 2)).view(b, c, h, w)


def _hat_weights(sources: Tensor) -> Tensor:
    """Returns linear interpolation weights (batch, output position, source position)."""
    distance = sources[:, :, None] - torch.arange(sources.shape[1], device=sources.device)
    return distance.abs_().clamp_max_(1).neg_().add_(1)


def _grid_sampled(x: Tensor, maps: Tensor) -> Tensor:
    # affine_grid counts (horizontal, vertical), with half a side as its unit.
    half = torch.tensor([x.shape[3] / 2, x.shape[2] / 2], device=x.device)
    maps = torch.cat([maps[:, :, :2].flip(2), maps[:, :, 2:]], dim=2).flip(1)
    theta = maps * torch.cat([half, half.new_ones(1)]) / half[:, None]
    grid = F.affine_grid(theta.to(x.dtype), list(x.shape), align_corners=False)
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
