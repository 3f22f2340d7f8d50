"""The base of geometric transforms of batches, and how adjacent ones are fused.

A geometric transform draws one map from output to source positions for every image (see `maps` and `resampling`).
Adjacent transforms compose their maps, perspectives and the resize to their `size` included. So an image is
interpolated once, and blur does not add up. `augment`, `crops` and `shift` hold the transforms themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from minilearner.checks import check_choice, check_size
from minilearner.data.batch_transforms import BatchTransform, PixelTransform, run_steps
from minilearner.keywords import suggest_keywords
from minilearner.vision.maps import Size, scale_onto
from minilearner.vision.resampling import MODES, PAD_MODES, resample

__all__ = ["Geometric", "RandomGeometric", "Resized", "Sampling", "as_size"]


@dataclass(frozen=True)
class Sampling:
    """How pixels are looked up. None leaves a choice to the transforms that this one is fused with.

    size: (height, width) of the output; None everywhere keeps the input's. mode: "bilinear" (the default if none says),
    "nearest" or "bicubic". pad_mode: what is outside the image: "border" (the nearest pixel, the default if none says),
    "reflection" or "zeros". align_corners: as in torch, False if none says; see `resampling`.
    """

    size: Size | None = None
    mode: str | None = None
    pad_mode: str | None = None
    align_corners: bool | None = None

    def join(self, other: Sampling) -> Sampling | None:
        """Returns the choices of both, or None if they contradict each other."""
        joint = {}
        for field in fields(self):
            choices = {getattr(side, field.name) for side in (self, other)} - {None}
            if len(choices) > 1:
                return None
            joint[field.name] = choices.pop() if choices else None
        return Sampling(**joint)


class Geometric(BatchTransform):
    """Moves pixels. Subclasses draw the maps; this class resamples, resizes and fuses.

    Adjacent transforms are fused if their `sampling` does not conflict. Otherwise each takes its own interpolation. In
    validation nothing is drawn, and only the resize to `sampling.size` remains.
    """

    order: ClassVar[float] = 30

    takes_bytes = True

    axis_aligned: bool = True
    """Whether rows stay rows and columns stay columns: no rotation, no shear."""

    whole: bool = False
    """Whether every output pixel is exactly one source pixel, so that nothing is interpolated."""

    projective: bool = False
    """Whether the maps need a third row, the divisor of a perspective."""

    least_scale: float = 1.0
    """The smallest part of the input's side that can fill the whole side of the output, in (0, 1]."""

    sampling: Sampling = Sampling()
    """How this transform looks up pixels, only the settings that affect this transform."""

    def draw_onto(self, maps: Tensor, size: Size, rng: torch.Generator) -> None:
        """Draws one map per image and composes it, in place, onto the maps of earlier transforms.

        Args:
            maps: (batch, 2 or 3, 3), on `rng`'s device. A map M becomes M · D for the drawn 3 x 3 matrix D, because
                maps lead from output to source, against the order of the transforms.
            size: (height, width) of the images.
            rng: the generator to draw from.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `draw_onto(self, maps, size, rng)`.")

    def size_after(self, size: Size) -> Size:
        """Returns the output size that the drawn maps are for. Only a crop changes it."""
        return size

    def for_validation(self) -> BatchTransform | None:
        """Returns the resize alone, or None if there is none."""
        return Resized(self.sampling) if self.sampling.size else None

    def __call__(self, x: Tensor, rng: torch.Generator | None = None, *, split_idx: int | None = None) -> Tensor:
        """Returns the moved images; x: (batch, channels, height, width). uint8 input may give uint8 or floats.

        Without `rng`, see `by_hand`.
        """
        if rng is None:
            return self.by_hand(x, split_idx)
        return self._move(x, rng, ())

    def run(self, x: Tensor, rng: torch.Generator, pixels: Sequence[PixelTransform]) -> Tensor:
        """Returns the moved images, with the pixel transforms applied in place to the new memory."""
        # Normalizing turns other floats into float32, which needs its own memory.
        apart = x.dtype not in (torch.uint8, torch.float32)
        return super().run(x, rng, pixels) if apart else self._move(x, rng, pixels)

    def _move(self, x: Tensor, rng: torch.Generator, pixels: Sequence[PixelTransform]) -> Tensor:
        if x.ndim != 4:
            raise ValueError(
                f"{self!r} takes images (batch, channels, height, width). Received: x of shape {tuple(x.shape)}."
            )
        size, how = (x.shape[2], x.shape[3]), self.sampling
        drawn_for = self.size_after(size)
        out, align_corners = how.size or drawn_for, bool(how.align_corners)
        rows = 3 if self.projective else 2
        maps = torch.eye(rows, 3, device=rng.device).expand(len(x), rows, 3).contiguous()
        self.draw_onto(maps, size, rng)
        if out != drawn_for:
            scale_onto(maps, drawn_for, out, align_corners)
        return resample(
            x,
            maps,
            size=out,
            mode=how.mode or "bilinear",
            pad_mode=how.pad_mode or "border",
            align_corners=align_corners,
            axis_aligned=self.axis_aligned,
            whole=self.whole and out == size,
            least_scale=self.least_scale,
            changes=[later.drawn(len(x), rng) for later in pixels],
        )

    def merge(self, later: BatchTransform) -> BatchTransform | None:
        """Fuses with another geometric transform unless their samplings conflict."""
        sampling = self.sampling.join(later.sampling) if isinstance(later, Geometric) else None
        return _Fused((*_parts(self), *_parts(later)), sampling) if sampling else None


@suggest_keywords
@dataclass(frozen=True, kw_only=True, repr=False)
class RandomGeometric(Geometric):
    """What the random geometric transforms have in common.

    For `mode`, `pad_mode` and `align_corners`, None means the choice of the transforms that this one is fused with. See
    `Sampling`.

    Args:
        size: (height, width) of the output, or one number for a square. Also applies to validation. None keeps the
            input's size.
        mode: "bilinear", "nearest" or "bicubic".
        pad_mode: what is outside the image: "reflection", "border" (the nearest pixel) or "zeros" (black).
        align_corners: as in torch: whether a side is measured between the centres of its outermost pixels or between
            their edges.
        batch: draw once for the whole batch instead of once per image.

    Raises:
        ValueError: `mode` or `pad_mode` is unknown, or a side is below one pixel.
    """

    size: int | Size | None = None
    mode: str | None = None
    pad_mode: str | None = None
    align_corners: bool | None = None
    batch: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", as_size(self.size))
        check_sampling(self.sampling)

    @property
    def sampling(self) -> Sampling:  # type: ignore[override]
        """How this transform looks up pixels, as far as it matters to it."""
        return Sampling(as_size(self.size), self.mode, self.pad_mode, self.align_corners)

    def uniform(self, maps: Tensor, low: float, high: float, rng: torch.Generator, *, columns: int = 1) -> Tensor:
        """Draws uniformly between `low` and `high`: (batch, columns) for `maps`, or (1, columns) with `batch`."""
        drawn = torch.empty(1 if self.batch else len(maps), columns, device=maps.device)
        return drawn.uniform_(low, high, generator=rng)

    def happens(self, maps: Tensor, p: float, rng: torch.Generator) -> Tensor:
        """Draws whether each image is transformed, with probability `p`: (batch, 1), or (1, 1) with `batch`."""
        return self.uniform(maps, 0, 1, rng) < p

    def __repr__(self) -> str:
        shown = [f for f in fields(self) if not f.kw_only or getattr(self, f.name) != f.default]
        shown.sort(key=lambda f: bool(f.kw_only))
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in shown)})"


class Resized(Geometric):
    """The resize of a geometric transform without its movement, for validation."""

    train_only = False

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling

    def draw_onto(self, maps: Tensor, size: Size, rng: torch.Generator) -> None:
        """Draws nothing."""

    def __call__(self, x: Tensor, rng: torch.Generator | None = None, *, split_idx: int | None = None) -> Tensor:
        """Returns the resized images, or `x` itself if it has that size. Without `rng`, see `by_hand`."""
        is_sized = tuple(x.shape[2:]) == self.sampling.size
        return x if is_sized else super().__call__(x, rng, split_idx=split_idx)

    def run(self, x: Tensor, rng: torch.Generator, pixels: Sequence[PixelTransform]) -> Tensor:
        """As in `Geometric`. Without a resize, applies only the pixel transforms and leaves `x` unchanged."""
        is_sized = tuple(x.shape[2:]) == self.sampling.size
        return run_steps(pixels, x, rng) if is_sized else super().run(x, rng, pixels)

    def for_validation(self) -> BatchTransform | None:
        """Returns itself."""
        return self

    def merge(self, later: BatchTransform) -> BatchTransform | None:
        """Resizing twice to the same size is the same as resizing once."""
        sampling = self.sampling.join(later.sampling) if isinstance(later, Resized) else None
        return Resized(sampling) if sampling else super().merge(later)

    def __repr__(self) -> str:
        return f"Resized({self.sampling})"


class _Fused(Geometric):
    """Several geometric transforms as one resampling."""

    def __init__(self, parts: tuple[Geometric, ...], sampling: Sampling) -> None:
        self.parts, self.sampling = parts, sampling
        self.axis_aligned = all(part.axis_aligned for part in parts)
        self.whole = all(part.whole for part in parts)
        self.projective = any(part.projective for part in parts)
        for part in parts:
            self.least_scale *= part.least_scale

    def draw_onto(self, maps: Tensor, size: Size, rng: torch.Generator) -> None:
        for part in self.parts:
            part.draw_onto(maps, size, rng)
            size = part.size_after(size)

    def size_after(self, size: Size) -> Size:
        for part in self.parts:
            size = part.size_after(size)
        return size

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))


def _parts(transform: BatchTransform) -> tuple[Geometric, ...]:
    if isinstance(transform, _Fused):
        return transform.parts
    return (transform,) if isinstance(transform, Geometric) else ()


def as_size(size: int | Size | None) -> Size | None:
    """Returns (height, width); a number means a square.

    Raises:
        ValueError: a side is below 1, or there are not two.
    """
    if size is None:
        return None
    check_size(size, "size")
    return (int(size[0]), int(size[1])) if isinstance(size, (tuple, list)) else (int(size), int(size))


def check_sampling(sampling: Sampling) -> None:
    """Raises a ValueError that lists the choices if `mode` or `pad_mode` is unknown."""
    for name, choices in (("mode", MODES), ("pad_mode", PAD_MODES)):
        if getattr(sampling, name) is not None:
            check_choice(getattr(sampling, name), name, choices)
