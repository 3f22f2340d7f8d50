"""Scales images of 8 bits with NumPy to the same bits as torch's bilinear resampling with antialiasing.

torch does it several times as fast; this is for machines without torch. As torch does, it scales the widths first, with
weights in whole numbers of at most 15 bits, and rounds to 8 bits before it scales the heights.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["scale_pixels"]

Pixels: TypeAlias = NDArray[np.uint8]

_MOST_BITS, _WEIGHT_BITS = 22, 15


def scale_pixels(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Returns pixels (height, width, ...) at `size` (width, height)."""
    wide = _scale_rows(pixels.swapaxes(0, 1), size[0]).swapaxes(0, 1)
    return np.ascontiguousarray(_scale_rows(wide, size[1]))


def _scale_rows(pixels: Pixels, n: int) -> Pixels:
    """Returns an array whose first axis has `n` entries."""
    if len(pixels) == n:
        return pixels
    weights, first, bits = _whole_weights(len(pixels), n)
    total = np.full((n, *pixels.shape[1:]), 1 << (bits - 1), np.int32)  # one half, so that the shift rounds
    shape = (n, *(1,) * (pixels.ndim - 1))
    for k in range(weights.shape[1]):
        source = np.minimum(first + k, len(pixels) - 1)  # beyond the end, the weight is zero
        total += weights[:, k].reshape(shape) * pixels[source]
    return (total >> bits).clip(0, 255).astype(np.uint8)


def _whole_weights(length: int, n: int) -> tuple[NDArray[np.int32], NDArray[np.int64], int]:
    """Returns what a side of `length` pixels contributes to each of `n`: the weights of neighbours, the first of them,
    and by how many bits the weights are too large.
    """
    scale = length / n
    reach = max(scale, 1.0)
    centre = scale * (np.arange(n) + 0.5)
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + reach + 0.5).astype(np.int64), length)
    k = np.arange(int((end - first).max()))
    distance = np.abs((k + first[:, None] - centre[:, None] + 0.5) * (1 / reach))
    weights = np.where(k < (end - first)[:, None], np.maximum(1 - distance, 0), 0)
    weights /= weights.sum(1, keepdims=True)
    bits = _find_bits(float(weights.max()))
    return (weights * (1 << bits) + 0.5).astype(np.int32), first, bits


def _find_bits(largest: float) -> int:
    """Returns the most bits with which the largest weight stays within its limit."""
    return next(bits for bits in range(_MOST_BITS + 1) if bits == _MOST_BITS or _is_too_large(largest, bits + 1))


def _is_too_large(weight: Any, bits: int) -> bool:
    return int(0.5 + weight * (1 << bits)) >= 1 << _WEIGHT_BITS
