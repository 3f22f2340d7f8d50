"""Item transforms of pictures, on Pillow: they give the pictures of a batch one size."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image, ImageOps

from minilearner.data.item_transforms import ItemTransform

__all__ = ["Resize"]


@dataclass(frozen=True)
class Resize(ItemTransform):
    """Cuts the largest window of the wanted shape out of a picture, and resizes it; where it lies is random."""

    size: int

    def __call__(self, item: Image.Image, rng: random.Random | None) -> Image.Image:
        """Returns a picture of `size` x `size`."""
        centring = (0.5, 0.5) if rng is None else (rng.random(), rng.random())
        return ImageOps.fit(item, (self.size, self.size), Image.Resampling.BILINEAR, centering=centring)
