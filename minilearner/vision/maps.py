"""The matrices of geometric transforms: where output pixels come from, one 3 x 3 matrix a picture.

Positions are in pixels (vertical, horizontal) from the picture's centre, as in `resampling`; matrices multiply
(vertical, horizontal, 1) and count from output to source. Nothing is drawn here: parameters come in, matrices go out.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Size", "compose", "half_sides", "perspective", "rotation", "scale_onto", "window", "zooming"]

Size = tuple[int, int]
"""(height, width) in pixels."""


def half_sides(size: Size, align_corners: bool) -> tuple[float, float]:
    """Returns the distance in pixels from the centre to where torch's grids count 1, downwards and to the right.

    That is the centre of the corner pixel with `align_corners`, else its outer edge.
    """
    height, width = size
    return (height - align_corners) / 2, (width - align_corners) / 2


def compose(maps: Tensor, drawn: Tensor) -> None:
    """Turns each map M, (batch, 2 or 3, 3), into M · D in place; drawn: (batch, 3, 3)."""
    # Written out, here and elsewhere: a matrix product may run in reduced precision.
    maps.copy_((maps[:, :, :, None] * drawn[:, None]).sum(2))


def scale_onto(maps: Tensor, size: Size, out: Size, align_corners: bool) -> None:
    """Resizes from `size` to `out`, in place: what maps of pictures of `size` are for pictures of size `out`."""
    for axis, (half, out_half) in enumerate(
        zip(half_sides(size, align_corners), half_sides(out, align_corners), strict=True)
    ):
        maps[:, :, axis].mul_(half / (out_half or 1.0))


def rotation(degrees: Tensor) -> Tensor:
    """Returns matrices (batch, 3, 3) that turn pictures clockwise by `degrees` (batch,)."""
    angles = degrees * (torch.pi / 180)
    drawn = torch.eye(3, device=degrees.device).repeat(len(degrees), 1, 1)
    drawn[:, 0, 0] = drawn[:, 1, 1] = angles.cos()
    drawn[:, 1, 0] = angles.sin()
    drawn[:, 0, 1] = -angles.sin()
    return drawn


def zooming(zoom: Tensor, at: Tensor, halves: tuple[float, float]) -> Tensor:
    """Returns matrices (batch, 3, 3) that enlarge pictures.

    zoom: (batch,), 2 shows half the side. at: (batch, 2), where (down, right), from -1 to 1: the window touches the
    upper edge at -1, and the lower one at 1. halves: half the sides in pixels.
    """
    part = 1 / zoom
    drawn = torch.eye(3, device=zoom.device).repeat(len(zoom), 1, 1)
    drawn[:, 0, 0] = drawn[:, 1, 1] = part
    drawn[:, :2, 2] = (1 - part)[:, None] * at * at.new_tensor(halves)
    return drawn


def perspective(vertical: Tensor, horizontal: Tensor, halves: tuple[float, float]) -> Tensor:
    """Returns matrices (batch, 3, 3) of pictures seen from the side, as fastai's `Warp` draws them.

    The picture's corners (right, down) = (±1, ±1), in halves of its sides, move to (-1 - v, -1 - h), (1 + v, -1 + h),
    (-1 + v, 1 + h) and (1 - v, 1 - h), v being `vertical` and h `horizontal`, both (batch,).
    """
    # The projective map that takes the square's corners there is, over (down, right, 1), with h and v as above,
    # [[1 - h², -hv, v], [-hv, 1 - v², h], [v, h, 1]]. What is looked up is its inverse, here divided by its corner.
    v, h, one = vertical, horizontal, torch.ones_like(vertical)
    corner = 1 - h * h - v * v
    cross = 2 * h * v / corner
    down, right = -v * (1 + h * h - v * v) / corner, -h * (1 + v * v - h * h) / corner
    unit = torch.stack([one, cross, down, cross, one, right, down, right, one], dim=1).view(-1, 3, 3)
    scale = unit.new_tensor([*halves, 1.0])
    return unit * scale[:, None] / scale


def window(sides: Tensor, corner: Tensor, size: Size, out: Size, align_corners: bool) -> Tensor:
    """Returns matrices (batch, 3, 3) that show a window of a picture of `size` in a picture of size `out`.

    sides: (batch, 2), the window's height and width. corner: (batch, 2), its upper left pixel; both in pixels.
    """
    halves = sides.new_tensor(half_sides(out, align_corners)).clamp_min(0.5)
    drawn = torch.zeros(len(sides), 3, 3, device=sides.device)
    drawn[:, (0, 1), (0, 1)] = (sides - float(align_corners)) / 2 / halves
    drawn[:, :2, 2] = corner + (sides - sides.new_tensor(size)) / 2
    drawn[:, 2, 2] = 1
    return drawn
