"""Finds out where the items of a loader come from, as `results.origins` keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader, SequentialSampler, Subset

from minilearner.data.foreign_loader import ForeignLoader
from minilearner.data.item_loader import ItemLoader
from minilearner.data.share import ListSampler
from minilearner.results.origins import Origins

__all__ = ["origins_of"]


def origins_of(loader: Any) -> Origins | None:
    """Returns the files of the items that a loader serves in order, and the columns of their table.

    A torch dataset lists its files in `samples` or `imgs`, as pairs (path, class), as torchvision's have. Returns None
    for arrays in memory, and for loaders of unknown items or in an unknown order.
    """
    if isinstance(loader, ItemLoader):
        return Origins(loader.dataset.items, loader.dataset.columns())
    if not isinstance(loader, ForeignLoader) or not isinstance(loader.source, DataLoader):
        return None
    paths, sampler = _paths_of(loader.source.dataset), loader.source.sampler
    if paths is None or loader.source.batch_size is None or not isinstance(sampler, (SequentialSampler, ListSampler)):
        return None
    return Origins([paths[i] for i in sampler])


def _paths_of(dataset: Any) -> list[Any] | None:
    if isinstance(dataset, Subset):
        paths = _paths_of(dataset.dataset)
        return None if paths is None else [paths[i] for i in dataset.indices]
    samples = getattr(dataset, "samples", None) or getattr(dataset, "imgs", None)
    if not isinstance(samples, Sequence) or not all(isinstance(pair, tuple) and pair for pair in samples):
        return None
    return [pair[0] for pair in samples] if len(samples) == len(dataset) else None
