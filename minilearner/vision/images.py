"""Reads image files of any format, orientation and mode, as 8 bits per channel. `resize` transforms the images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from minilearner.checks import check_choice, check_count
from minilearner.errors import DataError, FileFormatError
from minilearner.runtime import map_in_threads

__all__ = [
    "PathLike",
    "VerifiedImages",
    "as_mode",
    "identify_image",
    "image_size",
    "image_sizes",
    "open_image",
    "verify_images",
]

PathLike: TypeAlias = str | os.PathLike[str]
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

_HOW = ("headers", "decode")
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_POLICIES = ("raise", "skip")


def open_image(
    path: PathLike | IO[bytes],
    mode: str = "RGB",
    *,
    reduce_to: tuple[int, int] | None = None,
) -> Image.Image:
    """Returns the image in a file, upright, in a Pillow mode such as "RGB" or "L".

    - EXIF orientation is applied. An animation gives its first frame.
    - Transparent pixels become white, as on a page, also in palettes, unless `mode` has an alpha channel. fastai drops
      the alpha channel and shows whatever colour is below it.
    - 16 bits per channel are scaled to 8, never clipped. CMYK is converted, also Adobe's inverted kind.

    Args:
        path: the file, or an object that reads it from its beginning, such as `io.BytesIO`.
        mode: the mode to convert to.
        reduce_to: a sufficient (width, height). A JPEG is then decoded at 1/2, 1/4 or 1/8 of its size, as long as both
            sides stay at least that long. This saves up to half the time. Other formats are decoded at full size.

    Raises:
        FileFormatError: the file is not an image, or it is damaged or cut short.
        DataError: the file is missing or cannot be opened, or its pixels are floats, whose range is unknown.
    """
    image = _load(path, reduce_to)
    try:
        return as_mode(image, mode)
    except DataError as e:
        raise DataError(f"{_describe_source(path)}: {e}") from e


def as_mode(image: Image.Image, mode: str) -> Image.Image:
    """Returns an image upright and in `mode`, as `open_image` does, without losing 16-bit values or transparency.

    Raises:
        DataError: its pixels are floats.
    """
    method = _UPRIGHT.get(_orientation(image))
    image = image if method is None else image.transpose(method)
    if image.mode == "F":
        raise DataError("the image has floats as pixels, and their range is unknown. Scale them to 8 bits yourself.")
    if image.mode.startswith("I"):
        image = _scale_to_eight_bits(image)
    if mode not in _WITH_ALPHA and (image.mode in _WITH_ALPHA or "transparency" in image.info):
        image = _put_on_white(image)
    return image if image.mode == mode else image.convert(mode)


def image_size(path: PathLike) -> tuple[int, int]:
    """Returns (width, height) of the upright image, from the header alone.

    Raises:
        FileFormatError: the header is not that of an image.
        DataError: the file is missing or cannot be opened.
    """
    with _open(path) as image:
        tags = getattr(image, "tag_v2", None)  # TIFF: in some versions of Pillow, `size` is already upright
        width, height = (tags[256], tags[257]) if tags else image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def image_sizes(paths: Sequence[PathLike]) -> list[tuple[int, int]]:
    """Returns the `image_size` of every file, read in threads. Raises the same errors."""
    return map_in_threads(image_size, paths, _n_threads())


@dataclass(frozen=True)
class VerifiedImages:
    """The result of `verify_images`."""

    readable: list[PathLike]
    """The readable files, in the given order."""
    unreadable: list[tuple[PathLike, str]]
    """The other files, each with the reason."""

    def __str__(self) -> str:
        return f"{len(self.readable)} readable, {len(self.unreadable)} unreadable{_examples(self.unreadable)}"


def verify_images(
    paths: Iterable[PathLike],
    how: str = "headers",
    on_unreadable: str = "raise",
    n_threads: int | None = None,
) -> VerifiedImages:
    """Reads every file, in threads, and says which are images.

    Args:
        paths: the files.
        how: "headers" opens each file and reads a few bytes, which finds empty, foreign and missing files. "decode"
            reads every pixel, which takes about ten times as long and also finds damaged and truncated files.
        on_unreadable: "raise", or "skip", which leaves it to the caller to exclude the unreadable files.
        n_threads: how many files to read at a time. By default twice the number of processors, at most 32, because
            reading also waits for the disk.

    Raises:
        FileFormatError: files cannot be read, and `on_unreadable` is "raise". Says how many, with three examples.
        ValueError: `how` or `on_unreadable` is unknown, or `n_threads` is below 1.
    """
    check_choice(how, "how", _HOW)
    check_choice(on_unreadable, "on_unreadable", _POLICIES)
    if n_threads is not None:
        check_count(n_threads, "n_threads")
    paths = list(paths)
    reasons = map_in_threads(partial(_find_problem, how=how), paths, n_threads or _n_threads())
    found = VerifiedImages(
        [path for path, reason in zip(paths, reasons, strict=True) if reason is None],
        [(path, reason) for path, reason in zip(paths, reasons, strict=True) if reason is not None],
    )
    if found.unreadable and on_unreadable == "raise":
        raise FileFormatError(
            f"{len(found.unreadable)} of {len(paths)} images cannot be read{_examples(found.unreadable)} Repair or "
            'remove them, or leave them out with on_unreadable="skip".'
        )
    return found


def _n_threads() -> int:
    return min(32, 2 * (os.cpu_count() or 1))


def _find_problem(path: PathLike, how: str) -> str | None:
    try:
        with _open(path) as image:
            if how == "decode":
                image.draft(None, (1, 1))  # reads every byte of a JPEG, but computes only 1/8 of its size
                image.load()
    except DataError as e:
        return str(e).removeprefix(f"{os.fspath(path)}: ")
    return None


def _examples(unreadable: list[tuple[PathLike, str]]) -> str:
    if not unreadable:
        return "."
    shown = "; ".join(f"{os.fspath(path)}: {reason.rstrip('.')}" for path, reason in unreadable[:3])
    return f": {shown}{'; ...' if len(unreadable) > 3 else '.'}"


def _load(path: PathLike | IO[bytes], reduce_to: tuple[int, int] | None) -> Image.Image:
    with _open(path) as image:
        if reduce_to is not None and image.format == "JPEG":
            image.draft(None, reduce_to[::-1] if _orientation(image) >= 5 else reduce_to)
        image.load()
        return image


@contextmanager
def _open(path: PathLike | IO[bytes]) -> Iterator[Image.Image]:
    """Opens a file's header. Errors inside the context become `DataError`s that name the path."""
    try:
        with identify_image(path) as image:
            yield image
    except MemoryError:
        raise
    except Exception as e:  # Pillow raises a dozen kinds of errors for damaged files
        raise _make_error(e, path) from e


def identify_image(path: PathLike | IO[bytes]) -> Image.Image:
    """Returns the image of `PIL.Image.open`, not decoded yet. Unlike that, it is safe in threads."""
    try:
        return Image.open(path)
    except UnidentifiedImageError:
        # Pillow loads rare formats when first needed, and may miss those that another thread is just loading.
        Image.init()
        return Image.open(path)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # the EXIF block is damaged, but the pixels may be fine
        return 1


def _put_on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _scale_to_eight_bits(image: Image.Image) -> Image.Image:
    """Scales 16-bit grey values so that 65535 becomes 255. Pillow would clip them at 255."""
    values = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.rint(values.clip(0, 65535) / 257).astype(np.uint8))


def _describe_source(path: PathLike | IO[bytes]) -> str:
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else f"a {type(path).__name__}"


def _count_bytes(path: PathLike | IO[bytes]) -> int:
    return os.path.getsize(path) if isinstance(path, (str, os.PathLike)) else path.seek(0, os.SEEK_END)


def _make_error(e: Exception, path: PathLike | IO[bytes]) -> DataError:
    if isinstance(e, OSError) and e.errno is not None:
        return DataError(f"{_describe_source(path)}: the file cannot be opened ({e.strerror}).")
    size = _count_bytes(path)
    if size == 0:
        what = "the file is empty"
    elif isinstance(e, UnidentifiedImageError):
        what = f"the {size} bytes are not an image in a format that Pillow knows"
    else:
        what = f"the image is damaged or cut short ({str(e).rstrip('.')})"
    return FileFormatError(f"{_describe_source(path)}: {what}.")
