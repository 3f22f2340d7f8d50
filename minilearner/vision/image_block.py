"""Blocks of pictures: from a path, bytes, a PIL picture, an array or a tensor to a PIL picture of one mode."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch import Tensor

from minilearner.checks import check_choice
from minilearner.errors import DataError, FileFormatError
from minilearner.vision.images import as_mode, image_sizes, open_image, recognised, verify_images

__all__ = ["ImageBlock", "PILImage", "PILImageBW", "as_picture"]


class PILImage:
    """Pictures in colour, three channels. A name for `ImageBlock`; what it creates are plain PIL pictures."""

    mode = "RGB"

    @classmethod
    def create(cls, source: Any) -> Image.Image:
        """Returns a picture in this mode; see `as_picture`."""
        return as_picture(source, cls.mode)


class PILImageBW(PILImage):
    """Pictures in grey, one channel."""

    mode = "L"


@dataclass(frozen=True)
class ImageBlock:
    """Inputs that are pictures.

    Args:
        cls: `PILImage` for three channels, `PILImageBW` for one, or a mode of Pillow's such as "RGB", "L" or "RGBA".

    Raises:
        TypeError, ValueError: `cls` is none of these.
    """

    cls: type[PILImage] | str = PILImage

    in_threads: ClassVar[bool] = True
    """Several threads may read at once. Not inherited: a subclass that reads in its own way says it again."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.in_threads = cls.__dict__.get("in_threads", False)

    def __post_init__(self) -> None:
        if isinstance(self.cls, str):
            check_choice(self.cls, "cls", _MODES)
        if not isinstance(getattr(self.cls, "mode", self.cls), str):
            raise TypeError(f"`cls` must be PILImage, PILImageBW or a mode such as 'RGB'. Received: cls={self.cls!r}.")

    @property
    def mode(self) -> str:
        """The mode of every picture."""
        return self.cls if isinstance(self.cls, str) else self.cls.mode

    def read(self, source: Any) -> Image.Image:
        """Returns the picture; errors as in `as_picture`."""
        # An open file or picture may be two items of a batch at once, and reading moves its place.
        with nullcontext() if isinstance(source, _VALUES) else _READING:
            picture = as_picture(source, self.mode)
            picture.load()  # an open picture may still be undecoded
            return picture

    def read_reduced(self, source: Any, reduce_to: tuple[int, int]) -> Image.Image:
        """Returns the picture, of a file maybe smaller: (width, height) `reduce_to` are enough; see `open_image`."""
        if isinstance(source, (str, os.PathLike)):
            return open_image(source, self.mode, reduce_to=reduce_to)
        return self.read(source)

    def unreadable(self, sources: Sequence[Any], verify: str) -> dict[int, str]:
        """Returns position -> reason for the files that are not there ("names"), or that `verify_images` finds."""
        positions = [i for i, source in enumerate(sources) if isinstance(source, (str, os.PathLike))]
        if verify == "names":
            return {i: "there is no such file" for i in positions if not os.path.exists(sources[i])}
        reasons = dict(verify_images([sources[i] for i in positions], verify, on_unreadable="skip").unreadable)
        return {i: reasons[sources[i]] for i in positions if sources[i] in reasons}

    def sizes(self, sources: Sequence[Any]) -> dict[int, tuple[int, int]]:
        """Returns position -> (width, height) of the sources that are files, from their headers."""
        positions = [i for i, source in enumerate(sources) if isinstance(source, (str, os.PathLike))]
        return dict(zip(positions, image_sizes([sources[i] for i in positions]), strict=True))


_MODES = ("RGB", "L", "RGBA")
_VALUES = (str, os.PathLike, bytes, bytearray, np.ndarray, Tensor)
_READING = threading.Lock()


def as_picture(source: Any, mode: str = "RGB") -> Image.Image:
    """Returns what is a picture, upright and in a mode of Pillow's.

    source: a path; an open file; the bytes of a file; a PIL picture; an array (height, width) or (height, width,
    channels); or a tensor (channels, height, width). Integers are 0 to 255, floats 0 to 1. An array whose first axis
    alone has the length of channels (1, 3 or 4) is taken for (channels, height, width).

    Raises:
        TypeError: `source` is none of these.
        DataError: an array has another shape, dtype or range.
        FileFormatError: a file, or bytes, are no picture, or are damaged.
    """
    if isinstance(source, (str, os.PathLike)) or (hasattr(source, "read") and hasattr(source, "seek")):
        return open_image(source, mode)
    if isinstance(source, (bytes, bytearray)):
        source = _from_bytes(source)
    elif isinstance(source, Tensor):
        source = _from_array(source.detach().cpu().numpy(), channels_first=True)
    elif isinstance(source, np.ndarray):
        source = _from_array(source, channels_first=source.ndim == 3 and source.shape[2] not in _CHANNELS)
    if not isinstance(source, Image.Image):
        raise TypeError(
            "a picture must be a path, an open file, bytes, a PIL picture, an array or a tensor. "
            f"Received: {source!r:.100}."
        )
    return as_mode(source, mode)


_CHANNELS = (1, 3, 4)


def _from_bytes(data: bytes | bytearray) -> Image.Image:
    try:
        image = recognised(io.BytesIO(data))
        image.load()
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        raise FileFormatError(f"{len(data)} bytes are no picture, or a damaged one: {error}") from error
    return image


def _from_array(array: np.ndarray[Any, Any], *, channels_first: bool) -> Image.Image:
    shape = array.shape
    if channels_first and array.ndim == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in _CHANNELS):
        raise DataError(
            "a picture must be (height, width, channels) as an array, (channels, height, width) as a tensor, with 1, 3 "
            f"or 4 channels. Received: shape {shape}."
        )
    array = _as_bytes(array)
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array))


def _as_bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    top = 1 if array.dtype.kind == "f" else 255
    if array.dtype.kind not in "uif" or (array.size and not (array.min() >= 0 and array.max() <= top)):
        raise DataError(
            f"a picture's values must be integers from 0 to 255 or floats from 0 to 1. Received: {array.dtype}"
            + (f" from {array.min()} to {array.max()}." if array.dtype.kind in "uif" and array.size else ".")
        )
    return np.rint(array * 255).astype(np.uint8) if top == 1 else array.astype(np.uint8)
