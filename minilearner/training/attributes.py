"""An object's attributes that are data: read out for a checkpoint, and put back."""

from __future__ import annotations

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
    vars(owner).update(state)


_FORMS = ((bool, int, float), (str, list, tuple, Mapping))


def _is_data(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_data(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple)):
        return all(map(_is_data, value))
    if isinstance(value, nn.Parameter) or type(value) is type:
        return False
    return value is None or isinstance(value, (bool, int, float, str, np.generic, np.ndarray, Tensor))
