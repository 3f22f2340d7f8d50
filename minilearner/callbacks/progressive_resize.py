"""`ProgressiveResize`: train on smaller images first, when detail teaches little and pixels cost as much as later."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from minilearner.checks import check_count, check_fraction
from minilearner.errors import DataError
from minilearner.training.callback import Callback
from minilearner.training.run import Moment, Run

__all__ = ["ProgressiveResize"]


class ProgressiveResize(Callback):
    """Trains on images that grow, on the device, from `initial_scale` of their side to their full size.

    Images have the small size for the fraction `delay` of the run. Then they grow linearly. For the last fraction
    `full` of the run they have the size that the loaders give. The cost of a step is about proportional to the square
    of the scale. Validation and sweeps see full images. Each pixel of a smaller image averages all the
    pixels that it covers (bilinear, with antialiasing).

    Args:
        initial_scale: the first scale of both sides, in (0, 1].
        delay: fraction of the run at the small size, in [0, 1].
        full: fraction of the run at the full size, in [0, 1]; at most 1 together with `delay`.
        multiple: sides are rounded to multiples of this many pixels, but never above their full size.

    Raises:
        ValueError, TypeError: an argument is out of its range, or `multiple` is not an integer.
        DataError: in a run: a batch is not a tensor of images (batch, channels, height, width).

    Source: "Progressive Image Resizing" of MosaicML's Composer (2021), whose shape and defaults these are.
    """

    ignored_arguments = ()

    def __init__(self, initial_scale: float = 0.5, *, delay: float = 0.5, full: float = 0.2, multiple: int = 4):
        check_fraction(initial_scale, "initial_scale", closed="right")
        check_fraction(delay, "delay")
        check_fraction(full, "full")
        if delay + full > 1:
            raise ValueError(f"`delay` and `full` must not exceed 1 together. Received: delay={delay}, full={full}.")
        check_count(multiple, "multiple")
        self.initial_scale, self.delay, self.full, self.multiple = initial_scale, delay, full, multiple

    def scale(self, progress: float) -> float:
        """Returns the scale of a side, in (0, 1], at a progress in [0, 1]."""
        if progress >= 1 - self.full:
            return 1.0
        grown = max(progress - self.delay, 0.0) / (1 - self.full - self.delay) if progress > self.delay else 0.0
        return self.initial_scale + (1 - self.initial_scale) * grown

    def plan_at(self, moment: Moment) -> dict[str, float]:
        """Returns the scale."""
        return {"scale": self.scale(moment.progress)}

    def before_batch(self, run: Run) -> None:
        if run.training:
            run.x = self._resize(run.x, self.scale(run.progress))

    def _resize(self, x: object, scale: float) -> Tensor:
        if not isinstance(x, Tensor) or x.ndim != 4:
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise DataError(f"{self!r} takes images (batch, channels, height, width). Received: {shape}.")
        size = [self._round_side(side, scale) for side in x.shape[2:]]
        if size == list(x.shape[2:]):
            return x
        with torch.no_grad():
            return F.interpolate(x, size, mode="bilinear", antialias=True)

    def _round_side(self, side: int, scale: float) -> int:
        return min(side, max(1, round(side * scale / self.multiple)) * self.multiple)

    def __repr__(self) -> str:
        return f"ProgressiveResize({self.initial_scale}, delay={self.delay}, full={self.full})"
