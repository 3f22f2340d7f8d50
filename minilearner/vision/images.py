"""Pictures from files: whatever the format, orientation and mode, channels of 8 bits come out right.

What becomes of a picture afterwards is `transforms`' business.
"""

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
from minilearner.runtime import in_threads

__all__ = [
    "PathLike",
    "VerifiedImages",
    "as_mode",
    "image_size",
    "image_sizes",
    "open_image",
    "recognised",
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
"""How a picture with each EXIF orientation is turned upright; from 5 on, width and height change places."""

_HOW = ("headers", "decode")
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_POLICIES = ("raise", "skip")


def open_image(
    path: PathLike | IO[bytes], mode: str = "RGB", *, reduce_to: tuple[int, int] | None = None
) -> Image.Image:
    """Returns the picture in a file, upright, in a mode of Pillow's such as "RGB" or "L".

    - EXIF orientation is applied. Of an animation the first frame is taken.
    - Transparent parts, in a palette too, become white, as on a page (fastai drops the alpha channel and shows whatever
      colour lies beneath), unless `mode` has an alpha channel itself.
    - 16 bits a channel are scaled to 8, never clipped. CMYK is converted, Adobe's inverted kind included.

    Args:
        path: the file, or an object that reads it, such as `io.BytesIO`, from its beginning.
        mode: what to convert to.
        reduce_to: (width, height) that are enough. A JPEG is then decoded at 1/2, 1/4 or 1/8 of its size where that
            leaves both sides at least so long, which saves up to half the time; other formats come at full size.

    Raises:
        FileFormatError: the file is no picture, or is damaged or cut short.
        DataError: there is no such file, it may not be read, or its pixels are floats, which have no known range.
    """
    image = _loaded(path, reduce_to)
    try:
        return as_mode(image, mode)
    except DataError as e:
        raise DataError(f"{_name(path)}: {e}") from e


def as_mode(image: Image.Image, mode: str) -> Image.Image:
    """Returns a picture upright and in `mode`, as `open_image` does, by way of what keeps its 16 bits and transparency.

    Raises:
        DataError: its pixels are floats.
    """
    method = _UPRIGHT.get(_orientation(image))
    image = image if method is None else image.transpose(method)
    if image.mode == "F":
        raise DataError("a picture's pixels are floats, which have no known range. Scale them to 8 bits yourself.")
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if mode not in _WITH_ALPHA and (image.mode in _WITH_ALPHA or "transparency" in image.info):
        image = _on_white(image)
    return image if image.mode == mode else image.convert(mode)


def image_size(path: PathLike) -> tuple[int, int]:
    """Returns (width, height) of the upright picture, from the header alone.

    Raises:
        FileFormatError: the header is not a picture's.
        DataError: there is no such file, or it may not be read.
    """
    with _opened(path) as image:
        tags = getattr(image, "tag_v2", None)  # of a TIFF, whose `size` some versions of Pillow give upright already
        width, height = (tags[256], tags[257]) if tags else image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def image_sizes(paths: Sequence[PathLike]) -> list[tuple[int, int]]:
    """Returns the `image_size` of every file, read in threads; errors as there."""
    return in_threads(image_size, paths, _n_threads())


@dataclass(frozen=True)
class VerifiedImages:
    """What `verify_images` found."""

    readable: list[PathLike]
    """The files that can be read, in the order given."""
    unreadable: list[tuple[PathLike, str]]
    """The others, each with the reason."""

    def __str__(self) -> str:
        return f"{len(self.readable)} readable, {len(self.unreadable)} unreadable{_examples(self.unreadable)}"


def verify_images(
    paths: Iterable[PathLike],
    how: str = "headers",
    on_unreadable: str = "raise",
    n_threads: int | None = None,
) -> VerifiedImages:
    """Reads every file, in threads, and tells which are pictures.

    Args:
        paths: the files.
        how: "headers" opens each and reads a few bytes, which finds what is empty, foreign or missing; "decode" reads
            every pixel, about ten times as slow, which also finds what is cut short or damaged.
        on_unreadable: "raise", or "skip", which leaves telling to the caller: the result lists what to leave out.
        n_threads: how many files at a time; by default twice the processors, 32 at most, as disks wait too.

    Raises:
        FileFormatError: files cannot be read, and `on_unreadable` is "raise". Says how many, with three examples.
        ValueError: `how` or `on_unreadable` is another word, or `n_threads` is less than 1.
    """
    check_choice(how, "how", _HOW)
    check_choice(on_unreadable, "on_unreadable", _POLICIES)
    if n_threads is not None:
        check_count(n_threads, "n_threads")
    paths = list(paths)
    reasons = in_threads(partial(_reason, how=how), paths, n_threads or _n_threads())
    found = VerifiedImages(
        [path for path, reason in zip(paths, reasons, strict=True) if reason is None],
        [(path, reason) for path, reason in zip(paths, reasons, strict=True) if reason is not None],
    )
    if found.unreadable and on_unreadable == "raise":
        raise FileFormatError(
            f"{len(found.unreadable)} of {len(paths)} pictures cannot be read{_examples(found.unreadable)} Repair or "
            'remove them, or leave them out with on_unreadable="skip".'
        )
    return found


def _n_threads() -> int:
    return min(32, 2 * (os.cpu_count() or 1))


def _reason(path: PathLike, how: str) -> str | None:
    try:
        with _opened(path) as image:
            if how == "decode":
                image.draft(None, (1, 1))  # a JPEG's every byte is read, but only 1/8 of its size is computed
                image.load()
    except DataError as e:
        return str(e).removeprefix(f"{os.fspath(path)}: ")
    return None


def _examples(unreadable: list[tuple[PathLike, str]]) -> str:
    if not unreadable:
        return "."
    shown = "; ".join(f"{os.fspath(path)}: {reason.rstrip('.')}" for path, reason in unreadable[:3])
    return f": {shown}{'; ...' if len(unreadable) > 3 else '.'}"


def _loaded(path: PathLike | IO[bytes], reduce_to: tuple[int, int] | None) -> Image.Image:
    with _opened(path) as image:
        if reduce_to is not None and image.format == "JPEG":
            image.draft(None, reduce_to[::-1] if _orientation(image) >= 5 else reduce_to)
        image.load()
        return image


@contextmanager
def _opened(path: PathLike | IO[bytes]) -> Iterator[Image.Image]:
    """Opens a file's header; whatever goes wrong with it inside the context is told with the path."""
    try:
        with recognised(path) as image:
            yield image
    except MemoryError:
        raise
    except Exception as e:  # Pillow raises a dozen kinds on damaged files
        raise _told(e, path) from e


def recognised(path: PathLike | IO[bytes]) -> Image.Image:
    """Returns `PIL.Image.open`'s picture, not yet decoded, in whichever of several threads."""
    try:
        return Image.open(path)
    except UnidentifiedImageError:
        # Pillow learns rare formats at the first need, and passes over those that another thread brings in meanwhile.
        Image.init()
        return Image.open(path)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels, which are still good
        return 1


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scales grey values of 16 bits, which Pillow would clip at 255, so that 65535 becomes 255."""
    values = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.rint(values.clip(0, 65535) / 257).astype(np.uint8))


def _name(path: PathLike | IO[bytes]) -> str:
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else f"a {type(path).__name__}"


def _n_bytes(path: PathLike | IO[bytes]) -> int:
    return os.path.getsize(path) if isinstance(path, (str, os.PathLike)) else path.seek(0, os.SEEK_END)


def _told(e: Exception, path: PathLike | IO[bytes]) -> DataError:
    if isinstance(e, OSError) and e.errno is not None:
        return DataError(f"{_name(path)}: the file cannot be opened ({e.strerror}).")
    size = _n_bytes(path)
    if size == 0:
        what = "the file is empty"
    elif isinstance(e, UnidentifiedImageError):
        what = f"the {size} bytes are not a picture in a format that Pillow knows"
    else:
        what = f"the picture is damaged or cut short ({str(e).rstrip('.')})"
    return FileFormatError(f"{_name(path)}: {what}.")
