"""The same work on many things in threads, for what waits for a disk or computes in C without Python's lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["in_threads"]

Given = TypeVar("Given")
Made = TypeVar("Made")

_MOST_AT_ONCE = 64


def in_threads(work: Callable[[Given], Made], things: Sequence[Given], n_threads: int) -> list[Made]:
    """Returns what `work` makes of each, in their order, as ``list(map(work, things))`` does.

    An error is that of the first thing with one, and nothing runs any more when it is raised.
    """
    if n_threads == 1 or len(things) < 2:
        return list(map(work, things))
    # Handing over takes longer than opening a small file; the last threads to end should not have much left to do.
    n = max(1, min(_MOST_AT_ONCE, len(things) // (4 * n_threads)))
    pieces = [things[i : i + n] for i in range(0, len(things), n)]
    with ThreadPoolExecutor(min(n_threads, len(pieces))) as threads:
        return [made for piece in threads.map(lambda piece: list(map(work, piece)), pieces) for made in piece]
