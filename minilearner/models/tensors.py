"""A model's tensors: names that survive wrapping, memory layout, and the model inside its wrappers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from minilearner.copies import copy_apart

__all__ = [
    "collect_state",
    "copy_extra_state",
    "has_convolutions",
    "has_extra_state",
    "is_channels_last",
    "load_extra_state",
    "read_extra_state",
    "to_channels_last",
    "to_contiguous",
    "unwrap",
    "unwrap_names",
]

_WRAPPERS = re.compile(r"(^|\.)(module|_orig_mod)(?=\.)")  # DDP and torch.compile put these into names


def unwrap_names(tensors: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Returns tensors by their names without the parts that wrappers add.

    If two names would then be the same, all names stay as they are.
    """
    listed = list(tensors)
    found = {_WRAPPERS.sub(r"\1", name).lstrip("."): tensor for name, tensor in listed}
    return found if len(found) == len(listed) else dict(listed)


def collect_state(model: nn.Module) -> dict[str, Tensor]:
    """Returns the tensors of a model's `state_dict`, not copies, by their names without those of wrappers.

    What modules return from `get_extra_state` is not among them; see `read_extra_state`.

    Raises:
        TypeError: a state holds something other than a tensor.
    """
    extra = _extra_modules(model)
    state = unwrap_names(model.state_dict(keep_vars=True).items())
    state = {name: value for name, value in state.items() if name not in extra}
    if odd := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise TypeError(f"the model's state has {odd[0]!r}, which is not a tensor and cannot be saved.")
    return state


def read_extra_state(model: nn.Module) -> dict[str, Any]:
    """Returns what the modules of a model keep besides tensors: what each `get_extra_state` returns, not a copy.

    The names are those of the model's `state_dict`, without those of wrappers, and end in "_extra_state".
    """
    return {name: module.get_extra_state() for name, module in _extra_modules(model).items()}


def copy_extra_state(model: nn.Module) -> dict[str, Any]:
    """Returns copies of what `read_extra_state` returns, for `load_extra_state`."""
    return {name: copy_apart(value) for name, value in read_extra_state(model).items()}


def load_extra_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Hands each module a copy of its extra state. Modules that `state` does not name stay as they are."""
    for name, module in _extra_modules(model).items():
        if name in state:
            module.set_extra_state(copy_apart(state[name]))


def has_extra_state(module: nn.Module) -> bool:
    """Whether a module's class defines `get_extra_state` and `set_extra_state`."""
    own, base = type(module), nn.Module
    return own.get_extra_state is not base.get_extra_state and own.set_extra_state is not base.set_extra_state


def _extra_modules(model: nn.Module) -> dict[str, nn.Module]:
    found = [(f"{name}._extra_state", module) for name, module in model.named_modules() if has_extra_state(module)]
    return unwrap_names(found)


def has_convolutions(model: nn.Module) -> bool:
    """Whether the model has a 2-d convolution."""
    return any(isinstance(module, nn.Conv2d) for module in model.modules())


def to_channels_last(model: nn.Module) -> nn.Module:
    """Lays out the weights of 2-d convolutions as (out, height, width, in), the fastest order for their kernels.

    Activations follow the weights. Outputs change only in the last bits, since sums run in another order. A model
    without 2-d convolutions stays as it is.
    """
    if has_convolutions(model):
        model.to(memory_format=torch.channels_last)
    return model


def to_contiguous(model: nn.Module) -> nn.Module:
    """Lays out all weights in torch's ordinary order again. Values do not change."""
    return model.to(memory_format=torch.contiguous_format)


def is_channels_last(model: nn.Module) -> bool:
    """Whether any weight is laid out channels-last. Its strides decide, since kernels go by them.

    A weight for one channel has the same numbers in both orders, and yet other strides, and so another kernel.
    """
    return any(
        p.ndim == 4
        and p.is_contiguous(memory_format=torch.channels_last)
        and p.stride() != torch.empty(p.shape, device="meta").stride()
        for p in model.parameters()
    )


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the model inside DDP, DataParallel or torch.compile."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrap(model.module)
    compiled = getattr(model, "_orig_mod", None)
    return unwrap(compiled) if isinstance(compiled, nn.Module) else model
