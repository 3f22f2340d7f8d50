"""Turns nested state into plain JSON and a flat table of tensors, and back, so that nothing needs pickle.

Only data come back: numbers, text, lists, tuples, dictionaries and tensors. Nothing that a file names is imported,
called or built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minilearner.errors import FileFormatError

__all__ = ["pack", "unpack"]

_MAX_DEPTH = 64


def pack(state: Any, tensors: dict[str, Tensor]) -> Any:
    """Returns `state` as data for JSON, in which names stand for tensors; adds the tensors themselves to `tensors`.

    Tensors are copied to the CPU, so the state may go on changing. NumPy arrays come back as tensors, except arrays of
    unsigned integers, which come back as arrays of one dimension.

    Raises:
        TypeError: the state holds something that is not data, such as a function or a module. The message says where.
    """
    return _pack(state, tensors, "state")


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Returns the state that `pack` turned into `packed` and `tensors`.

    Raises:
        FileFormatError: `packed` is not what `pack` writes, or it names a tensor that is missing.
    """
    return _unpack(packed, tensors, 0)


def _pack(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if (
        isinstance(value, np.ndarray) and value.dtype.kind == "u"
    ):  # random generators hold such arrays and need them back
        return {"unsigned": [value.dtype.name, value.ravel().tolist()]}
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        name = f"{len(tensors):06d}"
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, (list, tuple)):
        items = [_pack(item, tensors, f"{where}[{i}]") for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, Mapping):
        pairs = [
            [_pack(k, tensors, f"a key of {where}"), _pack(v, tensors, f"{where}[{k!r}]")] for k, v in value.items()
        ]
        return {"dict": pairs}
    if isinstance(value, (bool, int, str)):  # of a subclass, such as an enum: the value counts
        return value.value if hasattr(value, "value") else value
    raise TypeError(f"{where} is a {type(value).__name__}, which is not data and cannot be saved.")


def _unpack(packed: Any, tensors: Mapping[str, Tensor], depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise FileFormatError(
            f"the state is nested more than {_MAX_DEPTH} levels deep, deeper than any that minilearner writes."
        )
    if packed is None or isinstance(packed, (bool, int, float, str)):
        return packed
    if isinstance(packed, list):
        return [_unpack(item, tensors, depth + 1) for item in packed]
    if isinstance(packed, dict) and len(packed) == 1:
        ((kind, content),) = packed.items()
        if kind in _KINDS:
            return _KINDS[kind](content, tensors, depth + 1)
    raise FileFormatError(f"the state holds {str(packed)[:80]!r}, which minilearner does not write.")


def _tensor(name: Any, tensors: Mapping[str, Tensor], depth: int) -> Tensor:
    if not isinstance(name, str) or name not in tensors:
        raise FileFormatError(f"the state names a tensor {str(name)[:40]!r}, which is missing.")
    return tensors[name]


def _float(text: Any, tensors: Mapping[str, Tensor], depth: int) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise FileFormatError(f"the state holds the float {str(text)[:40]!r}, which minilearner does not write.")
    return float(text)


def _numpy_array(content: Any, tensors: Mapping[str, Tensor], depth: int) -> np.ndarray[Any, Any]:
    try:
        name, numbers = content
        if type(numbers) is not list or not all(type(number) is int for number in numbers):
            raise TypeError("not a list of whole numbers")
        return np.array(
            numbers, dtype={"uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64}[name]
        )
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise FileFormatError(
            f"the state holds an array {str(content)[:40]!r}, which minilearner does not write."
        ) from error


def _tuple(items: Any, tensors: Mapping[str, Tensor], depth: int) -> tuple[Any, ...]:
    if not isinstance(items, list):
        raise FileFormatError("the state holds a tuple that is not a list.")
    return tuple(_unpack(item, tensors, depth) for item in items)


def _dict(pairs: Any, tensors: Mapping[str, Tensor], depth: int) -> dict[Any, Any]:
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise FileFormatError("the state holds a dictionary that is not a list of pairs.")
    found = {}
    for key, value in pairs:
        key = _unpack(key, tensors, depth)
        if not isinstance(key, (str, int, float, tuple, type(None))):
            raise FileFormatError(f"the state holds a dictionary with the key {str(key)[:40]!r}.")
        try:
            found[key] = _unpack(value, tensors, depth)
        except TypeError as error:  # a tuple with a list in it
            raise FileFormatError(f"the state holds a dictionary with the key {str(key)[:40]!r}.") from error
    return found


_KINDS: dict[str, Callable[[Any, Mapping[str, Tensor], int], Any]] = {
    "tensor": _tensor,
    "float": _float,
    "unsigned": _numpy_array,
    "tuple": _tuple,
    "dict": _dict,
}
