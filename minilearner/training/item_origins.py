"""Finds out where the items of a loader come from, as `results.origins` keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Subset

from minilearner.data.item_dataset import ItemDataset
from minilearner.results.origins import Origins

__all__ = ["origins_of"]


def origins_of(loader: Any) -> Origins | None:
    """Returns the files of a loader's items in the order of the data, and the columns of their table.

    A torch dataset lists its files in `samples` or `imgs`, as pairs (path, class), as torchvision's have. Returns None
    for arrays in memory, and for loaders of unknown items.
    """
    dataset = getattr(loader, "dataset", None) or getattr(getattr(loader, "source", None), "dataset", None)
    if isinstance(dataset, ItemDataset):
        return Origins(dataset.items, dataset.columns())
    paths = _paths_of(dataset)
    return None if paths is None else Origins(paths)


def _paths_of(dataset: Any) -> list[Any] | None:
    if isinstance(dataset, Subset):
        paths = _paths_of(dataset.dataset)
        return None if paths is None else [paths[i] for i in dataset.indices]
    samples = getattr(dataset, "samples", None) or getattr(dataset, "imgs", None)
    if not isinstance(samples, Sequence) or not all(isinstance(pair, tuple) and pair for pair in samples):
        return None
    return [pair[0] for pair in samples] if len(samples) == len(dataset) else None
