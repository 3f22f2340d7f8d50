"""Arrays that users bring, checked, as tensors. `targets` turns their labels into numbers.

Tensors share the memory of the NumPy arrays that they are made of, if NumPy allows it; nothing here writes to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from minilearner.data.targets import as_labels
from minilearner.errors import DataError

__all__ = ["as_inputs", "as_pair", "check_alike"]

_INPUT_DTYPES = (torch.uint8, torch.int32, torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float32)


def as_inputs(value: Any, split: str) -> Tensor:
    """Returns inputs as a tensor (items, ...): uint8, int32 and int64 as they are, any other kind as float32.

    Raises:
        DataError: there are no items, or no model takes the dtype.
    """
    raw = value if isinstance(value, Tensor) else np.asarray(value)
    x = raw if isinstance(raw, Tensor) else _from_numpy(raw, f"`x` of {split}")
    if x.ndim == 0 or len(x) == 0:
        raise DataError(f"`x` of {split} must hold at least one item. Received: shape {tuple(x.shape)}.")
    if x.dtype not in (*_INPUT_DTYPES, torch.float64):
        raise DataError(f"`x` of {split} must be uint8 or floating point. Received: {x.dtype}. Convert it first.")
    x = x.detach()
    if x.is_floating_point() or x.dtype == torch.bool:
        x = x.float()  # NaN may stay: a model may know what to do with it
    return x


def as_pair(arrays: Any, split: str) -> tuple[Tensor, np.ndarray[Any, Any]]:
    """Returns a pair ``(x, y)`` as inputs and labels of one length.

    Raises:
        TypeError: `arrays` is not a pair.
        DataError: they differ in length, or as `as_inputs` and `as_labels`.
    """
    if not isinstance(arrays, (tuple, list)) or len(arrays) != 2:
        got = f"{len(arrays)} parts" if isinstance(arrays, (tuple, list)) else type(arrays).__name__
        raise TypeError(f"`{split}` must be a pair of arrays (x, y). Received: {got}.")
    x, y = as_inputs(arrays[0], split), as_labels(arrays[1], split)
    if len(x) != len(y):
        raise DataError(
            f"`x` and `y` of {split} must have the same number of items. Received: x of shape {tuple(x.shape)}, y of "
            f"shape {y.shape}."
        )
    return x, y


def check_alike(x: Tensor, vx: Tensor) -> None:
    """Raises a DataError if inputs for training and for validation differ in the shape or dtype of an item."""
    if x.shape[1:] != vx.shape[1:] or x.dtype != vx.dtype:
        raise DataError(
            f"Items of train and valid must have one shape and kind. Received: train {tuple(x.shape[1:])} {x.dtype}, "
            f"valid {tuple(vx.shape[1:])} {vx.dtype}. uint8 is scaled to [0, 1] on arrival, floats are not."
        )


def _from_numpy(a: np.ndarray[Any, Any], name: str) -> Tensor:
    if a.dtype.kind not in "biuf" or a.dtype.name in ("uint16", "uint32", "uint64", "float128", "longdouble"):
        raise DataError(
            f"{name} must be uint8 or floating point. Received: dtype {a.dtype}, shape {a.shape}. "
            "Convert it first, and let items of unequal shapes be resized to one."
        )
    a = a.astype(a.dtype.newbyteorder("="), copy=False)
    # torch can only share memory that is writable and runs forwards.
    return torch.from_numpy(a if a.flags.writeable and min(a.strides, default=0) >= 0 else a.copy())
