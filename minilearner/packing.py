"""Turns nested state into plain JSON and a flat table of tensors, and back, so that nothing needs pickle.

Only data come back: numbers, text, bytes, lists, tuples, sets, dictionaries, arrays and tensors. Nothing that a file
names is imported, called or built.
"""

from __future__ import annotations

import base64
import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minilearner.errors import FileFormatError

__all__ = ["GROWING", "Growing", "pack", "unpack"]

GROWING = "growing-"
"""How the names of tensors begin of which each state has the rows of the state before, and more."""

_MAX_DEPTH = 64


@dataclass(frozen=True)
class Growing:
    """Marks an array or a list in a state that only grows at its end. It comes back without the mark."""

    rows: np.ndarray[Any, Any] | list[Any]


def pack(state: Any, tensors: dict[str, Tensor]) -> Any:
    """Returns `state` as data for JSON, in which names stand for tensors; adds the tensors themselves to `tensors`.

    Tensors and NumPy arrays are copied to the CPU, so the state may go on changing.

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
    if isinstance(value, np.ndarray) and value.dtype.kind == "u" and value.ndim == 1:  # of random generators
        return {"unsigned": [value.dtype.name, value.tolist()]}
    if isinstance(value, Growing):
        return _pack_rows(value.rows, tensors, where)
    if isinstance(value, np.ndarray):
        return {"array": _pack(_to_tensor(value, where), tensors, where)["tensor"]}
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
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, (set, frozenset)):
        items = [_pack(item, tensors, f"an item of {where}") for item in sorted(value, key=_sort_key)]
        return {"frozenset" if isinstance(value, frozenset) else "set": items}
    if isinstance(value, deque):
        items = [_pack(item, tensors, f"{where}[{i}]") for i, item in enumerate(value)]
        return {"deque": [value.maxlen, items]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes" if isinstance(value, bytes) else "bytearray": base64.b64encode(value).decode()}
    if isinstance(value, complex):
        return {"complex": [_pack(value.real, tensors, where), _pack(value.imag, tensors, where)]}
    if isinstance(value, (bool, int, str)):  # of a subclass, such as an enum: the value counts
        return value.value if hasattr(value, "value") else value
    raise TypeError(f"{where} is a {type(value).__name__}, which is not data and cannot be saved.")


def _pack_rows(rows: np.ndarray[Any, Any] | list[Any], tensors: dict[str, Tensor], where: str) -> dict[str, str]:
    if isinstance(rows, np.ndarray):
        kind, tensor = "array", _to_tensor(rows, where)
    else:
        lines = [json.dumps(_pack(row, tensors, f"{where}[{i}]"), allow_nan=False) for i, row in enumerate(rows)]
        text = "".join(f"{line}\n" for line in lines).encode()
        kind, tensor = "lines", torch.from_numpy(np.frombuffer(text, np.uint8).copy())
    name = f"{GROWING}{len(tensors):06d}"
    tensors[name] = tensor.clone()
    return {kind: name}


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


def _to_tensor(array: np.ndarray[Any, Any], where: str) -> Tensor:
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{where} is an array of {array.dtype}, which is not data and cannot be saved.")
    own_order = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(np.ascontiguousarray(own_order).reshape(array.shape))


def _sort_key(item: Any) -> tuple[str, str]:
    """Orders the items of a set in the same way in every process: hashes of text differ."""
    return type(item).__name__, repr(item)


def _tensor(name: Any, tensors: Mapping[str, Tensor], depth: int) -> Tensor:
    if not isinstance(name, str) or name not in tensors:
        raise FileFormatError(f"the state names a tensor {str(name)[:40]!r}, which is missing.")
    return tensors[name]


def _array(name: Any, tensors: Mapping[str, Tensor], depth: int) -> np.ndarray[Any, Any]:
    return _tensor(name, tensors, depth).numpy()


def _lines(name: Any, tensors: Mapping[str, Tensor], depth: int) -> list[Any]:
    text = _tensor(name, tensors, depth)
    if text.dtype != torch.uint8 or text.ndim != 1:
        raise FileFormatError(f"the state names {str(name)[:40]!r} as text, which is {text.dtype}.")
    try:
        rows = [json.loads(line, parse_constant=_refuse_constant) for line in text.numpy().tobytes().splitlines()]
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"the state holds rows that are not JSON: {str(error)[:80]}.") from error
    return _list(rows, tensors, depth)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _set(items: Any, tensors: Mapping[str, Tensor], depth: int) -> set[Any]:
    try:
        return set(_list(items, tensors, depth))
    except TypeError as error:  # a list in it
        raise FileFormatError(f"the state holds a set of {str(items)[:40]!r}.") from error


def _frozenset(items: Any, tensors: Mapping[str, Tensor], depth: int) -> frozenset[Any]:
    return frozenset(_set(items, tensors, depth))


def _deque(content: Any, tensors: Mapping[str, Tensor], depth: int) -> deque[Any]:
    if not isinstance(content, list) or len(content) != 2:
        raise FileFormatError("the state holds a deque that is not a length and a list.")
    length, items = content
    if length is not None and (type(length) is not int or not 0 <= length < 1 << 62):
        raise FileFormatError(f"the state holds a deque of length {str(length)[:40]!r}.")
    return deque(_list(items, tensors, depth), length)


def _bytes(text: Any, tensors: Mapping[str, Tensor], depth: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise FileFormatError(f"the state holds the bytes {str(text)[:40]!r}, which cannot be read.") from error


def _bytearray(text: Any, tensors: Mapping[str, Tensor], depth: int) -> bytearray:
    return bytearray(_bytes(text, tensors, depth))


def _complex(content: Any, tensors: Mapping[str, Tensor], depth: int) -> complex:
    parts = _list(content, tensors, depth)
    if len(parts) != 2 or not all(type(part) in (int, float) for part in parts):
        raise FileFormatError(f"the state holds the complex number {str(content)[:40]!r}.")
    return complex(*parts)


def _list(items: Any, tensors: Mapping[str, Tensor], depth: int) -> list[Any]:
    if not isinstance(items, list):
        raise FileFormatError(f"the state holds {str(items)[:40]!r} in place of a list.")
    return [_unpack(item, tensors, depth) for item in items]


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


def _dtype(name: Any, tensors: Mapping[str, Tensor], depth: int) -> torch.dtype:
    found = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(found, torch.dtype):
        raise FileFormatError(f"the state holds the type {str(name)[:40]!r}, which torch does not have.")
    return found


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
        if not isinstance(key, (str, int, float, complex, bytes, tuple, frozenset, type(None))):
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
    "dtype": _dtype,
    "array": _array,
    "lines": _lines,
    "set": _set,
    "frozenset": _frozenset,
    "deque": _deque,
    "bytes": _bytes,
    "bytearray": _bytearray,
    "complex": _complex,
    "tuple": _tuple,
    "dict": _dict,
}
