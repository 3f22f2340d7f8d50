"""Reads image files of any format, orientation and mode, as 8 bits per channel. `resize` transforms the images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import IO, TypeAlias

from PIL import Image, UnidentifiedImageError

from minilearner.checks import check_choice, check_count
from minilearner.data.image_modes import (
    SAY_ORIENTATION,
    as_mode,
    decode_image,
    is_float_image,
    orientation_of,
    reduce_image,
)
from minilearner.data.unread_formats import find_plugin_endings, identify_image, read_head, unread_format
from minilearner.errors import DataError, FileFormatError, add_note, plural
from minilearner.files import check_is_file
from minilearner.keywords import suggest_keywords
from minilearner.lists import L
from minilearner.runtime import map_in_threads

__all__ = [
    "PathLike",
    "VerifiedImages",
    "image_size",
    "image_sizes",
    "open_image",
    "verify_images",
]

PathLike: TypeAlias = str | os.PathLike[str]
_HOW = ("headers", "decode")
_POLICIES = ("raise", "skip")


@suggest_keywords
def open_image(
    path: PathLike | IO[bytes],
    mode: str = "RGB",
    *,
    reduce_to: tuple[int, int] | None = None,
) -> Image.Image:
    """Returns the image in a file, upright, in a Pillow mode such as "RGB" or "L".

    EXIF orientation is applied once, and the result has none left. An animation gives its first frame. Each kind of
    pixel has one rule. All files of a data set follow the same rule, so grey levels compare:

    - 8 bits per channel, and palettes: as they are. YCbCr, HSV, CMYK (also Adobe's inverted kind) and LAB: converted to
      sRGB. Colour profiles in files are not applied.
    - 1 bit: 0 and 255.
    - 16 bits per channel: value / 257, rounded, so 65535 becomes 255. TIFFs of 12 bits: value / (4095 / 255). If no
      value is above 255, the image would become black, so it is an error. If none is above 4095, it would be nearly
      black, so there is a warning, once. A grey TIFF whose 0 is white is inverted.
    - 32-bit integers: 0 to 255 as they are. An image with any other value is an error.
    - Floats: an error, since their range is unknown.
    - Transparent pixels become white, as on a page, and those partly transparent are blended with white, unless `mode`
      has an alpha channel. That includes palettes, and the transparent colour of a PNG, compared at the file's own
      depth. fastai drops the alpha channel and shows whatever colour is below it.

    The modes "I" and "F" give 16-bit, 32-bit and float pixels as they are, for those who scale them themselves.

    Args:
        path: the file, or an object that reads it from its beginning, such as `io.BytesIO`.
        mode: the mode to convert to.
        reduce_to: a sufficient (width, height). A JPEG is then decoded at 1/2, 1/4 or 1/8 of its size, as long as both
            sides stay at least that long. This saves up to half the time. Other formats are decoded at full size.

    Raises:
        FileFormatError: the file is not an image, or it is damaged or cut short.
        DataError: the file is missing or cannot be opened, has more pixels than Pillow's limit, or has pixels whose
            range is unknown. The message names the file.
    """
    image = _load(path, reduce_to)
    try:
        return as_mode(image, mode)
    except DataError as e:
        raise DataError(f"{_describe_source(path)}: {e}") from e


def image_size(path: PathLike) -> tuple[int, int]:
    """Returns (width, height) of the upright image, from the header alone.

    Raises:
        FileFormatError: the header is not that of an image.
        DataError: the file is missing or cannot be opened.
    """
    with _open(path) as image:
        return _upright_size(image)


def image_sizes(paths: Sequence[PathLike]) -> list[tuple[int, int]]:
    """Returns the `image_size` of every file, read in threads. Raises the same errors."""
    return map_in_threads(image_size, paths, _n_threads())


class VerifiedImages(L[PathLike]):
    """The result of `verify_images`: a list of the files that cannot be read.

    >>> failed = verify_images(get_image_files("scraped"))  # doctest: +SKIP
    >>> failed.map(Path.unlink)  # doctest: +SKIP

    Args:
        paths: the files.
        results: (width, height) of each readable image, and the reason for each of the others.
    """

    def __init__(self, paths: Sequence[PathLike], results: Sequence[tuple[int, int] | str]) -> None:
        seen = list(zip(paths, results, strict=True))
        self.readable: list[PathLike] = [path for path, result in seen if not isinstance(result, str)]
        """The readable files, in the given order."""
        self.unreadable: list[tuple[PathLike, str]] = [(path, why) for path, why in seen if isinstance(why, str)]
        """The other files, each with the reason."""
        self.sizes: list[tuple[int, int]] = [result for result in results if not isinstance(result, str)]
        """(width, height) of each readable image, upright."""
        super().__init__([path for path, _ in self.unreadable])

    def __str__(self) -> str:
        return f"{len(self.readable)} readable, {len(self.unreadable)} unreadable{_examples(self.unreadable)}"


@suggest_keywords
def verify_images(
    paths: Iterable[PathLike],
    how: str = "decode",
    on_unreadable: str = "skip",
    n_threads: int | None = None,
) -> VerifiedImages:
    """Reads every file, in threads, and returns those that are no images, with the reasons in ``.unreadable``.

    Args:
        paths: the files.
        how: "decode" reads every pixel. "headers" opens each file and reads its first and last bytes, which finds
            empty, foreign and missing files, JPEGs, PNGs and GIFs that are cut short, and images that `open_image`
            refuses: floats, and more pixels than Pillow's limit. It takes about 10 seconds for 100,000 JPEGs on two
            processors, and the time of the disk. "decode" takes ten times as long or more, and also finds files that
            are damaged in the middle.
        on_unreadable: "skip", which leaves it to the caller to exclude the unreadable files, or "raise".
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
    found = VerifiedImages(paths, map_in_threads(partial(_inspect, how=how), paths, n_threads or _n_threads()))
    if found.unreadable and on_unreadable == "raise":
        raise FileFormatError(
            f"{len(found.unreadable)} of {plural(len(paths), 'image')} cannot be read{_examples(found.unreadable)} "
            "Repair or "
            'remove them, or leave them out with on_unreadable="skip".'
        )
    return found


def _n_threads() -> int:
    return min(32, 2 * (os.cpu_count() or 1))


def _inspect(path: PathLike, how: str) -> tuple[int, int] | str:
    """Returns (width, height) of a readable image, or else the reason why it cannot be read."""
    try:
        with _open(path) as image:
            does_decode = how == "decode" or not _has_end(image)
            size = _upright_size(image, decode=does_decode)
            if is_float_image(image) or image.mode == "I":  # rare, and only the pixels of "I" say whether it is usable
                as_mode(image, "RGB")
            if does_decode:
                image.draft(None, (1, 1))  # reads every byte of a JPEG, but computes only 1/8 of its size
                as_mode(image, "RGB")
    except DataError as e:
        return str(e).removeprefix(f"{os.fspath(path)}: ")
    return size


_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND", "GIF": b";"}
"""What stands in the last bytes of a whole file. Some cameras append more, so without it only decoding decides."""


def _has_end(image: Image.Image) -> bool:
    """Returns whether an opened file ends as its format does. A copy that was interrupted does not."""
    file, end = getattr(image, "fp", None), _ENDS.get(image.format or "")
    if file is None or end is None:
        return True
    position = file.tell()
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - 32))
    tail = file.read()
    file.seek(position)
    return end in tail


def _examples(unreadable: list[tuple[PathLike, str]]) -> str:
    if not unreadable:
        return "."
    shown = "; ".join(f"{os.fspath(path)}: {reason.rstrip('.')}" for path, reason in unreadable[:3])
    return f": {shown}{'; ...' if len(unreadable) > 3 else '.'}"


def _load(path: PathLike | IO[bytes], reduce_to: tuple[int, int] | None) -> Image.Image:
    with _open(path) as image:
        from minilearner.data.fast_decoders import decode_faster  # it loads formats of Pillow; an import needs none

        reduce_image(image, reduce_to)
        decoded = decode_faster(image)
        if decoded is None:
            decode_image(image)
        return decoded or image


def _upright_size(image: Image.Image, *, decode: bool = True) -> tuple[int, int]:
    """Returns (width, height). To find an orientation after its pixels, which is rare, Pillow has to decode a PNG."""
    if not decode and image.format in ("JPEG", "PNG") and not any(key in image.info for key in SAY_ORIENTATION):
        return image.size
    tags = getattr(image, "tag_v2", None)  # TIFF: in some versions of Pillow, `size` is already upright
    width, height = (tags[256], tags[257]) if tags else image.size
    return (height, width) if orientation_of(image) >= 5 else (width, height)


@contextmanager
def _open(path: PathLike | IO[bytes]) -> Iterator[Image.Image]:
    """Opens a file's header. Errors inside the context become `DataError`s that name the path."""
    try:
        if isinstance(path, (str, os.PathLike)):
            check_is_file(path)  # opening a pipe would wait for ever
        with identify_image(path) as image:
            yield image
    except MemoryError as e:
        add_note(e, f"It happened with the image {_describe_source(path)}.")
        raise
    except DataError:
        raise
    except Exception as e:  # Pillow raises a dozen kinds of errors for damaged files
        raise _make_error(e, path) from None  # the message has Pillow's reason; its traceback adds nothing


def _make_error(e: Exception, path: PathLike | IO[bytes]) -> DataError:
    name = _describe_source(path)
    if isinstance(e, OSError) and e.errno is not None:
        return DataError(f"{name}: the file cannot be opened ({e.strerror}).")
    if isinstance(e, Image.DecompressionBombError):
        return DataError(
            f"{name}: the image is larger than Pillow allows ({str(e).rstrip('.')}). If you trust your files, set "
            "`PIL.Image.MAX_IMAGE_PIXELS = None` before the loaders are built, or save the image at a smaller size."
        )
    if isinstance(e, ValueError) and _TEXT_LIMIT.search(str(e)):
        return DataError(
            f"{name}: a text in the PNG is longer than Pillow allows ({str(e).rstrip('.')}). If you trust your files, "
            "raise `PIL.PngImagePlugin.MAX_TEXT_CHUNK` and `MAX_TEXT_MEMORY` before the loaders are built."
        )
    head, size = read_head(path)
    if size == 0:
        what = "the file is empty"
    elif isinstance(e, UnidentifiedImageError):
        what = f"this is not an image in a format that Pillow knows ({plural(size, 'byte')}){_name_format(head)}"
    else:
        what = f"the image is damaged or cut short ({str(e).rstrip('.') or type(e).__name__})"
    return FileFormatError(f"{name}: {what}.")


_TEXT_LIMIT = re.compile("MAX_TEXT_CHUNK|decompressed data too large|memory used in text chunks", re.IGNORECASE)


def _describe_source(path: PathLike | IO[bytes]) -> str:
    if isinstance(path, (str, os.PathLike)):
        return os.fspath(path)
    name = getattr(path, "name", None)
    return name if isinstance(name, str) else f"a {type(path).__name__}"


def _name_format(head: bytes) -> str:
    """Returns what the file is instead, and how to read it, if its first bytes say so."""
    found = unread_format(head)
    if found is not None and not set(found.endings) & set(find_plugin_endings()):
        return f". It is {found.name}: {found.way}"
    if head.lstrip()[:1] in (b"<", b"{"):
        return f". It is text that begins with {head[:20].decode('latin-1')!r}, such as a web page saved in its place"
    return ""
