"""From what a user calls an architecture to a body for pictures, with its trained weights, layer groups and statistics.

`families` knows torchvision's, `timm_models` timm's; where trained weights come from is `weights`' business.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn
from torchvision.models import WeightsEnum

from minilearner.models.groups import Splitter
from minilearner.models.heads import Cut, adapt_input_channels, cut_model, feature_shape
from minilearner.vision.families import (
    AUXILIARY,
    IMAGENET_STATS,
    Family,
    Stats,
    constructor_options,
    family_of,
    layer_splitter,
)
from minilearner.vision.pretrained import (
    Weights,
    choose_weights,
    load_body,
    local_file,
    names_of_tensors,
    read_state_dict,
)
from minilearner.vision.timm_models import timm_body

__all__ = ["Arch", "Backbone", "build_backbone"]

Arch: TypeAlias = "str | nn.Module | Callable[..., nn.Module]"
"""A torchvision constructor such as `resnet34`, a timm name, a module of one's own, or a function that makes one."""


@dataclass(frozen=True)
class Backbone:
    """A body, and what training it needs to know."""

    body: nn.Module
    features: tuple[int, ...]
    """What the body gives for one picture: (features, height, width), or (features,) where it pools itself."""
    splitter: Splitter
    """Divides ``Sequential(body, head)`` into layer groups."""
    stats: Stats | None
    """Mean and standard deviation by channel of what the body was trained on, where that is known."""


def build_backbone(
    arch: Arch,
    *,
    n_in: int = 3,
    size: tuple[int, int] = (224, 224),
    pretrained: bool = True,
    weights: Weights | None = None,
    cut: Cut | None = None,
) -> Backbone:
    """Makes the body of an architecture.

    Args:
        arch: see `Arch`. A module is copied; its own weights stay, and count as trained where `pretrained`. A function
            is called without arguments, or with `pretrained=` if it takes that.
        n_in: channels of the pictures; see `heads.adapt_input_channels`.
        size: height and width of the pictures.
        pretrained: begin with trained weights: those of `weights`, or torchvision's or timm's best.
        weights: see `weights.choose_weights`.
        cut: where the body ends, instead of what is known of the family; see `heads.create_body`.

    Raises:
        ValueError, TypeError: an argument cannot work.
        DownloadError, FileFormatError, FileNotFoundError: the trained weights cannot be had, or do not fit.
    """
    if weights is not None and not pretrained:
        raise ValueError("`weights` are given, and `pretrained=False` forbids to use them. Leave out one of the two.")
    if isinstance(arch, str):
        body, stats = timm_body(arch, n_in=n_in, size=size, pretrained=pretrained, weights=weights, cut=cut)
        return Backbone(body, _features(body, n_in, size), layer_splitter(), stats)
    if not callable(arch):
        raise TypeError(f"`arch` must be a constructor, a timm name or a module. Received: arch={arch!r}.")
    chosen = choose_weights(arch, weights) if pretrained else None
    path = local_file(chosen) if isinstance(chosen, WeightsEnum) else chosen
    state = None if path is None else read_state_dict(path)
    model = _constructed(arch, chosen, pretrained=pretrained)
    family = family_of(model)
    whole = names_of_tensors(model)
    body = cut_model(model, family.cut if cut is None and family is not None else cut, size=size)
    if state is not None:
        load_body(body, state, whole, source=f"{path}", unused=AUXILIARY)
    adapt_input_channels(body, n_in, pretrained=pretrained)
    stats = _stats(chosen, family) if pretrained and n_in == 3 else None
    return Backbone(body, _features(body, n_in, size), _splitter(family, cut), stats)


def _constructed(arch: Any, chosen: WeightsEnum | Path | None, *, pretrained: bool) -> nn.Module:
    """Returns the whole model, before trained weights of torchvision or a file are loaded."""
    if isinstance(arch, nn.Module):
        return copy.deepcopy(arch)
    function, given = (arch.func, arch.keywords) if isinstance(arch, partial) else (arch, {})
    name = getattr(function, "__name__", type(function).__name__)
    arguments = inspect.signature(arch).parameters
    if choose_weights(arch, None) is not None:
        size = chosen.meta["min_size"][0] if isinstance(chosen, WeightsEnum) and "image_size" not in given else None
        model = arch(weights=None, **constructor_options(name, trained=pretrained, image_size=size))
    elif "pretrained" in arguments:
        model = arch(pretrained=pretrained and chosen is None)
    elif pretrained and chosen is None:
        raise ValueError(
            f"`pretrained=True`, and {name} offers no trained weights. Give a file by `weights=path`, or begin without "
            "by `pretrained=False`."
        )
    else:
        model = arch()
    if not isinstance(model, nn.Module):
        raise TypeError(f"`arch` must make a module. Received from {name}: {type(model).__name__}.")
    return model


def _splitter(family: Family | None, cut: Cut | None) -> Splitter:
    """A user's own `cut` leaves the layers where they are if it only counts children, as the family's does."""
    known = family is not None and (cut is None or (isinstance(cut, int) and isinstance(family.cut, int)))
    return layer_splitter(family.later if family is not None and known else None)


def _stats(chosen: WeightsEnum | Path | None, family: Family | None) -> Stats | None:
    if family is not None and family.stats is not None:
        return family.stats
    if isinstance(chosen, WeightsEnum):
        preset = chosen.transforms()
        return tuple(preset.mean), tuple(preset.std)
    return None if family is None else IMAGENET_STATS


def _features(body: nn.Module, n_in: int, size: tuple[int, int]) -> tuple[int, ...]:
    shape = feature_shape(body, n_in, size)
    if len(shape) not in (1, 3):
        raise ValueError(
            "the body must give features (batch, features, height, width), or pooled (batch, features). Received: "
            f"{('batch', *shape)}. Choose by `cut`, a function from the model to its body, what it gives."
        )
    return shape
