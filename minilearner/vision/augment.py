"""Random geometry for whole batches, each picture its own, and `aug_transforms`, which lists what is usually wanted.

Every name of augmentation can be had from here: lighting, erasing and normalisation have modules of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minilearner.checks import check_fraction, check_not_negative, check_number, check_positive, check_size
from minilearner.data.batch_transforms import BatchTransform, TensorFunction, Transforms
from minilearner.data.user_transforms import as_list
from minilearner.vision.crops import RandomResizedCropBatch
from minilearner.vision.geometry import RandomGeometric
from minilearner.vision.lighting import Brightness, Contrast
from minilearner.vision.maps import Size, compose, half_sides, perspective, rotation, zooming

__all__ = ["Dihedral", "Flip", "Rotate", "Warp", "Zoom", "aug_transforms"]


def aug_transforms(
    mult: float = 1.0,
    do_flip: bool = True,
    flip_vert: bool = False,
    max_rotate: float = 10.0,
    min_zoom: float = 1.0,
    max_zoom: float = 1.1,
    max_lighting: float = 0.2,
    max_warp: float = 0.2,
    p_affine: float = 0.75,
    p_lighting: float = 0.75,
    xtra_tfms: Transforms = None,
    size: int | Size | None = None,
    mode: str = "bilinear",
    pad_mode: str = "reflection",
    align_corners: bool = True,
    batch: bool = False,
    min_scale: float = 1.0,
) -> list[BatchTransform | TensorFunction]:
    """Returns what usually helps pictures: flips, small turns, zooms and warps, brightness and contrast.

    Made for `batch_tfms`: all geometry, `size` and `min_scale` among it, is one interpolation, and all lighting one
    pass. fastai's arguments, places and defaults.

    >>> aug_transforms(max_warp=0, max_lighting=0)
    [Flip(p=0.5, ...), Rotate(max_deg=10.0, p=0.75), Zoom(min_zoom=1.0, max_zoom=1.1, p=0.75)]

    Args:
        mult: multiplies `max_rotate`, `max_lighting` and `max_warp`.
        do_flip: mirror half of the pictures left to right.
        flip_vert: also upside down and by quarter turns (`Dihedral`); with `do_flip`.
        max_rotate: degrees, see `Rotate`; 0 leaves it out, as with the next ones.
        min_zoom, max_zoom: see `Zoom`.
        max_lighting: see `Brightness` and `Contrast`, in [0, 1).
        max_warp: see `Warp`, in [0, 0.5).
        p_affine, p_lighting: the probability of each of these transforms, for each picture.
        xtra_tfms: transforms to add.
        size: (height, width) of the output, or one number for a square; in validation too.
        mode, pad_mode, align_corners, batch: see `RandomGeometric`.
        min_scale: below 1, crop square windows of at least this part of the area (`RandomResizedCropBatch`). Needs
            `size`.

    Raises:
        ValueError: an argument is out of its range.
    """
    check_not_negative(mult, "mult")
    check_not_negative(max_rotate, "max_rotate")
    check_positive(min_zoom, "min_zoom")
    check_positive(max_zoom, "max_zoom")
    for name, value in (("p_affine", p_affine), ("p_lighting", p_lighting)):
        check_fraction(value, name)
    check_fraction(min_scale, "min_scale", closed="right")
    if size is not None:
        check_size(size, "size")
    if min_scale != 1 and size is None:
        raise ValueError(f"`min_scale` crops to a `size`. Received: min_scale={min_scale}, size=None.")
    if flip_vert and not do_flip:
        raise ValueError("`flip_vert` needs `do_flip`. Received: flip_vert=True, do_flip=False.")
    for name, given, largest in (("max_lighting", max_lighting, 1), ("max_warp", max_warp, 0.5)):
        check_not_negative(given, name)
        if given * mult >= largest:
            raise ValueError(f"`{name}` times `mult` must be below {largest}. Received: {name}={given}, mult={mult}.")
    how: dict[str, Any] = {"mode": mode, "pad_mode": pad_mode, "align_corners": align_corners, "batch": batch}
    how["size"] = size if min_scale == 1 else None
    found: list[BatchTransform | TensorFunction] = []
    if do_flip:
        found.append(Dihedral(0.5, **how) if flip_vert else Flip(0.5, **how))
    if max_warp * mult:
        found.append(Warp(max_warp * mult, p_affine, **how))
    if max_rotate * mult:
        found.append(Rotate(max_rotate * mult, p_affine, **how))
    if min_zoom < 1 or max_zoom > 1:
        found.append(Zoom(min_zoom, max_zoom, p_affine, **how))
    if max_lighting * mult:
        found.append(Brightness(max_lighting * mult, p_lighting, batch=batch))
        found.append(Contrast(max_lighting * mult, p_lighting, batch=batch))
    if min_scale != 1 and size is not None:
        found.append(RandomResizedCropBatch(size, min_scale, (1, 1), mode, align_corners=align_corners, batch=batch))
    return found + as_list(xtra_tfms, "xtra_tfms", "batch_tfms")


@dataclass(frozen=True, repr=False)
class Flip(RandomGeometric):
    """Mirrors each picture left to right with probability `p`, its own draw. Alone it is exact: ``x.flip(-1)``.

    Other arguments: see `RandomGeometric`.

    Raises:
        ValueError: `p` is outside [0, 1].
    """

    p: float = 0.5
    whole = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.p, "p")

    def draw_onto(self, maps: Tensor, size: Size, rng: torch.Generator) -> None:
        """Draws one number a picture."""
        maps[:, :, 1].mul_(self.happens(maps, self.p, rng).float().mul_(-2).add_(1))


@dataclass(frozen=True, kw_only=True, repr=False)
class _Reflecting(RandomGeometric):
    """What looks outside the picture, with fastai's defaults."""

    mode: str | None = "bilinear"
    pad_mode: str | None = "reflection"
    align_corners: bool | None = True


@dataclass(frozen=True, repr=False)
class Dihedral(_Reflecting):
    """Gives each picture, with probability `p`, one of a square's eight flips and quarter turns, all equally likely.

    One of the eight moves nothing. Square pictures keep their pixels bit for bit when nothing else is fused; others are
    turned about their centre, filled outside. Other arguments: see `RandomGeometric`.

    Raises:
        ValueError: `p` is outside [0, 1].
    """

    p: float = 0.5
    axis_aligned = False
    whole = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.p, "p")

    def draw_onto(self, maps: Tensor, size: Size, rng: torch.Generator) -> None:
        """Draws four numbers a picture."""
        happens = self.happens(maps, self.p, rng)
        down, right, turned = ((self.uniform(maps, 0, 1, rng, columns=3) < 0.5) & happens).float().unbind(1)
        drawn = torch.zeros(len(turned), 3, 3, device=maps.device)
        drawn[:, 0, 0], drawn[:, 0, 1] = (1 - 2 * down) * (1 - turned), (1 - 2 * down) * turned
        drawn[:, 1, 1], drawn[:, 1, 0] = (1 - 2 * right) * (1 - turned), (1 - 2 * right) * turned
        drawn[:, 2, 2] = 1
        compose(maps, drawn)


@dataclass(frozen=True, repr=False)
class Rotate(_Reflecting):
    """Turns each picture about its centre by up to `max_deg` degrees either way, evenly, with probability `p`.

    Angles are those of the picture as it is seen, whatever its aspect. Other arguments: see `RandomGeometric`.

    Raises:
        ValueError: `p` is outside [0, 1], or `max_deg` is negative.
    """

    max_deg: float = 10.0
    p: float = 0.5
    axis_aligned = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.p, "p")
        check_not_negative(self.max_deg, "max_deg")

    def draw_onto(self, maps: Tensor, size: Size, rng: torch.Generator) -> None:
        """Draws two numbers a picture."""
        degrees = self.uniform(maps, -self.max_deg, self.max_deg, rng)
        compose(maps, rotation((degrees * self.happens(maps, self.p, rng))[:, 0]))


@dataclass(frozen=True, repr=False)
class Zoom(_Reflecting):
    """Enlarges each picture by a factor between `min_zoom` and `max_zoom`, evenly, with probability `p`.

    The window shown lies anywhere in the picture; below 1 the picture lies anywhere in the frame, filled around.
    Other arguments: see `RandomGeometric`.

    Raises:
        ValueError: `p` is outside [0, 1], or the factors are not positive and in order.
    """

    min_zoom: float = 1.0
    max_zoom: float = 1.1
    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.p, "p")
        check_positive(self.min_zoom, "min_zoom")
        check_positive(self.max_zoom, "max_zoom")
        if self.min_zoom > self.max_zoom:
            raise ValueError(
                f"`min_zoom` must not exceed `max_zoom`. Received: min_zoom={self.min_zoom}, max_zoom={self.max_zoom}."
            )

    @property
    def least_scale(self) -> float:  # type: ignore[override]
        """What the largest zoom shows of a side."""
        return min(1.0, 1 / self.max_zoom)

    def draw_onto(self, maps: Tensor, size: Size, rng: torch.Generator) -> None:
        """Draws four numbers a picture."""
        zoom = self.uniform(maps, self.min_zoom, self.max_zoom, rng)
        zoom = torch.where(self.happens(maps, self.p, rng), zoom, 1.0)[:, 0]
        at = self.uniform(maps, -1, 1, rng, columns=2)
        compose(maps, zooming(zoom, at, half_sides(size, bool(self.align_corners))))


@dataclass(frozen=True, repr=False)
class Warp(_Reflecting):
    """Shows each picture as from the side: a perspective of up to `magnitude`, with probability `p` in each direction.

    Horizontal and vertical perspective are drawn apart, evenly within ±magnitude; see `maps.perspective`. Other
    arguments: see `RandomGeometric`.

    Raises:
        ValueError: `p` is outside [0, 1], or `magnitude` is outside [0, 0.5): from there on corners cross.
    """

    magnitude: float = 0.2
    p: float = 0.5
    axis_aligned = False
    projective = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.p, "p")
        check_number(self.magnitude, "magnitude")
        if not 0 <= self.magnitude < 0.5:
            raise ValueError(f"`magnitude` must be in [0, 0.5). Received: magnitude={self.magnitude}.")

    def draw_onto(self, maps: Tensor, size: Size, rng: torch.Generator) -> None:
        """Draws four numbers a picture."""
        drawn = self.uniform(maps, -self.magnitude, self.magnitude, rng, columns=2)
        vertical, horizontal = (drawn * (self.uniform(maps, 0, 1, rng, columns=2) < self.p)).unbind(1)
        compose(maps, perspective(vertical, horizontal, half_sides(size, bool(self.align_corners))))
