"""Batches of items that are read from files: decoded by worker processes, finished as whole batches on the device.

This module decides in which order, where and when items are read. `item_dataset` owns a single item, and `workers` the
processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from minilearner.checks import check_count
from minilearner.data.batch_transforms import Pipeline, Transforms, in_unit_range, run_steps
from minilearner.data.item_dataset import Fetched, ItemDataset, Key
from minilearner.data.item_transforms import ItemPipeline, ItemTransforms
from minilearner.data.loader import DerivedLoader
from minilearner.data.share import WHOLE
from minilearner.data.workers import Workers, default_num_workers
from minilearner.errors import DataError, plural
from minilearner.lists import L
from minilearner.tree import Tree, digest, map_tensors

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ItemLoader"]


class ReadableItems(L[Any]):
    """The items of a loader, such as paths: a list that can also be called with positions, to read items there.

    Args:
        items: the list.
        read: positions -> (x, y).
    """

    def __init__(self, items: Sequence[Any], read: Callable[[Sequence[int] | Tensor], tuple[Tree, Any]]) -> None:
        super().__init__(items)
        self._read = read

    def __call__(self, indices: Sequence[int] | Tensor) -> tuple[Tree, Any]:
        """Returns the items at these positions as one batch on the device, before batch transforms."""
        return self._read(indices)


_REPEAT = 2**32  # an item's second turn in a pass counts as a pass that training never reaches


class ItemLoader(DerivedLoader):
    """Serves an `ItemDataset` in batches ``(x, y)`` on the device.

    The order follows from (seed, epoch), item transforms from (seed, epoch, position), and batch transforms from
    (seed, epoch, batch). So the number of workers changes no bit.

    Args:
        dataset: the inputs.
        y: (items, ...) encoded targets, or None for items without labels; then batches are ``(x, None)``.
        bs: items per batch.
        shuffle: a new order for every pass; without it, the order of the dataset.
        drop_last: leave out the last batch of a pass if it is short.
        seed: see above.
        batch_tfms: see `batch_transforms.Pipeline`.
        training: whether random item transforms and augmentation run.
        device: where batches arrive; the default device when None.
        num_workers: number of processes that read ahead. They start at the first pass and stay. 0 reads in this
            process, in as many threads as torch uses, if the dataset can. None chooses: 0 for two batches or fewer, 0
            if threads read on a CPU that also trains, else `workers.default_num_workers`. The workers stop once the
            cache holds all that a pass reads and only a crop is left to do.
        start_method: how workers start; see `workers.Workers`.
        weights: (items,) how often each item is drawn, in proportion; see `DerivedLoader`. An item that comes several
            times in a pass has other item transforms each time.

    Raises:
        ValueError: `bs` is less than 1, `num_workers` is negative, or there are weights without `shuffle`.
        DataError: the dataset and `y` or the weights differ in length.
    """

    tensors_on_device = ("y",)
    dataset: ItemDataset
    _more_changes: ClassVar[dict[str, str]] = {"num_workers": "_num_workers"}

    def __init__(
        self,
        dataset: ItemDataset,
        y: Tensor | None = None,
        *,
        bs: int = 64,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        batch_tfms: Transforms | Pipeline = None,
        training: bool = False,
        device: torch.device | str | None = None,
        num_workers: int | None = None,
        start_method: str | None = None,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__(
            bs=bs,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
            training=training,
            device=device,
            batch_tfms=batch_tfms,
            weights=weights,
        )
        if num_workers is not None:
            check_count(num_workers, "num_workers", least=0)
        if y is not None and len(dataset) != len(y):
            raise DataError(f"`dataset` and `y` must have the same length. Received: {len(dataset)} and {len(y)}.")
        if weights is not None and len(dataset) != len(weights):
            raise DataError(
                f"`weights` must have one number for each of {plural(len(dataset), 'item')}. Received: {len(weights)}."
            )
        self.dataset = dataset
        self.y = None if y is None else y.to(self.device)
        self._num_workers, self.start_method = num_workers, start_method
        self._workers: Workers | None = None

    @property
    def num_workers(self) -> int:
        """The number of processes that read ahead."""
        if self._num_workers is not None:
            return self._num_workers
        threads_read = self.device.type == "cpu" and self.dataset.in_threads and torch.get_num_threads() > 1
        return 0 if len(self) <= 2 or threads_read else default_num_workers(self.device)

    @property
    def n_items(self) -> int:
        """The number of items in the dataset, including those of a short batch that is dropped."""
        return len(self.dataset)

    def first_batch(self) -> tuple[Tree, Tensor | None]:
        """Returns the first batch of the next pass, read in this process; nothing changes.

        Raises:
            DataError: there is no batch, or an item of it cannot be read.
        """
        if not len(self.take_share(WHOLE)):
            raise DataError(
                f"There is no batch: {plural(self.n_items, 'item')} with bs={self.bs}, drop_last={self.drop_last}."
            )
        order = self.indices(self.epoch)
        indices = order[: self.bs]
        keys = self._keys(order, self.epoch)[: self.bs]
        return self._finish(self.dataset.fetch(keys).x, indices, self.epoch, 0)

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Tree, Tensor | None]]:
        self.dataset.open_store()
        order = self.indices(epoch)
        keys = self._keys(order, epoch)
        pieces = list(self.share.pieces(len(order), self.bs, drop_last=self.drop_last, start=start))
        parts = [slice(first, stop) if first < stop else slice(1) for _, first, stop in pieces]
        chosen = [order[part] for part in parts]
        read = self._read([keys[part] for part in parts])
        for (b, first, stop), indices, fetched in zip(pieces, chosen, read, strict=True):
            self.dataset.keep(fetched.fresh)
            batch = self._finish(fetched.x, indices, epoch, b)
            # Another process has the last items. One item gives the empty batch its shape.
            yield batch if first < stop else map_tensors(lambda t: t[:0], batch)

    def _keys(self, order: Tensor, epoch: int) -> list[Key]:
        """Returns what decides the item transforms at each place in the order of a pass."""
        positions: list[int] = order.tolist()
        if not self.training:
            return [(i, None) for i in positions]
        if self.weights is None:
            return [(i, epoch) for i in positions]
        repeats: Counter[int] = Counter()
        keys: list[Key] = []
        for i in positions:
            keys.append((i, epoch + repeats[i] * _REPEAT))
            repeats[i] += 1
        return keys

    def _read(self, batches: list[list[Key]]) -> Iterator[Fetched]:
        n_left_out = len(self.dataset) % self.bs if self.drop_last else 0
        if self.num_workers == 0 or self.dataset.is_cached(n_left_out):
            self._workers = None
            return map(self.dataset.fetch, batches)
        if self._workers is None:
            self._workers = self._start_workers()
        # Two passes at a time, as in zip(loader, loader), each need workers of their own.
        return (self._start_workers() if self._workers.is_busy else self._workers).read(batches)

    def _start_workers(self) -> Workers:
        pin = self.device.type == "cuda"
        return Workers(self.dataset, self.num_workers, start_method=self.start_method, pin_memory=pin)

    def _finish(self, x: Tree, indices: Tensor, epoch: int, b: int) -> tuple[Tree, Tensor | None]:
        """Returns the batch of inputs that were read: on the device, transformed, with its targets."""
        y = None if self.y is None else self.y[indices.to(self.device, non_blocking=True)]
        steps = self.batch_tfms.steps(training=self.training)
        if not steps:
            return map_tensors(self._move, x), y

        def transform(t: Tensor) -> Tensor:
            return run_steps(steps, t.to(self.device, non_blocking=True), self._generator(epoch, b))

        return map_tensors(transform, x), y

    def _move(self, t: Tensor) -> Tensor:
        return in_unit_range(t.to(self.device, non_blocking=True))

    def name_item(self, position: int) -> str:
        """Returns how an error names an item: by its number and its file."""
        return self.dataset.name_item(position)

    @property
    def items(self) -> ReadableItems:
        """What the items are read from, as a list; called with positions, it reads the items there.

        ``loader.items([0, 5])`` returns inputs before any batch transform (uint8 as floats in [0, 1]) and their
        targets, on the device.
        """
        return ReadableItems(self.dataset.items, self._read_items)

    def _read_items(self, indices: Sequence[int] | Tensor) -> tuple[Tree, Tensor | None]:
        positions = [int(i) for i in indices]
        x = self.dataset.fetch([(i, None) for i in positions]).x
        return map_tensors(self._move, x), None if self.y is None else self.y[positions]

    def pick(self, indices: Sequence[int] | Tensor) -> Self:
        """Returns a loader of the items at these positions, as one batch, read in this process as in validation."""
        positions = [int(i) for i in indices]
        items = [self.dataset.items[i] for i in positions]
        y = None if self.y is None else self.y[positions]
        return self.over(items, y)._copy_with(bs=max(len(positions), 1), _num_workers=0)

    def augment(self, number: int = 0, *, item_tfms: ItemTransforms = None, batch_tfms: Transforms = None) -> Self:
        """Returns a loader of every item, in the dataset's order, with the transforms of training.

        Augmentations follow from (seed, number) and the position of the item or the batch. `item_tfms` replace the
        dataset's, and `batch_tfms` the loader's augmentation.

        Raises:
            ValueError: there is neither an item transform nor a batch transform for training.
        """
        dataset = self.dataset
        if item_tfms is not None:
            dataset = dataset.over(dataset.items, ItemPipeline(item_tfms))
        pipeline = self.batch_tfms if batch_tfms is None else self.batch_tfms.with_augmentation(batch_tfms)
        if not (dataset.item_tfms.transforms or pipeline.augments()):
            raise ValueError("there is no augmentation: no item transform, and no batch transform for training only.")
        return self._augment_with(number, pipeline, dataset=dataset)

    def over(self, items: Sequence[Any], y: Tensor | None = None) -> Self:
        """Returns a loader of other items: every one, in order, read and transformed as in validation.

        Two batches or fewer are read in this process, because workers would take longer to start.
        """
        other = self.in_order()._copy_with(dataset=self.dataset.over(items), y=None if y is None else y.to(self.device))
        other._num_workers = self._num_workers if len(other) > 2 else 0
        return other

    def _copy_with(self, **changes: object) -> Self:
        return super()._copy_with(**changes, _workers=None)

    def fingerprint(self) -> dict[str, Any]:
        """Returns numbers and words that differ if the data differ. Files count by their names and folders' names."""
        names = ["/".join(str(item).replace("\\", "/").split("/")[-2:]) for item in self.dataset.items]
        tfms = {"item_tfms": repr(self.dataset.item_tfms), "batch_tfms": repr(self.batch_tfms)}
        weights = {} if self.weights is None else {"weights": digest(self.weights)}
        data = {"data": digest(names, self.y), "files": digest(names), "labels": digest(self.y)}
        return {**data, **tfms, **weights}

    def __repr__(self) -> str:
        return (
            f"ItemLoader({plural(self.n_items, 'item')}, bs={self.bs}, {plural(len(self), 'batch')}, "
            f"shuffle={self.shuffle}, "
            f"drop_last={self.drop_last}, num_workers={self.num_workers}, cache={self.dataset.cache_state}, "
            f"device={self.device})"
        )
