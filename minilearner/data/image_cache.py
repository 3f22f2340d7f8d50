"""Decoded pictures as uint8 in a memory-mapped file, so that later epochs read pixels instead of decoding files.

One process writes, by `put`; any number of others read, by `get`, at the same time. Nothing is held in memory but the
operating system's own page cache, which it takes back when it needs the room. What is worth storing is `dataset`'s
business.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterable, Sequence
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import torch

from minilearner.errors import DataError
from minilearner.runtime import available_memory

__all__ = ["PictureCache", "Pixels", "fingerprint", "room_for_cache"]

Pixels: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
"""A picture as uint8: (height, width) of a grey one, else (height, width, channels)."""

_RECORD = 4  # int64 each: where the pixels begin in the file (0: not stored), height, width, channels (0: grey)
_PARTIAL = ".partial"
_DAY_SECONDS = 24 * 60 * 60


class PictureCache:
    """Pictures by position in one file: first an index of fixed length, then pixels in the order they came.

    Without a path the file is temporary and has no name where the system allows it: it is gone when the last process
    that uses it ends, however that comes about. With a path, it is written beside it under a temporary name, and
    renamed when the last picture is in; a file that is already there and whole is read. So what has the name is always
    whole, whoever else writes it and whatever crashes.

    Args:
        n: how many pictures there will be.
        path: where to keep the file; None for a temporary one.

    Raises:
        DataError: the file at `path` is no cache of `n` pictures.
    """

    def __init__(self, n: int, path: str | os.PathLike[str] | None = None) -> None:
        self.n, self.path = n, None if path is None else Path(path)
        self._file = _opened(self.path, n * _RECORD * 8)
        weakref.finalize(self, _closed, self._file, os.getpid())
        self._map()
        self._end = max(os.fstat(self._file.fileno()).st_size, n * _RECORD * 8)
        self.n_stored = int(np.count_nonzero(self._index[:, 0]))
        if self.path is not None and self.path.exists():
            self._check()

    def __len__(self) -> int:
        """How many pictures there will be."""
        return self.n

    @property
    def is_complete(self) -> bool:
        """Whether every picture is stored."""
        return self.n_stored == self.n

    @property
    def n_bytes(self) -> int:
        """The size of the file."""
        return self._end

    def get(self, position: int) -> Pixels | None:
        """Returns the picture at a position, read-only and not copied; None where it is not stored yet."""
        start, height, width, channels = self._index[position].tolist()
        if start == 0:
            return None
        shape = (height, width, channels) if channels else (height, width)
        stop = start + height * width * max(channels, 1)
        if stop > len(self._pixels):
            self._map()
        return self._pixels[start:stop].reshape(shape)

    def put(self, pictures: Iterable[tuple[int, Pixels]]) -> None:
        """Stores pictures at their positions; those that are there already are passed over.

        Raises:
            OSError: the disk is full.
        """
        for position, pixels in pictures:
            if self._index[position, 0]:
                continue
            _write(self._file, np.ascontiguousarray(pixels), self._end)
            height, width, *channels = pixels.shape
            self._index[position, 1:] = height, width, channels[0] if channels else 0
            self._index[position, 0] = self._end  # last: from here on readers in other processes take it for stored
            self._end += pixels.nbytes
            self.n_stored += 1
        if self.is_complete:
            self._keep()

    def _map(self) -> None:
        # A mapping is as long as the file was when it was made; pictures handed out keep theirs alive.
        length = self.n * _RECORD * 8
        access = mmap.ACCESS_WRITE if self._file.writable() else mmap.ACCESS_READ
        whole = mmap.mmap(self._file.fileno(), 0, access=access)
        self._index = np.frombuffer(whole, np.int64, length // 8).reshape(self.n, _RECORD)
        self._pixels: Pixels = np.frombuffer(whole, np.uint8)
        self._pixels.flags.writeable = False

    def _check(self) -> None:
        starts, sizes = self._index[:, 0], self._index[:, 1] * self._index[:, 2] * self._index[:, 3].clip(1)
        if not self.is_complete or (starts + sizes).max(initial=0) != self._end:
            raise DataError(f"{self.path} is no whole cache of {self.n} pictures. Remove it, and it is made anew.")

    def _keep(self) -> None:
        name = str(self._file.name)
        if self.path is None or not name.endswith(_PARTIAL) or not os.path.exists(name):
            return
        os.fsync(self._file.fileno())
        os.replace(name, self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {"n": self.n, "n_stored": self.n_stored, "_end": self._end, "path": self.path, "fd": _passed_on(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        passed = state.pop("fd")
        self.__dict__.update(state)
        self._file = os.fdopen(passed.detach(), "rb")
        weakref.finalize(self, _closed, self._file, os.getpid())
        self._map()


def room_for_cache() -> int:
    """Returns how many bytes a temporary cache may take: half the free disk, and half the memory that is at hand.

    A larger file would push itself out of memory again while it is read.
    """
    disk = shutil.disk_usage(tempfile.gettempdir()).free
    return min(disk, available_memory(torch.device("cpu"))) // 2


def fingerprint(paths: Sequence[Any], preparation: str) -> str:
    """Returns a name for pictures prepared in one way: it changes with any path, size or time of change.

    Raises:
        DataError: an item is no path of a file that exists.
    """
    digest = hashlib.blake2b(preparation.encode(), digest_size=12)
    for path in paths:
        if not isinstance(path, (str, os.PathLike)):
            raise DataError(f"A cache that is kept needs items that are paths. Received: {path!r}. Use cache=True.")
        try:
            status = os.stat(path)
        except OSError as e:
            raise DataError(f"{os.fspath(path)}: the file cannot be found ({e.strerror}).") from e
        digest.update(f"{os.fspath(path)}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _opened(path: Path | None, index_bytes: int) -> IO[bytes]:
    if path is not None and path.exists():
        return path.open("rb", buffering=0)
    file: Any
    if path is None:
        file = tempfile.TemporaryFile(prefix="minilearner-", buffering=0)  # noqa: SIM115
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        file = tempfile.NamedTemporaryFile(  # noqa: SIM115
            prefix=f"{path.name}.", suffix=_PARTIAL, dir=path.parent, buffering=0, delete=False
        )
    file.truncate(index_bytes)
    return file  # type: ignore[no-any-return]


def _sweep(path: Path) -> None:
    """Removes what runs that were killed a day ago or more left unfinished."""
    for left in path.parent.glob(f"{path.name}.*{_PARTIAL}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _DAY_SECONDS:
                left.unlink()


def _closed(file: IO[bytes], owner: int) -> None:
    file.close()
    name = str(file.name)
    if name.endswith(_PARTIAL) and os.getpid() == owner:  # a worker process that ends leaves its parent's file alone
        with contextlib.suppress(FileNotFoundError):  # it was renamed, because it is whole
            os.unlink(name)


def _write(file: IO[bytes], pixels: Pixels, start: int) -> None:
    view = memoryview(pixels.data).cast("B")
    file.seek(start)
    while len(view):
        view = view[file.write(view) :]


def _passed_on(cache: PictureCache) -> Any:
    if get_spawning_popen() is None:
        raise TypeError("A PictureCache goes only to a process that is being started.")
    return reduction.DupFd(cache._file.fileno())
