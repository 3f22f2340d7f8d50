"""A model's tensors: names that survive wrapping, memory layout, and the model inside its wrappers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["is_channels_last", "named", "named_state", "to_channels_last", "to_contiguous", "unwrapped"]

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


def to_channels_last(model: nn.Module) -> nn.Module:
    """Lays out the weights of 2-d convolutions as (out, height, width, in), which convolution kernels read fastest.

    Activations follow the weights. Values do not change but in the last bits, for sums run in another order. A model
    without such layers is left as it is.
    """
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        model.to(memory_format=torch.channels_last)
    return model


def to_contiguous(model: nn.Module) -> nn.Module:
    """Lays out all weights in torch's ordinary order again, with the same values."""
    return model.to(memory_format=torch.contiguous_format)


def is_channels_last(model: nn.Module) -> bool:
    """Whether any weight is laid out so that it could not be mistaken for the ordinary order."""
    return any(
        p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
        for p in model.parameters()
    )


def unwrapped(model: nn.Module) -> nn.Module:
    """Returns the model inside DDP, DataParallel or torch.compile."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrapped(model.module)
    compiled = getattr(model, "_orig_mod", None)
    return unwrapped(compiled) if isinstance(compiled, nn.Module) else model
