"""Random erasing: covers rectangles of images with noise. Each image gets its own rectangles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from minilearner.checks import check_count, check_fraction
from minilearner.data.batch_transforms import BatchTransform
from minilearner.keywords import suggest_keywords

__all__ = ["RandomErasing"]


@suggest_keywords
@dataclass(frozen=True)
class RandomErasing(BatchTransform):
    """Replaces rectangles with N(0, 1) noise, in each image with probability `p` (Zhong et al., Random Erasing, 2017).

    Arguments and sizes are fastai's, but in fastai the whole batch shares one decision and its rectangles. It runs
    after `Normalize`, where noise with mean 0 and standard deviation 1 has the statistics of an image.

    Args:
        p: the probability that an image is changed.
        sl, sh: the smallest and the largest share of the area to erase.
        min_aspect: rectangles have a height / width between this and its inverse, uniform in the logarithm.
        max_count: each image gets 1 to this many rectangles, which share the area.

    Raises:
        ValueError: `p`, `sl`, `sh` or `min_aspect` is out of its range, or `max_count` is below 1.
    """

    p: float = 0.5
    sl: float = 0.0
    sh: float = 0.3
    min_aspect: float = 0.3
    max_count: int = 1
    order: ClassVar[float] = 100

    def __post_init__(self) -> None:
        check_fraction(self.p, "p")
        check_fraction(self.sl, "sl")
        check_fraction(self.sh, "sh")
        if self.sl > self.sh:
            raise ValueError(f"`sl` must not exceed `sh`. Received: sl={self.sl}, sh={self.sh}.")
        check_fraction(self.min_aspect, "min_aspect", closed="right")
        check_count(self.max_count, "max_count")

    def __call__(self, x: Tensor, rng: torch.Generator | None = None, *, split_idx: int | None = None) -> Tensor:
        """Returns images with rectangles of noise; x: (batch, channels, height, width).

        Without `rng`, see `by_hand`.
        """
        if rng is None:
            return self.by_hand(x, split_idx)
        if x.ndim != 4:
            raise ValueError(
                f"{self!r} takes images (batch, channels, height, width). Received: x of shape {tuple(x.shape)}."
            )
        first, sides = self.draw(len(x), (x.shape[2], x.shape[3]), rng)
        # Draw noise only for erased pixels: what is drawn on the CPU must be copied to the device.
        n_values = int(sides.prod(2).sum()) * x.shape[1]
        noise = torch.randn(n_values, generator=rng, device=rng.device).to(x.device, x.dtype, non_blocking=True)
        first, sides = (part.to(x.device, non_blocking=True) for part in (first, sides))
        erased = _mark_pixels(first, sides, (x.shape[2], x.shape[3]))
        return x.masked_scatter(erased[:, None], noise)

    def draw(self, n: int, size: tuple[int, int], rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws rectangles in pixels: first (row, column) and sides (height, width), both (n, max_count, 2), int64.

        A rectangle that is not used has sides of 0. None is larger than the image.
        """
        drawn = torch.rand(n, self.max_count, 4, generator=rng, device=rng.device)
        happens, count = torch.rand(n, 2, generator=rng, device=rng.device).unbind(1)
        count = (count * self.max_count).floor_().add_(1)
        areas = (self.sl + drawn[:, :, 0] * (self.sh - self.sl)) * (size[0] * size[1]) / count[:, None]
        aspects = torch.exp((2 * drawn[:, :, 1] - 1) * math.log(self.min_aspect))
        extent = torch.tensor(size, device=rng.device)
        sides = torch.stack([areas * aspects, areas / aspects], dim=2).sqrt_().round_().minimum(extent)
        there = (torch.arange(self.max_count, device=rng.device) < count[:, None]) & (happens < self.p)[:, None]
        first = (drawn[:, :, 2:] * (extent - sides + 1)).floor_().minimum(extent - sides)
        return first.long(), (sides * there[:, :, None]).long()


def _mark_pixels(first: Tensor, sides: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns which pixels are inside any of an image's rectangles: bool (batch, height, width)."""
    rows, columns = (
        (at >= first[:, :, axis, None]) & (at < (first + sides)[:, :, axis, None])
        for axis, at in enumerate(torch.arange(side, device=first.device) for side in size)
    )
    return (rows[:, :, :, None] & columns[:, :, None]).any(1)
