"""`DataPath`: a `pathlib.Path` that lists its folder with `ls`. `pathlib` itself is not changed."""

from __future__ import annotations

import mimetypes
import sys
from collections.abc import Sequence

from minilearner.checks import check_choice, check_count
from minilearner.keywords import suggest_keywords
from minilearner.lists import L

__all__ = ["DataPath"]

if sys.platform == "win32":
    from pathlib import WindowsPath as _SystemPath
else:
    from pathlib import PosixPath as _SystemPath


@suggest_keywords
class DataPath(_SystemPath):
    """A `pathlib.Path` with `ls`. Paths made from it (`/`, `.parent`, `iterdir`, `glob`) are `DataPath`s too.

    It equals the plain path, has the same hash, and can be pickled. fastai adds `ls` to every path in the process
    instead.

    Example: ``(DataPath("data") / "images").ls(n_max=3)``
    """

    __slots__ = ()

    def ls(
        self,
        n_max: int | None = None,
        file_type: str | None = None,
        file_exts: str | Sequence[str] | None = None,
    ) -> L[DataPath]:
        """Returns the folder's entries, sorted by name. fastai returns them in the file system's order.

        Args:
            n_max: return at most this many, the first of the sorted selection.
            file_type: select only files of this kind, such as "image" or "text". Their suffix decides, by Python's own
                table, so the result is the same on every system.
            file_exts: select only files with one of these suffixes, such as ".jpg", in upper or lower case. With both
                arguments, a file that matches either is selected.

        Raises:
            OSError: this is not a folder, or it cannot be read.
            ValueError: `n_max` is negative, `file_type` is unknown, or a suffix has no dot.
        """
        if n_max is not None:
            check_count(n_max, "n_max", least=0)
        suffixes = _choose_suffixes(file_type, file_exts)
        selection = (path for path in self.iterdir() if suffixes is None or path.suffix.lower() in suffixes)
        return L(sorted(selection)[:n_max])


def _choose_suffixes(file_type: str | None, file_exts: str | Sequence[str] | None) -> set[str] | None:
    """Returns the suffixes to select, in lower case. None selects everything."""
    if file_type is None and file_exts is None:
        return None
    suffixes = {file_exts} if isinstance(file_exts, str) else set(file_exts or ())
    undotted = sorted(suffix for suffix in suffixes if not suffix.startswith("."))
    if undotted:
        raise ValueError(f"`file_exts` must be suffixes with their dot, such as '.jpg'. Received: {undotted}.")
    return {suffix.lower() for suffix in suffixes} | (set() if file_type is None else _suffixes_of_type(file_type))


def _suffixes_of_type(file_type: str) -> set[str]:
    table = mimetypes.MimeTypes()  # Python's own table: the module's functions add the system's files to it
    types = {suffix: kind.split("/")[0] for known in table.types_map for suffix, kind in known.items()}
    types[".webp"] = "image"  # Python 3.10 does not know it
    check_choice(file_type, "file_type", sorted(set(types.values())))
    return {suffix for suffix, kind in types.items() if kind == file_type}
