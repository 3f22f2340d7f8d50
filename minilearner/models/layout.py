"""How a model's weights lie in memory."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["is_channels_last", "to_channels_last", "to_contiguous"]


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
