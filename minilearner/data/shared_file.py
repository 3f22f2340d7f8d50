"""A file that several processes of one machine write together, before it gets its final name.

They see each other's writes at once, since the system keeps one copy of each page. Another machine, or this one after a
restart, has a file of its own: what was written here may not have reached the disk.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from minilearner.errors import DataError
from minilearner.files import machine

__all__ = ["alone_in", "finish", "is_unfinished", "join_writers", "leave", "reserve", "sweep"]

if sys.platform != "win32":
    import fcntl

_UNFINISHED = ".partial"
_DAY_SECONDS = 24 * 60 * 60
_IN_THE_WAY = (errno.EISDIR, errno.ELOOP, errno.EMLINK, errno.ENXIO)  # a folder, a link, a socket


def join_writers(path: Path, head: bytes, n_bytes: int) -> IO[bytes] | None:
    """Opens the unfinished file that is to become `path`, which other processes may be writing, or makes it.

    On a disk without locks, or if another user has made the file, this process gets a file of its own.

    Args:
        path: the name that the file gets in the end.
        head: its first bytes. A file that begins otherwise is replaced.
        n_bytes: how long a new file is, head and zeros.

    Returns:
        The file; None if it was finished, removed or replaced meanwhile, so that the caller looks again.

    Raises:
        DataError: there is something else in its place.
        OSError: the folder cannot be written, or the disk is full.
    """
    file = _open_for_all(path) or _open(path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{_UNFINISHED}"))
    try:
        with alone_in(file):
            if is_unfinished(file) and _begin(file, head, n_bytes):
                return file
    except OSError:
        leave(file)
        raise
    file.close()
    return None


@contextmanager
def alone_in(file: IO[bytes]) -> Iterator[bool]:
    """Waits until no other process is in here with the same file. Gives False if the disk has no locks.

    A process that is killed in here is out of it when its last child that had the file has ended.
    """
    is_locked = _lock(file)
    try:
        yield is_locked
    finally:
        if is_locked:
            fcntl.flock(file, fcntl.LOCK_UN)


def is_unfinished(file: IO[bytes]) -> bool:
    """Returns whether a file still has the name under which it was opened: nobody has finished or removed it."""
    with suppress(OSError):
        return os.path.samestat(os.stat(file.name), os.fstat(file.fileno()))
    return False


def leave(file: IO[bytes]) -> None:
    """Closes an unfinished file that is not needed, and removes it."""
    if is_unfinished(file):
        os.unlink(file.name)
    file.close()


def finish(file: IO[bytes], path: Path) -> None:
    """Gives an unfinished file its final name, once all of it has reached the disk."""
    os.fsync(file.fileno())
    os.replace(file.name, path)


def reserve(file: IO[bytes], n_bytes: int) -> None:
    """Makes a file this long, on disk too: a write through a mapping kills the process if the disk is full.

    Raises:
        OSError: the disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # not every disk can
                raise
    os.ftruncate(file.fileno(), n_bytes)


def sweep(folder: Path, names: str) -> None:
    """Removes unfinished files that nobody has written for a day.

    Args:
        folder: where they are.
        names: the pattern of their final names.
    """
    for left in folder.glob(f"{names}.*{_UNFINISHED}"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _DAY_SECONDS:
                left.unlink()


def _open_for_all(path: Path) -> IO[bytes] | None:
    """Opens the file that all processes of this machine share; None if this one may not, or the disk has no locks."""
    try:
        file = _open(path.with_name(f"{path.name}.{machine()}{_UNFINISHED}"))
    except PermissionError:
        return None
    with alone_in(file) as is_locked:
        if is_locked:
            return file
    if os.fstat(file.fileno()).st_size:
        file.close()
    else:
        leave(file)
    return None


def _open(path: Path) -> IO[bytes]:
    # Do not follow a link, and do not open a pipe, which might wait for ever.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        file = open(path, "rb+", buffering=0, opener=lambda name, _: os.open(name, flags, 0o666))  # noqa: SIM115
    except OSError as error:
        if error.errno not in _IN_THE_WAY:
            raise
        raise DataError(f"{path}: the file cannot be opened ({error.strerror or error}). Remove it.") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DataError(f"{path}: it is not a file. Remove it.")
    return file


def _begin(file: IO[bytes], head: bytes, n_bytes: int) -> bool:
    """Writes the beginning of a new file. Returns whether the file begins so; if not, removes it."""
    number = file.fileno()
    if not head.startswith(os.pread(number, len(head), 0)):
        os.unlink(file.name)
        return False
    if os.fstat(number).st_size < n_bytes:
        os.pwrite(number, head, 0)
        reserve(file, n_bytes)
    return True


def _lock(file: IO[bytes]) -> bool:
    if sys.platform == "win32":
        return False
    with suppress(OSError):  # not every network disk has locks
        fcntl.flock(file, fcntl.LOCK_EX)
        return True
    return False
