"""Small images inside a page, as data URIs."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from minilearner.plots.image_grid import scale_to_unit_range

__all__ = ["blend_heat", "make_thumbnail"]

_SIDE = 176  # pixels: what a card shows, sharp on most screens
_SMALL = 64  # pixels; so small an image is kept to the bit
_QUALITY = 80  # of JPEG; above, files grow and eyes see nothing


def make_thumbnail(image: Tensor | NDArray[Any]) -> tuple[str, int, int]:
    """Returns an image as a data URI of at most 176 pixels a side, with its width and height.

    Args:
        image: (channels, height, width), in [0, 1].
    """
    pixels = Image.fromarray(np.round(_as_colors(image) * 255).astype(np.uint8))
    is_small = max(pixels.size) <= _SMALL
    pixels.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    if is_small:
        pixels.save(out, "PNG", optimize=True)
    else:
        pixels.save(out, "JPEG", quality=_QUALITY, optimize=True)
    kind = "png" if is_small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}", *pixels.size


def blend_heat(image: Tensor | NDArray[Any], heat: Tensor | NDArray[Any]) -> NDArray[np.float32]:
    """Returns an image with the heat over it, as `Evidence.plot` draws it: (3, height, width).

    Args:
        image: (channels, height, width).
        heat: (height, width), in [0, 1].
    """
    from matplotlib import colormaps  # heavy

    warmth = np.asarray(heat, np.float32)[..., None]
    colors = colormaps["inferno"](warmth[..., 0])[..., :3].astype(np.float32)
    mixed = _as_colors(image) * (1 - 0.75 * warmth) + colors * (0.75 * warmth)
    return np.moveaxis(mixed, -1, 0)


def _as_colors(image: Tensor | NDArray[Any]) -> NDArray[np.float32]:
    """Returns an image as (height, width, 3) in [0, 1]: the first three channels, or the first one as grey."""
    values = image.detach().cpu().float().numpy() if isinstance(image, Tensor) else np.asarray(image, np.float32)
    values = scale_to_unit_range(np.moveaxis(np.nan_to_num(values), 0, -1))
    return values[..., :3] if values.shape[-1] >= 3 else np.repeat(values[..., :1], 3, -1)
