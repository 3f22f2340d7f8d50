"""Write a file whole or not at all, and format JSON and CSV text."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from minilearner import processes
from minilearner.errors import FileFormatError

__all__ = ["check_is_file", "check_writable", "csv_text", "json_text", "replace_file", "write_atomically"]


def check_is_file(path: str | os.PathLike[str]) -> None:
    """Checks that a path to read from is no pipe, socket or device: opening one may wait for ever, or never end.

    Raises:
        FileFormatError: it is one of them. The message names it.
        OSError: there is nothing at the path.
    """
    mode = os.stat(path).st_mode
    for is_such, what in _ENDLESS:
        if is_such(mode):
            raise FileFormatError(f"{os.fspath(path)}: it is a {what}, not a file. Remove it, or leave it out.")


_ENDLESS = (
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


def check_writable(path: str | os.PathLike[str], name: str = "path") -> None:
    """Checks that a file can be written at `path`, the argument called `name`. An existing file stays as it is.

    Call it before a long training: at its end, an error would come too late. Only process 0 checks.

    Raises:
        ValueError: the folder does not exist or cannot be written, or `path` is a folder.
    """
    path = Path(path)
    if not processes.is_first():
        return
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        probe = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(
            f"`{name}` must name a file in a folder that can be written. Received: {name}={os.fspath(path)!r} "
            f"({reason})."
        ) from error


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Writes a file as `replace_file` does, and returns its path. Text is UTF-8. Only process 0 writes."""
    if not processes.is_first():
        return Path(path)
    with replace_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)


@contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields the path of a temporary file in the same folder, which becomes `path` at the end.

    It is synced and renamed, so readers see the whole old file or the whole new one. After an error nothing is left
    behind.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    # Not `tempfile`: its files are private (0600), and the renamed file would be private too.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def json_text(value: Any) -> str:
    """Returns `value` as indented JSON that any reader accepts.

    Arrays become lists. NaN and infinity, which JSON does not have, become the strings "nan", "inf" and "-inf", which
    `float` reads. Any other object becomes its `repr`.
    """
    return json.dumps(_plain(value), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return repr(value)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns the text of a CSV file. None becomes an empty cell, and floats keep all their digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()
