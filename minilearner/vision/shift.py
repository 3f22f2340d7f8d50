"""`RandomShift`: shifts each image by its own random distance, by whole pixels or interpolated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minilearner.checks import check_fraction
from minilearner.keywords import suggest_keywords
from minilearner.vision.geometry import RandomGeometric
from minilearner.vision.maps import Size

__all__ = ["RandomShift"]


@suggest_keywords
@dataclass(frozen=True, repr=False)
class RandomShift(RandomGeometric):
    """Shifts each image by a random distance and fills the gap with border pixels, unless `pad_mode` is set.

    Other arguments: see `RandomGeometric`.

    Args:
        fraction: the largest shift as a fraction of the side, in [0, 1]. Each direction is uniform in ±fraction.
        p: the probability that an image is shifted.
        whole_pixels: shift by whole pixels, every number within ±fraction with the same probability. This is exact and
            faster. Otherwise shifts are continuous, and images are interpolated bilinearly.

    Raises:
        ValueError: `fraction` or `p` is outside [0, 1]. Also raised at the first batch if `fraction` is positive but
            below one pixel in both directions, with `whole_pixels`.
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
        """Same as `whole_pixels`."""
        return self.whole_pixels

    def draw_onto(self, maps: Tensor, size: Size, rng: torch.Generator) -> None:
        """Draws two numbers per image, and a third if `p` is below 1."""
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
        # 0.1 * 30 must give 3 pixels, whatever the last bit of the product is.
        furthest = [float(int(side * self.fraction + 1e-6)) for side in size]
        if self.fraction > 0 and not any(furthest):
            raise ValueError(
                f"`fraction` is less than one pixel of a {size[0]} x {size[1]} image, so nothing would move. "
                f"Received: fraction={self.fraction}. Raise it, or leave out whole_pixels=True."
            )
        return furthest
