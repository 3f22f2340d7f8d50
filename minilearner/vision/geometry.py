"""Geometric transforms of whole batches: what every one of them has, and how neighbours fuse.

A geometric transform draws one map from output to source positions for every picture (see `resampling`). Neighbours
compose their maps, perspectives among them, and so does the resize to their `size`: a picture is interpolated once, no
blur on blur.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from minilearner.checks import check_choice, check_size
from minilearner.data.batch_transforms import BatchTransform, PixelTransform, run_steps
from minilearner.vision.maps import Size, scale_onto
from minilearner.vision.resampling import MODES, PAD_MODES, resample

__all__ = ["Geometric", "RandomGeometric", "Resized", "Sampling", "as_size"]


@dataclass(frozen=True)
class Sampling:
    """How pictures are looked up. None leaves a question to the neighbours that a transform is fused with.

    size: (height, width) of the output; None everywhere: that of the input. mode: "bilinear" where nobody says, or
    "nearest", "bicubic". pad_mode: what lies outside: "border" (the nearest pixel) where nobody says, or "reflection",
    "zeros". align_corners: False where nobody says; torch's meaning, see `resampling`.
    """

    size: Size | None = None
    mode: str | None = None
    pad_mode: str | None = None
    align_corners: bool | None = None

    def joined(self, other: Sampling) -> Sampling | None:
        """Returns what both agree to, or None where they contradict each other."""
        joint = {}
        for field in fields(self):
            said = {getattr(side, field.name) for side in (self, other)} - {None}
            if len(said) > 1:
                return None
            joint[field.name] = said.pop() if said else None
        return Sampling(**joint)


class Geometric(BatchTransform):
    """Moves pixels. Subclasses draw the maps; resampling, resizing and fusing happen here.

    Neighbours whose `sampling` does not contradict fuse; others take an interpolation each. In validation nothing is
    drawn and only the resize to `sampling.size` is left.
    """

    order: ClassVar[float] = 30

    takes_bytes = True

    axis_aligned: bool = True
    """Rows stay rows and columns columns: no rotation, no shear."""

    whole: bool = False
    """Every output pixel is exactly one source pixel, so nothing is interpolated."""

    projective: bool = False
    """The maps need a third row, the divisor of a perspective."""

    least_scale: float = 1.0
    """The smallest part of a side of the input that can fill the whole side of the output, in (0, 1]."""

    sampling: Sampling = Sampling()
    """How this transform wants pictures looked up, where it cares."""

    def draw_onto(self, maps: Tensor, size: Size, rng: torch.Generator) -> None:
        """Draws one map a picture and composes it, in place, onto those of the transforms before.

        maps: (batch, 2 or 3, 3) on `rng`'s device; a map M becomes M · D for the drawn D, a 3 x 3 matrix, since
        output-to-source runs against the order of the transforms. size: (height, width) of the pictures.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `draw_onto(self, maps, size, rng)`.")

    def size_after(self, size: Size) -> Size:
        """Returns the size that the drawn maps are for; other than `size` only for a crop."""
        return size

    def for_validation(self) -> BatchTransform | None:
        """Returns the resize alone, or None where there is none."""
        return Resized(self.sampling) if self.sampling.size else None

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Returns the moved pictures; x: (batch, channels, height, width). Of uint8, floats may come or uint8."""
        return self._moved(x, rng, ())

    def run(self, x: Tensor, rng: torch.Generator, pixels: Sequence[PixelTransform]) -> Tensor:
        """Returns the moved pictures, changed in the memory that they were moved to."""
        # Normalising makes float32 of other floats, which need memory of their own then.
        apart = x.dtype not in (torch.uint8, torch.float32)
        return super().run(x, rng, pixels) if apart else self._moved(x, rng, pixels)

    def _moved(self, x: Tensor, rng: torch.Generator, pixels: Sequence[PixelTransform]) -> Tensor:
        if x.ndim != 4:
            raise ValueError(
                f"{self!r} takes pictures (batch, channels, height, width). Received: x of shape {tuple(x.shape)}."
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
        """Fuses with any other geometric transform that asks for no other way of looking up."""
        sampling = self.sampling.joined(later.sampling) if isinstance(later, Geometric) else None
        return _Fused((*_parts(self), *_parts(later)), sampling) if sampling else None


@dataclass(frozen=True, kw_only=True, repr=False)
class RandomGeometric(Geometric):
    """What the random geometric transforms share.

    Args:
        size: the output's (height, width), or one number for a square, in validation too; None keeps that of the input.
        mode: "bilinear", "nearest" or "bicubic".
        pad_mode: what lies outside the picture: "reflection", "border" (the nearest pixel) or "zeros" (black).
        align_corners: torch's: whether a side is measured between the centres of its outermost pixels, or their edges.
        batch: one draw for the whole batch, where otherwise every picture has its own.

    For `mode`, `pad_mode` and `align_corners`, None means as the neighbours that it is fused with; see `Sampling`.

    Raises:
        ValueError: an unknown `mode` or `pad_mode`, or a side of less than a pixel.
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
        """How this transform wants pictures looked up, where it cares."""
        return Sampling(as_size(self.size), self.mode, self.pad_mode, self.align_corners)

    def uniform(self, maps: Tensor, low: float, high: float, rng: torch.Generator, *, columns: int = 1) -> Tensor:
        """Draws evenly between `low` and `high`: (batch, columns) for `maps`, or (1, columns) for a whole batch."""
        drawn = torch.empty(1 if self.batch else len(maps), columns, device=maps.device)
        return drawn.uniform_(low, high, generator=rng)

    def happens(self, maps: Tensor, p: float, rng: torch.Generator) -> Tensor:
        """Draws whether a picture is transformed, with probability `p`: (batch, 1) or (1, 1)."""
        return self.uniform(maps, 0, 1, rng) < p

    def __repr__(self) -> str:
        shown = [f for f in fields(self) if not f.kw_only or getattr(self, f.name) != f.default]
        shown.sort(key=lambda f: bool(f.kw_only))
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in shown)})"


class Resized(Geometric):
    """The resize of a geometric transform without its moves: what is left of it in validation."""

    train_only = False

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling

    def draw_onto(self, maps: Tensor, size: Size, rng: torch.Generator) -> None:
        """Draws nothing."""

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Returns the resized pictures, or `x` where they have that size."""
        return x if tuple(x.shape[2:]) == self.sampling.size else super().__call__(x, rng)

    def run(self, x: Tensor, rng: torch.Generator, pixels: Sequence[PixelTransform]) -> Tensor:
        """As `Geometric`; where nothing is to be resized, the changes alone, which leave `x` as it is."""
        is_sized = tuple(x.shape[2:]) == self.sampling.size
        return run_steps(pixels, x, rng) if is_sized else super().run(x, rng, pixels)

    def for_validation(self) -> BatchTransform | None:
        """Returns itself."""
        return self

    def merge(self, later: BatchTransform) -> BatchTransform | None:
        """Resizing twice to one size is resizing once."""
        sampling = self.sampling.joined(later.sampling) if isinstance(later, Resized) else None
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
    """Returns (height, width): a number means a square.

    Raises:
        ValueError: a side is less than 1, or there are not two.
    """
    if size is None:
        return None
    check_size(size, "size")
    return (int(size[0]), int(size[1])) if isinstance(size, (tuple, list)) else (int(size), int(size))


def check_sampling(sampling: Sampling) -> None:
    """Raises a ValueError that lists the choices for an unknown `mode` or `pad_mode`."""
    for name, choices in (("mode", MODES), ("pad_mode", PAD_MODES)):
        if getattr(sampling, name) is not None:
            check_choice(getattr(sampling, name), name, choices)
