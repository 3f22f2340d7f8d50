"""Copies of objects of which some parts cannot be copied, such as a lock or an open file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from types import MethodType
from typing import Any

__all__ = ["copy_apart"]


def copy_apart(value: Any, shared: Mapping[int, Any] | None = None) -> Any:
    """Returns a deep copy in which only what cannot be copied is shared with the original.

    Args:
        shared: `id` of an object -> what stands for it in the copy, such as the object itself.
    """
    shared = shared or {}
    if id(value) in shared:
        return shared[id(value)]
    try:
        return copy.deepcopy(value, dict(shared))
    except Exception:  # such as a TypeError: cannot pickle '_thread.lock' object
        return _copy_part_by_part(value, shared)


def _copy_part_by_part(value: Any, shared: Mapping[int, Any]) -> Any:
    if isinstance(value, MethodType):
        return MethodType(value.__func__, copy_apart(value.__self__, shared))
    if isinstance(value, partial):
        keywords = copy_apart(value.keywords, shared)
        return partial(copy_apart(value.func, shared), *copy_apart(value.args, shared), **keywords)
    if type(value) in (list, tuple, set):
        return type(value)(copy_apart(item, shared) for item in value)
    if type(value) is dict:
        return {key: copy_apart(item, shared) for key, item in value.items()}
    if not hasattr(value, "__dict__") or isinstance(value, type):
        return value
    try:
        twin = object.__new__(type(value))
    except TypeError:  # made in C
        return value
    shared = {**shared, id(value): twin}
    vars(twin).update({name: copy_apart(part, shared) for name, part in vars(value).items()})
    return twin
