"""Items that are read one by one: a path becomes a picture, and a picture a uint8 tensor.

What an item's label is was decided when the loaders were built; here are inputs only.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from minilearner.data.item_transforms import ItemPipeline
from minilearner.runtime import derived_seed
from minilearner.tree import Tree

__all__ = ["ItemDataset", "as_tensor"]


class ItemDataset(Dataset[Tree]):
    """Inputs by position, read when asked for.

    Args:
        items: what `read` takes: paths, rows, pictures.
        read: item -> PIL picture, tensor or array, or a tuple of them where a model takes several inputs. It must
            pickle where loader workers are started by spawn.
        item_tfms: run on every part of what `read` gives.
        seed: item transforms in training draw from (seed, epoch, position) and nothing else.
    """

    def __init__(
        self, items: Sequence[Any], read: Callable[[Any], Any], item_tfms: ItemPipeline | None = None, *, seed: int = 0
    ) -> None:
        self.items, self.read, self.seed = items, read, seed
        self.item_tfms = ItemPipeline() if item_tfms is None else item_tfms

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int | None]) -> Tree:
        """Returns the input at (position, epoch) as a tensor (channels, height, width); epoch None is validation."""
        position, epoch = key
        raw = self.read(self.items[position])
        if isinstance(raw, tuple):
            return tuple(self._finished(part, position, epoch) for part in raw)
        return self._finished(raw, position, epoch)

    def _finished(self, raw: Any, position: int, epoch: int | None) -> Tensor:
        rng = None if epoch is None else random.Random(derived_seed(self.seed, "item", epoch, position))
        return as_tensor(self.item_tfms(raw, rng))


def as_tensor(item: Any) -> Tensor:
    """Returns a PIL picture as uint8 (channels, height, width); tensors and arrays as they are."""
    if isinstance(item, Tensor):
        return item
    array = np.asarray(item)
    if hasattr(item, "getbands"):  # a PIL picture, whose channels come last
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(array))
