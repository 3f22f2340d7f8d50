"""Who reads what, where several processes go through the same data: no item twice, and none left out.

The batch size is that of one process, so N of them train on N times as many items a step. In training each takes its
part of every such large batch: together they have what one process with N times the batch size would have. In
validation and prediction whole batches are dealt out, one to each process in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["WHOLE", "Piece", "Share"]


class Piece(NamedTuple):
    """A batch of one process: its number in the whole pass, and where it lies in the order of the pass."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Share:
    """What is read by process number `index` of `count`.

    Attributes:
        is_even: for training: all processes have equally many batches, and share out the last, short ones evenly, so
            that a part may be empty. Without it, batches stay whole, and some processes may have one less.
        is_filled_up: those that would have one less have an empty one, where all must make each pass together.
    """

    index: int = 0
    count: int = 1
    is_even: bool = False
    is_filled_up: bool = False

    def n_batches(self, n_items: int, bs: int, *, drop_last: bool = False) -> int:
        """Returns how many batches of `bs` items this process has in a pass over `n_items`."""
        if self.is_even:
            bs = bs * self.count
            return n_items // bs if drop_last else -(-n_items // bs)
        total = n_items // bs if drop_last else -(-n_items // bs)
        return len(range(0 if self.is_filled_up else self.index, total, self.count))

    def pieces(self, n_items: int, bs: int, *, drop_last: bool = False, start: int = 0) -> Iterator[Piece]:
        """Gives the batches of this process from its batch number `start` on."""
        for i in range(start, self.n_batches(n_items, bs, drop_last=drop_last)):
            yield self.piece(i, n_items, bs, drop_last=drop_last)

    def piece(self, i: int, n_items: int, bs: int, *, drop_last: bool = False) -> Piece:
        """Returns batch number `i` of this process."""
        number = i * self.count + self.index
        if self.is_even:
            first = i * bs * self.count
            return Piece(number, *self.part(first, min(first + bs * self.count, n_items)))
        end = n_items // bs * bs if drop_last else n_items
        return Piece(number, min(number * bs, end), min((number + 1) * bs, end))

    def part(self, start: int, stop: int) -> tuple[int, int]:
        """Returns this process's part of a stretch that all share out evenly; the first get one more."""
        least, extra = divmod(stop - start, self.count)
        first = start + self.index * least + min(self.index, extra)
        return first, first + least + (self.index < extra)


WHOLE = Share()
"""Everything: what a process alone reads."""
