"""Arrays that users bring, turned into checked tensors: inputs by dtype, labels by their target.

Tensors share the memory of the NumPy arrays that they are made of, where NumPy allows; nothing here writes to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from minilearner.data.targets import Category, Regression, Target
from minilearner.errors import DataError

__all__ = ["as_inputs", "as_labels", "as_pair", "check_alike", "encode", "target_for"]

_INPUT_DTYPES = (torch.uint8, torch.int32, torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float32)


def as_inputs(value: Any, split: str) -> Tensor:
    """Returns inputs as a tensor (items, ...): uint8, int32 and int64 as they are, any other kind as float32.

    Raises:
        DataError: there are no items, the dtype is none that a model takes, or values are not finite. The message
            names the split, and for values how many there are and the first item that has one.
    """
    raw = value if isinstance(value, Tensor) else np.asarray(value)
    x = raw if isinstance(raw, Tensor) else _from_numpy(raw, f"`x` of {split}")
    if x.ndim == 0 or len(x) == 0:
        raise DataError(f"`x` of {split} must hold at least one item. Received: shape {tuple(x.shape)}.")
    if x.dtype not in (*_INPUT_DTYPES, torch.float64):
        raise DataError(f"`x` of {split} must be uint8 or floating point. Received: {x.dtype}. Convert it first.")
    x = x.detach()
    if x.is_floating_point() or x.dtype == torch.bool:
        x = _finite(x.float(), f"`x` of {split}")
    return x


def as_labels(value: Any, split: str) -> np.ndarray[Any, Any]:
    """Returns labels, in whatever form users bring, as a NumPy array of numbers or of text.

    Raises:
        DataError: they are neither numbers nor text.
    """
    raw = value.detach().cpu() if isinstance(value, Tensor) else value
    raw = raw.float() if isinstance(raw, Tensor) and raw.dtype == torch.bfloat16 else raw
    y = np.asarray(raw)
    if y.dtype.kind == "O" and all(isinstance(label, str) for label in y.flat):
        y = y.astype(str)
    if y.dtype.kind not in "biufU" or y.ndim == 0:
        raise DataError(
            f"`y` of {split} must be a sequence of numbers or of text. Received: shape {y.shape}, dtype {y.dtype}."
        )
    return y


def as_pair(arrays: Any, split: str) -> tuple[Tensor, np.ndarray[Any, Any]]:
    """Returns a pair ``(x, y)`` as inputs and labels of one length.

    Raises:
        TypeError: `arrays` is no pair.
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
    """Raises DataError where inputs for training and for validation differ in the shape or dtype of an item."""
    if x.shape[1:] != vx.shape[1:] or x.dtype != vx.dtype:
        raise DataError(
            f"Items of train and valid must have one shape and kind. Received: train {tuple(x.shape[1:])} {x.dtype}, "
            f"valid {tuple(vx.shape[1:])} {vx.dtype}. uint8 is scaled to [0, 1] on arrival, floats are not."
        )


def target_for(y: np.ndarray[Any, Any], vocab: Any = None) -> Target:
    """Returns what training labels mean: text and integers are classes, floats are numbers to regress.

    Without `vocab` text gets the sorted distinct labels, integers get 0 up to the largest.

    Raises:
        DataError: integers are two-dimensional, so that their meaning is unclear, or negative.
    """
    if vocab is not None:
        return Category(tuple(vocab))
    if y.dtype.kind == "U":
        return Category(np.unique(y).tolist())
    if y.dtype.kind == "f":
        return Regression(int(np.prod(y.shape[1:])))
    if y.ndim == 2:
        raise DataError(
            f"`y` of train holds integers of shape {y.shape}: one-hot rows or a column? Give class numbers of shape "
            "(items,), such as y.argmax(1) or y[:, 0], or floats for regression."
        )
    _check_range(y, None, "train")
    return Category(range(int(y.max()) + 1))


def encode(y: np.ndarray[Any, Any], target: Target, split: str) -> Tensor:
    """Returns labels as the target's numbers: int64 class indices, or float32.

    Raises:
        DataError: a label is not in the vocabulary, a class number is out of range, or a number is not finite. The
            message names the split, the first bad item and its value.
    """
    if not isinstance(target, Category):
        kind = np.float32 if y.dtype.kind == "f" or isinstance(target, Regression) else np.int64
        return _finite(torch.from_numpy(_numbers(y, split).astype(kind)), f"`y` of {split}")
    if y.dtype.kind == "U":
        return torch.from_numpy(_codes(y, target, split))
    if y.dtype.kind == "f":
        raise DataError(f"`y` of {split} must be class numbers or names. Received: dtype {y.dtype}. Use y.astype(int).")
    _check_range(y, target.c, split)
    return torch.from_numpy(y.astype(np.int64))


def _codes(y: np.ndarray[Any, Any], target: Category, split: str) -> np.ndarray[Any, Any]:
    index = {name: i for i, name in enumerate(target.vocab)}
    names, where, inverse = np.unique(y, return_index=True, return_inverse=True)
    if unseen := [name for name in names.tolist() if name not in index]:
        first = int(min(where[names.tolist().index(name)] for name in unseen))
        raise DataError(
            f"`y` of {split} has labels that are not in the vocabulary: {', '.join(map(repr, unseen[:5]))}"
            f"{' and more' if len(unseen) > 5 else ''}, first at item {first}. Known: {list(target.vocab)[:10]}. "
            "Give every class in `vocab=`, or remove these items."
        )
    codes = np.array([index[name] for name in names.tolist()], dtype=np.int64)
    encoded: np.ndarray[Any, Any] = codes[inverse].reshape(y.shape)
    return encoded


def _numbers(y: np.ndarray[Any, Any], split: str) -> np.ndarray[Any, Any]:
    if y.dtype.kind == "U":
        raise DataError(f"`y` of {split} must be numbers for this target. Received: text such as {y.flat[0]!r}.")
    return y


def _check_range(y: np.ndarray[Any, Any], c: int | None, split: str) -> None:
    bad = (y < 0) if c is None else (y < 0) | (y >= c)
    if not bad.any():
        return
    item = int(bad.reshape(len(y), -1).any(1).argmax())
    raise DataError(
        f"`y` of {split} must be class numbers from 0 {'up' if c is None else f'to {c - 1}'}. Received: "
        f"{int(y[item][bad[item]].flat[0])} at item {item} ({int(bad.sum())} such labels). Correct the labels, or name "
        "every class in `vocab=`."
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


def _finite(t: Tensor, name: str) -> Tensor:
    if not t.is_floating_point() or bool(t.isfinite().all()):
        return t
    bad = ~t.isfinite().reshape(len(t), -1)
    raise DataError(
        f"{name} must be finite. Received: {int(bad.sum())} values that are NaN or infinite, the first in item "
        f"{int(bad.any(1).nonzero()[0, 0])}. Fill or remove them."
    )
