"""Blocks: what one part of an item is. An input block reads it, a target block says what its labels mean.

Blocks for pictures are `vision.blocks`'; `block` puts blocks together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from minilearner.checks import check_count
from minilearner.data.arrays import as_labels, encode, target_for
from minilearner.data.items import shown
from minilearner.data.labels import is_missing
from minilearner.data.targets import Category, MultiCategory, Regression, Target
from minilearner.errors import DataError

__all__ = ["CategoryBlock", "InputBlock", "MultiCategoryBlock", "RegressionBlock", "TargetBlock", "TransformBlock"]

NO_LABEL = "#na#"
"""The class that `add_na` puts first, for labels that are missing or unknown."""


@runtime_checkable
class InputBlock(Protocol):
    """How an input is read. It must pickle where loader workers are started by spawn.

    A block that can read less where less is enough also has `read_reduced(source, reduce_to)`, with a (width, height);
    one that knows sizes without reading everything has `sizes(sources)`, which returns position -> (width, height); one
    that several threads may ask to read at once, for different items, has `in_threads`, which is true.
    """

    def read(self, source: Any) -> Any:
        """Returns what item transforms start from: a PIL picture, an array or a tensor."""
        ...

    def unreadable(self, sources: Sequence[Any], verify: str) -> dict[int, str]:
        """Returns what cannot be read: position -> reason. `verify` says how hard to look: see `DataBlock`."""
        ...


@runtime_checkable
class TargetBlock(Protocol):
    """What labels mean, learnt from the training labels alone."""

    def target(self, labels: Sequence[Any]) -> Target:
        """Returns the meaning of these training labels."""
        ...

    def encode(self, labels: Sequence[Any], target: Target, items: Sequence[Any], split: str) -> Tensor:
        """Returns labels as the target's numbers (items, ...); `items` and `split` are for errors.

        Raises:
            DataError: some labels have no number. Says how many, with three examples.
        """
        ...


@dataclass(frozen=True)
class TransformBlock:
    """An input, or a target, that is taken as it is. As a target, text and integers are classes, floats numbers.

    Args:
        read_with: turns what the getter gives into a PIL picture, an array or a tensor; None takes it as it is.
    """

    read_with: Callable[[Any], Any] | None = None

    def read(self, source: Any) -> Any:
        """Returns the input."""
        return source if self.read_with is None else self.read_with(source)

    def unreadable(self, sources: Sequence[Any], verify: str) -> dict[int, str]:
        """Returns nothing: there is no file to look into."""
        return {}

    def target(self, labels: Sequence[Any]) -> Target:
        """Returns what labels of this kind mean in `DataLoaders.from_arrays`."""
        return target_for(as_labels(labels, "train"))

    def encode(self, labels: Sequence[Any], target: Target, items: Sequence[Any], split: str) -> Tensor:
        """Returns int64 class numbers or float32 numbers."""
        return encode(as_labels(labels, split), target, split)


@dataclass(frozen=True)
class CategoryBlock:
    """One class for each item. Its classes are those of the training set, so validation cannot leak into the model.

    Args:
        vocab: the classes, in the order of their numbers; None for the distinct training labels.
        sort: sort the training labels; False keeps the order in which they come.
        add_na: a class "#na#", number 0, for labels that are missing or not among the others.

    Raises:
        DataError: (when loaders are built) labels are missing, or not among the classes.
    """

    vocab: Sequence[Hashable] | None = None
    sort: bool = True
    add_na: bool = False

    def target(self, labels: Sequence[Any]) -> Category:
        """Returns the classes."""
        return Category(_vocabulary(self.vocab, labels, sort=self.sort, add_na=self.add_na))

    def encode(self, labels: Sequence[Any], target: Target, items: Sequence[Any], split: str) -> Tensor:
        """Returns int64 class numbers (items,)."""
        number = _numbers(target)
        default = 0 if self.add_na else None
        encoded = [_looked_up(label, number, default) for label in labels]
        _check_known(encoded, labels, items, split, given=self.vocab, n_classes=len(number))
        return torch.tensor(encoded, dtype=torch.int64)


@dataclass(frozen=True)
class MultiCategoryBlock:
    """Any number of classes for each item: labels are lists of names, or, `encoded`, rows of zeros and ones.

    Args:
        encoded: labels are rows with one number for each class in `vocab`.
        vocab: the classes, in the order of their columns; None for the sorted distinct training labels.
        add_na: a class "#na#", column 0, for names that are not among the others.

    Raises:
        ValueError: `encoded` without `vocab`.
        DataError: (when loaders are built) labels are no lists, or have names that are not among the classes.
    """

    encoded: bool = False
    vocab: Sequence[Hashable] | None = None
    add_na: bool = False

    def __post_init__(self) -> None:
        if self.encoded and self.vocab is None:
            raise ValueError("`vocab` is needed with encoded=True: the name of each column. Received: vocab=None.")

    def target(self, labels: Sequence[Any]) -> MultiCategory:
        """Returns the classes."""
        names = [] if self.encoded else [name for several in labels if _is_several(several) for name in several]
        return MultiCategory(_vocabulary(self.vocab, names, sort=True, add_na=self.add_na))

    def encode(self, labels: Sequence[Any], target: Target, items: Sequence[Any], split: str) -> Tensor:
        """Returns float32 zeros and ones (items, classes)."""
        if no_list := [i for i, several in enumerate(labels) if not _is_several(several)]:
            raise DataError(
                f"{len(no_list)} of {len(labels)} {split} labels are no lists: "
                f"{shown(items, no_list, [repr(labels[i]) for i in no_list[:3]])}. Let `get_y` return a list, for "
                "instance with ColReader(..., label_delim=' ')."
            )
        return self._rows(labels, target, items, split) if self.encoded else self._hot(labels, target, items, split)

    def _hot(self, labels: Sequence[Any], target: Target, items: Sequence[Any], split: str) -> Tensor:
        number = _numbers(target)
        default = 0 if self.add_na else None
        y = torch.zeros(len(labels), len(number))
        encoded: list[Any] = [[_looked_up(name, number, default) for name in several] for several in labels]
        known = [None if None in columns else columns for columns in encoded]
        _check_known(known, labels, items, split, given=self.vocab, n_classes=len(number))
        for row, columns in zip(y, encoded, strict=True):
            row[columns] = 1
        return y

    def _rows(self, labels: Sequence[Any], target: Target, items: Sequence[Any], split: str) -> Tensor:
        n = target.n_out
        rows = [[float(value) for value in row] for row in labels]
        if odd := [i for i, row in enumerate(rows) if len(row) != n or not set(row) <= {0.0, 1.0}]:
            raise DataError(
                f"{len(odd)} of {len(rows)} {split} labels are not {n} zeros and ones, one for each name in `vocab`: "
                f"{shown(items, odd, [list(labels[i]) for i in odd[:3]])}."
            )
        return torch.tensor(rows).reshape(len(rows), -1)


@dataclass(frozen=True)
class RegressionBlock:
    """One or several real numbers for each item.

    Args:
        n_out: how many; None counts those of the first training item.

    Raises:
        DataError: (when loaders are built) labels are no finite numbers, or not as many as said.
    """

    n_out: int | None = None

    def __post_init__(self) -> None:
        if self.n_out is not None:
            check_count(self.n_out, "n_out")

    def target(self, labels: Sequence[Any]) -> Regression:
        """Returns how many numbers an item has."""
        first = labels[0]
        return Regression(self.n_out or (len(first) if _is_several(first) else 1))

    def encode(self, labels: Sequence[Any], target: Target, items: Sequence[Any], split: str) -> Tensor:
        """Returns float32 (items,), or (items, n_out) where labels are lists."""
        rows = [_finite_numbers(label) for label in labels]
        if odd := [i for i, row in enumerate(rows) if row is None or len(row) != target.n_out]:
            count = "one finite number" if target.n_out == 1 else f"{target.n_out} finite numbers"
            raise DataError(
                f"{len(odd)} of {len(rows)} {split} labels are not {count}: "
                f"{shown(items, odd, [repr(labels[i]) for i in odd[:3]])}."
            )
        y = torch.tensor(rows, dtype=torch.float32).reshape(len(rows), -1)
        return y if any(map(_is_several, labels)) else y.squeeze(1)


def _vocabulary(given: Sequence[Hashable] | None, labels: Iterable[Any], *, sort: bool, add_na: bool) -> list[Hashable]:
    if given is None:
        names = [label for label in dict.fromkeys(map(_hashable, labels)) if not is_missing(label)]
        if not names:
            raise DataError("no training item has a label, so there are no classes.")
        names = _sorted(names) if sort else names
    else:
        names = list(given)
    return [NO_LABEL, *(name for name in names if name != NO_LABEL)] if add_na else names


def _hashable(label: Any) -> Hashable:
    if not isinstance(label, Hashable):
        raise DataError(
            f"a label must be one name or number. Received: {label!r:.80}. For several labels an item use "
            "MultiCategoryBlock, for several numbers RegressionBlock."
        )
    return label.item() if isinstance(label, Tensor) else label


def _sorted(names: list[Any]) -> list[Any]:
    try:
        return sorted(names)
    except TypeError as error:
        kinds = sorted({type(name).__name__ for name in names})
        raise DataError(
            f"labels must be of one kind, so that they can be sorted. Received: {', '.join(kinds)}. Convert them in "
            "`get_y`, or name the classes in `vocab`."
        ) from error


def _numbers(target: Target) -> dict[Hashable, int]:
    return {name: i for i, name in enumerate(getattr(target, "vocab", ()))}


def _looked_up(label: Any, number: dict[Hashable, int], default: int | None) -> int | None:
    return number.get(_hashable(label), default)


def _check_known(
    encoded: Sequence[Any], labels: Sequence[Any], items: Sequence[Any], split: str, *, given: Any, n_classes: int
) -> None:
    unknown = [i for i, code in enumerate(encoded) if code is None]
    if not unknown:
        return
    if missing := [i for i in unknown if is_missing(labels[i])]:
        raise DataError(
            f"{len(missing)} of {len(labels)} {split} items have no label: {shown(items, missing)}. Label them, leave "
            "them out, or give them a class of their own with add_na=True."
        )
    where = f"the {n_classes} classes of the training set" if given is None else f"the {n_classes} names in `vocab`"
    raise DataError(
        f"{len(unknown)} of {len(labels)} {split} labels are not among {where}: "
        f"{shown(items, unknown, [repr(labels[i]) for i in unknown[:3]])}. Name every class in `vocab`"
        + (", keep each class in both sets with StratifiedSplitter()" if split == "validation" else "")
        + ", or leave these items out."
    )


def _is_several(label: Any) -> bool:
    return isinstance(label, (list, tuple, set, frozenset)) or getattr(label, "ndim", 0) == 1


def _finite_numbers(label: Any) -> list[float] | None:
    try:
        numbers = [float(value) for value in label] if _is_several(label) else [float(label)]
    except (TypeError, ValueError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
