"""Moves pixels: looks up images at the positions given by one map per image, in one interpolation.

A map leads from output to source positions. Positions are in pixels (vertical, horizontal) from the image's centre, so
a flip is exactly -1 and a shift is a number of pixels. A map is a matrix over (vertical, horizontal, 1): (2, 3) if it
is affine, (3, 3) if it is a perspective, whose third row is the divisor. `pad_mode` decides what is outside the image.
`maps` builds the matrices, and `geometry` calls this module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minilearner.data.batch_transforms import PixelChange, apply_changes, in_unit_range
from minilearner.runtime import compute_in_threads
from minilearner.vision.maps import Size, half_sides

__all__ = ["MODES", "PAD_MODES", "resample"]

MODES = ("bilinear", "nearest", "bicubic")
PAD_MODES = ("reflection", "border", "zeros")

# Up to this width, a small matrix product per image beats grid_sample on a CPU. Its cost grows with the width squared.
_SEPARABLE_SIDE = 48

# How many output pixels to compute at once on a CPU, so that their positions and the source pixels as floats stay in
# its cache. Measured on one thread, RGB, from 160 to 128 pixels, on a processor with 1 MB of second-level cache: 2**17
# takes 1.15 times as long as 2**15, 2**18 1.3 times, 2**14 1.07 times. A batch of 64 at once takes more than twice.
_POSITIONS_AT_ONCE = 2**15

# A perspective's divisor is 1 at the centre. Pixels near or behind the horizon are looked up as if it were this.
_LEAST_DIVISOR = 0.1


def resample(
    x: Tensor,
    maps: Tensor,
    *,
    size: Size | None = None,
    mode: str = "bilinear",
    pad_mode: str = "border",
    align_corners: bool = False,
    axis_aligned: bool = False,
    whole: bool = False,
    least_scale: float = 1.0,
    changes: Sequence[PixelChange] = (),
) -> Tensor:
    """Returns images (batch, channels, height, width) whose pixels come from the positions in `maps`.

    The flags `axis_aligned` and `whole` are promises about the maps. They only allow a faster way to the same image.
    With `whole`, pixels are copied bit for bit.

    Args:
        x: (batch, channels, height, width), floats or uint8. uint8 becomes floats in [0, 1] unless pixels are copied.
        maps: (batch, 2 or 3, 3), as described at the top of this module.
        size: (height, width) of the output; None keeps that of `x`.
        mode: one of `MODES`.
        pad_mode: one of `PAD_MODES`.
        align_corners: whether reflection is about the centres of the outermost pixels instead of their outer edges.
        axis_aligned: rows stay rows, and columns stay columns.
        whole: every output pixel is one source pixel.
        least_scale: the smallest part of the image's side that fills a side of the output. If even that part shrinks to
            less than half, images are first averaged over whole blocks of pixels. Otherwise thin lines would flicker.
        changes: changes of the pixels to apply afterwards, in place.
    """
    size = size or (x.shape[2], x.shape[3])
    shrinks = least_scale * min(x.shape[2] / size[0], x.shape[3] / size[1])
    if shrinks > 2 and mode != "nearest":
        blocks = math.ceil(shrinks / 2)  # leaves at most two source pixels per output pixel; both are used
        x, maps = _average_blocks(x, maps, blocks)
    if axis_aligned and pad_mode != "zeros" and (whole or _suits_separable(x, size, mode)):
        maps = maps.to(x.device, non_blocking=True)
        rows, columns = (
            _find_sources(maps, axis, x.shape[2 + axis], size[axis], pad_mode, align_corners) for axis in (0, 1)
        )
        moved = _copy_pixels(x, rows, columns) if whole else _interpolate_separably(in_unit_range(x), rows, columns)
        return apply_changes(in_unit_range(moved), *changes) if changes else moved
    # If height and width differ by an odd number, a quarter turn lands between pixels and must interpolate.
    exact = whole and (x.shape[2] - x.shape[3]) % 2 == 0
    return _sample_grid(x, maps, size, "nearest" if exact else mode, pad_mode, align_corners, changes)


def _suits_separable(x: Tensor, size: Size, mode: str) -> bool:
    small = max(x.shape[3], size[1]) <= _SEPARABLE_SIDE
    known = x.dtype in (torch.uint8, torch.float32)
    return small and mode == "bilinear" and x.device.type == "cpu" and known


def _average_blocks(x: Tensor, maps: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    size = (x.shape[2] // blocks, x.shape[3] // blocks)
    smaller = F.interpolate(in_unit_range(x), size, mode="area")
    scale = maps.new_ones(maps.shape[1])
    scale[0], scale[1] = size[0] / x.shape[2], size[1] / x.shape[3]
    return smaller, maps * scale[:, None]


def _find_sources(maps: Tensor, axis: int, side: int, out_side: int, pad_mode: str, align_corners: bool) -> Tensor:
    """Returns the source of each row (axis 0) or column (axis 1): (batch, out_side), from 0 to side - 1."""
    positions = _positions(out_side, maps.device)
    centre = (side - 1) / 2
    sources = torch.addcmul(maps[:, axis, 2:] + centre, maps[:, axis, axis, None], positions)
    if pad_mode == "reflection":
        sources = _reflect(sources, side, align_corners)
    return sources.clamp_(0, side - 1)


def _positions(side: int, device: torch.device) -> Tensor:
    return torch.arange(-(side - 1) / 2, side / 2, device=device)


def _reflect(sources: Tensor, side: int, align_corners: bool) -> Tensor:
    low = 0.0 if align_corners else -0.5
    span = max(side - 1 - 2 * low, 1.0)
    return span - ((sources - low).remainder_(2 * span) - span).abs_() + low


def _copy_pixels(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    b, c, h, w = x.shape
    first_row = torch.arange(0, b * c * h, h, device=x.device).view(b, c, 1)
    chosen = (first_row + rows.round_().long()[:, None]).view(-1)
    moved = x.reshape(-1, w).index_select(0, chosen).view(b, c, rows.shape[1], w)
    return moved.gather(3, columns.round_().long()[:, None, None].expand(b, c, rows.shape[1], columns.shape[1]))


def _interpolate_separably(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    # Rows: a weighted sum of two neighbours, as one bag lookup. Columns: a small matrix product per image. This was
    # fastest when measured. There are few temporaries: if freed memory goes back to the system, each temporary costs
    # page faults again in every batch.
    (b, c, h, w), out_h = x.shape, rows.shape[1]
    above = rows.floor()
    part = rows - above
    first = torch.arange(0, b * c * h, h, device=x.device).view(b, c, 1) + above.long()[:, None]
    pairs = torch.stack([first, first + (part > 0)[:, None]], dim=-1).view(-1, 2)
    weights = torch.stack([1 - part, part], dim=-1)[:, None].expand(b, c, out_h, 2).reshape(-1, 2)
    moved = F.embedding_bag(pairs, x.reshape(-1, w), per_sample_weights=weights, mode="sum").view(b, c * out_h, w)
    return torch.bmm(moved, _hat_weights(columns, w).transpose(1, 2)).view(b, c, out_h, columns.shape[1])


def _hat_weights(sources: Tensor, side: int) -> Tensor:
    """Returns linear interpolation weights (batch, output position, source position)."""
    distance = sources[:, :, None] - torch.arange(side, device=sources.device)
    return distance.abs_().clamp_max_(1).neg_().add_(1)


def _sample_grid(
    x: Tensor,
    maps: Tensor,
    size: Size,
    mode: str,
    pad_mode: str,
    align_corners: bool,
    changes: Sequence[PixelChange],
) -> Tensor:
    at_once = max(1, _POSITIONS_AT_ONCE // (size[0] * size[1])) if x.device.type == "cpu" else max(1, len(x))
    vertical, horizontal = half_sides((x.shape[2], x.shape[3]), align_corners)
    unit = [horizontal or 1.0, vertical or 1.0] + [1.0] * (maps.shape[1] - 2)
    maps = torch.cat([maps[:, :2].flip(1), maps[:, 2:]], dim=1) / maps.new_tensor(unit)[:, None]
    maps = maps.to(x.device, non_blocking=True)

    def sample(images: slice) -> Tensor:
        some = x[images]
        # Keep channels last, as decoded images have them: conversion and lookup are 1.1 x faster.
        some = some.float().div_(255) if some.dtype == torch.uint8 else some
        grid = _make_grid(maps[images], size).to(some.dtype)
        moved = F.grid_sample(some, grid, mode=mode, padding_mode=pad_mode, align_corners=align_corners)
        for change in changes:
            change(moved, images)
        return moved

    if at_once >= len(x):
        return sample(slice(0, len(x)))
    dtype = torch.float32 if x.dtype == torch.uint8 else x.dtype
    out = x.new_empty((len(x), x.shape[1], *size), dtype=dtype)

    def sample_from(first: int) -> None:
        images = slice(first, first + at_once)
        out[images] = sample(images)

    starts = range(0, len(x), at_once)
    if x.requires_grad:  # autograd would note the writes of several threads into one tensor
        list(map(sample_from, starts))
    else:
        compute_in_threads(sample_from, starts)
    return out


def _make_grid(maps: Tensor, size: Size) -> Tensor:
    """Returns torch's grid (batch, height, width, 2) for maps whose rows are (horizontal, vertical, divisor)."""
    # The sum of one term per row and one per column. `affine_grid` multiplies matrices, many times slower on a CPU.
    down = maps[:, :, 0, None] * _positions(size[0], maps.device) + maps[:, :, 2:]
    along = maps[:, :, 1, None] * _positions(size[1], maps.device)
    grid = down[:, :, :, None] + along[:, :, None]
    if maps.shape[1] == 3:
        grid = grid[:, :2].div_(grid[:, 2:].clamp_min_(_LEAST_DIVISOR))
    return grid.permute(0, 2, 3, 1)
