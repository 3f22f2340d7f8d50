"""Iterators over a loader for loops that ask for the next batch, with one place to take a batch apart.

Names and behaviour are torch-lr-finder's, so that classes derived from its own work here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Dataset, IterableDataset

__all__ = ["DataLoaderIter", "TrainDataLoaderIter", "ValDataLoaderIter"]


class DataLoaderIter:
    """One pass over a loader, as `(inputs, labels)`.

    Args:
        data_loader: a torch `DataLoader`, or any other re-iterable of batches.

    Raises:
        ValueError: `data_loader` yields no batches, for it is a dataset, or cannot be iterated.
    """

    def __init__(self, data_loader: Any) -> None:
        is_items = isinstance(data_loader, Dataset) and not isinstance(data_loader, IterableDataset)
        if is_items or not hasattr(data_loader, "__iter__"):
            raise ValueError(
                "`data_loader` must yield batches, as a torch DataLoader does. "
                f"Received: a {type(data_loader).__name__}. Wrap a dataset in a DataLoader."
            )
        self.data_loader = data_loader
        self._iterator: Iterator[Any] = iter(data_loader)

    @property
    def dataset(self) -> Any:
        """The loader's data set."""
        return self.data_loader.dataset

    def inputs_labels_from_batch(self, batch_data: Any) -> tuple[Any, Any]:
        """Takes a batch apart: its first two parts. Override this for batches of another form, such as dictionaries::

            class Batches(TrainDataLoaderIter):
                def inputs_labels_from_batch(self, batch_data):
                    return batch_data["image"], batch_data["label"]

        Raises:
            ValueError: the batch is no list or tuple of at least two parts.
        """
        if not isinstance(batch_data, (list, tuple)) or len(batch_data) < 2:
            keys = f" with keys {list(batch_data)}" if isinstance(batch_data, dict) else ""
            raise ValueError(
                "A batch must be a tuple or list (inputs, labels, ...). "
                f"Received: a {type(batch_data).__name__}{keys}. Derive a class from `TrainDataLoaderIter` or "
                "`ValDataLoaderIter` whose `inputs_labels_from_batch` returns the two, and pass that over your loader."
            )
        return batch_data[0], batch_data[1]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self

    def __next__(self) -> tuple[Any, Any]:
        return self.inputs_labels_from_batch(next(self._iterator))


class TrainDataLoaderIter(DataLoaderIter):
    """Training batches without end: the loader begins anew when it ends, unless ``auto_reset=False``."""

    def __init__(self, data_loader: Any, auto_reset: bool = True) -> None:
        super().__init__(data_loader)
        self.auto_reset = auto_reset

    def __next__(self) -> tuple[Any, Any]:
        try:
            batch = next(self._iterator)
        except StopIteration:
            if not self.auto_reset:
                raise
            self._iterator = iter(self.data_loader)
            batch = next(self._iterator)
        return self.inputs_labels_from_batch(batch)


class ValDataLoaderIter(DataLoaderIter):
    """Validation batches: each new `for` goes over all of them once more."""

    def __init__(self, data_loader: Any) -> None:
        super().__init__(data_loader)
        self.run_limit = len(data_loader)
        self.run_counter = 0

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        if self.run_counter >= self.run_limit:
            self._iterator = iter(self.data_loader)
            self.run_counter = 0
        return self

    def __next__(self) -> tuple[Any, Any]:
        self.run_counter += 1
        return super().__next__()
