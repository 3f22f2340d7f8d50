"""Finds the files that a data set is made of, always in the same order: a split by seed is then the same everywhere."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from minilearner.data.unread_formats import find_plugin_endings, warn_of_missed_images
from minilearner.errors import DataError, closest, plural
from minilearner.keywords import suggest_keywords
from minilearner.lists import L
from minilearner.sources.paths import DataPath

__all__ = [
    "IMAGE_EXTENSIONS",
    "FileGetter",
    "ImageGetter",
    "ItemName",
    "PathLike",
    "get_files",
    "get_image_files",
    "name_items",
]

PathLike: TypeAlias = "str | os.PathLike[str]"
"""A path, as text or as an object."""

IMAGE_EXTENSIONS = (
    ".bmp",
    ".dib",
    ".gif",
    ".ico",
    ".j2k",
    ".jfif",
    ".jp2",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tga",
    ".tif",
    ".tiff",
    ".webp",
)
"""The files that `get_image_files` finds: single images that every version of Pillow reads, on every system.

Pillow reads .avif only from version 11.3 on; `get_files(path, (*IMAGE_EXTENSIONS, ".avif"))` lists such files too.
"""


@suggest_keywords
def get_files(
    path: PathLike,
    extensions: str | Collection[str] | None = None,
    recurse: bool = True,
    folders: str | Collection[str] | None = None,
    followlinks: bool = True,
) -> L[DataPath]:
    """Returns the files below a folder, sorted by their path as text with "/" between its parts.

    Hidden files and folders, whose names begin with a dot, are left out. fastai returns files in the order of the file
    system, which differs from one machine to the next.

    Args:
        path: the folder.
        extensions: such as ".jpg" or [".jpg", ".png"], in small or capital letters alike; None for all files.
        recurse: look into folders within folders.
        folders: only these folders directly below `path`; "." stands for the files directly in it.
        followlinks: enter folders that are links, but not a link back to a folder around it.

    Raises:
        TypeError: `path` is not a path, but a list of files, for example.
        DataError: `path` or one of `folders` is not a folder, or there is no such file. Says what was looked for.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"`path` must be a folder. Received: a {type(path).__name__}. A list of files needs no listing."
        )
    root = Path(path).expanduser()
    wanted = _names(folders)
    _check_folders(root, wanted)
    endings = None if extensions is None else tuple(sorted({end.lower() for end in _names(extensions)}))
    is_images = endings is not None and set(IMAGE_EXTENSIONS) <= set(endings)
    left_out: list[str] | None = [] if is_images else None
    names = sorted(_walk(root, endings, left_out, recurse=recurse, folders=wanted, followlinks=followlinks))
    if left_out:
        warn_of_missed_images(str(root), names, left_out)
    if not names:
        where = f"'{root}'" + (f", folders {', '.join(wanted)}" if wanted else "")
        where += "" if recurse else " itself (recurse=False)"
        raise DataError(_say_nothing_found(where, endings, left_out))
    below = "" if str(root) == "." else os.path.join(root, "")
    return L([DataPath(below + name) for name in names])  # half the time of `root / name`


@suggest_keywords
def get_image_files(
    path: PathLike,
    recurse: bool = True,
    folders: str | Collection[str] | None = None,
) -> L[DataPath]:
    """Returns the images below a folder, by `IMAGE_EXTENSIONS`, sorted; arguments and errors as in `get_files`.

    HEIC files are listed too if pillow-heif is installed, the extra `heif`. So are JPEG XL files once a plugin for
    Pillow is registered. If images are left out because of
    their endings, a warning names their folders and the way to read them.
    """
    return get_files(path, (*IMAGE_EXTENSIONS, *find_plugin_endings()), recurse, folders)


@suggest_keywords
@dataclass(frozen=True)
class FileGetter:
    """Calls `get_files` on the folder `suf` below the source, for a `DataBlock`."""

    suf: str = ""
    extensions: str | Collection[str] | None = None
    recurse: bool = True
    folders: str | Collection[str] | None = None

    def __call__(self, path: PathLike) -> L[DataPath]:
        """Returns the files; errors as in `get_files`."""
        extensions = self.extensions
        if extensions == IMAGE_EXTENSIONS:
            extensions = (*IMAGE_EXTENSIONS, *find_plugin_endings())
        return get_files(Path(path) / self.suf, extensions, self.recurse, self.folders)


@suggest_keywords
def ImageGetter(  # noqa: N802 - fastai's name
    suf: str = "", recurse: bool = True, folders: str | Collection[str] | None = None
) -> FileGetter:
    """Returns a `FileGetter` of images."""
    return FileGetter(suf, IMAGE_EXTENSIONS, recurse, folders)


class ItemName(str):
    """What an error calls an item, if it is more than the item itself, such as the row that it comes from."""


def name_items(items: Sequence[Any], positions: Sequence[int], reasons: Sequence[Any] | None = None, n: int = 3) -> str:
    """Returns the first `n` of these items for an error, each with its reason: "'a.jpg' (no label), ..."."""
    texts = []
    for k, position in enumerate(positions[:n]):
        item = items[position]
        is_text = isinstance(item, (str, os.PathLike))
        text = str(item) if isinstance(item, ItemName) else f"'{item}'" if is_text else _shorten(repr(item))
        texts.append(text if reasons is None else f"{text} ({reasons[k]})")
    return ", ".join(texts) + (", ..." if len(positions) > n else "")


def _shorten(text: str, limit: int = 100) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _say_nothing_found(where: str, endings: Sequence[str] | None, left_out: Sequence[str] | None) -> str:
    """Returns the message if there is no such file; `left_out` are the other files, if images were looked for."""
    if endings is None:
        return f"There is no file in {where}."
    named = f"{', '.join(endings[:-1])} or {endings[-1]}" if len(endings) > 1 else "".join(endings)
    if left_out is None:
        return f"There is no file that ends in {named} in {where}."
    if not left_out:
        return f"There is no image in {where}, nor any other file."
    others = f"only {plural(len(left_out), 'other file')}, such as {min(left_out)!r}"
    return f"There is no image in {where}, {others}. Images are files that end in {named}."


def _names(names: str | Collection[str] | None) -> tuple[str, ...]:
    return () if names is None else (names,) if isinstance(names, str) else tuple(names)


def _check_folders(root: Path, folders: Sequence[str]) -> None:
    if not root.is_dir():
        raise DataError(f"`path` must be a folder. Received: '{root}', which {_what_is(root)}.")
    for folder in folders:
        if not (root / folder).is_dir():
            present = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
            raise DataError(
                f"'{root}' has no folder {folder!r}.{closest(folder, present)} It has: {', '.join(present) or 'none'}."
            )


def _what_is(path: Path) -> str:
    if path.exists():
        return "is a file"
    return "does not exist" if path.is_absolute() else f"does not exist in the working directory, '{Path.cwd()}'"


def _walk(
    root: Path,
    endings: tuple[str, ...] | None,
    left_out: list[str] | None = None,
    *,
    recurse: bool,
    folders: Sequence[str],
    followlinks: bool,
) -> Iterator[str]:
    """Yields the names relative to `root`, with "/" between their parts, in any order.

    Files with other endings go to the list `left_out`, if there is one.
    """
    real = os.path.realpath(root)
    to_visit: list[tuple[str, str, frozenset[str]]] = [(str(root), "", frozenset((real,)))]
    while to_visit:
        folder, prefix, above = to_visit.pop()
        chosen = folders if not prefix else ()
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if entry.is_dir():
                    is_wanted = name in chosen if chosen else not name.startswith(".")
                    if recurse and is_wanted and (followlinks or not entry.is_symlink()):
                        real = os.path.realpath(entry.path)
                        if real not in above:
                            to_visit.append((entry.path, f"{prefix}{name}/", above | {real}))
                elif (not chosen or "." in chosen) and not name.startswith("."):
                    if endings is None or name.lower().endswith(endings):
                        yield prefix + name
                    elif left_out is not None:
                        left_out.append(prefix + name)
