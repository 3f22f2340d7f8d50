"""Batches of items that are read from files: decoded by worker processes, finished as whole batches on the device.

In which order, from where, and when: what one item is, is `dataset`'s business, and what a worker is, `workers`'.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from minilearner.checks import check_count
from minilearner.data.batch_transforms import (
    BatchTransform,
    Pipeline,
    TensorFunction,
    Transforms,
    in_unit_range,
    run_steps,
)
from minilearner.data.item_dataset import Fetched, ItemDataset, Key
from minilearner.data.item_transforms import ItemPipeline, ItemTransforms
from minilearner.data.share import WHOLE, Share
from minilearner.data.workers import Workers, default_num_workers
from minilearner.errors import DataError
from minilearner.runtime import derived_generator, resolve_device
from minilearner.tree import Tree, digest, map_tensors

__all__ = ["ItemLoader"]


class ItemLoader:
    """Serves an `ItemDataset` in batches ``(x, y)`` on the device.

    Every random choice is derived, as in `MemoryLoader`: the order from (seed, epoch), item transforms from (seed,
    epoch, position), batch transforms from (seed, epoch, batch). So the number of workers changes no bit.

    Args:
        dataset: the inputs.
        y: (items, ...) encoded targets, or None for items without labels; then batches are ``(x, None)``.
        bs: items a batch.
        shuffle: a new order for every pass; without it the order of the dataset.
        drop_last: leave out the last batch of a pass when it is short.
        seed: see above.
        batch_tfms: see `transforms.Pipeline`.
        training: whether random item transforms and augmentation run.
        device: where batches arrive; the default device when None.
        num_workers: processes that read ahead, started at the first pass and kept; 0 reads in this one, in as many
            threads as torch computes in, where the dataset can. None is 0 there if the device is the CPU and they are
            several, for then it has no time to read ahead; 0 for two batches or less; else
            `workers.default_num_workers`. Once the dataset's cache is full, but for what a pass leaves out by
            `drop_last`, and only cutting is left to do, batches are copied out of it here and the workers are let go.
        start_method: how they are started; see `workers.Workers`.

    Raises:
        ValueError: `bs` is less than 1, or `num_workers` is negative.
        DataError: the dataset and `y` differ in length.
    """

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
    ) -> None:
        check_count(bs, "bs")
        if num_workers is not None:
            check_count(num_workers, "num_workers", least=0)
        if y is not None and len(dataset) != len(y):
            raise DataError(f"`dataset` and `y` must have the same length. Received: {len(dataset)} and {len(y)}.")
        self.dataset, self.bs, self.shuffle, self.drop_last = dataset, bs, shuffle, drop_last
        self.seed, self.training = seed, training
        self._num_workers, self.start_method = num_workers, start_method
        self.device = resolve_device(device)
        self.y = None if y is None else y.to(self.device)
        self.batch_tfms = batch_tfms if isinstance(batch_tfms, Pipeline) else Pipeline(batch_tfms)
        self.epoch = 0
        """The number of the next pass, from 0; counted up when a pass starts."""
        self.share: Share = WHOLE
        """What of each pass this process reads."""
        self._workers: Workers | None = None

    @property
    def num_workers(self) -> int:
        """How many processes read ahead."""
        if self._num_workers is not None:
            return self._num_workers
        threads_read = self.device.type == "cpu" and self.dataset.in_threads and torch.get_num_threads() > 1
        return 0 if len(self) <= 2 or threads_read else default_num_workers(self.device)

    @property
    def n_items(self) -> int:
        """How many items `in_order` gives."""
        return len(self.dataset)

    def __len__(self) -> int:
        """The number of batches in a pass."""
        return self.share.n_batches(len(self.dataset), self.bs, drop_last=self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tree, Tensor | None]]:
        return self.iterate()

    def iterate(self, start_batch: int = 0) -> Iterator[tuple[Tree, Tensor | None]]:
        """Starts a pass at a batch; what comes before it is not read.

        Raises:
            ValueError: there is no such batch.
        """
        if not 0 <= start_batch <= len(self):
            raise ValueError(f"`start_batch` must be between 0 and {len(self)}. Received: start_batch={start_batch}.")
        epoch, self.epoch = self.epoch, self.epoch + 1
        return self._batches(epoch, start_batch)

    def one_batch(self) -> tuple[Tree, Tensor | None]:
        """Returns the first batch of the next pass, read in this process; nothing moves by it.

        Raises:
            DataError: there is no batch, or an item of it cannot be read.
        """
        if not len(self):
            raise DataError(f"There is no batch: {self.n_items} items with bs={self.bs}, drop_last={self.drop_last}.")
        indices = self.indices(self.epoch)[: self.bs]
        return self._delivered(self.dataset.fetch(self._keys(indices, self.epoch)).x, indices, self.epoch, 0)

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Tree, Tensor | None]]:
        self.dataset.open_store()
        order = self.indices(epoch)
        pieces = list(self.share.pieces(len(order), self.bs, drop_last=self.drop_last, start=start))
        chosen = [order[first:stop] if first < stop else order[:1] for _, first, stop in pieces]
        read = self._read([self._keys(indices, epoch) for indices in chosen])
        for (b, first, stop), indices, fetched in zip(pieces, chosen, read, strict=True):
            self.dataset.keep(fetched.fresh)
            batch = self._delivered(fetched.x, indices, epoch, b)
            # Another process has the last items: what was read instead gave the batch its form.
            yield batch if first < stop else map_tensors(lambda t: t[:0], batch)

    def _keys(self, indices: Tensor, epoch: int) -> list[Key]:
        return [(i, epoch if self.training else None) for i in indices.tolist()]

    def _read(self, batches: list[list[Key]]) -> Iterator[Fetched]:
        n_left_out = len(self.dataset) % self.bs if self.drop_last else 0
        if self.num_workers == 0 or self.dataset.is_at_hand(n_left_out):
            self._workers = None
            return map(self.dataset.fetch, batches)
        if self._workers is None:
            self._workers = self._new_workers()
        # Two passes at a time, as in zip(loader, loader), each need workers of their own.
        return (self._new_workers() if self._workers.is_busy else self._workers).read(batches)

    def _new_workers(self) -> Workers:
        pin = self.device.type == "cuda"
        return Workers(self.dataset, self.num_workers, start_method=self.start_method, pin_memory=pin)

    def _delivered(self, x: Tree, indices: Tensor, epoch: int, b: int) -> tuple[Tree, Tensor | None]:
        y = None if self.y is None else self.y[indices.to(self.device, non_blocking=True)]
        return self._on_device(x, epoch, b), y

    def indices(self, epoch: int) -> Tensor:
        """Returns the order of a pass: int64 positions in the dataset (items,), on the CPU."""
        if not self.shuffle:
            return torch.arange(self.n_items)
        return torch.randperm(self.n_items, generator=derived_generator(self.seed, "shuffle", epoch))

    def positions_of(self, batch: int) -> list[int]:
        """Returns the positions of a batch's items in the pass begun last."""
        _, first, stop = self.share.piece(batch, self.n_items, self.bs, drop_last=self.drop_last)
        return self.indices(self.epoch - 1)[first:stop].tolist()

    def named(self, position: int) -> str:
        """Returns what an error calls an item."""
        return self.dataset.named(position)

    def items(self, indices: Sequence[int] | Tensor) -> tuple[Tree, Tensor | None]:
        """Returns inputs before any batch transform (uint8 as floats in [0, 1]) and their targets, on the device."""
        positions = [int(i) for i in indices]
        x = self.dataset.fetch([(i, None) for i in positions]).x
        return map_tensors(self._arrived, x), None if self.y is None else self.y[positions]

    def at_hand(self) -> Iterator[tuple[Tree, Tensor | None]]:
        """Gives nothing: files are read when their batch comes."""
        return iter(())

    def in_order(self) -> ItemLoader:
        """Returns a loader of the same items in the dataset's order, every one, with validation transforms only."""
        return self._view(shuffle=False, drop_last=False, training=False, epoch=0, share=WHOLE)

    def shared(self, share: Share) -> ItemLoader:
        """Returns a loader of the same items, standing at the same pass, that reads this share of the batches."""
        return self._view(share=share)

    def picked(self, indices: Sequence[int] | Tensor) -> ItemLoader:
        """Returns a loader of the items at these positions, as one batch, read here as in validation."""
        positions = [int(i) for i in indices]
        items = [self.dataset.items[i] for i in positions]
        y = None if self.y is None else self.y[positions]
        return self.over(items, y)._view(bs=max(len(positions), 1), num_workers=0)

    def augmented(
        self, number: int = 0, *, item_tfms: ItemTransforms = None, batch_tfms: Transforms = None
    ) -> ItemLoader:
        """Returns a loader of the same items in the dataset's order, every one, with the transforms of training.

        Augmentations are derived from (seed, number) and the item's position or the batch's. `item_tfms` stand in for
        the dataset's, `batch_tfms` for the loader's augmentation.

        Raises:
            ValueError: there is neither an item transform nor a batch transform for training.
        """
        dataset = self.dataset
        if item_tfms is not None:
            dataset = dataset.over(dataset.items, ItemPipeline(item_tfms))
        pipeline = self.batch_tfms if batch_tfms is None else self.batch_tfms.with_augmentation(batch_tfms)
        if not (dataset.item_tfms.transforms or pipeline.augments()):
            raise ValueError("there is no augmentation: no item transform, and no batch transform for training only.")
        changes = {"dataset": dataset, "batch_tfms": pipeline, "epoch": -1 - number}  # no epoch of training's
        return self.in_order()._view(training=True, **changes)

    def decode(self, x: Tree) -> Tree:
        """Undoes, for showing, what the batch transforms of validation did to inputs."""
        return map_tensors(self.batch_tfms.decode, x)

    def over(self, items: Sequence[Any], y: Tensor | None = None) -> ItemLoader:
        """Returns a loader over other items, read and transformed as in validation, in order and complete.

        Two batches or less are read in this process: workers would take longer to start.
        """
        view = self.in_order()._view(dataset=self.dataset.over(items), y=None if y is None else y.to(self.device))
        view._num_workers = self._num_workers if len(view) > 2 else 0
        return view

    def with_batch_tfms(self, *transforms: BatchTransform | TensorFunction) -> ItemLoader:
        """Returns a loader that runs further batch transforms after its own."""
        return self._view(batch_tfms=Pipeline((*self.batch_tfms.transforms, *transforms)))

    def to(self, device: torch.device | str) -> ItemLoader:
        """Returns a loader whose batches arrive on `device`; itself when they already do."""
        device = resolve_device(device)
        if device == self.device:
            return self
        return self._view(device=device, y=None if self.y is None else self.y.to(device))

    def fingerprint(self) -> dict[str, Any]:
        """Returns what tells these data from others: files by their name and folder's name, wherever that lies."""
        names = ["/".join(str(item).replace("\\", "/").split("/")[-2:]) for item in self.dataset.items]
        tfms = {"item_tfms": repr(self.dataset.item_tfms), "batch_tfms": repr(self.batch_tfms)}
        return {"data": digest(names, self.y), **tfms}

    def state_dict(self) -> dict[str, int]:
        """Returns what a checkpoint must keep: the seed, and the number of the next pass."""
        return {"seed": self.seed, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on where `state_dict` stood."""
        self.seed, self.epoch = int(state["seed"]), int(state["epoch"])

    def _on_device(self, x: Tree, epoch: int, b: int) -> Tree:
        steps = self.batch_tfms.steps(training=self.training)
        if not steps:
            return map_tensors(self._arrived, x)
        path = ("augment", epoch, b) if self.training else ("validate", b)

        def transformed(t: Tensor) -> Tensor:
            return run_steps(steps, t.to(self.device, non_blocking=True), derived_generator(self.seed, *path))

        return map_tensors(transformed, x)

    def _arrived(self, t: Tensor) -> Tensor:
        return in_unit_range(t.to(self.device, non_blocking=True))

    def _view(self, **changes: object) -> ItemLoader:
        view = copy.copy(self)
        view.__dict__.update(changes, _workers=None)
        return view

    def __repr__(self) -> str:
        return (
            f"ItemLoader({self.n_items} items, bs={self.bs}, {len(self)} batches, shuffle={self.shuffle}, "
            f"drop_last={self.drop_last}, num_workers={self.num_workers}, cache={self.dataset.cache_state}, "
            f"device={self.device})"
        )
