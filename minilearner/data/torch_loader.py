"""`DataLoader`: torch's, with the arguments of fastai's."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset

from minilearner.checks import check_count
from minilearner.keywords import suggest_keywords

__all__ = ["DataLoader"]


@suggest_keywords
class DataLoader(torch.utils.data.DataLoader[Any]):
    """Torch's `DataLoader`, which also takes fastai's `bs`, and lists.

    >>> pairs = [(torch.zeros(2), torch.tensor(0)), (torch.ones(2), torch.tensor(1))]
    >>> x, y = DataLoader(pairs, bs=2).one_batch()

    Args:
        dataset: anything with a length and items by position, such as a list of pairs ``(x, y)``.
        bs: items per batch. None takes each item as a batch, as in fastai; torch's default is 1.
        batch_size: torch's name for `bs`.
        options: as for torch's, such as `shuffle`, `num_workers` and `drop_last`.

    Raises:
        ValueError: both `bs` and `batch_size` are given.
    """

    def __init__(
        self, dataset: Dataset[Any] | Any, bs: int | None = None, *, batch_size: int | None = None, **options: Any
    ) -> None:
        if bs is not None and batch_size is not None:
            raise ValueError(f"Give `bs` or `batch_size`, not both. Received: bs={bs}, batch_size={batch_size}.")
        for name, n in (("bs", bs), ("batch_size", batch_size)):
            if n is not None:
                check_count(n, name)
        size = bs if batch_size is None else batch_size
        if "batch_sampler" in options and size is None:
            size = 1  # torch's word for: the batch sampler decides
        super().__init__(dataset, batch_size=None if size is None else int(size), **options)

    def one_batch(self) -> Any:
        """Returns the first batch of a pass that begins now."""
        return next(iter(self))
