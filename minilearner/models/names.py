"""Names of a model's tensors that do not tell how the model is run: wrapped or not, they are the same."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

__all__ = ["named", "named_state"]

_WRAPPERS = re.compile(r"(^|\.)(module|_orig_mod)(?=\.)")  # what DDP and torch.compile put into names


def named(tensors: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Returns tensors by their names without those of wrappers; as they are where two would then be called the same."""
    listed = list(tensors)
    found = {_WRAPPERS.sub(r"\1", name).lstrip("."): tensor for name, tensor in listed}
    return found if len(found) == len(listed) else dict(listed)


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """Returns the tensors of a model's `state_dict`, the very ones, by such names.

    Raises:
        TypeError: a module keeps something else there by `get_extra_state`, which is no tensor.
    """
    state = named(model.state_dict(keep_vars=True).items())
    if odd := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise TypeError(f"the model keeps {odd[0]!r} in its state, which is no tensor and cannot be saved.")
    return state
