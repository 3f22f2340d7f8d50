"""The 3 x 3 matrices of geometric transforms, one per image. They say where output pixels come from.

Positions are in pixels (vertical, horizontal) from the image's centre, as in `resampling`. Matrices multiply (vertical,
horizontal, 1) and lead from output to source. This module turns parameters into matrices; `augment`, `crops` and
`shift` draw the parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Size", "compose", "half_sides", "perspective", "rotation", "scale_onto", "window", "zoom_matrix"]

Size = tuple[int, int]
"""(height, width) in pixels."""


def half_sides(size: Size, align_corners: bool) -> tuple[float, float]:
    """Returns the distances in pixels from the centre to where torch's grids have 1, downwards and to the right.

    That is the centre of the corner pixel with `align_corners`, and its outer edge without.
    """
    height, width = size
    return (height - align_corners) / 2, (width - align_corners) / 2


def compose(maps: Tensor, drawn: Tensor) -> None:
    """Replaces each map M, (batch, 2 or 3, 3), by M · D in place; drawn: (batch, 3, 3), the matrices D."""
    # Here and elsewhere, sums are written out because a matrix product may use reduced precision.
    maps.copy_((maps[:, :, :, None] * drawn[:, None]).sum(2))


def scale_onto(maps: Tensor, size: Size, out: Size, align_corners: bool) -> None:
    """Turns maps of images of `size` into maps of images of size `out`, in place."""
    for axis, (half, out_half) in enumerate(
        zip(half_sides(size, align_corners), half_sides(out, align_corners), strict=True)
    ):
        maps[:, :, axis].mul_(half / (out_half or 1.0))


def rotation(degrees: Tensor) -> Tensor:
    """Returns matrices (batch, 3, 3) that rotate images clockwise by `degrees` (batch,)."""
    angles = degrees * (torch.pi / 180)
    drawn = torch.eye(3, device=degrees.device).repeat(len(degrees), 1, 1)
    drawn[:, 0, 0] = drawn[:, 1, 1] = angles.cos()
    drawn[:, 1, 0] = angles.sin()
    drawn[:, 0, 1] = -angles.sin()
    return drawn


def zoom_matrix(zoom: Tensor, at: Tensor, halves: tuple[float, float]) -> Tensor:
    """Returns matrices (batch, 3, 3) that enlarge images.

    Args:
        zoom: (batch,). A zoom of 2 shows half of each side.
        at: (batch, 2), where the window is (down, right), from -1 to 1. It touches the upper edge at -1 and the lower
            edge at 1.
        halves: half the sides in pixels.
    """
    part = 1 / zoom
    drawn = torch.eye(3, device=zoom.device).repeat(len(zoom), 1, 1)
    drawn[:, 0, 0] = drawn[:, 1, 1] = part
    drawn[:, :2, 2] = (1 - part)[:, None] * at * at.new_tensor(halves)
    return drawn


def perspective(vertical: Tensor, horizontal: Tensor, halves: tuple[float, float]) -> Tensor:
    """Returns matrices (batch, 3, 3) that show images in perspective, as fastai's `Warp` does.

    The image's corners (right, down) = (±1, ±1), in halves of its sides, move to (-1 - v, -1 - h), (1 + v, -1 + h),
    (-1 + v, 1 + h) and (1 - v, 1 - h). Here v is `vertical` and h is `horizontal`, both (batch,).
    """
    # The projective map that moves the square's corners there, over (down, right, 1), is
    # [[1 - h², -hv, v], [-hv, 1 - v², h], [v, h, 1]]. We need its inverse, here divided by its last element.
    v, h, one = vertical, horizontal, torch.ones_like(vertical)
    corner = 1 - h * h - v * v
    cross = 2 * h * v / corner
    down, right = -v * (1 + h * h - v * v) / corner, -h * (1 + v * v - h * h) / corner
    unit = torch.stack([one, cross, down, cross, one, right, down, right, one], dim=1).view(-1, 3, 3)
    scale = unit.new_tensor([*halves, 1.0])
    return unit * scale[:, None] / scale


def window(sides: Tensor, corner: Tensor, size: Size, out: Size, align_corners: bool) -> Tensor:
    """Returns matrices (batch, 3, 3) that show a window of an image at size `out`.

    Args:
        sides: (batch, 2), the height and width of the window in pixels.
        corner: (batch, 2), the upper left pixel of the window.
        size: (height, width) of the image.
        out: (height, width) of the output.
        align_corners: see `resampling.resample`.
    """
    halves = sides.new_tensor(half_sides(out, align_corners)).clamp_min(0.5)
    drawn = torch.zeros(len(sides), 3, 3, device=sides.device)
    drawn[:, (0, 1), (0, 1)] = (sides - float(align_corners)) / 2 / halves
    drawn[:, :2, 2] = corner + (sides - sides.new_tensor(size)) / 2
    drawn[:, 2, 2] = 1
    return drawn
