"""Pictures from files: whatever the format, orientation and mode, three channels of 8 bits (or one) come out right."""

from __future__ import annotations

import os

from PIL import Image, ImageOps

__all__ = ["open_image"]


def open_image(path: str | os.PathLike[str], mode: str = "RGB") -> Image.Image:
    """Returns the picture in a file, upright, in a mode of Pillow's such as "RGB" or "L"."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert(mode)
