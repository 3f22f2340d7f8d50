"""One rule for every kind of Pillow image: how it gets upright, and what its pixels are at 8 bits per channel.

`vision.images` reads files, and `item_dataset` takes images from anywhere. Both give them to `as_mode` or
`as_byte_image` here, so an image is turned once, and has the same pixels whatever way it comes in.
"""

from __future__ import annotations

import threading
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from minilearner.data.pixel_image import PixelImage
from minilearner.errors import DataError

__all__ = [
    "SAY_ORIENTATION",
    "as_byte_image",
    "as_input_image",
    "as_mode",
    "decode_image",
    "is_float_image",
    "orientation_of",
    "reduce_image",
]

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that undoes each EXIF orientation. Orientations from 5 on swap width and height."""

SAY_ORIENTATION = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
"""Where Pillow finds an orientation in `Image.info`. A copy of an image takes it along, even when it is turned."""

_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_WIDE = ("I", "F")
_GREY = ("1", "L", "I")
_COLOUR_SPACES = ("L", "LA", "RGB", "RGBA", "HSV", "YCbCr", "LAB", "CMYK", "F")
_RAW_STEPS = {"1": 255, "L;2": 85, "L;4": 17}
"""PNG's grey of 1, 2 and 4 bits: what Pillow multiplies the values by, but not the transparent one."""

_MIN_IS_WHITE = 0  # TIFF's PhotometricInterpretation, tag 262
_MOST_BITS = 65535
_DIM = 4096  # below it, 16 bits leave fewer than 16 grey levels


def as_mode(image: Image.Image, mode: str) -> Image.Image:
    """Returns an image upright and in `mode`, by the rules of `vision.images.open_image`. Decodes it if needed.

    The result has no orientation any more, so turning it again changes nothing.

    Raises:
        DataError: its pixels have no known range: floats, or integers of 32 bits outside 0 to 255.
    """
    if is_float_image(image) and mode != "F":
        raise DataError(
            "the image has floats as pixels, and their range is unknown. Scale them to 8 bits: read them with "
            'open_image(path, "F"), and save or return an image of uint8.'
        )
    decode_image(image)
    method = _UPRIGHT.get(orientation_of(image))
    is_wide = mode in _WIDE  # values as they are, for those who scale them themselves
    if not is_wide and image.mode != mode:
        image = _as_bytes(image)
    if method is not None:
        image = image.transpose(method)
        for key in SAY_ORIENTATION:
            image.info.pop(key, None)
    if not is_wide and mode not in _WITH_ALPHA and (image.mode in _WITH_ALPHA or "transparency" in image.info):
        image = _put_on_white(image)
    return _convert(image, mode)


def as_byte_image(image: Image.Image) -> Image.Image:
    """Returns an image upright, as "L", "RGB" or "RGBA", whichever keeps all that it shows. Floats stay floats.

    Raises:
        DataError: as `as_mode`.
    """
    if image.mode in _WITH_ALPHA:
        return as_mode(image, "RGBA")
    is_grey = image.mode in _GREY or image.mode.startswith("I;")
    return as_mode(image, "F" if is_float_image(image) else "L" if is_grey else "RGB")


def as_input_image(image: Image.Image) -> Image.Image:
    """Returns what somebody's own reader or transform made, upright, in a mode whose values are pixels.

    A colour space that was chosen, such as HSV, stays. One bit, palettes and integers become as in `as_byte_image`.

    Raises:
        DataError: as `as_mode`.
    """
    if type(image) in (Image.Image, PixelImage) and image.mode in ("L", "RGB", "RGBA") and not image.info:
        return image
    return as_mode(image, image.mode) if image.mode in _COLOUR_SPACES else as_byte_image(image)


def decode_image(image: Image.Image, reduce_to: tuple[int, int] | None = None) -> None:
    """Decodes an opened image. A transparent colour then means the decoded values, not those in the file.

    Args:
        image: the image.
        reduce_to: a sufficient (width, height) of the upright image, to which a JPEG may be decoded smaller.
    """
    if isinstance(image, PixelImage):
        return
    reduce_image(image, reduce_to)
    raw = _raw_mode(image)
    _load(image)
    if ";16" in raw and image.mode in ("LA", "RGB", "RGBA"):  # of which Pillow keeps the upper 8 bits
        _check_upper_bits(image)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and transparent < 255:
        step = _RAW_STEPS.get("1" if image.mode == "1" and transparent == 1 else raw, 1)
        image.info["transparency"] = transparent * step
    elif isinstance(transparent, tuple) and (raw == "RGB;16B" or max(transparent) > 255):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)


def reduce_image(image: Image.Image, reduce_to: tuple[int, int] | None) -> None:
    """Lets an opened JPEG be decoded smaller, if `reduce_to` (width, height) of the upright image is enough."""
    if reduce_to is not None and image.format == "JPEG":
        image.draft(None, reduce_to[::-1] if orientation_of(image) >= 5 else reduce_to)


def _load(image: Image.Image) -> None:
    # Pillow maps some TIFFs into memory with the width and height of the upright image, which mixes up their pixels if
    # they have to be turned by a quarter. It maps only what has a file name.
    name = getattr(image, "filename", "")
    if image.format == "TIFF" and name:
        image.filename = ""  # type: ignore[attr-defined]
    try:
        image.load()
    finally:
        if image.format == "TIFF" and name:
            image.filename = name  # type: ignore[attr-defined]


def orientation_of(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 if there is none. Of a TIFF, only before Pillow decodes and turns it."""
    if isinstance(image, PixelImage) and not any(key in image.info for key in SAY_ORIENTATION):
        return 1  # Pillow would look for one behind the pixels of a PNG, and decode it for that
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # the EXIF block is damaged, but the pixels may be fine
        return 1


def is_float_image(image: Image.Image) -> bool:
    """Whether the pixels are floats, which need no decoding to know."""
    return image.mode.startswith("F")


def _raw_mode(image: Image.Image) -> str:
    """Returns how a PNG or TIFF that is not decoded yet stores its pixels; an empty text if unknown."""
    tiles: Any = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    if isinstance(args, tuple) and args:
        args = args[0]
    return args if isinstance(args, str) else ""


def _as_bytes(image: Image.Image) -> Image.Image:
    """Returns integers of 16 and 32 bits as 8 bits; other images as they are."""
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        return _as_small_integers(image)
    return _scale_to_eight_bits(image) if image.mode.startswith("I") else image


def _as_small_integers(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if low < 0 or high > 255:
        raise DataError(
            f"the image has 32-bit integers from {low} to {high} as pixels, and only 0 to 255 has a known meaning. "
            'Scale them to 8 bits: read them with open_image(path, "I"), and save or return an image of uint8.'
        )
    return Image.fromarray(values.astype(np.uint8))


def _scale_to_eight_bits(image: Image.Image) -> Image.Image:
    """Scales grey of up to 16 bits so that the largest value becomes 255. Pillow would clip it at 255."""
    tags: Any = getattr(image, "tag_v2", {})
    bits = int(np.ravel(tags.get(258, 16))[0])  # TIFF's BitsPerSample: Pillow also reads 12
    top = (1 << bits) - 1 if 8 < bits < 16 else _MOST_BITS
    values = np.asarray(image).astype(np.float64)
    grey = values.clip(0, top)
    if tags.get(262) == _MIN_IS_WHITE:  # Pillow inverts such images at 8 bits, but not at 16
        grey = top - grey
    _check_brightness(image, int(grey.max(initial=0)), top)
    scaled = Image.fromarray(np.rint(grey / (top / 255)).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha: NDArray[np.uint8] = np.where(values == transparent, 0, 255).astype(np.uint8)
        scaled = Image.merge("LA", (scaled, Image.fromarray(alpha)))
    return scaled


_WARNED = threading.Event()


def _check_brightness(image: Image.Image, brightest: int, top: int) -> None:
    if top != _MOST_BITS or not 0 < brightest < _DIM:
        return
    if brightest <= 255:
        raise DataError(
            f"the image has 16 bits per pixel, but its largest value is {brightest}, so it would be black at 8 bits. "
            'Scale it: read it with open_image(path, "I"), and save or return an image of uint8.'
        )
    _warn_of_darkness(image, f"no value above {brightest} of {top}", ': read them with open_image(path, "I"), and')


def _check_upper_bits(image: Image.Image) -> None:
    colours = [image.getchannel(band).getextrema()[1] for band in image.getbands() if band != "A"]
    brightest = max(int(high) for high in colours)  # type: ignore[arg-type]
    if 0 < brightest < _DIM >> 8:
        least = f"no value above {(brightest << 8) + 255} of {_MOST_BITS}"
        _warn_of_darkness(image, least, " in a function of your own that reads all 16 bits, and")


def _warn_of_darkness(image: Image.Image, least: str, how: str) -> None:
    if _WARNED.is_set():
        return
    _WARNED.set()
    name = str(getattr(image, "filename", "")) or "An image"
    warnings.warn(
        f"{name} has 16 bits per channel and {least}, so at 8 bits it has few levels and is nearly black. If all your "
        f"images are like that, scale them{how} save or return images of uint8.",
        UserWarning,
        stacklevel=2,
    )


def _put_on_white(image: Image.Image) -> Image.Image:
    image = _convert(image, "RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """Converts by way of RGB or LA if Pillow has no direct way, as from LAB to grey."""
    if image.mode == mode:
        return image
    try:
        return image.convert(mode)
    except ValueError:
        between = "LA" if image.mode == "La" else "RGB"
        return image.convert(between).convert(mode)
