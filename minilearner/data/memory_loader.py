"""Arrays in memory, served batch by batch through a list of indices: no workers, no copies of single items.

uint8 stays uint8 in store, a quarter of the memory of floats; a batch becomes float on the device. Checking what users
bring in is `arrays`' and `loaders`' business.
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
    run_isolated,
    run_steps,
)
from minilearner.data.share import WHOLE, Share
from minilearner.data.user_transforms import as_list
from minilearner.errors import DataError
from minilearner.runtime import derived_generator, derived_seed, resolve_device
from minilearner.tree import Tree, digest, map_tensors

__all__ = ["MemoryLoader"]


class MemoryLoader:
    """Serves stored tensors in batches ``(x, y)`` on the device.

    Every random choice is derived, never drawn from a global generator: the order of pass number `epoch` from (seed,
    epoch), the augmentation of batch b from (seed, epoch, b). So a pass repeats whatever else a program draws, and a
    resumed run starts in the middle of one. Validation transforms are derived from (seed, b) alone: every pass over a
    validation set sees the same pictures.

    Args:
        x: (items, ...). uint8 arrives as float32 in [0, 1], bit-equal to ``x.float() / 255``; any float arrives as
            float32; other integers, such as token ids, arrive as they are.
        y: (items, ...), or None for items without labels; then batches are ``(x, None)``. float64 becomes float32.
        bs: items a batch.
        shuffle: a new order for every pass; without it the stored order.
        drop_last: leave out the last batch of a pass when it is short.
        item_tfms: functions of the whole stored tensor (items, ...), applied once, here: a resize, say.
        batch_tfms: see `transforms.Pipeline`.
        training: whether augmentation (transforms that are `train_only`) runs.
        device: where the arrays are kept and batches arrive; the default device when None.

    Raises:
        ValueError: `bs` is less than 1.
        DataError: `x` and `y` differ in length, or an item transform changed the number of items.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        bs: int = 64,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        item_tfms: Transforms = None,
        batch_tfms: Transforms | Pipeline = None,
        training: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        check_count(bs, "bs")
        if y is not None and len(x) != len(y):
            raise DataError(f"`x` and `y` must have the same number of items. Received: {len(x)} and {len(y)}.")
        self.device = resolve_device(device)
        self.item_tfms: list[TensorFunction] = as_list(item_tfms, "item_tfms")
        self.x = _in_store(_applied_once(self.item_tfms, x, seed)).to(self.device)
        self.y = None if y is None else _in_store(y).to(self.device)
        self.bs, self.shuffle, self.drop_last = bs, shuffle, drop_last
        self.seed, self.training = seed, training
        self.batch_tfms = batch_tfms if isinstance(batch_tfms, Pipeline) else Pipeline(batch_tfms)
        self.epoch = 0
        """The number of the next pass, from 0; counted up when a pass starts."""
        self.share: Share = WHOLE
        """What of each pass this process reads."""

    @property
    def n_items(self) -> int:
        """How many items are stored, a dropped short batch included."""
        return len(self.x)

    def __len__(self) -> int:
        """The number of batches in a pass."""
        return self.share.n_batches(self.n_items, self.bs, drop_last=self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        return self.iterate()

    def iterate(self, start_batch: int = 0) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Starts pass number `self.epoch` at a batch: what comes is what a whole pass gives from there on.

        Raises:
            ValueError: `start_batch` is negative or more than the batches of a pass.
        """
        if not 0 <= start_batch <= len(self):
            raise ValueError(f"`start_batch` must be between 0 and {len(self)}. Received: start_batch={start_batch}.")
        epoch, self.epoch = self.epoch, self.epoch + 1
        return self._batches(epoch, start_batch)

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        order = self.indices(epoch).to(self.device)
        steps = self.batch_tfms.steps(training=self.training)
        for b, first, stop in self.share.pieces(self.n_items, self.bs, drop_last=self.drop_last, start=start):
            chosen = order[first:stop] if first < stop else order[:1]
            x = self.x.index_select(0, chosen)
            if steps:
                path = ("augment", epoch, b) if self.training else ("validate", b)
                x = run_steps(steps, x, derived_generator(self.seed, *path))
            batch = in_unit_range(x), None if self.y is None else self.y.index_select(0, chosen)
            # Another process has the last items: what was taken instead gave the batch its form.
            yield batch if first < stop else map_tensors(lambda t: t[:0], batch)

    def indices(self, epoch: int) -> Tensor:
        """Returns the order of a pass: int64 positions in the store (items,), on the CPU."""
        if not self.shuffle:
            return torch.arange(self.n_items)
        return torch.randperm(self.n_items, generator=derived_generator(self.seed, "shuffle", epoch))

    def positions_of(self, batch: int) -> list[int]:
        """Returns the positions of a batch's items in the pass begun last."""
        _, first, stop = self.share.piece(batch, self.n_items, self.bs, drop_last=self.drop_last)
        return self.indices(self.epoch - 1)[first:stop].tolist()

    def named(self, position: int) -> str:
        """Returns what an error calls an item."""
        return f"item {position}"

    def items(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns stored inputs before any batch transform (uint8 as floats in [0, 1]) and their targets."""
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self.device)
        return in_unit_range(self.x[chosen]), None if self.y is None else self.y[chosen]

    def at_hand(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Gives nothing: arrays are checked when the loaders are built."""
        return iter(())

    def in_order(self) -> MemoryLoader:
        """Returns a view of the same storage: stored order, every item, validation transforms only."""
        return self._view(shuffle=False, drop_last=False, training=False, epoch=0, share=WHOLE)

    def shared(self, share: Share) -> MemoryLoader:
        """Returns a view of the same storage, standing at the same pass, that reads this share of the batches."""
        return self._view(share=share)

    def picked(self, indices: Sequence[int] | Tensor) -> MemoryLoader:
        """Returns a loader of the items at these positions, as one batch, with validation transforms only."""
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self.device)
        y = None if self.y is None else self.y[chosen]
        return self.in_order()._view(x=self.x[chosen], y=y, bs=max(len(chosen), 1))

    def augmented(self, number: int = 0, *, item_tfms: object = None, batch_tfms: Transforms = None) -> MemoryLoader:
        """Returns a view of the same storage: stored order, every item, transforms of training.

        Augmentations are derived from (seed, number, batch). `batch_tfms` stand in for the loader's augmentation.

        Raises:
            ValueError: there is no transform for training, or `item_tfms` are given, which were applied once already.
        """
        if item_tfms is not None:
            raise ValueError(
                "`item_tfms` cannot be changed for items in memory, for they were applied when the loader was built. "
                "Give `batch_tfms`."
            )
        pipeline = self.batch_tfms if batch_tfms is None else self.batch_tfms.with_augmentation(batch_tfms)
        if not pipeline.augments():
            raise ValueError("there is no augmentation: no transform of `batch_tfms` is for training only. Give some.")
        return self.in_order()._view(training=True, batch_tfms=pipeline, epoch=-1 - number)  # no epoch of training's

    def decode(self, x: Tree) -> Tree:
        """Undoes, for showing, what the batch transforms of validation did to inputs."""
        return map_tensors(self.batch_tfms.decode, x)

    def with_batch_tfms(self, *transforms: BatchTransform | TensorFunction) -> MemoryLoader:
        """Returns a view of the same storage that runs further batch transforms after its own."""
        return self._view(batch_tfms=Pipeline((*self.batch_tfms.transforms, *transforms)))

    def to(self, device: torch.device | str) -> MemoryLoader:
        """Returns a loader whose arrays are on `device`, standing at the same pass; itself when they already are."""
        device = resolve_device(device)
        if device == self.device:
            return self
        return self._view(device=device, x=self.x.to(device), y=None if self.y is None else self.y.to(device))

    def _view(self, **changes: object) -> MemoryLoader:
        view = copy.copy(self)
        view.__dict__.update(changes)
        return view

    def fingerprint(self) -> dict[str, Any]:
        """Returns what tells these data from others: all labels count, and some two hundred of the inputs."""
        some = self.x[:: max(1, self.n_items // 200)]
        data = digest(tuple(self.x.shape), self.x.dtype, some, self.y)
        return {"data": data, "item_tfms": repr(self.item_tfms), "batch_tfms": repr(self.batch_tfms)}

    def state_dict(self) -> dict[str, int]:
        """Returns what a checkpoint must keep: the seed, and the number of the next pass."""
        return {"seed": self.seed, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on where `state_dict` stood."""
        self.seed, self.epoch = int(state["seed"]), int(state["epoch"])

    def __repr__(self) -> str:
        return (
            f"MemoryLoader({self.n_items} items of shape {tuple(self.x.shape[1:])} {self.x.dtype}, bs={self.bs}, "
            f"{len(self)} batches, shuffle={self.shuffle}, drop_last={self.drop_last}, device={self.device})"
        )


def _in_store(t: Tensor) -> Tensor:
    t = t.detach()
    return t.float() if t.is_floating_point() or t.dtype == torch.bool else t


def _applied_once(functions: list[TensorFunction], x: Tensor, seed: int) -> Tensor:
    n = len(x)
    for i, f in enumerate(functions):
        x = run_isolated(f, x, derived_seed(seed, "item_tfms", i) % 2**32)
        if len(x) != n:
            raise DataError(
                f"`item_tfms[{i}]` changed the number of items from {n} to {len(x)}. It receives the whole tensor "
                "(items, ...) and must keep the first dimension."
            )
    return x
