"""The labels of a set that are known without reading its items."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from minilearner.data.loader import Loader

__all__ = ["find_labels"]


def find_labels(loader: Loader) -> Tensor | None:
    """Returns the labels of all items on the CPU. None if the items would have to be read for them."""
    known = getattr(loader, "y", None)
    if not isinstance(known, Tensor):
        pieces = [y for _, y in loader.data_in_memory()]
        known = torch.cat(pieces) if pieces and all(isinstance(y, Tensor) for y in pieces) else None
    if known is None:
        known = _read_targets(getattr(loader, "source", None))
    return None if known is None else known.detach().cpu()


def _read_targets(source: Any) -> Tensor | None:
    """Returns the `targets` that torchvision's datasets list, for the items that a torch loader serves."""
    whole: Any = source.dataset if isinstance(source, DataLoader) else None
    indices = None
    if isinstance(whole, Subset):
        whole, indices = whole.dataset, whole.indices
    targets = getattr(whole, "targets", None)
    if targets is None or getattr(whole, "target_transform", None) is not None:
        return None
    try:
        listed = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        return None
    if listed.ndim != 1 or len(listed) != len(whole):
        return None
    return listed if indices is None else listed[torch.as_tensor(indices)]
