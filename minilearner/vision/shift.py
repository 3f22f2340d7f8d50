"""Random shifts, a distance of its own for every picture: exact copies by whole pixels, or interpolated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minilearner.checks import check_fraction
from minilearner.vision.geometry import RandomGeometric
from minilearner.vision.maps import Size

__all__ = ["RandomShift"]


@dataclass(frozen=True, repr=False)
class RandomShift(RandomGeometric):
    """Shifts each picture by its own distance, filled with the nearest border pixel unless `pad_mode` says otherwise.

    Args:
        fraction: the largest shift as a part of the side, in [0, 1]; each direction uniform in ±fraction.
        p: the probability that a picture is shifted at all.
        whole_pixels: every whole number of pixels within ±fraction with the same probability; exact and faster, where
            otherwise shifts are continuous and pictures bilinearly interpolated.

    Other arguments: see `RandomGeometric`.

    Raises:
        ValueError: `fraction` or `p` is outside [0, 1], or, at the first batch, a positive `fraction` with
            `whole_pixels` is less than one pixel in both directions.
    """

    fraction: float = 0.1
    p: float = 1.0
    whole_pixels: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.fraction, "fraction")
        check_fraction(self.p, "p")

    @property
    def whole(self) -> bool:  # type: ignore[override]
        """As `whole_pixels`."""
        return self.whole_pixels

    def draw_onto(self, maps: Tensor, size: Size, rng: torch.Generator) -> None:
        """Draws two numbers a picture, and a third where `p` is less than 1."""
        distances = self.uniform(maps, 0, 1, rng, columns=2)
        if self.whole_pixels:
            furthest = torch.tensor(self._whole_furthest(size), device=maps.device)
            distances.mul_(2 * furthest + 1).floor_().sub_(furthest)
        else:
            furthest = torch.tensor([side * self.fraction for side in size], device=maps.device)
            distances.mul_(2).sub_(1).mul_(furthest)
        if self.p < 1:
            distances.mul_(self.happens(maps, self.p, rng))
        maps[:, :, 2].add_((maps[:, :, :2] * distances[:, None]).sum(2))

    def _whole_furthest(self, size: Size) -> list[float]:
        # 0.1 * 30 must be 3 pixels, whatever the last bit of the product says.
        furthest = [float(int(side * self.fraction + 1e-6)) for side in size]
        if self.fraction > 0 and not any(furthest):
            raise ValueError(
                f"`fraction` is less than one whole pixel of a {size[0]} x {size[1]} picture, so nothing would move. "
                f"Received: fraction={self.fraction}. Raise it, or leave out whole_pixels=True."
            )
        return furthest
