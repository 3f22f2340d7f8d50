"""Images that a listing leaves out, since not every Pillow reads them: how to tell them, and how to read them."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, NamedTuple, TypeAlias

from minilearner.errors import agree, plural
from minilearner.tracebacks import stacklevel_of_user

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "UnreadFormat",
    "find_plugin_endings",
    "identify_image",
    "read_head",
    "register_plugin",
    "unread_format",
    "warn_of_missed_images",
]

Source: TypeAlias = "str | os.PathLike[str] | IO[bytes]"


class UnreadFormat(NamedTuple):
    """A format that needs something more than Pillow."""

    name: str
    endings: tuple[str, ...]
    way: str
    """How to read it, as the end of a sentence."""


_REGISTER = "before the loaders are built; such files are then listed and read"
_HEIC = UnreadFormat(
    "HEIC",
    (".heic", ".heif", ".hif"),
    "run `pip install 'minilearner[heif]'`, which installs pillow-heif; such files are then listed and read",
)
_AVIF = UnreadFormat(
    "AVIF",
    (".avif", ".avifs"),
    'Pillow reads it from version 11.3 on; list it by get_files(path, (*IMAGE_EXTENSIONS, ".avif"))',
)
_JXL = UnreadFormat("JPEG XL", (".jxl",), f"run `pip install pillow-jxl-plugin`, and `import pillow_jxl` {_REGISTER}")
_RAW = UnreadFormat(
    "a camera's raw format",
    (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".raw", ".rw2"),
    "convert the files to PNG or JPEG, for example with the package rawpy",
)
_DICOM = UnreadFormat("DICOM", (".dcm", ".dicom"), "convert the files to PNG, for example with the package pydicom")
_OTHER = UnreadFormat(
    "not listed by default",
    (".eps", ".exr", ".fits", ".hdr", ".pcx", ".pfm", ".psd", ".svg", ".svgz"),
    "convert the files to PNG or JPEG",
)
_FORMATS = (_HEIC, _AVIF, _JXL, _RAW, _DICOM, _OTHER)
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), _HEIC),
    **dict.fromkeys((b"avif", b"avis"), _AVIF),
}
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"RIFF")


def unread_format(head: bytes) -> UnreadFormat | None:
    """Returns the format whose files begin with these bytes, if it is one that Pillow may not read."""
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12])
    return _JXL if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")) else None


def find_plugin_endings() -> tuple[str, ...]:
    """Returns the endings of further formats that can be read: HEIC with pillow-heif, and what a plugin registers."""
    pillow = sys.modules.get("PIL.Image")
    known: Mapping[str, str] = getattr(pillow, "EXTENSION", {})
    readable = [ending for form in (_HEIC, _JXL) for ending in form.endings if ending in known]
    if importlib.util.find_spec("pillow_heif") is not None:
        readable = [*_HEIC.endings, *(ending for ending in readable if ending not in _HEIC.endings)]
    return tuple(readable)


def identify_image(source: Source) -> Image.Image:
    """Returns the image of `PIL.Image.open`, not decoded yet. Unlike that, it is safe in threads, and knows HEIC."""
    from PIL import Image, UnidentifiedImageError  # a listing needs no Pillow

    try:
        return Image.open(source)
    except UnidentifiedImageError:
        # Pillow loads rare formats when first needed, and may miss those that another thread is just loading.
        Image.init()
        register_plugin(read_head(source)[0])
        return Image.open(source)


def read_head(source: Source) -> tuple[bytes, int]:
    """Returns the first bytes of a file, and its length."""
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            return read_head(file)
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    return source.read(32), size


def register_plugin(head: bytes) -> str | None:
    """Registers a plugin for files that begin with these bytes, and returns its format; None if there is no plugin."""
    if unread_format(head) is not _HEIC or importlib.util.find_spec("pillow_heif") is None:
        return None
    import pillow_heif  # an extra

    pillow_heif.register_heif_opener()
    return "HEIF"


def warn_of_missed_images(root: str, listed: Collection[str], left_out: Sequence[str]) -> None:
    """Warns of images that a listing leaves out because of their endings, with the way to read them.

    A whole folder without a listed image is a lost class, so there even a file with an unknown ending, or none, is
    looked at: if it begins like an image, its folder is named.

    Args:
        root: the folder that was listed.
        listed: the names of the images, relative to `root`, with "/" between their parts.
        left_out: the names of all other files.
    """
    folders = {_folder(name) for name in listed}
    missed: Counter[tuple[str, str]] = Counter()
    looked_at: dict[tuple[str, str], bool] = {}
    for name in left_out:
        key = _folder(name), PurePosixPath(name).suffix.lower()
        if key not in looked_at:
            is_known = any(key[1] in form.endings for form in _FORMATS)
            looked_at[key] = is_known or (key[0] not in folders and _begins_as_image(os.path.join(root, name)))
        missed[key] += looked_at[key]
    found = {key: n for key, n in sorted(missed.items()) if n}
    if not found:
        return
    examples = [
        f"{n} in '{folder or '.'}'{'' if folder in folders else agree(n, ', its only image,', ', all its images,')} "
        f"{agree(n, 'ends', 'end')} in "
        f"{ending or 'no suffix'}"
        for (folder, ending), n in list(found.items())[:3]
    ]
    ways = dict.fromkeys(_way(ending) for _, ending in found)
    n = sum(found.values())
    warnings.warn(
        f"{plural(n, 'image')} below '{root}' {agree(n, 'is', 'are')} left out of the list: {'; '.join(examples)}"
        f"{'; ...' if len(found) > 3 else ''}. {' '.join(ways)}",
        UserWarning,
        stacklevel=stacklevel_of_user(),
    )


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _way(ending: str) -> str:
    form = next((form for form in _FORMATS if ending in form.endings), None)
    if form is None:
        return f"Rename files without a known ending, or list them by get_files(path, (*IMAGE_EXTENSIONS, {ending!r}))."
    return f"To read {ending} ({form.name}): {form.way}."


def _begins_as_image(path: str) -> bool:
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            head = file.read(32)
    except OSError:
        return False
    return head.startswith(_STARTS) or unread_format(head) is not None
