"""Models of a body and a head that know what they were made from, so that a file can say it in words and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from minilearner.models.heads import adapt_input_channels, create_head, cut_model

__all__ = ["VisionModel", "build_from_recipe", "recipe_of"]


class VisionModel(nn.Sequential):
    """``Sequential(body, head)`` for pictures."""

    recipe: Mapping[str, Any] | None = None
    """How `build_from_recipe` makes it again, with fresh weights; None where that cannot be told."""


def recipe_of(arch: Any, body: nn.Module, *, n_in: int, cut: Any, head: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what decides a body's and a head's layers, where they are torchvision's or timm's by name; else None.

    head: arguments of `create_head`.
    """
    if not (cut is None or isinstance(cut, int)):
        return None
    told: dict[str, Any] = {"n_in": n_in, "cut": cut, "head": dict(head)}
    if isinstance(arch, str):
        return {"source": "timm", "arch": arch, "size": getattr(body, "has_map", None), **told}
    if _constructor(getattr(arch, "__name__", "")) is not arch:
        return None
    return {"source": "torchvision", "arch": arch.__name__, "size": getattr(body, "image_size", None), **told}


def build_from_recipe(
    source: str, arch: str, size: Any, n_in: int, cut: int | None, head: Mapping[str, Any]
) -> VisionModel:
    """Returns the model of a recipe, with fresh weights.

    Raises:
        ValueError: there is no such architecture.
        ImportError: timm is not installed.
    """
    # Heavy: only where such a model is built.
    from minilearner.vision.families import constructor_options, family_of

    if source == "timm":
        from minilearner.vision.timm_models import untrained_body

        body = untrained_body(arch, n_in=n_in, cut=cut, has_map=bool(size))
    else:
        constructor = _constructor(arch)
        if constructor is None:
            raise ValueError(f"torchvision has no classifier {arch[:80]!r}.")
        model = constructor(weights=None, **constructor_options(arch, trained=True, image_size=size))
        family = family_of(model)
        body = cut_model(model, family.cut if cut is None and family is not None else cut)
        adapt_input_channels(body, n_in, pretrained=False)
    built = VisionModel(body, create_head(**head))
    built.recipe = {"source": source, "arch": arch, "size": size, "n_in": n_in, "cut": cut, "head": dict(head)}
    return built


def _constructor(name: str) -> Any:
    """Returns torchvision's constructor of that name, if it makes a classifier."""
    from torchvision import models

    return getattr(models, name) if name in models.list_models(module=models) else None
