"""`ImageBlock`: inputs that are images. Turns a path, bytes, a PIL image, an array or a tensor into a PIL image.

`images` reads the files; `data.blocks` has the blocks for targets.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image
from torch import Tensor

from minilearner.checks import check_choice
from minilearner.data.image_modes import as_mode
from minilearner.errors import DataError, FileFormatError, plural
from minilearner.files import check_is_file
from minilearner.keywords import suggest_keywords
from minilearner.plots.axes import show_image
from minilearner.vision.huggingface import StoredImage
from minilearner.vision.images import image_sizes, open_image, verify_images

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from typing_extensions import Self

__all__ = ["ImageBlock", "PILBase", "PILImage", "PILImageBW", "PILMask", "as_image"]


@suggest_keywords
class PILBase(Image.Image):
    """A PIL image that draws itself in a figure. Its copies, crops and resized versions are of its class too."""

    is_input: ClassVar[bool] = True
    """Whether an input of a model may be one."""

    opens_as: ClassVar[str] = "RGB"
    """The Pillow mode in which `create` opens images."""

    show_options: ClassVar[dict[str, Any]] = {}
    """How `show` draws it, for Matplotlib's `imshow`."""

    @classmethod
    def create(cls, source: Any) -> Self:
        """Returns an image of a path, bytes, an array, a tensor or a PIL image; see `as_image`."""
        image = as_image(source, cls.opens_as)
        return cls._of(Image.Image._new(image, image.copy().im if image is source else image.im))

    @classmethod
    def accept(cls, x: Any) -> Self | None:
        """Returns a PIL image as one of this class, if it may be one; None otherwise."""
        fits = isinstance(x, Image.Image) and cls.is_input and (cls.opens_as == "RGB" or x.mode == cls.opens_as)
        return cls._of(Image.Image._new(x, x.im)) if fits else None

    @classmethod
    def _of(cls, image: Image.Image) -> Self:
        image.__class__ = cls  # what a constructor would copy
        return image  # type: ignore[return-value]

    def _new(self, im: Any) -> Self:
        return self._of(super()._new(im))

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def aspect(self) -> float:
        """Width / height."""
        return self.width / self.height

    def show(self, ctx: Axes | None = None, **kwargs: Any) -> Axes:  # type: ignore[override]
        """Draws the image, and returns the axes; arguments as for `show_image`, such as `title`."""
        return show_image(self, ctx=ctx, **{**self.show_options, **kwargs})

    def to_thumb(self, h: int, w: int | None = None) -> Self:
        """Returns a copy that fits into a height and a width, in pixels; one number for both."""
        thumb = self.copy()
        thumb.thumbnail((h if w is None else w, h))
        return thumb  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"{type(self).__name__} mode={self.mode} size={self.width}x{self.height}"


@suggest_keywords
class PILImage(PILBase):
    """A colour image with three channels.

    >>> PILImage.create(np.zeros((20, 30, 3), np.uint8)).to_thumb(10)
    PILImage mode=RGB size=10x7
    """


@suggest_keywords
class PILImageBW(PILImage):
    """A grey image with one channel."""

    opens_as = "L"
    show_options: ClassVar[dict[str, Any]] = {"cmap": "Greys"}


@suggest_keywords
class PILMask(PILBase):
    """A mask, whose grey levels are the numbers of classes. Masks are shown, not trained on."""

    is_input = False
    opens_as = "L"
    show_options: ClassVar[dict[str, Any]] = {"alpha": 0.5, "cmap": "tab20"}


@suggest_keywords
@dataclass(frozen=True)
class ImageBlock:
    """Inputs that are images.

    Args:
        cls: `PILImage` for three channels, `PILImageBW` for one, or a Pillow mode: "RGB", "L" or "RGBA".

    Raises:
        TypeError, ValueError: `cls` is none of these.
    """

    cls: type[PILImage] | str = PILImage

    in_threads: ClassVar[bool] = True
    """Whether several threads may read at once. Not inherited: a subclass with its own `read` must set it again."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.in_threads = cls.__dict__.get("in_threads", False)

    def __post_init__(self) -> None:
        if isinstance(self.cls, str):
            check_choice(self.cls, "cls", _MODES)
        elif not (isinstance(self.cls, type) and issubclass(self.cls, PILImage)):
            raise TypeError(f"`cls` must be PILImage, PILImageBW or a mode such as 'RGB'. Received: cls={self.cls!r}.")

    @property
    def mode(self) -> str:
        """The Pillow mode of every image."""
        return self.cls if isinstance(self.cls, str) else self.cls.opens_as

    def create(self, source: Any) -> PILBase:
        """Returns the image as people look at it, of the class `cls`."""
        return PILImage._of(as_image(source, self.cls).copy()) if isinstance(self.cls, str) else self.cls.create(source)

    def read(self, source: Any) -> Image.Image:
        """Returns the image. Raises the errors of `as_image`."""
        # The same open file or image may be several items of a batch, and reading moves its position.
        with nullcontext() if isinstance(source, _VALUES) else _READING:
            return as_image(source, self.mode)

    def read_reduced(self, source: Any, reduce_to: tuple[int, int]) -> Image.Image:
        """Returns the image, perhaps decoded smaller, if `reduce_to` (width, height) is enough. See `open_image`."""
        if isinstance(source, (str, os.PathLike)):
            return open_image(source, self.mode, reduce_to=reduce_to)
        if isinstance(source, (bytes, bytearray, memoryview)):
            return _open_bytes(bytes(source), self.mode, reduce_to)
        return self.read(source)

    def unreadable(self, sources: Sequence[Any], verify: str) -> dict[int, str]:
        """Returns position -> reason for files that are missing ("names"), or that `verify_images` finds unreadable."""
        return self.inspect(sources, verify)[0]

    def inspect(self, sources: Sequence[Any], verify: str) -> tuple[dict[int, str], dict[int, tuple[int, int]]]:
        """Returns what `unreadable` and `sizes` return, from one look at each file. "names" looks at no size."""
        positions = [i for i, source in enumerate(sources) if isinstance(source, (str, os.PathLike))]
        if verify == "names":
            return {i: reason for i in positions if (reason := _why_no_file(sources[i])) is not None}, {}
        found = verify_images([sources[i] for i in positions], verify, on_unreadable="skip")
        reasons, sizes = dict(found.unreadable), dict(zip(found.readable, found.sizes, strict=True))
        return (
            {i: reasons[sources[i]] for i in positions if sources[i] in reasons},
            {i: sizes[sources[i]] for i in positions if sources[i] in sizes},
        )

    def sizes(self, sources: Sequence[Any]) -> dict[int, tuple[int, int]]:
        """Returns position -> (width, height) for the sources that are files, read from their headers."""
        positions = [i for i, source in enumerate(sources) if isinstance(source, (str, os.PathLike))]
        return dict(zip(positions, image_sizes([sources[i] for i in positions]), strict=True))


def _why_no_file(path: str | os.PathLike[str]) -> str | None:
    try:
        check_is_file(path)
    except OSError:
        return "there is no such file"
    except FileFormatError as error:
        return str(error).removeprefix(f"{os.fspath(path)}: ")
    return None


_MODES = ("RGB", "L", "RGBA")
_VALUES = (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, Tensor, StoredImage)
_READING = threading.Lock()


def as_image(source: Any, mode: str = "RGB") -> Image.Image:
    """Returns a source as an upright image in a Pillow mode.

    `open_image` says what becomes of each kind of pixel. However an image comes in, it is turned upright exactly once,
    and what this returns can be passed in again.

    Args:
        source: a path; an open file; the bytes of a file; a PIL image; an array (height, width) or (height, width,
            channels); or a tensor (channels, height, width). Integers range from 0 to 255, floats from 0 to 1, and
            true is white. If only the first axis of an array, or only the last of a tensor, can be channels (1, 3
            or 4), that one is.
        mode: the Pillow mode.

    Raises:
        TypeError: `source` is none of these.
        DataError: an array has another shape, dtype or range, or the pixels of an image have no known range.
        FileFormatError: a file, or bytes, are not an image, or are damaged.
    """
    if isinstance(source, StoredImage):
        source = source.load()
    if isinstance(source, (str, os.PathLike)) or (hasattr(source, "read") and hasattr(source, "seek")):
        return open_image(source, mode)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _open_bytes(bytes(source), mode)
    if isinstance(source, Tensor):
        array = source.detach().cpu().numpy()
        source = _from_array(array, channels_first=array.ndim == 3 and not _has_channels_last(array.shape))
    elif isinstance(source, np.ndarray):
        source = _from_array(source, channels_first=source.ndim == 3 and source.shape[2] not in _CHANNELS)
    if not isinstance(source, Image.Image):
        raise TypeError(
            "an image must be a path, an open file, bytes, a PIL image, an array or a tensor. "
            f"Received: {source!r:.100}."
        )
    return _convert_image(source, mode)


_CHANNELS = (1, 3, 4)


def _has_channels_last(shape: tuple[int, ...]) -> bool:
    """Whether only the last of three axes can be channels."""
    return shape[0] not in _CHANNELS and shape[2] in _CHANNELS


class _NamedBytes(io.BytesIO):
    """The bytes of a file, which errors call by their number."""

    @property
    def name(self) -> str:
        return f"these {plural(len(self.getbuffer()), 'byte')}"


def _open_bytes(data: bytes, mode: str, reduce_to: tuple[int, int] | None = None) -> Image.Image:
    return open_image(_NamedBytes(data), mode, reduce_to=reduce_to)


def _convert_image(image: Image.Image, mode: str) -> Image.Image:
    """Returns a Pillow image in `mode`. If it is decoded only now, errors name its file."""
    name = getattr(image, "filename", None) or "the image"
    try:
        return as_mode(image, mode)
    except MemoryError:
        raise
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    except Exception as error:  # Pillow raises a dozen kinds of errors for damaged files
        raise FileFormatError(f"{name}: the image is damaged or cut short ({error}).") from error


def _from_array(array: np.ndarray[Any, Any], *, channels_first: bool) -> Image.Image:
    shape = array.shape
    if channels_first and array.ndim == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in _CHANNELS):
        raise DataError(
            "an image must be an array (height, width, channels) or a tensor (channels, height, width), with 1, 3 or 4 "
            f"channels. Received: shape {shape}."
        )
    array = _as_bytes(array)
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array))


def _as_bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    top = 1 if array.dtype.kind == "f" else 255
    if array.dtype.kind not in "uif" or (array.size and not (array.min() >= 0 and array.max() <= top)):
        raise DataError(
            f"an image must hold integers from 0 to 255 or floats from 0 to 1. Received: {array.dtype}"
            + (f" from {array.min()} to {array.max()}." if array.dtype.kind in "uif" and array.size else ".")
        )
    return np.rint(array * 255).astype(np.uint8) if top == 1 else array.astype(np.uint8)
