"""Which items each process reads if several train together, and in which order."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler

from minilearner import processes
from minilearner.errors import agree, plural
from minilearner.runtime import derive_generator
from minilearner.tree import map_tensors

__all__ = [
    "WHOLE",
    "DerivedSampler",
    "ListSampler",
    "Piece",
    "Share",
    "SharedBatches",
    "choose_drop_last",
    "drops_last",
    "explain_rest",
    "is_small_rest",
    "share_batches",
]


class Piece(NamedTuple):
    """A batch of one process: its number in the whole pass, and where it lies in the order of the pass."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Share:
    """The part of each pass that process number `index` of `count` reads.

    Attributes:
        is_even: for training: all processes have the same number of batches, and divide the last, short ones evenly,
            so that a part may be empty. Without it, batches stay whole, and some processes may have one fewer.
        is_filled_up: a process with one batch fewer gets an empty one, because all must make each pass together.
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
        """Yields the batches of this process from its batch number `start` on."""
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
        """Returns this process's part of a range that all divide evenly; the first processes get one more."""
        least, extra = divmod(stop - start, self.count)
        first = start + self.index * least + min(self.index, extra)
        return first, first + least + (self.index < extra)


WHOLE = Share()
"""Everything: the share of a single process."""


class DerivedSampler(Sampler[int]):
    """A shuffle decided by (seed, pass number) alone: `epoch` counts the passes started.

    The next pass, and only that one, leaves out its first `skip` items: a resumed run starts in the middle of a pass.
    """

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed = n, seed
        self.epoch = 0
        self.skip = 0

    def __len__(self) -> int:
        return self.n

    def order(self, epoch: int) -> Tensor:
        """Returns the positions in the order of a pass."""
        return torch.randperm(self.n, generator=derive_generator(self.seed, "shuffle", epoch))

    def __iter__(self) -> Iterator[int]:
        order = self.order(self.epoch)
        skip, self.skip = self.skip, 0
        self.epoch += 1
        return iter(order[skip:].tolist())


class ListSampler(Sampler[int]):
    """Given positions, in their order."""

    def __init__(self, indices: list[int]) -> None:
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


class SharedBatches(Sampler[list[int]]):
    """The part of a batch sampler's batches that one process reads.

    `stand_in_at` is the number of the batch that stands in for an empty one, the last of a pass; -1 if none is empty.
    """

    def __init__(self, batches: Iterable[list[int]], share: Share, *, drop_last: bool) -> None:
        self.batches, self.share, self.drop_last = batches, share, drop_last
        self.stand_in_at = -1

    def __len__(self) -> int:
        return self.share.n_batches(len(self.batches), 1, drop_last=self.drop_last)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        lists = [list(batch) for batch in self.batches]
        if not _is_derived(getattr(self.batches, "sampler", None)):
            lists = processes.take_from_first(lists)
        share, whole, self.stand_in_at = self.share, len(lists) // self.share.count, -1
        yield from (lists[i * share.count + share.index] for i in range(whole))
        rest = lists[whole * share.count :]
        if not rest or (share.is_even and self.drop_last):
            return
        indices = self._divide(rest)
        if not indices and (share.is_even or share.is_filled_up):
            self.stand_in_at = whole
            indices = rest[0][:1]
        if indices:
            yield indices

    def _divide(self, batches: list[list[int]]) -> list[int]:
        if not self.share.is_even:
            return batches[self.share.index] if self.share.index < len(batches) else []
        indices = [index for batch in batches for index in batch]
        first, stop = self.share.part(0, len(indices))
        return indices[first:stop]


def share_batches(batches: Iterable[Any], share: Share, *, drop_last: bool) -> Iterator[Any]:
    """Reads all batches of any source and yields those of a share."""
    source = iter(batches)
    while group := list(islice(source, share.count)):
        if len(group) < share.count and share.is_even and drop_last:
            return
        if share.index < len(group):
            yield group[share.index]
        elif share.is_even or share.is_filled_up:
            yield map_tensors(lambda t: t[:0], group[0])


def choose_drop_last(n_items: int, bs: int, *, is_asked_for: bool = False) -> bool:
    """Returns whether training leaves out its short last batch: not if that has more than a tenth of the items.

    Then the batch is kept, unless it has a single item, from which batch norm cannot learn. In both cases, and if the
    user asks to drop more than a tenth, a line on standard error says so.

    Args:
        n_items: the number of training items.
        bs: items per batch.
        is_asked_for: whether the user asks to drop it, whatever its size.
    """
    rest = n_items % bs
    if 10 * rest <= n_items:
        return True
    does_drop = is_asked_for or (rest == 1 and n_items > 1)
    if processes.is_first() and (not does_drop or n_items > bs):  # without a batch, an error follows
        sys.stderr.write(f"{' '.join(explain_rest(n_items, bs, does_drop=does_drop)).rstrip()}\n")
    return does_drop


def is_small_rest(n_items: int, bs: int) -> bool:
    """Returns whether training may leave out its short last batch without a word: a tenth of the items, or one."""
    rest = n_items % bs
    return 10 * rest <= n_items or rest == 1


def explain_rest(n_items: int, bs: int, *, does_drop: bool) -> tuple[str, str]:
    """Returns what becomes of the items that do not fill the last batch of a pass, and a better `bs` if there is one.

    Args:
        n_items: the number of training items.
        bs: items per batch.
        does_drop: whether the short batch is left out.
    """
    if n_items < bs:
        fact = f"bs={bs} is more than the {plural(n_items, 'training item')}, so an epoch has one update."
        return fact, f"A smaller bs, such as {max(2, n_items // 8)}, makes more."
    rest, n_batches = n_items % bs, -(-n_items // bs)
    even = -(-n_items // n_batches)
    advice = f"bs={even} divides them into {n_batches} batches of nearly one size." if even < bs else ""
    share = f"{rest} of {plural(n_items, 'training item')}, {_as_percent(rest / n_items)}"
    if does_drop:
        return f"Every epoch leaves out {share}: {agree(rest, 'it does', 'they do')} not fill a batch of {bs}.", advice
    return f"The last batch of an epoch is short, {share}. It is not left out.", advice


def _as_percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "less than 1%"


def drops_last(source: Any) -> bool:
    """Returns whether a loader leaves out a short last batch."""
    return bool(getattr(source, "drop_last", False) or getattr(getattr(source, "batch_sampler", None), "drop_last", 0))


def _is_derived(sampler: Any) -> bool:
    """Returns whether a sampler gives every process the same order, whatever was drawn before."""
    return isinstance(sampler, (SequentialSampler, DerivedSampler, ListSampler))
