"""Models of a body and a head that know how they were built, so that an export can store it as plain data.

`vision_learner` records the recipe; `build_from_recipe` builds the model again when an export is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from minilearner.models import xresnet
from minilearner.models.heads import adapt_input_channels, create_head, cut_model

__all__ = ["VisionModel", "build_from_recipe", "recipe_of"]


class VisionModel(nn.Sequential):
    """``Sequential(body, head)`` for images."""

    recipe: Mapping[str, Any] | None = None
    """The arguments of `build_from_recipe` for this model, or None if a recipe cannot describe it."""


def recipe_of(arch: Any, body: nn.Module, *, n_in: int, cut: Any, head: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the recipe of a torchvision, timm or xresnet model, or None if a recipe cannot describe the model.

    Args:
        arch: the architecture, as passed to `vision_learner`.
        body: the body built from it.
        n_in: channels of the images.
        cut: where the body ends. A function has no recipe.
        head: the arguments of `create_head`.
    """
    if not (cut is None or isinstance(cut, int)):
        return None
    rest: dict[str, Any] = {"n_in": n_in, "cut": cut, "head": dict(head)}
    if isinstance(arch, str):
        return {"source": "timm", "arch": arch, "size": getattr(body, "has_map", None), **rest}
    name = getattr(arch, "__name__", "")
    if _own_constructor(name) is arch:
        return {"source": "minilearner", "arch": name, "size": None, **rest}
    if _constructor(name) is not arch:
        return None
    return {"source": "torchvision", "arch": name, "size": getattr(body, "image_size", None), **rest}


def build_from_recipe(
    source: str,
    arch: str,
    size: Any,
    n_in: int,
    cut: int | None,
    head: Mapping[str, Any],
) -> VisionModel:
    """Returns the model of a recipe, with fresh weights.

    Args:
        source: "torchvision", "timm", or "minilearner" for our xresnets.
        arch: the name of the architecture.
        size: for torchvision, the image size of a vision transformer; for timm, whether the body has a feature map.
        n_in: channels of the images.
        cut: how many children the body keeps; None for the family's own cut.
        head: the arguments of `create_head`.

    Raises:
        ValueError: there is no such architecture.
        ImportError: timm is not installed.
    """
    # Heavy: imported only when such a model is built.
    from minilearner.vision.families import constructor_options, family_of

    if source == "timm":
        from minilearner.vision.timm_models import build_untrained_body

        body = build_untrained_body(arch, n_in=n_in, cut=cut, has_map=bool(size))
    else:
        is_own = source == "minilearner"
        constructor = _own_constructor(arch) if is_own else _constructor(arch)
        if constructor is None:
            raise ValueError(f"{source[:40]} has no classifier {arch[:80]!r}.")
        options = {"weights": None, **constructor_options(arch, trained=True, image_size=size)}
        model = constructor(**({} if is_own else options))
        family = family_of(model)
        body = cut_model(model, family.cut if cut is None and family is not None else cut)
        adapt_input_channels(body, n_in, pretrained=False)
    built = VisionModel(body, create_head(**head))
    built.recipe = {"source": source, "arch": arch, "size": size, "n_in": n_in, "cut": cut, "head": dict(head)}
    return built


def _own_constructor(name: str) -> Any:
    """Returns our constructor of that name if it makes a classifier, else None."""
    return getattr(xresnet, name) if name in xresnet.__all__ and name != "XResNet" else None


def _constructor(name: str) -> Any:
    """Returns torchvision's constructor of that name if it makes a classifier, else None."""
    from minilearner.vision.torchvision_models import models  # heavy

    return getattr(models, name) if name in models.list_models(module=models) else None
