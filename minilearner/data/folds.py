"""Folds: the items of loaders in k parts, and loaders that train on all parts but one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from minilearner.checks import check_count
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.foreign_loader import ForeignLoader, over_datasets
from minilearner.data.item_dataset import ItemDataset
from minilearner.data.item_loader import ItemLoader
from minilearner.data.loader import Loader
from minilearner.data.memory_loader import MemoryLoader
from minilearner.data.share import is_small_rest
from minilearner.errors import DataError
from minilearner.runtime import derive_seed

__all__ = ["ItemPool", "split_folds"]


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

    def leave_out(self, held: NDArray[np.int64]) -> DataLoaders:
        """Returns loaders that train on all items but those at these positions, and validate on these.

        They read, shuffle and transform as the pool's own loaders.
        """
        rest = np.setdiff1d(np.arange(len(self)), held)
        return self.dls.over(self._loader(rest, training=True), self._loader(held, training=False))

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
        datasets: list[ItemDataset] = [loader.dataset for loader in self.sets]
        places = [(dataset, i) for dataset in datasets for i in range(len(dataset))]
        chosen = [places[i] for i in positions.tolist()]
        rows = [dataset.rows[i] for dataset, i in chosen if dataset.rows is not None]
        return datasets[0].new([dataset.items[i] for dataset, i in chosen], rows or None)


def _has_positions(loader: Loader) -> bool:
    if not isinstance(loader, ForeignLoader):
        return isinstance(loader, (MemoryLoader, ItemLoader))
    source = loader.source
    return isinstance(source, DataLoader) and not isinstance(source.dataset, IterableDataset)
