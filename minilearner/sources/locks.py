"""A file that one process holds alone, so that two do not do the same work in the same place."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

__all__ = ["is_at", "locked"]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Holds the file at `path`, made if need be, for this process and thread alone, and yields its descriptor.

    Others wait. The body may move or delete the file: who waited then makes a new one. The system lets go of it when
    the process ends, however it ends. Where the system has no `flock`, no file is made and nobody waits: -1 is yielded.
    """
    if sys.platform == "win32":
        yield -1
        return
    while True:
        with open(path, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if is_at(file.fileno(), path):  # else it was moved or deleted while we waited
                yield file.fileno()
                return


def is_at(fileno: int, path: Path) -> bool:
    """Tells whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(fileno), path.stat())
    except FileNotFoundError:
        return False
