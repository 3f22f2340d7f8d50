"""Batches of items that are read from files: decoded by worker processes, finished as whole batches on the device."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from minilearner.data.dataset import ItemDataset
from minilearner.data.memory import resolve_device
from minilearner.data.transforms import BatchTransform, Pipeline, TensorFunction, Transforms
from minilearner.errors import DataError
from minilearner.runtime import derived_generator
from minilearner.tree import Tree, map_tensors

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
        num_workers: processes that read ahead; 0 reads in this one.

    Raises:
        ValueError: `bs` is less than 1.
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
        num_workers: int = 0,
    ) -> None:
        if bs < 1:
            raise ValueError(f"`bs` must be at least 1. Received: bs={bs}.")
        if y is not None and len(dataset) != len(y):
            raise DataError(f"`dataset` and `y` must have the same length. Received: {len(dataset)} and {len(y)}.")
        self.dataset, self.bs, self.shuffle, self.drop_last = dataset, bs, shuffle, drop_last
        self.seed, self.training, self.num_workers = seed, training, num_workers
        self.device = resolve_device(device)
        self.y = None if y is None else y.to(self.device)
        self.batch_tfms = batch_tfms if isinstance(batch_tfms, Pipeline) else Pipeline(batch_tfms)
        self.epoch = 0
        """The number of the next pass, from 0; counted up when a pass starts."""
        self._plan = _Plan()
        self._source: DataLoader[Any] | None = None

    @property
    def n_items(self) -> int:
        """How many items `in_order` gives."""
        return len(self.dataset)

    def __len__(self) -> int:
        """The number of batches in a pass."""
        return len(self.dataset) // self.bs if self.drop_last else -(-len(self.dataset) // self.bs)

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

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Tree, Tensor | None]]:
        order = self.indices(epoch)
        chosen = [order[b * self.bs : (b + 1) * self.bs] for b in range(start, len(self))]
        self._plan.batches = [[(int(i), epoch if self.training else None) for i in indices] for indices in chosen]
        for b, (indices, x) in enumerate(zip(chosen, self._read(), strict=True), start):
            yield self._on_device(x, epoch, b), None if self.y is None else self.y[indices.to(self.device)]

    def indices(self, epoch: int) -> Tensor:
        """Returns the order of a pass: int64 positions in the dataset (items,), on the CPU."""
        if not self.shuffle:
            return torch.arange(self.n_items)
        return torch.randperm(self.n_items, generator=derived_generator(self.seed, "shuffle", epoch))

    def items(self, indices: Sequence[int] | Tensor) -> tuple[Tree, Tensor | None]:
        """Returns inputs before any batch transform (uint8 as floats in [0, 1]) and their targets, on the device."""
        positions = [int(i) for i in indices]
        x = _stacked([self.dataset[i, None] for i in positions])
        return map_tensors(self._arrived, x), None if self.y is None else self.y[positions]

    def at_hand(self) -> Iterator[tuple[Tree, Tensor | None]]:
        """Gives nothing: files are read when their batch comes."""
        return iter(())

    def in_order(self) -> ItemLoader:
        """Returns a loader of the same items in the dataset's order, every one, with validation transforms only."""
        return self._view(shuffle=False, drop_last=False, training=False, epoch=0)

    def over(self, items: Sequence[Any], y: Tensor | None = None) -> ItemLoader:
        """Returns a loader over other items, read and transformed as in validation, in order and complete."""
        dataset = copy.copy(self.dataset)
        dataset.items = items
        return self.in_order()._view(dataset=dataset, y=None if y is None else y.to(self.device), num_workers=0)

    def with_batch_tfms(self, *transforms: BatchTransform | TensorFunction) -> ItemLoader:
        """Returns a loader that runs further batch transforms after its own."""
        return self._view(batch_tfms=Pipeline((*self.batch_tfms.transforms, *transforms)))

    def to(self, device: torch.device | str) -> ItemLoader:
        """Returns a loader whose batches arrive on `device`; itself when they already do."""
        device = resolve_device(device)
        if device == self.device:
            return self
        return self._view(device=device, y=None if self.y is None else self.y.to(device))

    def state_dict(self) -> dict[str, int]:
        """Returns what a checkpoint must keep: the seed, and the number of the next pass."""
        return {"seed": self.seed, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on where `state_dict` stood."""
        self.seed, self.epoch = int(state["seed"]), int(state["epoch"])

    def _read(self) -> Iterator[Tree]:
        if self._source is None:
            self._source = DataLoader(
                self.dataset,
                batch_sampler=self._plan,
                collate_fn=_stacked,
                num_workers=self.num_workers,
                persistent_workers=self.num_workers > 0,
                pin_memory=self.device.type == "cuda",
                generator=torch.Generator().manual_seed(0),  # without one, torch draws from the global generator
            )
        return iter(self._source)

    def _on_device(self, x: Tree, epoch: int, b: int) -> Tree:
        x = map_tensors(self._arrived, x)
        steps = self.batch_tfms.steps(training=self.training)
        if not steps:
            return x
        path = ("augment", epoch, b) if self.training else ("validate", b)

        def transformed(t: Tensor) -> Tensor:
            rng = derived_generator(self.seed, *path)
            for step in steps:
                t = step(t, rng)
            return t

        return map_tensors(transformed, x)

    def _arrived(self, t: Tensor) -> Tensor:
        t = t.to(self.device, non_blocking=True)
        return t.float().div_(255) if t.dtype == torch.uint8 else t

    def _view(self, **changes: object) -> ItemLoader:
        view = copy.copy(self)
        view.__dict__.update(changes, _plan=_Plan(), _source=None)
        return view

    def __repr__(self) -> str:
        return (
            f"ItemLoader({self.n_items} items, bs={self.bs}, {len(self)} batches, shuffle={self.shuffle}, "
            f"drop_last={self.drop_last}, num_workers={self.num_workers}, device={self.device})"
        )


class _Plan(Sampler[list[tuple[int, int | None]]]):
    """The batches of the pass that is about to start, as keys of the dataset."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int | None]]] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int | None]]]:
        return iter(self.batches)


def _stacked(inputs: list[Tree]) -> Tree:
    """Makes a batch of single inputs: (batch, ...), in a tuple where a model takes several."""
    if isinstance(inputs[0], tuple):
        return tuple(_stacked(list(part)) for part in zip(*inputs, strict=True))
    return torch.stack(inputs)
