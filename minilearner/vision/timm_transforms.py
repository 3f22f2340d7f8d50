"""`timm_transforms`: the size, crop, interpolation and statistics that a timm model was trained for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from minilearner.checks import check_count
from minilearner.keywords import suggest_keywords
from minilearner.vision.normalize import Normalize
from minilearner.vision.timm_models import import_timm

__all__ = ["timm_transforms"]


@suggest_keywords
def timm_transforms(model: str | nn.Module | Mapping[str, Any], size: int | None = None) -> dict[str, Any]:
    """Returns `item_tfms` and `batch_tfms` as a timm model's data config says.

    >>> dls = ImageDataLoaders.from_folder("photos", **timm_transforms("convnext_tiny"))  # doctest: +SKIP

    Validation and prediction see the images of `timm.data.create_transform`, with the same bits before normalizing.
    Training cuts a random window instead of the middle. Add augmentation to "batch_tfms" as you like.

    Args:
        model: a timm name, a timm model, or what `timm.data.resolve_data_config` returns.
        size: another height and width of the images; the config's when None.

    Raises:
        ImportError: timm is not installed.
        TypeError, ValueError: timm does not know the model, or its images are not square.
    """
    config = _config(model)
    if size is not None:
        check_count(size, "size")
    _, height, width = config["input_size"]
    if height != width:
        raise ValueError(f"timm_transforms makes square images. The model's config says {height} x {width}.")
    side = height if size is None else size
    scaled = math.floor(side / config["crop_pct"])
    from torchvision.transforms import InterpolationMode, v2  # heavy

    whole = (scaled, scaled) if config.get("crop_mode") == "squash" else scaled
    resize = v2.Resize(whole, interpolation=InterpolationMode(config["interpolation"]), antialias=True)
    normalize = Normalize.from_stats(config["mean"], config["std"])
    return {"item_tfms": [resize, v2.RandomCrop(side)], "batch_tfms": [normalize]}


def _config(model: Any) -> Mapping[str, Any]:
    if isinstance(model, Mapping):
        return model
    if isinstance(model, str):
        timm = import_timm(model)
        known = timm.get_pretrained_cfg(model).to_dict()
        return timm.data.resolve_data_config(pretrained_cfg=known)  # type: ignore[no-any-return]
    if not hasattr(model, "pretrained_cfg"):
        raise TypeError(
            "`model` must be a timm name, a timm model or a data config. "
            f"Received: {type(model).__name__}, which has no `pretrained_cfg`."
        )
    import timm.data  # the user has imported it by now

    return timm.data.resolve_data_config(model=model)  # type: ignore[no-any-return]
