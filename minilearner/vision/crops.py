"""Random crops resized to one size, a window of its own for every picture of the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from minilearner.checks import check_fraction, check_ratio, check_size
from minilearner.data.batch_transforms import BatchTransform
from minilearner.vision.geometry import Geometric, Sampling, as_size, check_sampling
from minilearner.vision.maps import Size, compose, window

__all__ = ["RandomResizedCropBatch"]

_ATTEMPTS = 10


@dataclass(frozen=True)
class _Crop(Geometric):
    """What the random crop and its form for validation share: a window resized to `size`."""

    size: int | Size
    min_scale: float = 0.08
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    mode: str = "bilinear"
    valid_scale: float = 1.0
    max_scale: float = 1.0
    align_corners: bool = True
    batch: bool = False

    @property
    def sampling(self) -> Sampling:  # type: ignore[override]
        """The size is the window's business."""
        return Sampling(mode=self.mode, align_corners=self.align_corners)

    def size_after(self, size: Size) -> Size:
        """Returns the crop's size."""
        return as_size(self.size) or size

    def show(self, maps: Tensor, sides: Tensor, corner: Tensor, size: Size) -> None:
        """Composes windows onto `maps`; sides and corner: (batch or 1, 2)."""
        compose(maps, window(sides, corner, size, self.size_after(size), self.align_corners))

    def largest(self, size: Size) -> tuple[float, float]:
        """Returns the (height, width) of the largest window whose aspect is within `ratio`."""
        height, width = size
        low, high = self.ratio
        return min(height, width / low), min(width, height * high)


@dataclass(frozen=True)
class RandomResizedCropBatch(_Crop):
    """Crops each picture to a random window, and resizes that to `size`; fastai's RandomResizedCropGPU.

    Differs from fastai's: every picture has its own window, and the resize is one interpolation with the other
    geometric transforms. In validation: the largest window in the middle whose aspect is within `ratio`, which is the
    whole picture where its own aspect is, times `valid_scale`.

    Args:
        size: (height, width) of the output, or one number for a square.
        min_scale: the smallest window as a part of the picture's area.
        ratio: the narrowest and widest window, width over height.
        mode: "bilinear", "nearest" or "bicubic".
        valid_scale: the part of each side that validation shows.
        max_scale: the largest window as a part of the picture's area.
        align_corners: see `RandomGeometric`.
        batch: one window for the whole batch.

    Raises:
        ValueError: scales are not 0 < min_scale <= max_scale <= 1, the ratios are not in order, or `mode` is unknown.
    """

    def __post_init__(self) -> None:
        check_size(self.size, "size")
        check_sampling(self.sampling)
        check_fraction(self.min_scale, "min_scale", closed="right")
        check_fraction(self.max_scale, "max_scale", closed="right")
        if self.min_scale > self.max_scale:
            raise ValueError(
                "`min_scale` must not exceed `max_scale`. "
                f"Received: min_scale={self.min_scale}, max_scale={self.max_scale}."
            )
        check_fraction(self.valid_scale, "valid_scale", closed="right")
        check_ratio(self.ratio, "ratio")

    @property
    def least_scale(self) -> float:  # type: ignore[override]
        """The smaller side of the narrowest or flattest smallest window."""
        return math.sqrt(self.min_scale * min(self.ratio[0], 1 / self.ratio[1], 1))

    def for_validation(self) -> BatchTransform | None:
        """Returns the crop of the middle."""
        return _CentreCrop(
            self.size, ratio=self.ratio, mode=self.mode, valid_scale=self.valid_scale, align_corners=self.align_corners
        )

    def draw_onto(self, maps: Tensor, size: Size, rng: torch.Generator) -> None:
        """Draws ten windows a picture, and takes the first that fits; where none does, the largest in the middle."""
        n, extent = 1 if self.batch else len(maps), torch.tensor(size, device=maps.device)
        drawn = torch.rand(n, _ATTEMPTS + 1, 2, generator=rng, device=maps.device)
        areas = drawn[:, 1:, 0] * (self.max_scale - self.min_scale) + self.min_scale
        low, high = map(math.log, self.ratio)
        aspects = (drawn[:, 1:, 1] * (high - low) + low).exp_()
        tried = (areas * (size[0] * size[1]))[:, :, None] * torch.stack([1 / aspects, aspects], dim=2)
        tried = tried.sqrt_().round_().clamp_min_(1)
        fits = (tried <= extent).all(2)
        first = fits.int().argmax(1)
        sides = tried[torch.arange(n, device=maps.device), first]
        corner = (drawn[:, 0] * (extent - sides + 1)).floor_().minimum(extent - sides)
        found = fits.any(1, keepdim=True)
        middle = torch.tensor(self.largest(size), device=maps.device).floor()
        sides = torch.where(found, sides, middle)
        self.show(maps, sides, torch.where(found, corner, ((extent - middle) / 2).floor()), size)


class _CentreCrop(_Crop):
    """The window in the middle, for validation."""

    train_only = False

    @property
    def least_scale(self) -> float:  # type: ignore[override]
        """Nearly: pictures beyond `ratio` show less of one side."""
        return self.valid_scale

    def for_validation(self) -> BatchTransform | None:
        """Returns itself."""
        return self

    def draw_onto(self, maps: Tensor, size: Size, rng: torch.Generator) -> None:
        """Draws nothing."""
        extent = torch.tensor(size, device=maps.device)
        sides = (torch.tensor([self.largest(size)], device=maps.device) * self.valid_scale).floor()
        self.show(maps, sides, ((extent - sides) / 2).floor(), size)
