"""Architectures by name, for those who cannot write Python objects, and whether their trained weights are here already.

A name is torchvision's, one of our xresnets', or timm's. Where two of them share a name, torchvision's model is meant.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilearner.errors import closest
from minilearner.models import xresnet
from minilearner.vision.pretrained import choose_weights, hub_path
from minilearner.vision.timm_models import find_timm_weights
from minilearner.vision.torchvision_models import models

__all__ = ["TrainedWeights", "find_architecture", "find_trained_weights"]


@dataclass(frozen=True)
class TrainedWeights:
    """The weights that `vision_learner(..., pretrained=True)` starts with.

    Attributes:
        url: where they are downloaded from.
        path: their file, or None if it is not on this machine.
        megabytes: the size of the download, if it is known.
    """

    url: str
    path: Path | None
    megabytes: float | None = None


def find_architecture(name: str) -> str | Callable[..., Any]:
    """Returns what `vision_learner` takes as `arch`: a constructor, or the name itself if it is timm's.

    Raises:
        ValueError: no model has this name. Offers the nearest.
    """
    if name in xresnet.__all__ and name != "XResNet":
        return getattr(xresnet, name)  # type: ignore[no-any-return]
    known = models.list_models(module=models)
    if name in known:
        return models.get_model_builder(name)  # type: ignore[no-any-return]
    if importlib.util.find_spec("timm") is not None:
        import timm  # an extra, and it takes a second

        if timm.is_model(name.partition(".")[0]):
            return name
        known = [*known, *timm.list_models()]
        raise ValueError(
            f"`arch` must be the name of a model of torchvision or timm.{closest(name, known)} Received: arch={name!r}."
        )
    raise ValueError(
        f"`arch` must be the name of a model of torchvision.{closest(name, known)} Received: arch={name!r}. For timm's "
        "models, pip install 'minilearner[timm]'."
    )


def find_trained_weights(arch: str | Callable[..., Any]) -> TrainedWeights | None:
    """Returns where an architecture's trained weights come from, without a download. None if it has none.

    Args:
        arch: what `find_architecture` returned.
    """
    if isinstance(arch, str):
        found = find_timm_weights(arch)
        return None if found is None else TrainedWeights(*found)
    weights: Any = choose_weights(arch, None)
    if weights is None:
        return None
    path = hub_path(weights.url)
    return TrainedWeights(weights.url, path if path.is_file() else None, weights.meta.get("_file_size"))
