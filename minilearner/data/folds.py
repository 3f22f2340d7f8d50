"""Folds: the items of loaders in k parts, and loaders that train on all parts but one; loaders with another seed."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from minilearner.checks import check_count
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.foreign_loader import ForeignLoader, over_datasets
from minilearner.data.group_splitter import GroupSplitter, read_groups
from minilearner.data.item_dataset import ItemDataset
from minilearner.data.item_loader import ItemLoader
from minilearner.data.loader import Loader
from minilearner.data.memory_loader import MemoryLoader
from minilearner.data.share import DerivedSampler, is_small_rest
from minilearner.data.splits import Splitter
from minilearner.data.splitter_from import SplitterFrom
from minilearner.data.stream_loader import StreamLoader
from minilearner.errors import DataError
from minilearner.runtime import derive_seed

__all__ = ["Fold", "ItemPool", "change_seed", "choose_folds", "hold_same_items", "split_folds"]


class Fold(NamedTuple):
    """The positions of the items of one fit.

    Attributes:
        train: those to train on.
        held: those to validate on.
    """

    train: NDArray[np.int64]
    held: NDArray[np.int64]


def choose_folds(pool: ItemPool, k: int | None, splitter: Splitter | None, seed: int) -> list[Fold]:
    """Returns the folds of a cross-validation.

    Args:
        pool: the items.
        k: the number of folds. None is that of the splitter, or else 5.
        splitter: a `SplitterFrom`, whose folds these are, or a `GroupSplitter`, which says what belongs together. None
            gives each fold the same share of each class.
        seed: decides the draw, if the splitter has no seed of its own.

    Raises:
        TypeError: the splitter makes no folds.
        ValueError: `k` is out of range, or is not the splitter's own number of folds.
        DataError: the splitter needs labels that only reading the items would give, or cannot split them.
    """
    if isinstance(splitter, SplitterFrom):
        return _take_folds(pool, k, splitter)
    n, k = len(pool), 5 if k is None else k
    if splitter is None:
        held = split_folds(pool.y, n, k, seed)
    elif isinstance(splitter, GroupSplitter):
        own = seed if splitter.seed is None else splitter.seed
        held = split_groups(read_groups(splitter.get_group, pool.items), k, own)
    else:
        raise TypeError(
            "`splitter` must make several folds: a GroupSplitter, or SplitterFrom(...) of a scikit-learn splitter. "
            f"Received: splitter={splitter!r:.100}."
        )
    return [Fold(np.setdiff1d(np.arange(n), part), part) for part in held]


def _take_folds(pool: ItemPool, k: int | None, splitter: SplitterFrom) -> list[Fold]:
    labels = pool.y if splitter.needs_labels else None
    if splitter.needs_labels and labels is None:
        raise DataError(f"{splitter.splitter!r} needs labels, and only reading these items would give them.")
    groups = splitter.get_group
    if groups is not None and not callable(groups) and pool.is_of_files:
        raise DataError(
            "`get_group` must be a function here: the loaders have changed the order of the items, so a list of groups "
            "would not fit it. Give ColReader(column), for example."
        )
    made = splitter.split_all(pool.items, None if labels is None else labels.tolist())
    if k is not None and k != len(made):
        raise ValueError(f"`k` must be {len(made)}, the splitter's number of folds, or left out. Received: k={k}.")
    folds = [Fold(*(np.array(sorted(part), dtype=np.int64) for part in fold)) for fold in made]
    if odd := [number for number, fold in enumerate(folds, 1) if not (len(fold.train) and len(fold.held))]:
        raise DataError(f"fold {odd[0]} of {splitter.splitter!r} has no items to train on, or none to validate on.")
    return folds


def split_groups(groups: Sequence[Any], k: int, seed: int) -> list[NDArray[np.int64]]:
    """Returns the positions of `k` parts of whole groups, as equal in size as a simple rule makes them.

    The groups go from the largest to the smallest, in a random order of those of equal size, each into the part that is
    smallest so far.

    Args:
        groups: the group of each item.
        k: the number of parts, from 2 to the number of groups.
        seed: decides the order.

    Raises:
        ValueError: `k` is out of range.
    """
    check_count(k, "k", least=2)
    sizes = Counter(groups)
    if k > len(sizes):
        raise ValueError(f"`k` must be at most the number of groups, {len(sizes)}. Received: k={k}.")
    order = np.random.default_rng(derive_seed(seed, "folds")).permutation(len(sizes))
    drawn = [list(sizes)[place] for place in order]
    part_of, counts = {}, [0] * k
    for group in sorted(drawn, key=sizes.__getitem__, reverse=True):
        part_of[group] = counts.index(min(counts))
        counts[part_of[group]] += sizes[group]
    parts = np.array([part_of[group] for group in groups])
    return [np.flatnonzero(parts == part) for part in range(k)]


def change_seed(dls: DataLoaders, seed: int) -> DataLoaders:
    """Returns loaders of the same items that shuffle and augment by another seed, from their first pass on.

    A foreign loader that draws from torch's generator, or has a generator of its own, stays as it is.
    """
    other = dls.over(_change_seed_of(dls.train, seed), dls.valid)
    other.seed = seed
    return other


def hold_same_items(one: Loader, other: Loader) -> bool:
    """Returns whether two loaders hold the same items, as far as they say; the transforms may differ."""
    if one is other:
        return True
    if one.n_items != other.n_items:
        return False
    if isinstance(one, ForeignLoader) and isinstance(other, ForeignLoader):
        datasets = [getattr(loader.source, "dataset", loader.source) for loader in (one, other)]
        return datasets[0] is datasets[1]
    return bool(one.fingerprint().get("data") == other.fingerprint().get("data"))


def _change_seed_of(loader: Any, seed: int) -> Any:
    if isinstance(loader, StreamLoader):
        source: Any = copy.copy(loader.source)
        source.seed = seed
        return loader._copy_with(source=source, epoch=0)
    if isinstance(loader, ForeignLoader):
        if not isinstance(getattr(loader.source, "sampler", None), DerivedSampler):
            return loader
        in_order: Any = loader.in_order()
        return over_datasets(loader, [in_order.source], range(in_order.n_items), training=True, seed=seed)
    new = loader.new(seed=seed)
    if isinstance(new, ItemLoader):
        new.dataset = copy.copy(new.dataset)
        new.dataset.seed = seed
    return new


def split_folds(y: Any, n: int, k: int, seed: int) -> list[NDArray[np.int64]]:
    """Returns the positions of `k` parts of `n` items. Each part has the same share of each class, to one item.

    Args:
        y: (n,) class numbers. For other labels, or None, the parts are random.
        n: the number of items.
        k: the number of parts, from 2 to `n`.
        seed: decides the draw.

    Raises:
        ValueError: `k` is out of range.
    """
    check_count(k, "k", least=2)
    if k > n:
        raise ValueError(f"`k` must be at most the number of items, {n}. Received: k={k}.")
    order = np.random.default_rng(derive_seed(seed, "folds")).permutation(n)
    if isinstance(y, Tensor) and y.ndim == 1 and not y.is_floating_point():
        order = order[np.argsort(y.cpu().numpy()[order], kind="stable")]
    return [np.sort(order[part::k]) for part in range(k)]


@dataclass(frozen=True)
class ItemPool:
    """The items of one or both sets of loaders: those for training, then those for validation.

    Args:
        dls: the loaders.
        ds_idx: 0 for the training set, 1 for the validation set, None for both.

    Raises:
        ValueError: there is no such set.
        DataError: items cannot be read by their position, or items for validation have no weights.
    """

    dls: DataLoaders
    ds_idx: int | None = None

    def __post_init__(self) -> None:
        kinds = {type(loader) for loader in self.sets}
        if len(kinds) > 1 or not all(map(_has_positions, self.sets)):
            raise DataError(
                "Folds need items that can be read by position, from one kind of loader. Received: "
                f"{', '.join(map(repr, self.sets))}. Build the loaders from files, arrays or torch datasets."
            )
        if getattr(self.dls.train, "weights", None) is not None and self.ds_idx != 0:
            raise DataError(
                "The loaders have `weights` for the training items only, so folds can only be made of these. "
                f"Received: ds_idx={self.ds_idx}. Give ds_idx=0."
            )

    @cached_property
    def sets(self) -> list[Loader]:
        """The loaders of the sets, in order and without augmentation."""
        chosen = range(len(self.dls.loaders)) if self.ds_idx is None else [self.ds_idx]
        return [self.dls.in_order(number) for number in chosen]

    def __len__(self) -> int:
        return sum(loader.n_items or 0 for loader in self.sets)

    @cached_property
    def y(self) -> Tensor | None:
        """(items, ...): the labels. None if only reading the items would say."""
        parts = [y for loader in self.sets if (y := getattr(loader, "y", None)) is not None]
        return torch.cat(parts) if len(parts) == len(self.sets) else None

    @property
    def is_of_files(self) -> bool:
        """Whether the items are read one by one, from files for instance."""
        return isinstance(self.sets[0], ItemLoader)

    @cached_property
    def items(self) -> Sequence[Any]:
        """What splitters get: what is read, or rows of the table; for arrays and torch datasets, the items' numbers."""
        if not self.is_of_files:
            return range(len(self))
        return [_item_of(dataset, i) for dataset, i in self._places]

    def loaders_of(self, fold: Fold) -> DataLoaders:
        """Returns loaders of a fold, which read, shuffle and transform as the pool's own."""
        return self.dls.over(self._loader(fold.train, training=True), self._loader(fold.held, training=False))

    def _loader(self, positions: NDArray[np.int64], *, training: bool) -> Loader:
        like: Any = self.dls.train
        if isinstance(like, ForeignLoader):
            datasets: list[Any] = [loader.source for loader in self.sets]  # type: ignore[attr-defined]
            return over_datasets(like, datasets, positions.tolist(), training=training)
        changes: dict[str, Any] = {"y": None if self.y is None else self.y[positions], "epoch": 0}
        if isinstance(like, MemoryLoader):
            changes["x"] = self._x[torch.as_tensor(positions, device=like.device)]
        else:
            changes["dataset"] = self._dataset(positions)
        if not training:
            return like._copy_with(**changes).in_order()  # type: ignore[no-any-return]
        changes["drop_last"] = like.drop_last and is_small_rest(len(positions), like.bs)
        changes["weights"] = None if like.weights is None else like.weights[positions]
        return like._copy_with(**changes)  # type: ignore[no-any-return]

    @cached_property
    def _x(self) -> Tensor:
        return torch.cat([loader.x for loader in self.sets])  # type: ignore[attr-defined]

    def _dataset(self, positions: NDArray[np.int64]) -> ItemDataset:
        chosen: list[tuple[ItemDataset, int]] = [self._places[i] for i in positions.tolist()]
        rows = [dataset.rows[i] for dataset, i in chosen if dataset.rows is not None]
        return chosen[0][0].new([dataset.items[i] for dataset, i in chosen], rows or None)

    @cached_property
    def _places(self) -> list[tuple[ItemDataset, int]]:
        """The data set of each item, and its position there."""
        datasets: list[ItemDataset] = [loader.dataset for loader in self.sets if isinstance(loader, ItemLoader)]
        return [(dataset, i) for dataset in datasets for i in range(len(dataset))]


def _item_of(dataset: ItemDataset, position: int) -> Any:
    if dataset.table is None or dataset.rows is None:
        return dataset.items[position]
    return dataset.table[dataset.rows[position]]


def _has_positions(loader: Loader) -> bool:
    if not isinstance(loader, ForeignLoader):
        return isinstance(loader, (MemoryLoader, ItemLoader))
    source = loader.source
    return isinstance(source, DataLoader) and not isinstance(source.dataset, IterableDataset)
