"""Where a model begins to learn: the frozen layers before that, and the rest."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from minilearner.models.groups import NORMS
from minilearner.models.heads import AdaptiveConcatPool2d

__all__ = ["fixed_part"]

_WITHOUT_CHANCE = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.AvgPool2d,
    nn.MaxPool2d,
    nn.Flatten,
    nn.Identity,
    nn.ReLU,
    AdaptiveConcatPool2d,
)
"""Layers without parameters that give the same in training and in evaluation: not dropout, not a norm."""


def fixed_part(model: nn.Module) -> tuple[nn.Sequential, nn.Sequential]:
    """Returns the frozen layers that a model begins with, and those after them; one after the other they are the model.

    The first part ends with the last frozen layer before any that learns, and with the pooling and flattening behind
    it, so that what it gives is small. Both are made of the model's own modules.

    Raises:
        ValueError: the model is no row of layers (`nn.Sequential`), or its first layer learns, or none does, or norm
            layers learn where all else is frozen.
    """
    layers = list(_in_a_row("", model))
    learning = next((i for i, (_, layer) in enumerate(layers) if _learns(layer)), None)
    if learning is None:
        raise ValueError("nothing of the model learns: all its parameters are frozen.")
    frozen = [i for i, (_, layer) in enumerate(layers[:learning]) if next(layer.parameters(), None) is not None]
    if not frozen:
        name = layers[learning][0] or "the whole model"
        raise ValueError(
            f"the model must be a row of layers (nn.Sequential) that begins with frozen ones; here {name!r} "
            f"({type(layers[learning][1]).__name__}) learns and nothing before it is frozen. Freeze first, which "
            "takes a `splitter` where the layers are one group; norm layers learn while frozen too, unless the learner "
            "has train_bn=False."
        )
    _check_norms_rest(layers[learning:])
    end = frozen[-1] + 1
    while end < learning and type(layers[end][1]) in _WITHOUT_CHANCE:
        end += 1
    fixed, rest = ([layer for _, layer in part] for part in (layers[:end], layers[end:]))
    return nn.Sequential(*fixed), nn.Sequential(*rest)


def _in_a_row(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Gives the layers of nested `nn.Sequential`s by name; one that is called in another way counts as one layer."""
    is_row = type(module).forward is nn.Sequential.forward and "forward" not in vars(module)
    if not isinstance(module, nn.Sequential) or not is_row or module._forward_hooks or module._forward_pre_hooks:
        yield name, module
        return
    for child_name, child in zip(module._modules, module, strict=True):  # `named_children` gives each only once
        yield from _in_a_row(f"{name}.{child_name}".lstrip("."), child)


def _check_norms_rest(layers: list[tuple[str, nn.Module]]) -> None:
    name, first = layers[0]
    norms = [norm for norm in first.modules() if isinstance(norm, NORMS) and _learns(norm)]
    if norms and any(not parameter.requires_grad for _, layer in layers for parameter in layer.parameters()):
        raise ValueError(
            f"norm layers learn in {name!r}, amid frozen ones, so that next to nothing could be precomputed. Give the "
            "learner train_bn=False; batch norm without weights, or without running statistics, never rests."
        )


def _learns(module: nn.Module) -> bool:
    norms = (norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._NormBase))
    return any(parameter.requires_grad for parameter in module.parameters()) or any(map(_takes_batches_in, norms))


def _takes_batches_in(norm: nn.modules.batchnorm._NormBase) -> bool:
    """Whether training differs from evaluation also where nothing learns: `BnFreeze` lets norms with weights rest."""
    if norm.track_running_stats:
        return next(norm.parameters(), None) is None
    return isinstance(norm, nn.modules.batchnorm._BatchNorm)
