"""An array that grows at its end, for records that get longer with each batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["GrowingArray"]


class GrowingArray:
    """Takes rows at its end. All of them together cost time in proportion to their number, not to its square.

    Args:
        rows: the first rows. Those that follow get their type.
    """

    def __init__(self, rows: NDArray[Any]) -> None:
        self._room = rows
        self._n = len(rows)

    @property
    def rows(self) -> NDArray[Any]:
        """All rows. Those that are added later do not change this array."""
        return self._room[: self._n]

    def extend(self, rows: ArrayLike) -> None:
        """Adds rows at the end."""
        new = np.asarray(rows).reshape(-1, *self._room.shape[1:])
        n = self._n + len(new)
        if n > len(self._room):
            room = np.empty((max(n, 2 * self._n), *self._room.shape[1:]), self._room.dtype)
            room[: self._n] = self.rows
            self._room = room
        self._room[self._n : n] = new
        self._n = n

    def __len__(self) -> int:
        return self._n
