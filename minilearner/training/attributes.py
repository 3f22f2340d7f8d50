"""An object's attributes that are data: read out for a checkpoint, and put back."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

__all__ = ["data_attributes", "load_attributes"]


def data_attributes(owner: Any) -> dict[str, Any]:
    """Returns the attributes of an object that are data, as `pack` takes them. A model's parameters do not count."""
    return {name: value for name, value in vars(owner).items() if _is_data(value)}


def load_attributes(owner: Any, state: Mapping[str, Any]) -> None:
    """Gives an object the attributes that `data_attributes` returned. None and tensors may replace any value.

    Raises:
        ValueError: a name belongs to a method, or a number would become text or a collection, or the other way round.
    """
    for name, value in state.items():
        if not isinstance(name, str) or callable(getattr(type(owner), name, None)):
            raise ValueError(f"{name!r:.40} is no attribute of {type(owner).__name__} that is data.")
        was = vars(owner).get(name)
        if any(isinstance(was, one) and isinstance(value, other) for one in _FORMS for other in _FORMS if one != other):
            raise ValueError(
                f"{name} was a {type(was).__name__}, and saved is the {type(value).__name__} {value!r:.40}"
            )
    vars(owner).update({name: _in_form_of(vars(owner).get(name), value) for name, value in state.items()})


_FORMS = ((bool, int, float), (str, list, tuple, set, frozenset, deque, bytes, Mapping))


def _in_form_of(was: Any, value: Any) -> Any:
    """Returns the value as the kind of dictionary or tuple that the attribute was; a file only keeps plain ones."""
    if isinstance(was, defaultdict) and type(value) is dict:
        return defaultdict(was.default_factory, value)
    if isinstance(was, (Counter, OrderedDict)) and type(value) is dict:
        return type(was)(value)
    if isinstance(was, np.ndarray) and isinstance(value, Tensor):  # earlier versions kept arrays as tensors
        return value.detach().cpu().numpy()
    if isinstance(was, tuple) and hasattr(was, "_make") and type(value) is tuple and len(value) == len(was):
        return was._make(value)
    return value


def _is_data(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_data(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return all(map(_is_data, value))
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufc"
    if isinstance(value, nn.Parameter) or type(value) is type:
        return False
    return value is None or isinstance(value, (bool, int, float, complex, str, bytes, bytearray, np.generic, Tensor))
