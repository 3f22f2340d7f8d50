"""Random geometric augmentation of whole batches, and `aug_transforms`, which returns the usual selection.

Each image gets its own random numbers. `crops`, `shift`, `lighting`, `erasing` and `normalize` hold the other batch
transforms. `geometry` fuses and applies the transforms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minilearner.checks import check_fraction, check_not_negative, check_number, check_positive, check_size
from minilearner.data.batch_transforms import BatchTransform, TensorFunction, Transforms
from minilearner.data.user_transforms import as_list
from minilearner.keywords import suggest_keywords
from minilearner.vision.crops import RandomResizedCropBatch
from minilearner.vision.geometry import RandomGeometric
from minilearner.vision.lighting import Brightness, Contrast
from minilearner.vision.maps import Size, compose, half_sides, perspective, rotation, zoom_matrix

__all__ = ["Dihedral", "Flip", "Rotate", "Warp", "Zoom", "aug_transforms"]


@suggest_keywords
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
    """Returns transforms that help with most images: flips, small rotations, zooms and warps, brightness and contrast.

    Pass them as `batch_tfms`. All geometry, including `size` and `min_scale`, takes one interpolation, and all lighting
    takes one pass. Arguments, their order and their defaults are fastai's.

    >>> aug_transforms(max_warp=0, max_lighting=0)
    [Flip(p=0.5, ...), Rotate(max_deg=10.0, p=0.75), Zoom(min_zoom=1.0, max_zoom=1.1, p=0.75)]

    Args:
        mult: multiplies `max_rotate`, `max_lighting` and `max_warp`.
        do_flip: flip half of the images left to right.
        flip_vert: also flip them upside down and turn them by 90 degrees (`Dihedral`). Needs `do_flip`.
        max_rotate: degrees, see `Rotate`. 0 leaves the transform out; so it does for the next arguments.
        min_zoom, max_zoom: see `Zoom`.
        max_lighting: see `Brightness` and `Contrast`, in [0, 1).
        max_warp: see `Warp`, in [0, 0.5).
        p_affine, p_lighting: the probability of each of these transforms, for each image.
        xtra_tfms: transforms to add.
        size: (height, width) of the output, or one number for a square. Also applies to validation.
        mode, pad_mode, align_corners, batch: see `RandomGeometric`.
        min_scale: if below 1, crop square windows with at least this share of the area (`RandomResizedCropBatch`).
            Needs `size`.

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
        raise ValueError(f"`min_scale` needs a `size` to crop to. Received: min_scale={min_scale}, size=None.")
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


@suggest_keywords
@dataclass(frozen=True, repr=False)
class Flip(RandomGeometric):
    """Flips each image left to right with probability `p`. If no other geometry is fused, it is exact: ``x.flip(-1)``.

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
        """Draws one number per image."""
        maps[:, :, 1].mul_(self.happens(maps, self.p, rng).float().mul_(-2).add_(1))


@dataclass(frozen=True, kw_only=True, repr=False)
class _Reflecting(RandomGeometric):
    """Base of the transforms that show pixels from outside the image, with fastai's defaults for filling them."""

    mode: str | None = "bilinear"
    pad_mode: str | None = "reflection"
    align_corners: bool | None = True


@suggest_keywords
@dataclass(frozen=True, repr=False)
class Dihedral(_Reflecting):
    """With probability `p`, gives each image one of a square's eight flips and quarter turns, all equally likely.

    One of the eight changes nothing. Square images keep their pixels exactly if no other geometry is fused. Other
    images are turned about their centre, and the outside is filled. Other arguments: see `RandomGeometric`.

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
        """Draws four numbers per image."""
        happens = self.happens(maps, self.p, rng)
        down, right, turned = ((self.uniform(maps, 0, 1, rng, columns=3) < 0.5) & happens).float().unbind(1)
        drawn = torch.zeros(len(turned), 3, 3, device=maps.device)
        drawn[:, 0, 0], drawn[:, 0, 1] = (1 - 2 * down) * (1 - turned), (1 - 2 * down) * turned
        drawn[:, 1, 1], drawn[:, 1, 0] = (1 - 2 * right) * (1 - turned), (1 - 2 * right) * turned
        drawn[:, 2, 2] = 1
        compose(maps, drawn)


@suggest_keywords
@dataclass(frozen=True, repr=False)
class Rotate(_Reflecting):
    """Rotates each image about its centre with probability `p`, by an angle drawn uniformly within ±`max_deg` degrees.

    Angles are true angles of the image, also if it is not square. Other arguments: see `RandomGeometric`.

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
        """Draws two numbers per image."""
        degrees = self.uniform(maps, -self.max_deg, self.max_deg, rng)
        compose(maps, rotation((degrees * self.happens(maps, self.p, rng))[:, 0]))


@suggest_keywords
@dataclass(frozen=True, repr=False)
class Zoom(_Reflecting):
    """Enlarges each image with probability `p`, by a factor drawn uniformly between `min_zoom` and `max_zoom`.

    The visible window is anywhere in the image. For factors below 1, the image is anywhere in the frame, and the rest
    is filled. Other arguments: see `RandomGeometric`.

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
        """The part of a side that is visible at the largest zoom."""
        return min(1.0, 1 / self.max_zoom)

    def draw_onto(self, maps: Tensor, size: Size, rng: torch.Generator) -> None:
        """Draws four numbers per image."""
        zoom = self.uniform(maps, self.min_zoom, self.max_zoom, rng)
        zoom = torch.where(self.happens(maps, self.p, rng), zoom, 1.0)[:, 0]
        at = self.uniform(maps, -1, 1, rng, columns=2)
        compose(maps, zoom_matrix(zoom, at, half_sides(size, bool(self.align_corners))))


@suggest_keywords
@dataclass(frozen=True, repr=False)
class Warp(_Reflecting):
    """Shows each image in perspective, as from the side: in each direction with probability `p`.

    Horizontal and vertical perspective are drawn separately, uniformly within ±`magnitude`. See `maps.perspective`.
    Other arguments: see `RandomGeometric`.

    Raises:
        ValueError: `p` is outside [0, 1], or `magnitude` is outside [0, 0.5). From 0.5 on, corners would cross.
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
        """Draws four numbers per image."""
        drawn = self.uniform(maps, -self.magnitude, self.magnitude, rng, columns=2)
        vertical, horizontal = (drawn * (self.uniform(maps, 0, 1, rng, columns=2) < self.p)).unbind(1)
        compose(maps, perspective(vertical, horizontal, half_sides(size, bool(self.align_corners))))
