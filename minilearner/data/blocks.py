"""Blocks: what one part of an item is. An input block reads it, a target block says what its labels mean.

`vision.image_block` has the block for images; `data_block` puts blocks together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from minilearner import processes
from minilearner.checks import check_count
from minilearner.data.items import name_items
from minilearner.data.labels import is_missing
from minilearner.data.targets import (
    Category,
    MultiCategory,
    Regression,
    Target,
    are_zeros_and_ones,
    as_labels,
    encode_labels,
    infer_target,
)
from minilearner.data.vocabulary import build_vocabulary, is_several, order_vocabulary
from minilearner.errors import DataError
from minilearner.keywords import suggest_keywords

__all__ = ["CategoryBlock", "InputBlock", "MultiCategoryBlock", "RegressionBlock", "TargetBlock", "TransformBlock"]


@runtime_checkable
class InputBlock(Protocol):
    """How an input is read. It must pickle if workers start by spawn.

    Three members are optional. `read_reduced(source, reduce_to)` reads an image at a lower size, if (width, height) is
    enough. `sizes(sources)` returns position -> (width, height) without reading everything. A true `in_threads` lets
    several threads read at once, for different items.
    """

    def read(self, source: Any) -> Any:
        """Returns what item transforms start from: a PIL image, an array or a tensor."""
        ...

    def unreadable(self, sources: Sequence[Any], verify: str) -> dict[int, str]:
        """Returns position -> reason for inputs that cannot be read. For `verify` see `DataBlock`."""
        ...


@runtime_checkable
class TargetBlock(Protocol):
    """The meaning of labels, learnt from the training labels alone."""

    def target(self, labels: Sequence[Any]) -> Target:
        """Returns the meaning of these training labels."""
        ...

    def encode(self, labels: Sequence[Any], target: Target, items: Sequence[Any], split: str) -> Tensor:
        """Returns labels as the target's numbers (items, ...); `items` and `split` are for errors.

        Raises:
            DataError: some labels have no number. Says how many, with three examples.
        """
        ...


@suggest_keywords
@dataclass(frozen=True)
class TransformBlock:
    """An input or a target that is used as it is. As a target, text and integers are classes, floats numbers.

    Args:
        read_with: turns what the getter returns into a PIL image, an array or a tensor; None uses it as it is.
    """

    read_with: Callable[[Any], Any] | None = None

    def read(self, source: Any) -> Any:
        """Returns the input."""
        return source if self.read_with is None else self.read_with(source)

    def unreadable(self, sources: Sequence[Any], verify: str) -> dict[int, str]:
        """Returns nothing: there is no file to check."""
        return {}

    def target(self, labels: Sequence[Any]) -> Target:
        """Returns what such labels mean in `DataLoaders.from_arrays`."""
        # `encode` names the items whose labels are missing.
        return infer_target(as_labels([label for label in labels if not is_missing(label)], "train"))

    def encode(self, labels: Sequence[Any], target: Target, items: Sequence[Any], split: str) -> Tensor:
        """Returns int64 class numbers or float32 numbers."""
        name_item = partial(_name_item, items)
        return encode_labels(target, as_labels(labels, split, name_item), split=split, name_item=name_item)


@suggest_keywords
@dataclass(frozen=True)
class CategoryBlock:
    """One class for each item. Its classes are those of the training set, so validation cannot leak into the model.

    Args:
        vocab: the classes, in the order of their numbers; None for the distinct training labels. A set is sorted.
        sort: sort the training labels; False keeps the order in which they come.
        add_na: add a class "#na#", number 0, for labels that are missing or not among the others.

    Blanks around a name do not count: "cat" and " cat" are one class. Labels that are empty or blank are missing.

    Raises:
        TypeError: `vocab` can be read only once, or is a dictionary.
        DataError: (when loaders are built) labels are missing, or not among the classes.
    """

    vocab: Sequence[Hashable] | None = None
    sort: bool = True
    add_na: bool = False

    def __post_init__(self) -> None:
        if self.vocab is not None:
            object.__setattr__(self, "vocab", order_vocabulary(self.vocab))

    def target(self, labels: Sequence[Any]) -> Category:
        """Returns the classes. If there is only one, a line on standard error says so."""
        vocab = build_vocabulary(self.vocab, labels, sort=self.sort, add_na=self.add_na)
        if self.vocab is None and len(vocab) == 1 and processes.is_first():
            sys.stderr.write(
                f"Every training item has the label {vocab[0]!r}, so a classifier has nothing to learn. Check what the "
                "labels are made from.\n"
            )
        return Category(vocab)

    def encode(self, labels: Sequence[Any], target: Target, items: Sequence[Any], split: str) -> Tensor:
        """Returns int64 class numbers (items,)."""
        classes = target if isinstance(target, Category) else Category(_vocabulary_of(target))
        unknown = 0 if self.add_na else None
        return classes.encode(list(labels), split=split, name_item=partial(_name_item, items), unknown=unknown)


@suggest_keywords
@dataclass(frozen=True)
class MultiCategoryBlock:
    """Any number of classes for each item: labels are lists of names, or, `encoded`, rows of zeros and ones.

    Args:
        encoded: labels are rows with one number for each class in `vocab`.
        vocab: the classes, in the order of their columns; None for the sorted distinct training labels. A set is
            sorted, but not with `encoded`.
        add_na: add a class "#na#", column 0, for names that are not among the others.

    Raises:
        TypeError: `vocab` can be read only once, or is a dictionary or, with `encoded`, a set.
        ValueError: `encoded` without `vocab`.
        DataError: (when loaders are built) labels are not lists, or have names that are not among the classes.
    """

    encoded: bool = False
    vocab: Sequence[Hashable] | None = None
    add_na: bool = False

    def __post_init__(self) -> None:
        if self.encoded and self.vocab is None:
            raise ValueError("`vocab` is needed with encoded=True: the name of each column. Received: vocab=None.")
        if self.encoded:
            MultiCategory(self.vocab)  # type: ignore[arg-type]  # checks that the names have an order
        elif self.vocab is not None:
            object.__setattr__(self, "vocab", order_vocabulary(self.vocab))

    def target(self, labels: Sequence[Any]) -> MultiCategory:
        """Returns the classes."""
        if not self.encoded and self.vocab is None and are_zeros_and_ones(labels):
            raise DataError(
                f"labels are rows of zeros and ones, such as {list(labels[0])!r:.80}. Name their columns with "
                "MultiCategoryBlock(encoded=True, vocab=[...]). If each row has a single one, its position is a class "
                "for CategoryBlock: row.index(1)."
            )
        names = [] if self.encoded else [name for several in labels if is_several(several) for name in several]
        return MultiCategory(build_vocabulary(self.vocab, names, sort=True, add_na=self.add_na))

    def encode(self, labels: Sequence[Any], target: Target, items: Sequence[Any], split: str) -> Tensor:
        """Returns float32 zeros and ones (items, classes)."""
        classes = target if isinstance(target, MultiCategory) else MultiCategory(_vocabulary_of(target))
        name_item = partial(_name_item, items)
        if self.encoded:
            return classes.encode_rows(list(labels), split=split, name_item=name_item)
        unknown = 0 if self.add_na else None
        return classes.encode(list(labels), split=split, name_item=name_item, unknown=unknown)


@suggest_keywords
@dataclass(frozen=True)
class RegressionBlock:
    """One or several real numbers for each item.

    Args:
        n_out: how many; None counts the numbers of the first training item.

    Raises:
        DataError: (when loaders are built) labels are not finite numbers, or not `n_out` of them.
    """

    n_out: int | None = None

    def __post_init__(self) -> None:
        if self.n_out is not None:
            check_count(self.n_out, "n_out")

    def target(self, labels: Sequence[Any]) -> Regression:
        """Returns how many numbers an item has."""
        first = labels[0]
        return Regression(self.n_out or (len(first) if is_several(first) else 1))

    def encode(self, labels: Sequence[Any], target: Target, items: Sequence[Any], split: str) -> Tensor:
        """Returns float32 (items,), or (items, n_out) if labels are lists."""
        numbers = target if isinstance(target, Regression) else Regression(target.n_out or 1)
        return numbers.encode(list(labels), split=split, name_item=partial(_name_item, items))


def _name_item(items: Sequence[Any], position: int) -> str:
    return name_items(items, [position])


def _vocabulary_of(target: Target) -> Sequence[Hashable]:
    vocab: Sequence[Hashable] = getattr(target, "vocab", ())
    return vocab
