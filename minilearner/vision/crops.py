"""Random crops of whole batches, resized to one size. Each image gets its own window."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from minilearner.checks import check_fraction, check_ratio, check_size
from minilearner.data.batch_transforms import BatchTransform
from minilearner.keywords import suggest_keywords
from minilearner.vision.geometry import Geometric, Sampling, as_size, check_sampling
from minilearner.vision.maps import Size, compose, window

__all__ = ["RandomResizedCropBatch"]

_ATTEMPTS = 10


@dataclass(frozen=True)
class _Crop(Geometric):
    """What the random crop and its validation form share: a window is resized to `size`."""

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
        """Without a size: the window decides that."""
        return Sampling(mode=self.mode, align_corners=self.align_corners)

    def size_after(self, size: Size) -> Size:
        """Returns the crop's size."""
        return as_size(self.size) or size

    def show(self, maps: Tensor, sides: Tensor, corner: Tensor, size: Size) -> None:
        """Composes windows onto `maps`.

        maps: (batch, 2 or 3, 3). sides, corner: (batch or 1, 2) in pixels. size: (height, width) of the images.
        """
        compose(maps, window(sides, corner, size, self.size_after(size), self.align_corners))

    def largest(self, size: Size) -> tuple[float, float]:
        """Returns the (height, width) of the largest window whose aspect is within `ratio`."""
        height, width = size
        low, high = self.ratio
        return min(height, width / low), min(width, height * high)


@suggest_keywords
@dataclass(frozen=True)
class RandomResizedCropBatch(_Crop):
    """Crops each image to a random window and resizes it to `size`, like fastai's RandomResizedCropGPU.

    Unlike in fastai, each image has its own window, and the resize is fused with the other geometric transforms into
    one interpolation. In validation, it shows the largest centred window whose aspect is within `ratio`, times
    `valid_scale`. That is the whole image if its own aspect is within `ratio`.

    Args:
        size: (height, width) of the output, or one number for a square.
        min_scale: the smallest window, as a share of the image's area.
        ratio: the narrowest and the widest window, as width / height.
        mode: "bilinear", "nearest" or "bicubic".
        valid_scale: the share of each side that validation shows.
        max_scale: the largest window, as a share of the image's area.
        align_corners: see `RandomGeometric`.
        batch: draw one window for the whole batch.

    Raises:
        ValueError: scales do not satisfy 0 < min_scale <= max_scale <= 1, the ratios are not in order, or `mode` is
            unknown.
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
        """The shortest side that any of the smallest windows can have."""
        return math.sqrt(self.min_scale * min(self.ratio[0], 1 / self.ratio[1], 1))

    def for_validation(self) -> BatchTransform | None:
        """Returns the centre crop."""
        return _CentreCrop(
            self.size, ratio=self.ratio, mode=self.mode, valid_scale=self.valid_scale, align_corners=self.align_corners
        )

    def draw_onto(self, maps: Tensor, size: Size, rng: torch.Generator) -> None:
        """Draws ten windows per image and takes the first that fits, or else the largest centred one."""
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
    """The centred window, for validation."""

    train_only = False

    @property
    def least_scale(self) -> float:  # type: ignore[override]
        """Approximate: images with an aspect outside `ratio` show less of one side."""
        return self.valid_scale

    def for_validation(self) -> BatchTransform | None:
        """Returns itself."""
        return self

    def draw_onto(self, maps: Tensor, size: Size, rng: torch.Generator) -> None:
        """Draws nothing."""
        extent = torch.tensor(size, device=maps.device)
        sides = (torch.tensor([self.largest(size)], device=maps.device) * self.valid_scale).floor()
        self.show(maps, sides, ((extent - sides) / 2).floor(), size)
