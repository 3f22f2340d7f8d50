"""Decoded images as uint8 in a memory-mapped file, so that later epochs read pixels instead of decoding files.

One process writes, by `put`; any number of others read, by `get`, at the same time. Nothing is held in memory but the
operating system's own page cache, which frees the memory when others need it. `item_dataset` decides what to store.
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

__all__ = ["ImageCache", "Pixels", "fingerprint", "room_for_cache"]

Pixels: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
"""An image as uint8: (height, width) if grey, else (height, width, channels)."""

_RECORD = 4  # int64 each: where the pixels begin in the file (0: not stored), height, width, channels (0: grey)
_PARTIAL = ".partial"
_DAY_SECONDS = 24 * 60 * 60


class ImageCache:
    """Images by position in one file: first an index of fixed length, then pixels in the order of storing.

    Without a path the file is temporary, and has no name if the system allows that: it disappears when the last process
    that uses it ends, even by a crash. With a path, a file is written next to it under a temporary name, and renamed
    when it holds the last image; a complete file that exists is read. So a file of that name is always complete,
    whoever else writes it and whatever crashes.

    Args:
        n: the number of images that it will hold.
        path: where to keep the file; None for a temporary one.

    Raises:
        DataError: the file at `path` is not a cache of `n` images.
    """

    def __init__(self, n: int, path: str | os.PathLike[str] | None = None) -> None:
        self.n, self.path = n, None if path is None else Path(path)
        self._file = _open(self.path, n * _RECORD * 8)
        weakref.finalize(self, _close, self._file, os.getpid())
        self._map()
        self._end = max(os.fstat(self._file.fileno()).st_size, n * _RECORD * 8)
        self.n_stored = int(np.count_nonzero(self._index[:, 0]))
        if self.path is not None and self.path.exists():
            self._check()

    def __len__(self) -> int:
        """Returns the number of images that it will hold."""
        return self.n

    @property
    def is_complete(self) -> bool:
        """Whether every image is stored."""
        return self.n_stored == self.n

    @property
    def n_bytes(self) -> int:
        """The size of the file."""
        return self._end

    def get(self, position: int) -> Pixels | None:
        """Returns the image at a position, read-only and not copied; None if it is not stored yet."""
        start, height, width, channels = self._index[position].tolist()
        if start == 0:
            return None
        shape = (height, width, channels) if channels else (height, width)
        stop = start + height * width * max(channels, 1)
        if stop > len(self._pixels):
            self._map()
        return self._pixels[start:stop].reshape(shape)

    def put(self, images: Iterable[tuple[int, Pixels]]) -> None:
        """Stores images at their positions; those that are stored already are skipped.

        Raises:
            OSError: the disk is full.
        """
        for position, pixels in images:
            if self._index[position, 0]:
                continue
            _write(self._file, np.ascontiguousarray(pixels), self._end)
            height, width, *channels = pixels.shape
            self._index[position, 1:] = height, width, channels[0] if channels else 0
            self._index[position, 0] = self._end  # last: from now on other processes read it
            self._end += pixels.nbytes
            self.n_stored += 1
        if self.is_complete:
            self._keep()

    def _map(self) -> None:
        # A mapping is as long as the file was when it was made. Images that were returned keep their mapping alive.
        length = self.n * _RECORD * 8
        access = mmap.ACCESS_WRITE if self._file.writable() else mmap.ACCESS_READ
        whole = mmap.mmap(self._file.fileno(), 0, access=access)
        self._index = np.frombuffer(whole, np.int64, length // 8).reshape(self.n, _RECORD)
        self._pixels: Pixels = np.frombuffer(whole, np.uint8)
        self._pixels.flags.writeable = False

    def _check(self) -> None:
        starts, sizes = self._index[:, 0], self._index[:, 1] * self._index[:, 2] * self._index[:, 3].clip(1)
        if not self.is_complete or (starts + sizes).max(initial=0) != self._end:
            raise DataError(
                f"{self.path} is not a complete cache of {self.n} images. Remove it, and the next run makes a new one."
            )

    def _keep(self) -> None:
        name = str(self._file.name)
        if self.path is None or not name.endswith(_PARTIAL) or not os.path.exists(name):
            return
        os.fsync(self._file.fileno())
        os.replace(name, self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {"n": self.n, "n_stored": self.n_stored, "_end": self._end, "path": self.path, "fd": _pass_on(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        passed = state.pop("fd")
        self.__dict__.update(state)
        self._file = os.fdopen(passed.detach(), "rb")
        weakref.finalize(self, _close, self._file, os.getpid())
        self._map()


def room_for_cache() -> int:
    """Returns how many bytes a temporary cache may take: half the free disk or half the free memory, whichever is less.

    A larger file would push its own pages out of memory while it is read.
    """
    disk = shutil.disk_usage(tempfile.gettempdir()).free
    return min(disk, available_memory(torch.device("cpu"))) // 2


def fingerprint(paths: Sequence[Any], preparation: str) -> str:
    """Returns a name for images that are prepared in one way. It changes with any path, file size or time of change.

    Raises:
        DataError: an item is not the path of an existing file.
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


def _open(path: Path | None, index_bytes: int) -> IO[bytes]:
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
    """Removes unfinished files that runs left when they were killed, a day ago or earlier."""
    for left in path.parent.glob(f"{path.name}.*{_PARTIAL}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _DAY_SECONDS:
                left.unlink()


def _close(file: IO[bytes], owner: int) -> None:
    file.close()
    name = str(file.name)
    if name.endswith(_PARTIAL) and os.getpid() == owner:  # a worker that ends must not remove its parent's file
        with contextlib.suppress(FileNotFoundError):  # it was complete, and renamed
            os.unlink(name)


def _write(file: IO[bytes], pixels: Pixels, start: int) -> None:
    view = memoryview(pixels.data).cast("B")
    file.seek(start)
    while len(view):
        view = view[file.write(view) :]


def _pass_on(cache: ImageCache) -> Any:
    if get_spawning_popen() is None:
        raise TypeError("An ImageCache goes only to a process that is being started.")
    return reduction.DupFd(cache._file.fileno())
