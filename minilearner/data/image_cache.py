"""Decoded images as uint8 in a memory-mapped file, so that later epochs read pixels instead of decoding files.

Any number of processes write, by `put`, and read, by `get`, at the same time. Nothing is held in memory but the
operating system's own page cache, which frees the memory when others need it. `item_dataset` decides what to store.

The file has a head of 32 bytes (`_MAGIC`, and the number of images), an index with 5 numbers for each image, the number
of images that are stored, and then pixels. Each image has a checksum of its pixels and its place in the index. `get`
checks it once in each process.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import shutil
import tempfile
import warnings
import weakref
import zlib
from collections.abc import Iterable, Sequence
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import torch

from minilearner.data.shared_file import alone_in, finish, is_unfinished, join_writers, leave, reserve, sweep
from minilearner.errors import DataError, plural
from minilearner.files import check_is_file
from minilearner.runtime import available_memory

__all__ = ["KEPT", "ImageCache", "Pixels", "fingerprint", "make_room", "room_for_cache"]

Pixels: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
"""An image as uint8: (height, width) if grey, else (height, width, channels)."""

KEPT = ".pictures"
"""How the names of kept caches end."""

_NAMES = "[0-9a-f]" * 24 + KEPT
"""The names of kept caches: a `fingerprint` and the ending."""

_MAGIC = b"minilearner images 2\n"
_HEAD = 32  # bytes
_COUNT = 8  # bytes, after the index: one int64
_RECORD = 5  # int64 each: where the pixels begin in the file (0: not stored), height, width, channels (0: grey), CRC
_OLD_RECORD = 4  # until version 1.6, without a head and without checksums
_LONGEST_SIDE = 2**31


class ImageCache:
    """Images by position in one file: first a head and an index of fixed length, then pixels in the order of storing.

    Without a path the file is temporary, and has no name if the system allows that: it disappears when the last process
    that uses it ends, even by a crash. With a path, a file is written next to it under a temporary name, and renamed
    when it holds the last image; a complete file that exists is read. So a file of that name is always complete,
    whoever else writes it and whatever crashes. All processes of a machine write the same unfinished file, and each
    finds there what the others have stored. One that is killed leaves the file to the others, or to the next run.

    A file that was changed later never gives wrong images: `get` returns None for an image whose checksum fails, and
    warns. A file of an older version, without checksums, is written anew.

    Args:
        n: the number of images that it will hold.
        path: where to keep the file; None for a temporary one.

    Raises:
        DataError: the file at `path` is not a cache of `n` images, or cannot be read. The message names it.
    """

    def __init__(self, n: int, path: str | os.PathLike[str] | None = None) -> None:
        self.n, self.path = n, None if path is None else Path(path)
        self._n_index_bytes = _HEAD + n * _RECORD * 8
        self._file = self._create() if self.path is None else self._open(self.path)
        weakref.finalize(self, self._file.close)
        self._is_kept = not self._file.writable()
        if self._is_kept:
            self._check_head()
        self._map()
        if self._is_kept:
            self._check_index()
            self._note_use()
        else:
            self.put(())  # an earlier process may have been killed before it renamed a complete file

    def __len__(self) -> int:
        """Returns the number of images that it will hold."""
        return self.n

    @property
    def n_stored(self) -> int:
        """How many images are stored, by this process and by others."""
        if self._is_kept:
            return self.n
        n = int(self._count[0])
        return n if n >= 0 else ~n

    @property
    def is_complete(self) -> bool:
        """Whether every image is stored."""
        return self.n_stored == self.n

    @property
    def n_bytes(self) -> int:
        """The size of the file."""
        return os.fstat(self._file.fileno()).st_size

    def get(self, position: int) -> Pixels | None:
        """Returns the image at a position, read-only and not copied; None if it is not stored yet, or damaged."""
        start, height, width, channels, crc = self._index[position].tolist()
        if start == 0:
            return None
        shape = (height, width, channels) if channels else (height, width)
        stop = start + height * width * max(channels, 1)
        if stop > len(self._pixels):
            self._map()
        pixels = self._pixels[start:stop]
        if self.path is not None and not self._is_checked[position]:
            if len(pixels) != stop - start or _checksum(pixels, position, (start, height, width, channels)) != crc:
                self._warn(position)
                return None
            self._is_checked[position] = True
        return pixels.reshape(shape)

    def put(self, images: Iterable[tuple[int, Pixels]]) -> None:
        """Stores images at their positions; those that are stored already are skipped. Waits while others store some.

        Raises:
            OSError: the disk is full.
        """
        if self._is_kept:
            return
        with contextlib.nullcontext() if self.path is None else alone_in(self._file):
            if self._count[0] < 0:  # a process was killed in here
                self._count[0] = np.count_nonzero(self._index[:, 0])
            self._count[0] = ~self._count[0]
            try:
                for position, pixels in images:
                    if not self._index[position, 0]:
                        self._append(position, pixels)
            finally:
                self._count[0] = ~self._count[0]
            if self.is_complete:
                self._keep()

    def _append(self, position: int, pixels: Pixels) -> None:
        start = self.n_bytes
        _write(self._file, np.ascontiguousarray(pixels), start)
        height, width, *channels = pixels.shape
        record = start, height, width, channels[0] if channels else 0
        crc = 0 if self.path is None else _checksum(pixels, position, record)
        self._index[position, 1:] = *record[1:], crc
        self._index[position, 0] = start  # last: from now on other processes read it
        self._count[0] -= 1  # it counts below zero here

    def _create(self) -> IO[bytes]:
        file: Any = tempfile.TemporaryFile(prefix="minilearner-", buffering=0)  # noqa: SIM115
        try:
            file.write(self._head())
            reserve(file, self._n_index_bytes + _COUNT)
        except OSError:
            file.close()
            raise
        return file  # type: ignore[no-any-return]

    def _open(self, path: Path) -> IO[bytes]:
        """Opens the complete file to read it, or else the unfinished one, which others may be writing."""
        while not _is_kept(path, self.n):
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path.parent, f"*{KEPT}")
            file = join_writers(path, self._head(), self._n_index_bytes + _COUNT)
            if file is None:
                continue
            if not _is_kept(path, self.n):
                return file
            leave(file)  # another process finished the cache before this file was made
        return path.open("rb", buffering=0)

    def _map(self) -> None:
        # A mapping is as long as the file was when it was made. Images that were returned keep their mapping alive.
        access = mmap.ACCESS_WRITE if self._file.writable() else mmap.ACCESS_READ
        whole = mmap.mmap(self._file.fileno(), 0, access=access)
        index = np.frombuffer(whole, np.int64, self.n * _RECORD, _HEAD)
        self._index = index.reshape(self.n, _RECORD)
        if not self._is_kept:
            self._count = np.frombuffer(whole, np.int64, 1, self._n_index_bytes)
            """The number of stored images. While a process stores some, it is inverted bit by bit, below zero."""
        self._pixels: Pixels = np.frombuffer(whole, np.uint8)
        self._pixels.flags.writeable = False
        if not hasattr(self, "_is_checked"):
            self._is_checked = np.zeros(self.n, bool)
            """Which images this process has compared with their checksums."""
            self._has_warned = False

    def _head(self) -> bytes:
        return _MAGIC.ljust(_HEAD - 8) + self.n.to_bytes(8, "little")

    def _check_head(self) -> None:
        if self.n_bytes < self._n_index_bytes or os.pread(self._file.fileno(), _HEAD, 0) != self._head():
            raise self._make_error()

    def _check_index(self) -> None:
        starts, sides = self._index[:, 0], self._index[:, 1:4]
        if (
            starts.min(initial=self._n_index_bytes) < self._n_index_bytes
            or sides.min(initial=0) < 0
            or sides.max(initial=0) >= _LONGEST_SIDE
            or self._find_end() != self.n_bytes
        ):
            raise self._make_error()

    def _find_end(self) -> float:
        """Returns where the last image ends."""
        # Floats, since a product of damaged numbers may not fit into 64 bits.
        starts, heights, widths, channels = self._index[:, :4].T.astype(float)
        return float((starts + heights * widths * channels.clip(1)).max(initial=self._n_index_bytes))

    def _note_use(self) -> None:
        # The time of change says when it was last opened; see `make_room`.
        with contextlib.suppress(OSError):  # the folder may be read-only
            os.utime(str(self.path))

    def _make_error(self) -> DataError:
        return DataError(
            f"{self.path} is not a complete cache of {plural(self.n, 'image')}. Remove it, and the next run makes a "
            "new one."
        )

    def _warn(self, position: int) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        warnings.warn(
            f"{self.path} is damaged: the pixels of image {position} were changed after they were stored. Such images "
            "are read from their own files instead. Remove the cache, and the next run makes a new one.",
            RuntimeWarning,
            stacklevel=3,
        )

    def _keep(self) -> None:
        if self.path is not None and is_unfinished(self._file):
            # A process that was killed may have written half an image last.
            os.ftruncate(self._file.fileno(), int(self._find_end()))
            finish(self._file, self.path)

    def __getstate__(self) -> dict[str, Any]:
        names = ("n", "path", "_is_kept", "_n_index_bytes")
        return {**{name: getattr(self, name) for name in names}, "fd": _pass_on(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        passed = state.pop("fd")
        self.__dict__.update(state)
        self._file = os.fdopen(passed.detach(), "rb")
        weakref.finalize(self, self._file.close)
        self._map()


def room_for_cache() -> int:
    """Returns how many bytes a temporary cache may take: half the free disk or half the free memory, whichever is less.

    A larger file would push its own pages out of memory while it is read.
    """
    disk = shutil.disk_usage(tempfile.gettempdir()).free
    return min(disk, available_memory(torch.device("cpu"))) // 2


def make_room(folder: str | os.PathLike[str], needed: int) -> int:
    """Makes room for a cache of `needed` bytes in a folder of kept caches, and returns how many bytes it may take.

    The caches of a folder take at most half of what would be free on its disk without them. If a new one is too many,
    those that were opened longest ago are removed, one by one, until it fits. A process that still reads one keeps it.
    If a cache would not fit even alone, nothing is removed.
    """
    at = Path(folder)
    at.mkdir(parents=True, exist_ok=True)
    found = sorted((_status(path) for path in at.glob(_NAMES)), reverse=True)
    taken = sum(size for _, size, _ in found)
    room = (shutil.disk_usage(at).free + taken) // 2
    while found and needed <= room < taken + needed:
        _, size, oldest = found.pop()
        with contextlib.suppress(OSError):  # another process removed it, or reads it on a system that forbids that
            oldest.unlink()
        taken -= size
    return room


def _status(path: Path) -> tuple[float, int, Path]:
    """Returns when a kept cache was last opened, its size and its path."""
    try:
        status = path.stat()
    except OSError:  # another process has just removed it
        return 0.0, 0, path
    return status.st_mtime, status.st_size, path


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


def _checksum(pixels: Pixels, position: int, record: tuple[int, ...]) -> int:
    """Returns the CRC-32 of an image and its place.

    It takes 60 microseconds for 320 x 256 pixels, and decoding their JPEG takes 1,800.
    """
    return zlib.crc32(pixels.reshape(-1).data, zlib.crc32(repr((position, *record)).encode()))


def _is_kept(path: Path, n: int) -> bool:
    """Whether there is a file at `path` that has to be a cache of this version.

    Raises:
        DataError: there is something else.
    """
    try:
        check_is_file(path)
        with path.open("rb", buffering=0) as file:
            index = file.read(n * _OLD_RECORD * 8)
    except FileNotFoundError:
        return False
    except OSError as e:
        raise DataError(f"{path}: the image cache cannot be opened ({e.strerror or e}).") from e
    # In a file of an older version, pixels begin right after the index.
    is_old = len(index) == n * _OLD_RECORD * 8 > 0 and np.frombuffer(index, np.int64)[::_OLD_RECORD].min() == len(index)
    return not is_old


def _write(file: IO[bytes], pixels: Pixels, start: int) -> None:
    view = memoryview(pixels.data).cast("B")
    file.seek(start)
    while len(view):
        view = view[file.write(view) :]


def _pass_on(cache: ImageCache) -> Any:
    if get_spawning_popen() is None:
        raise TypeError("An ImageCache goes only to a process that is being started.")
    return reduction.DupFd(cache._file.fileno())
