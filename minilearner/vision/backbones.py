"""From an architecture to a body for images, with its trained weights, layer groups and statistics.

`families` knows torchvision's architectures, `timm_models` timm's, and `pretrained` finds and loads trained weights.
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
from minilearner.vision.timm_models import build_timm_body
from minilearner.vision.torchvision_models import WeightsEnum

__all__ = ["Arch", "Backbone", "build_backbone"]

Arch: TypeAlias = "str | nn.Module | Callable[..., nn.Module]"
"""A torchvision constructor such as `resnet34`, a timm name, a module of your own, or a function that makes one."""


@dataclass(frozen=True)
class Backbone:
    """A body, and what a learner needs to know about it."""

    body: nn.Module
    features: tuple[int, ...]
    """The shape of the body's output for one image: (features, height, width), or (features,) if the body pools."""
    splitter: Splitter
    """Divides ``Sequential(body, head)`` into layer groups."""
    stats: Stats | None
    """Mean and standard deviation per channel of the images that the body was trained on, if known."""


def build_backbone(
    arch: Arch,
    *,
    n_in: int = 3,
    size: tuple[int, int] = (224, 224),
    pretrained: bool = True,
    weights: Weights | None = None,
    cut: Cut | None = None,
) -> Backbone:
    """Builds the body of an architecture.

    Args:
        arch: see `Arch`. A module is copied and keeps its own weights, which count as trained if `pretrained`. A
            function is called without arguments, or with `pretrained=` if it accepts that.
        n_in: channels of the images; see `heads.adapt_input_channels`.
        size: height and width of the images.
        pretrained: start with trained weights: `weights`, or else the best of torchvision or timm.
        weights: see `pretrained.choose_weights`.
        cut: where the body ends. By default, the family decides. See `heads.create_body`.

    Raises:
        ValueError, TypeError: an argument cannot work.
        DownloadError, FileFormatError, FileNotFoundError: the trained weights cannot be found, downloaded or loaded.
    """
    if weights is not None and not pretrained:
        raise ValueError(
            "`weights` contradicts `pretrained=False`, which uses no trained weights. Leave out one of them."
        )
    if isinstance(arch, str):
        body, stats = build_timm_body(arch, n_in=n_in, size=size, pretrained=pretrained, weights=weights, cut=cut)
        return Backbone(body, _check_features(body, n_in, size), layer_splitter(), stats)
    if not callable(arch):
        raise TypeError(f"`arch` must be a constructor, a timm name or a module. Received: arch={arch!r}.")
    chosen = choose_weights(arch, weights) if pretrained else None
    path = local_file(chosen) if isinstance(chosen, WeightsEnum) else chosen
    state = None if path is None else read_state_dict(path)
    model = _construct_model(arch, chosen, pretrained=pretrained)
    family = family_of(model)
    whole = names_of_tensors(model)
    body = cut_model(model, family.cut if cut is None and family is not None else cut, size=size)
    if state is not None:
        load_body(body, state, whole, source=f"{path}", unused=AUXILIARY)
    adapt_input_channels(body, n_in, pretrained=pretrained)
    stats = _choose_stats(chosen, family) if pretrained and n_in == 3 else None
    return Backbone(body, _check_features(body, n_in, size), _choose_splitter(family, cut), stats)


def _construct_model(arch: Any, chosen: WeightsEnum | Path | None, *, pretrained: bool) -> nn.Module:
    """Returns the whole model, before trained weights from torchvision or a file are loaded into it."""
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
            f"`pretrained=True` needs trained weights, but {name} has none. Pass a file as `weights=path`, or start "
            "with fresh weights by `pretrained=False`."
        )
    else:
        model = arch()
    if not isinstance(model, nn.Module):
        raise TypeError(f"`arch` must return a module. Received from {name}: {type(model).__name__}.")
    return model


def _choose_splitter(family: Family | None, cut: Cut | None) -> Splitter:
    """Uses the family's layer groups, unless a custom `cut` moves layers. A `cut` that counts children does not."""
    known = family is not None and (cut is None or (isinstance(cut, int) and isinstance(family.cut, int)))
    return layer_splitter(family.later if family is not None and known else None)


def _choose_stats(chosen: WeightsEnum | Path | None, family: Family | None) -> Stats | None:
    if family is not None and family.stats is not None:
        return family.stats
    if isinstance(chosen, WeightsEnum):
        preset = chosen.transforms()
        return tuple(preset.mean), tuple(preset.std)
    return None if family is None else IMAGENET_STATS


def _check_features(body: nn.Module, n_in: int, size: tuple[int, int]) -> tuple[int, ...]:
    shape = feature_shape(body, n_in, size)
    if len(shape) not in (1, 3):
        raise ValueError(
            "the body must return features (batch, features, height, width), or pooled ones (batch, features). "
            f"Received: {('batch', *shape)}. Pass a function as `cut` that returns such a body of the model."
        )
    return shape
