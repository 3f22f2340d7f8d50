"""The items of a data set as people look at them: one by one, read but not transformed, with their targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from minilearner.data.targets import Category, MultiCategory, Target
from minilearner.data.tensor_types import TensorBase, TensorCategory, TensorMultiCategory
from minilearner.data.vocabulary import Vocab
from minilearner.lists import L, positions

__all__ = ["DataSets", "ItemView", "view_part"]


@dataclass(frozen=True)
class ItemView(Sequence[Any]):
    """The items of one set: each is a tuple of its inputs and, if there are labels, its target.

    >>> image, number = dls.train_ds[0]  # doctest: +SKIP
    >>> dls.vocab[number]  # doctest: +SKIP
    """

    items: Any
    """What the items are made from: a list of paths or rows, or a part of a frame."""
    read: Callable[[int], tuple[Any, ...]]
    """Position -> the inputs there."""
    y: Tensor | None
    """(items, ...) the targets."""
    target: Target | None
    """What targets mean."""
    n_inp: int = 1
    """How many inputs an item has."""

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        """Returns an item, or a list of those of a slice, of several positions or of a mask."""
        if isinstance(index, slice):
            return L([self[i] for i in range(*index.indices(len(self)))])
        if getattr(index, "ndim", 0) or isinstance(index, (list, tuple)):
            return L([self[i] for i in positions(index)])
        i = int(index)
        if not -len(self) <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")
        i %= len(self)
        return self.read(i) if self.y is None else (*self.read(i), _give_type(self.y[i].cpu(), self.target))

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    @property
    def vocab(self) -> Vocab | Any:
        """The classes in the order of their numbers; None if there are none."""
        names = getattr(self.target, "vocab", None)
        return None if names is None else Vocab(names)

    @property
    def c(self) -> int | Any:
        """How many outputs a model needs; None if it is unknown."""
        return None if self.target is None else self.target.n_out

    def __repr__(self) -> str:
        return f"ItemView({len(self)} items, {self.target})"


@dataclass(frozen=True)
class DataSets:
    """The items of a source, split, as `DataBlock.datasets` returns them."""

    train: ItemView
    """The items for training."""
    valid: ItemView
    """The items for validation."""
    splits: tuple[list[int], list[int]]
    """Where the items of each set stand in the source."""

    @property
    def vocab(self) -> Vocab | None:
        """The classes in the order of their numbers; None if there are none."""
        return self.train.vocab

    @property
    def c(self) -> int | None:
        """How many outputs a model needs; None if it is unknown."""
        return self.train.c

    @property
    def n_inp(self) -> int:
        """How many inputs an item has."""
        return self.train.n_inp

    def subset(self, i: int) -> ItemView:
        """Returns the items for training for 0, for validation for 1."""
        return (self.train, self.valid)[i]

    def __len__(self) -> int:
        return len(self.train) + len(self.valid)

    def __getitem__(self, i: int) -> Any:
        """Returns the item at a position of the source.

        Raises:
            IndexError: there is no such position, or its item is in neither set.
        """
        for part, places in zip((self.train, self.valid), self.splits, strict=True):
            if i in places:
                return part[places.index(i)]
        raise IndexError(f"no item in training or validation stands at position {i} of the source")


def view_part(
    items: Any, read: Callable[[int], Any], y: Tensor | None, target: Target | None, n_inp: int = 1
) -> ItemView:
    """Returns a view of items whose reader returns one input, or a tuple of several."""

    def read_all(i: int) -> tuple[Any, ...]:
        inputs = read(i)
        return inputs if n_inp > 1 and isinstance(inputs, tuple) else (inputs,)

    return ItemView(items, read_all, y, target, n_inp)


def _give_type(value: Tensor, target: Target | None) -> Tensor:
    if isinstance(target, Category):
        return TensorCategory(value)
    if isinstance(target, MultiCategory):
        return TensorMultiCategory(value)
    return TensorBase(value)
