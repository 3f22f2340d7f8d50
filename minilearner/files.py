"""Write a file whole or not at all, format JSON and CSV text, and read JSON without trust."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import math
import os
import platform
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from minilearner import processes
from minilearner.errors import FileFormatError

__all__ = [
    "check_is_file",
    "check_writable",
    "csv_text",
    "is_left_over",
    "json_line",
    "json_text",
    "machine",
    "make_parent",
    "name_for_owner",
    "read_json",
    "replace_file",
    "write_atomically",
]

_LARGEST_JSON = 1 << 28  # bytes
_LEFT_SECONDS = 24 * 60 * 60.0  # of another machine, whose processes we cannot see


def check_is_file(path: str | os.PathLike[str]) -> None:
    """Checks that a path is no pipe, socket or device: opening one may wait for ever, or never end.

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
        ValueError: the folder does not exist or cannot be written, or `path` is a folder, a pipe, a socket or a device.
    """
    path = Path(path)
    if not processes.is_first():
        return
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        _check_replaceable(path)
        probe = path.with_name(name_for_owner(f".{path.name[:60]}."))
        probe.touch(exist_ok=False)
        probe.unlink()
    except (OSError, FileFormatError) as error:
        raise _unwritable_error(path, name, error) from error


def make_parent(path: Path, name: str) -> None:
    """Creates the folder of a file that is about to be written at `path`, the argument called `name`.

    Raises:
        ValueError: the folder cannot be created or written, or `path` is a folder.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable_error(path, name, error) from None
    check_writable(path, name)


def _unwritable_error(path: Path, name: str, error: Exception) -> ValueError:
    reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{path}: ").rstrip(".")
    return ValueError(
        f"`{name}` must name a file in a folder that can be written. Received: {name}={os.fspath(path)!r} ({reason})."
    )


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
    behind. What a process that was killed left beside the file is removed now.

    Raises:
        FileFormatError: there is a pipe, a socket or a device, which a rename would replace.
        OSError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    _check_replaceable(path)
    beginning = f".{path.name[:60]}."
    with suppress(OSError):
        for rest in path.parent.iterdir():
            if rest.name.startswith(beginning) and is_left_over(rest, beginning):
                shutil.rmtree(rest, ignore_errors=True)
    # Not `tempfile`: its files are private (0600), and the renamed file would be private too. A folder, because a
    # writer may have a temporary file of its own, as safetensors does.
    folder = path.with_name(name_for_owner(beginning))
    folder.mkdir()
    try:
        temporary = folder / path.name
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_replaceable(path: Path) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        check_is_file(path)


def name_for_owner(beginning: str) -> str:
    """Returns a new name for a temporary file or folder, which says which process makes it."""
    return f"{beginning}{machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"


def is_left_over(path: Path, beginning: str) -> bool:
    """Returns whether a path has an `name_for_owner`, and the process that made it has ended."""
    parts = re.fullmatch(r"([0-9a-f]{8})-([0-9]{1,9})-[0-9a-f]{8}\.tmp", path.name.removeprefix(beginning))
    if parts is None:
        return False
    if parts[1] != machine():
        with suppress(OSError):
            return time.time() - path.lstat().st_mtime > _LEFT_SECONDS
        return False
    return not _is_running(int(parts[2]))


def _is_running(pid: int) -> bool:
    if os.name != "posix":
        return pid == os.getpid()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


@functools.cache
def machine() -> str:
    """Returns what names this machine or container since its start: each numbers its processes itself."""
    known = [platform.node()]
    for read, path in ((Path.read_text, "/proc/sys/kernel/random/boot_id"), (os.readlink, "/proc/self/ns/pid")):
        with suppress(OSError):
            known.append(str(read(Path(path))))
    return hashlib.blake2b("|".join(known).encode(), digest_size=4).hexdigest()


def read_json(path: str | os.PathLike[str], most_bytes: int = _LARGEST_JSON) -> Any:
    """Returns what a JSON file holds. The file may come from anywhere.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is not a file, is too large, or is not JSON with finite numbers. Names the file.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe or a device might never end
            raise FileFormatError(f"{path} is not a file.")
        if (size := path.stat().st_size) > most_bytes:
            raise FileFormatError(f"{path} has {size:,} bytes, more than any such file of minilearner.")
        return json.loads(path.read_bytes(), parse_constant=_refuse_constant, parse_float=_parse_finite)
    except (FileFormatError, FileNotFoundError):
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        raise FileFormatError(f"{path} is not JSON: {str(error)[:80]}.") from error
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _parse_finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_constant(text[:40])


def json_text(value: Any) -> str:
    """Returns `value` as indented JSON that any reader accepts.

    Arrays become lists. NaN and infinity, which JSON does not have, become the strings "nan", "inf" and "-inf", which
    `float` reads. Any other object becomes its `repr`.
    """
    return json.dumps(_plain(value), indent=1, allow_nan=False) + "\n"


def json_line(value: Any) -> str:
    """Returns `value` as one line of JSON, by the rules of `json_text`."""
    return json.dumps(_plain(value), allow_nan=False) + "\n"


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
