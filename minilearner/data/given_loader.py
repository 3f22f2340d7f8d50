"""What people give in place of our loaders: torch's datasets and loaders, and lists of batches, checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from minilearner.data.foreign_loader import ForeignLoader, from_dataset
from minilearner.data.item_loader import ItemLoader
from minilearner.data.loader import Loader
from minilearner.data.memory_loader import MemoryLoader
from minilearner.errors import DataError, plural

__all__ = ["ListedItems", "as_loader", "is_dataset", "length_of"]


def as_loader(source: Any, split: str, *, bs: int, seed: int, device: torch.device) -> Loader:
    """Returns a loader of ours for a source, whose batches arrive on the device.

    Args:
        source: a loader, a map-style dataset, or a re-iterable with a length that yields batches.
        split: what errors call it: "train", "valid" or "test". Training shuffles a dataset.
        bs: items per batch of a dataset.
        seed: decides the shuffles of a dataset.
        device: where batches arrive.

    Raises:
        TypeError: it is none of these, or can be read only once.
        DataError: it has no batches.
    """
    if isinstance(source, (MemoryLoader, ItemLoader, ForeignLoader)):
        _check_batches(source, split)
        return source.to(device)
    if is_dataset(source):
        source = from_dataset(source, bs=bs, seed=seed, training=split == "train")
    _check_iterable(source, split)
    _check_batches(source, split)
    return ForeignLoader(source, device=device)


def is_dataset(source: Any) -> bool:
    """Whether it is a torch dataset with items by position."""
    return isinstance(source, Dataset) and not isinstance(source, IterableDataset)


def length_of(dataset: Any) -> int | None:
    """Returns the length of a dataset; None if it has none."""
    return len(dataset) if hasattr(dataset, "__len__") else None


class ListedItems(Dataset[Any]):
    """A list of items as a dataset."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


def _check_iterable(source: Any, split: str) -> None:
    need = f"`{split}` must be a loader, a torch dataset, or a re-iterable with a length that yields (x, y)."
    if isinstance(source, (Tensor, np.ndarray)) or (
        isinstance(source, (tuple, list)) and source and isinstance(source[0], (Tensor, np.ndarray))
    ):
        raise TypeError(f"{need} Received: arrays. Use DataLoaders.from_arrays((x, y), (valid_x, valid_y)).")
    if isinstance(source, Iterator):
        raise TypeError(
            f"{need} Received: a {type(source).__name__}, which can be read only once. Pass the object that it was "
            "made from, or list(...) of it."
        )
    if not isinstance(source, Iterable):
        raise TypeError(f"{need} Received: a {type(source).__name__}, which cannot be iterated.")
    try:
        len(source)  # type: ignore[arg-type]
    except TypeError as e:
        raise TypeError(
            f"{need} Received: a {type(source).__name__} without a length, which schedules and progress need. Define "
            "`__len__` as the number of batches."
        ) from e


def _check_batches(source: Any, split: str) -> None:
    if len(source) > 0:
        return
    inner = getattr(source, "source", source)
    bs = getattr(inner, "bs", None) or getattr(inner, "batch_size", None)
    n = inner.n_items if isinstance(inner, (MemoryLoader, ItemLoader)) else length_of(getattr(inner, "dataset", None))
    raise DataError(
        f"`{split}` has no batches: {'an unknown number of items' if n is None else plural(n, 'item')} with bs={bs}, "
        "and a short last "
        f"batch is dropped. Lower `bs`, add items, or keep the short batch with drop_last=False."
        if n
        else f"`{split}` is empty: it has no items and no batches. Give it at least one."
    )
