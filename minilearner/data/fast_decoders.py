"""Decoders that take less time than Pillow and give the same bytes: simplejpeg for JPEG, imagecodecs for PNG and WebP.

``pip install minilearner[fast]`` installs them. Pillow still reads every header. It also decodes whatever is not of the
plain kinds here, and whatever the other decoder refuses. So no result, error or warning depends on what is installed.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from minilearner.data.pixel_image import PixelImage

__all__ = ["decode_faster"]

Pixels: TypeAlias = NDArray[np.uint8]
Decoder: TypeAlias = Callable[[bytes, Any], Pixels]
"""(the bytes of a file, the image that Pillow opened) -> pixels (height, width[, channels])."""


def decode_faster(image: Image.Image) -> Image.Image | None:
    """Returns an opened file decoded, with all that Pillow knows of it; None if Pillow has to decode it."""
    form = _FORMATS.get(type(image))
    decode = None if form is None else _find_decoder(form)
    return None if form is None or decode is None else _decode(form, decode, image)


@dataclass(frozen=True)
class _Format:
    """What is known of a format.

    find: imports its decoder. is_plain: whether that gives Pillow's bytes, by (bytes of the file, opened image).
    decoded: the class of the result. probes: small files, each with a divisor of its size.
    """

    find: Callable[[], Decoder]
    is_plain: Callable[[bytes, Any], bool]
    decoded: type[PixelImage]
    probes: Callable[[], Iterator[tuple[bytes, int]]]


@functools.cache
def _find_decoder(form: _Format) -> Decoder | None:
    """Returns the decoder of a format, if it is installed and gives the bytes of the Pillow that is installed."""
    try:
        decode = form.find()
    except ImportError:
        return None
    return decode if all(_agrees(form, decode, *probe) for probe in form.probes()) else None


def _agrees(form: _Format, decode: Decoder, coded: bytes, divisor: int) -> bool:
    with Image.open(io.BytesIO(coded)) as image:
        if divisor > 1:
            image.draft(None, (image.width // divisor, image.height // divisor))
        decoded = _decode(form, decode, image)
        return decoded is not None and np.array_equal(np.asarray(decoded), np.asarray(image))


def _decode(form: _Format, decode: Decoder, image: Any) -> Image.Image | None:
    position = image.fp.tell()
    image.fp.seek(0)
    coded = image.fp.read()
    image.fp.seek(position)  # where Pillow goes on
    if not form.is_plain(coded, image):
        return None
    try:
        pixels = decode(coded, image)
    except Exception:  # damaged, perhaps: Pillow reads what it can, or says why not
        return None
    return _join(form.decoded, image, pixels) if pixels.shape == _shape(image) else None


def _shape(image: Image.Image) -> tuple[int, ...]:
    channels = len(image.getbands())
    return (image.height, image.width, channels) if channels > 1 else (image.height, image.width)


def _join(kind: type[PixelImage], image: Image.Image, pixels: Pixels) -> Image.Image:
    """Returns an image of the file `image` that has these pixels, as if Pillow had decoded them."""
    decoded = kind.__new__(kind)
    decoded.__dict__.update(image.__dict__, tile=[], fp=None)
    decoded.hold(pixels, image.mode)
    return decoded


# JPEG: libjpeg-turbo in both, and the same size when Pillow's `draft` has made it smaller.

_SAMPLINGS = {0: (1, 1), 1: (2, 1), 2: (2, 2)}
"""How often the luma is sampled for one sample of colour, across and down, by Pillow's number for it."""
_LEAST_SIDE = 16  # shorter sides may be the same at two scales, of which simplejpeg takes the smaller


class JpegPixels(PixelImage, JpegImageFile):
    """A JPEG file, decoded to an array."""


def _find_simplejpeg() -> Decoder:
    from simplejpeg import decode_jpeg  # an extra

    def decode(coded: bytes, image: Image.Image) -> Pixels:
        colours = "GRAY" if image.mode == "L" else "RGB"
        least = {"min_height": image.height, "min_width": image.width, "min_factor": 1}
        pixels: Pixels = decode_jpeg(coded, colours, **least)
        return pixels[..., 0] if image.mode == "L" else pixels

    return decode


def _is_plain_jpeg(_: bytes, image: Any) -> bool:
    if min(image.size) < _LEAST_SIDE:
        return False
    samplings = [tuple(layer[1:3]) for layer in image.layer]
    if image.mode == "L":
        return len(samplings) == 1
    is_usual = samplings[0] in _SAMPLINGS.values() and samplings[1:] == [(1, 1), (1, 1)]
    return image.mode == "RGB" and is_usual


def _make_jpeg_probes() -> Iterator[tuple[bytes, int]]:
    for divisor in (1, 2, 4, 8):
        yield _encode("L", "JPEG"), divisor
        for number in _SAMPLINGS:
            yield _encode("RGB", "JPEG", subsampling=number), divisor


# PNG: 8 bits without interlacing, and nothing after the pixels, where Pillow would go on reading.


class PngPixels(PixelImage, PngImageFile):
    """A PNG file, decoded to an array."""


_PNG_COLOURS = {"L": 0, "RGB": 2, "RGBA": 6}


def _find_spng() -> Decoder:
    from imagecodecs import spng_decode  # an extra

    def decode(coded: bytes, image: Any) -> Pixels:
        pixels: Pixels = spng_decode(coded)
        image._text = image.png.im_text  # as Pillow does once it has decoded
        return pixels

    return decode


def _is_plain_png(coded: bytes, image: Any) -> bool:
    depth, colour, *_, interlaced = coded[24:29]
    is_usual = depth == 8 and colour == _PNG_COLOURS.get(image.mode) and not interlaced
    return is_usual and "transparency" not in image.info and _ends_with_pixels(coded)


def _ends_with_pixels(coded: bytes) -> bool:
    """Whether a PNG is no animation, and nothing but its end follows the pixels."""
    at, kind, before = 8, b"", b""
    while kind != b"IEND":
        if at + 12 > len(coded) or kind == b"acTL":
            return False
        before = kind
        length, kind = struct.unpack_from(">I4s", coded, at)
        at += 12 + length
        if before == b"IDAT" and kind not in (b"IDAT", b"IEND"):
            return False
    return before == b"IDAT"


def _make_png_probes() -> Iterator[tuple[bytes, int]]:
    for mode in _PNG_COLOURS:
        yield _encode(mode, "PNG"), 1


# WebP: a still image without transparency.

_ANIMATED_OR_TRANSPARENT = 0x12


class WebPPixels(PixelImage, WebPImageFile):
    """A WebP file, decoded to an array."""


def _find_webp() -> Decoder:
    from imagecodecs import webp_decode  # an extra

    def decode(coded: bytes, image: Image.Image) -> Pixels:
        pixels: Pixels = webp_decode(coded)
        image.info.update(timestamp=0, duration=0)  # as Pillow does once it has decoded
        return pixels

    return decode


def _is_plain_webp(coded: bytes, image: Any) -> bool:
    is_extended = coded[12:16] == b"VP8X"
    return image.mode == "RGB" and not (is_extended and coded[20] & _ANIMATED_OR_TRANSPARENT)


def _make_webp_probes() -> Iterator[tuple[bytes, int]]:
    yield _encode("RGB", "WEBP"), 1
    yield _encode("RGB", "WEBP", lossless=True), 1


def _encode(mode: str, name: str, **how: Any) -> bytes:
    """Returns a small file of coloured blobs and of noise."""
    rng, file = np.random.default_rng(0), io.BytesIO()
    noise, blobs = (Image.fromarray(rng.integers(0, 256, (n, n, 4), dtype=np.uint8)) for n in (150, 12))
    noise.paste(blobs.resize((150, 150), Image.Resampling.BICUBIC), (0, 71))
    noise.convert(mode).crop((0, 0, 149, 147)).save(file, name, **how)
    return file.getvalue()


_FORMATS: dict[type, _Format] = {
    JpegImageFile: _Format(_find_simplejpeg, _is_plain_jpeg, JpegPixels, _make_jpeg_probes),
    PngImageFile: _Format(_find_spng, _is_plain_png, PngPixels, _make_png_probes),
    WebPImageFile: _Format(_find_webp, _is_plain_webp, WebPPixels, _make_webp_probes),
}
