"""Smaller pictures in the first part of a run, where detail teaches little and pixels cost much."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from minilearner.checks import check_count
from minilearner.errors import DataError
from minilearner.training.callback import Callback
from minilearner.training.run import Run

__all__ = ["ProgressiveResize"]


class ProgressiveResize(Callback):
    """Trains on pictures that grow, on the device, from `initial_scale` of their side to their full size.

    For the part `delay` of the run at the small size, then larger in a straight line, and the last part `full` at the
    size that the loaders give. A step costs about the square of the scale. Validation and sweeps see full pictures.
    Shrinking averages over all pixels that fall into one (bilinear, with antialiasing).

    Args:
        initial_scale: of both sides, in (0, 1].
        delay, full: parts of the run, each in [0, 1] and at most 1 together.
        multiple: sides are rounded to whole multiples of so many pixels, but never beyond their full size.

    Raises:
        ValueError, TypeError: an argument is out of its range, or `multiple` no integer.
        DataError: in the run: a batch is no tensor of pictures (batch, channels, height, width).

    Source: the shape and the defaults are those of MosaicML's Composer (2021), "Progressive Image Resizing".
    """

    ignored_arguments = ()

    def __init__(self, initial_scale: float = 0.5, *, delay: float = 0.5, full: float = 0.2, multiple: int = 4):
        if not 0 < initial_scale <= 1:
            raise ValueError(f"`initial_scale` must be in (0, 1]. Received: initial_scale={initial_scale}.")
        if not (0 <= delay <= 1 and 0 <= full <= 1 and delay + full <= 1):
            raise ValueError(
                f"`delay` and `full` must be in [0, 1], and together at most 1. Received: delay={delay}, full={full}."
            )
        check_count(multiple, "multiple")
        self.initial_scale, self.delay, self.full, self.multiple = initial_scale, delay, full, multiple

    def scale(self, progress: float) -> float:
        """Returns the part of a side at a progress in [0, 1]."""
        if progress >= 1 - self.full:
            return 1.0
        grown = max(progress - self.delay, 0.0) / (1 - self.full - self.delay) if progress > self.delay else 0.0
        return self.initial_scale + (1 - self.initial_scale) * grown

    def before_batch(self, run: Run) -> None:
        if run.training:
            run.x = self._resized(run.x, self.scale(run.progress))

    def _resized(self, x: object, scale: float) -> Tensor:
        if not isinstance(x, Tensor) or x.ndim != 4:
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise DataError(f"{self!r} takes pictures (batch, channels, height, width). Received: {shape}.")
        size = [self._side(side, scale) for side in x.shape[2:]]
        if size == list(x.shape[2:]):
            return x
        with torch.no_grad():
            return F.interpolate(x, size, mode="bilinear", antialias=True)

    def _side(self, side: int, scale: float) -> int:
        return min(side, max(1, round(side * scale / self.multiple)) * self.multiple)

    def __repr__(self) -> str:
        return f"ProgressiveResize({self.initial_scale}, delay={self.delay}, full={self.full})"
