"""`DataPlan`: the steps from a source to inputs and targets, one by one and all together.

source -> items -> labels -> split -> input sources -> target. A `DataBlock` declares the steps, and its `summary`
prints them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from minilearner.data.blocks import InputBlock, TargetBlock
from minilearner.data.corrections import Corrections
from minilearner.data.items import ItemName, name_items
from minilearner.data.labels import Getter, apply_to_all
from minilearner.data.splits import Split, Splitter, split_items
from minilearner.data.table import Row, Table, as_row, as_table, is_table
from minilearner.data.targets import Target
from minilearner.errors import DataError, FileFormatError, agree, plural
from minilearner.lists import L

__all__ = ["DataPlan", "NewItems", "PreparedData", "PreparedPart", "Read", "as_sequence"]


@dataclass(frozen=True)
class PreparedPart:
    """One of the two sets of a split."""

    items: Any
    """What the items are made from: rows, paths, ... or a part of a frame."""
    sources: list[Any]
    """What each input is read from, such as a path; a tuple if a model takes several inputs."""
    y: Tensor | None
    """(items, ...), or None without a target block or without items."""
    positions: list[int]
    """Where each of them is among all items, such as the number of its row."""
    sizes: dict[int, Any]
    """Place in `sources` -> (width, height) of the image in its file; a tuple for several inputs. Empty if unknown."""


@dataclass(frozen=True)
class PreparedData:
    """All that is known before the first image is read."""

    train: PreparedPart
    valid: PreparedPart
    target: Target | None
    kind: type
    """What the items are: rows, paths, ..."""
    skipped: tuple[tuple[Any, str], ...]
    """What was left out because it cannot be read: (source, reason)."""
    n_items: int
    """The number of items of the source."""
    table: Table | None
    """The source, if it is a table."""


@dataclass(frozen=True)
class DataPlan:
    """How items are found, labelled, split and read. `DataBlock` checks the arguments."""

    inputs: tuple[InputBlock, ...]
    outcome: TargetBlock | None
    get_items: Callable[[Any], Any] | None
    get_x: tuple[Getter | None, ...]
    get_y: Getter | None
    splitter: Splitter
    corrections: tuple[Corrections, ...] = ()

    def items(self, source: Any) -> Any:
        """Returns the items of a source: a sequence, a `Table` or a frame.

        Raises:
            TypeError: the source is no collection, so `get_items` is needed.
            DataError: there are no items.
        """
        items = source if self.get_items is None else self.get_items(source)
        if not _is_collection(items):
            raise TypeError(
                "`get_items` is needed to find the items of a source that is no list or table. "
                f"Received: {items!r:.100}. For a folder of images: get_items=get_image_files."
            )
        if isinstance(items, Mapping):
            items = as_table(items)  # whose length, unlike a dictionary's, is the number of its rows
        elif not hasattr(items, "__getitem__"):
            items = list(items)
        if not len(items):
            raise DataError("there are no items: the source is empty.")
        return items

    def labels(self, items: Any) -> list[Any] | None:
        """Returns the label of every item; None without a target block.

        Raises:
            ValueError: there is a target block but no `get_y`.
            DataError: `get_y` failed; says on how many items, with three examples.
        """
        if self.outcome is None:
            return None
        if self.get_y is None:
            raise ValueError(
                f"`get_y` is needed: a function item -> label for {self.outcome!r}, such as parent_label, "
                "RegexLabeller(...) or ColReader(...)."
            )
        return apply_to_all(self.get_y, as_sequence(items), "get_y")

    def sources(self, items: Any) -> list[Any]:
        """Returns what the input of every item is read from; tuples if a model takes several inputs.

        Raises:
            DataError: `get_x` failed; says on how many items, with three examples.
        """
        items = as_sequence(items)
        columns = [list(items) if get is None else apply_to_all(get, items, "get_x") for get in self.get_x]
        return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))

    def split(self, items: Any, labels: list[Any] | None) -> Split:
        """Returns positions for training and validation; errors as in `splits.split_items`."""
        return split_items(self.splitter, items, labels)

    def target(self, labels: list[Any] | None, train: Sequence[int]) -> Target | None:
        """Returns what labels mean, learnt from the training set alone."""
        if self.outcome is None or labels is None:
            return None
        return self.outcome.target([labels[i] for i in train])

    def correct(
        self, sources: list[Any], labels: list[Any] | None, train: Sequence[int]
    ) -> tuple[list[Any] | None, set[int]]:
        """Returns the labels after all reviews, and the positions of the items to leave out.

        The items are split before, so that all items that stay are in the set where they were.

        Raises:
            DataError: the review does not fit the items.
        """
        left_out: set[int] = set()
        if self.corrections:
            vocab = getattr(self.target(labels, train), "vocab", None) or ()
            for review in self.corrections:
                labels, also = review.apply(sources, labels, vocab)
                left_out |= also
        return labels, left_out

    def encode(
        self, labels: list[Any] | None, target: Target | None, sources: Sequence[Any], split: str
    ) -> Tensor | None:
        """Returns labels as the target's numbers, or None without any; errors as in `TargetBlock.encode`."""
        if self.outcome is None or not labels or target is None:
            return None
        return self.outcome.encode(labels, target, sources, split)

    def inspect(self, sources: list[Any], verify: str) -> tuple[dict[int, str], dict[int, Any]]:
        """Returns position -> reason for inputs that cannot be read, as far as `verify` looks, and the sizes seen.

        Sizes are position -> (width, height), or a tuple of them for several inputs.
        """
        several = len(self.inputs) > 1
        parts = [[source[k] for source in sources] if several else sources for k in range(len(self.inputs))]
        reasons: dict[int, str] = {}
        sizes: list[Mapping[int, Any]] = []
        for block, part in zip(self.inputs, parts, strict=True):
            found, seen = _inspect(block, part, verify)
            reasons.update(found)
            sizes.append(seen)
        known = sorted(set().union(*sizes) - set(reasons))
        return reasons, {i: tuple(seen.get(i) for seen in sizes) if several else sizes[0][i] for i in known}

    def prepare(self, source: Any, *, verify: str, on_unreadable: str) -> PreparedData:
        """Takes all the steps.

        Raises:
            DataError, FileFormatError, TypeError, ValueError: as the steps do.
        """
        items = self.items(source)
        rows = as_sequence(items)
        labels, sources = self.labels(rows), self.sources(rows)
        train, valid = self.split(items, labels)
        bad, sizes = self.inspect(sources, verify)
        if bad and on_unreadable == "raise":
            raise _unreadable_error(sources, bad)
        labels, deleted = self.correct(sources, labels, train)
        train, valid = ([i for i in part if i not in bad and i not in deleted] for part in (train, valid))
        if not train:
            also = f", and the review leaves out {len(deleted)}" if deleted else ""
            raise DataError(f"no item is left to train on: {len(bad)} of {len(sources)} cannot be read{also}.")
        target = self.target(labels, train)

        def part(positions: list[int], split: str) -> PreparedPart:
            chosen = [sources[i] for i in positions]
            of_these = None if labels is None else [labels[i] for i in positions]
            seen = {place: sizes[i] for place, i in enumerate(positions) if i in sizes}
            names = _RowNames(rows, positions, chosen) if isinstance(rows, Table) else chosen
            return PreparedPart(
                _choose(items, positions), chosen, self.encode(of_these, target, names, split), positions, seen
            )

        skipped = tuple((sources[i], reason) for i, reason in sorted(bad.items()))
        parts = part(train, "training"), part(valid, "validation")
        table = rows if isinstance(rows, Table) else None
        return PreparedData(*parts, target, _kind(rows[train[0]]), skipped, len(rows), table)


@dataclass(frozen=True)
class Read:
    """Reads the input of one item with its block, or a tuple of inputs with several blocks."""

    blocks: tuple[InputBlock, ...]

    @property
    def in_threads(self) -> bool:
        """Whether several threads may call it at once, for different items."""
        return all(getattr(block, "in_threads", False) for block in self.blocks)

    def __call__(self, source: Any, *, reduce_to: tuple[int, int] | None = None) -> Any:
        """Returns a PIL image, array or tensor, or a tuple of them; `reduce_to` as for `vision.images.open_image`."""
        if len(self.blocks) == 1:
            return _read(self.blocks[0], source, reduce_to)
        return tuple(_read(block, part, reduce_to) for block, part in zip(self.blocks, source, strict=True))


def _choose(items: Any, positions: list[int]) -> Any:
    """Returns the items at these positions: a part of a frame, or a list."""
    return items.iloc[positions] if hasattr(items, "iloc") else L([as_sequence(items)[i] for i in positions])


def _read(block: InputBlock, source: Any, reduce_to: tuple[int, int] | None) -> Any:
    # Not a member of `InputBlock`: only files that can be decoded at a smaller size gain by it.
    read_reduced = getattr(block, "read_reduced", None)
    return block.read(source) if reduce_to is None or read_reduced is None else read_reduced(source, reduce_to)


@dataclass(frozen=True)
class NewItems:
    """Prepares later items, to be predicted, as the items that the loaders were built from."""

    plan: DataPlan
    target: Target | None
    kind: type

    def read(self, source: Any) -> Any:
        """Returns the input that is read from a source, as people look at it; a tuple of several."""
        blocks = self.plan.inputs
        parts = (source,) if len(blocks) == 1 else source
        read = [getattr(block, "create", block.read)(part) for block, part in zip(blocks, parts, strict=True)]
        return read[0] if len(blocks) == 1 else tuple(read)

    def sources(self, items: Any) -> list[Any]:
        """Returns what these are read from. An item of another kind than the training items is its own source.

        So a model that was trained on rows of a table predicts a row, a dictionary or a row of pandas, but also a path
        or a PIL image.

        Raises:
            TypeError: `items` is a single item.
            DataError: there are no items, or `get_x` failed.
        """
        listed = self._as_list(items)
        alike = [i for i, item in enumerate(listed) if _kind(item) is self.kind]
        sources = list(listed)
        if alike:
            for i, source in zip(alike, self.plan.sources([listed[i] for i in alike]), strict=True):
                sources[i] = source
        return sources

    def targets(self, items: Any) -> Tensor | None:
        """Returns their labels as the target's numbers.

        Raises:
            DataError: `get_y` failed, or a label is unknown.
        """
        listed = self._as_list(items)
        return self.plan.encode(self.plan.labels(listed), self.target, listed, "new")

    def _as_list(self, items: Any) -> list[Any]:
        if not _is_collection(items):
            raise TypeError(f"`items` must be a list of items. Received: one item, {items!r:.100}. Write [item].")
        listed = list(as_sequence(items))
        if not listed:
            raise DataError("`items` must hold at least one item. Received: none.")
        if self.kind is Row:
            return list(map(as_row, listed))
        return [Path(item) if self.kind is Path and isinstance(item, str) else item for item in listed]


def _inspect(block: InputBlock, sources: list[Any], verify: str) -> tuple[dict[int, str], Mapping[int, Any]]:
    # Not members of `InputBlock`: only for what has a size before it is read.
    if hasattr(block, "inspect"):
        return block.inspect(sources, verify)  # type: ignore[no-any-return]
    sizes = block.sizes(sources) if verify != "names" and hasattr(block, "sizes") else {}
    return block.unreadable(sources, verify), sizes


class _RowNames(Sequence[ItemName]):
    """What errors call the rows at some positions of a table: "line 5 of 'labels.csv' ('cats/7.jpg')"."""

    def __init__(self, table: Table, positions: Sequence[int], sources: Sequence[Any]) -> None:
        self._table, self._positions, self._sources = table, positions, sources

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, i: Any) -> Any:
        return ItemName(f"{self._table.name_row(self._positions[i])} ({name_items(self._sources, [i])})")


def as_sequence(items: Any) -> Sequence[Any]:
    """Returns the rows of a table; other collections as they are."""
    return as_table(items) if is_table(items) else items


def _is_collection(items: Any) -> bool:
    is_one = isinstance(items, (str, bytes, os.PathLike))
    return not is_one and (isinstance(items, Iterable) or hasattr(items, "__getitem__"))


def _kind(item: Any) -> type:
    return Path if isinstance(item, os.PathLike) else type(item)


def _unreadable_error(sources: list[Any], bad: dict[int, str]) -> DataError:
    positions, it = sorted(bad), agree(len(bad), "it", "them")
    examples = name_items(sources, positions, [bad[i].rstrip(".") for i in positions[:3]])
    return FileFormatError(
        f"{len(bad)} of {plural(len(sources), 'item')} cannot be read: {examples}. "
        f'Repair or remove {it}, or make the loaders without {it}: on_unreadable="skip".'
    )
