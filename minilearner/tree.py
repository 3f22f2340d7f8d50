"""Nested tensors: a batch may hold tensors in tuples, lists and dictionaries."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = [
    "Tree",
    "checksum",
    "digest",
    "has_items",
    "is_empty",
    "map_tensors",
    "n_items",
    "shape_of",
    "take_items",
    "tensors_of",
    "to_device",
]

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""Finds the address that Python's own `repr` of an object has; it differs from process to process."""

Tree: TypeAlias = Any
"""A tensor, or a tuple, list or dictionary of trees. Leaves of other types stay as they are."""

_WHOLE_NUMBERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def to_device(tree: Tree, device: torch.device) -> Tree:
    """Moves every tensor to `device`, without waiting if the tensor's memory is pinned."""
    if isinstance(tree, Tensor):  # the ordinary case, made fast
        return tree if tree.device == device else tree.to(device, non_blocking=True)
    return map_tensors(lambda t: t.to(device, non_blocking=True), tree)


def map_tensors(f: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """Applies `f` to every tensor, and keeps the structure, also of named tuples."""
    if isinstance(tree, Tensor):
        return f(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(f, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(f, value) for value in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(map_tensors(f, value) for value in tree)
    return tree


def tensors_of(tree: Tree) -> list[Tensor]:
    """Returns every tensor, in order."""
    found: list[Tensor] = []

    def note(t: Tensor) -> Tensor:
        found.append(t)
        return t

    map_tensors(note, tree)
    return found


def n_items(tree: Tree) -> int:
    """Returns the number of items in a batch: the length of the first tensor that is not empty, or 0."""
    if isinstance(tree, Tensor):
        return tree.shape[0] if tree.ndim else 1
    if isinstance(tree, Mapping):
        tree = tuple(tree.values())
    if isinstance(tree, (tuple, list)):
        return next((n for n in map(n_items, tree) if n), 0)
    return 0


def is_empty(tree: Tree) -> bool:
    """Whether there are tensors, and none has an item. A process gets such a batch if others have the last items."""
    if isinstance(tree, Tensor):  # the ordinary case, made fast
        return tree.ndim > 0 and tree.shape[0] == 0
    lengths: list[int] = []

    def note(t: Tensor) -> Tensor:
        lengths.append(t.shape[0] if t.ndim else 1)
        return t

    map_tensors(note, tree)
    return bool(lengths) and not any(lengths)


def has_items(tree: Tree, n: int) -> bool:
    """Whether each tensor has an entry for each of `n` items. Lists of one tensor an item, such as boxes, have not."""
    return all(t.ndim == 0 or len(t) == n for t in tensors_of(tree))


def take_items(tree: Tree, items: slice, n: int) -> Tree:
    """Returns a part of a batch of `n` items. A tensor of another length belongs to every part.

    A list of `n` members is a list of items, unless its tensors have `n` items each.
    """
    if isinstance(tree, Tensor):
        return tree[items] if tree.ndim and len(tree) == n else tree
    if isinstance(tree, list) and len(tree) == n and not (tensors_of(tree) and has_items(tree, n)):
        return tree[items]
    if isinstance(tree, Mapping):
        return {key: take_items(value, items, n) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(take_items(value, items, n) for value in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(take_items(value, items, n) for value in tree)
    return tree


def shape_of(tree: Tree) -> Tree:
    """Returns the shape of a tensor as a plain tuple, and a tuple of shapes for a tuple or list."""
    return tuple(map(shape_of, tree)) if isinstance(tree, (tuple, list)) else tuple(tree.shape)


def checksum(tensors: Iterable[Tensor]) -> list[int]:
    """Returns a number for each tensor that changes with its values: the sum of their bits as whole numbers.

    It is the same on every device, and far quicker than `digest`. Values that change places do not change it.
    """
    sums = []
    for tensor in tensors:
        values = getattr(tensor, "to_local", lambda t=tensor: t)().detach()  # the own part of a sharded tensor
        values = torch.view_as_real(values) if values.is_complex() else values
        sums.append(int(values.view(_WHOLE_NUMBERS[values.element_size()]).sum(dtype=torch.int64)))
    return sums


def digest(*parts: Tree) -> str:
    """Returns 16 hexadecimal digits that change with the data. Parts that are not tensors count by their `repr`."""
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            whole.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            whole.update(ADDRESS.sub("", repr(part)).encode())
    return whole.hexdigest()[:16]
