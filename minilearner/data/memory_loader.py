"""Arrays in memory, served batch by batch through a list of indices: no workers, no copies of single items.

uint8 stays uint8 in store, a quarter of the memory of floats; a batch becomes float on the device. `arrays` and
`dataloaders` check what users bring.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minilearner.data.batch_transforms import (
    Pipeline,
    TensorFunction,
    Transforms,
    in_unit_range,
    run_steps,
    run_with_seed,
)
from minilearner.data.loader import DerivedLoader
from minilearner.data.user_transforms import as_list
from minilearner.errors import DataError, plural
from minilearner.runtime import derive_seed
from minilearner.tree import digest, map_tensors

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["MemoryLoader"]


class MemoryLoader(DerivedLoader):
    """Serves stored tensors in batches ``(x, y)`` on the device.

    The order of pass number `epoch` follows from (seed, epoch), and the augmentation of batch b from (seed, epoch, b).
    Validation transforms follow from (seed, b) alone: every pass over a validation set sees the same images.

    Args:
        x: (items, ...). uint8 arrives as float32 in [0, 1], bit-equal to ``x.float() / 255``; any float arrives as
            float32; other integers, such as token ids, arrive as they are.
        y: (items, ...), or None for items without labels; then batches are ``(x, None)``. float64 becomes float32.
        bs: items per batch.
        shuffle: a new order for every pass; without it, the stored order.
        drop_last: leave out the last batch of a pass if it is short.
        seed: see above.
        item_tfms: functions of the whole stored tensor (items, ...), applied once, here: a resize, say.
        batch_tfms: see `batch_transforms.Pipeline`.
        training: whether augmentation (transforms that are `train_only`) runs.
        device: where the arrays are kept and batches arrive; the default device when None.

    Raises:
        ValueError: `bs` is less than 1.
        DataError: `x` and `y` differ in length, or an item transform changed the number of items.
    """

    tensors_on_device = ("x", "y")

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
        super().__init__(
            bs=bs,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
            training=training,
            device=device,
            batch_tfms=batch_tfms,
        )
        if y is not None and len(x) != len(y):
            raise DataError(f"`x` and `y` must have the same number of items. Received: {len(x)} and {len(y)}.")
        self.item_tfms: list[TensorFunction] = as_list(item_tfms, "item_tfms")
        self.x = _to_storage_type(_apply_once(self.item_tfms, x, seed)).to(self.device)
        self.y = None if y is None else _to_storage_type(y).to(self.device)

    @property
    def n_items(self) -> int:
        """The number of stored items, including those of a short batch that is dropped."""
        return len(self.x)

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        order = self.indices(epoch).to(self.device)
        steps = self.batch_tfms.steps(training=self.training)
        for b, first, stop in self.share.pieces(self.n_items, self.bs, drop_last=self.drop_last, start=start):
            chosen = order[first:stop] if first < stop else order[:1]
            x = self.x.index_select(0, chosen)
            if steps:
                x = run_steps(steps, x, self._generator(epoch, b))
            batch = in_unit_range(x), None if self.y is None else self.y.index_select(0, chosen)
            # Another process has the last items. One item gives the empty batch its shape.
            yield batch if first < stop else map_tensors(lambda t: t[:0], batch)

    def data_in_memory(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yields all data at once, as they are stored."""
        yield self.x, self.y

    def items(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns stored inputs before any batch transform (uint8 as floats in [0, 1]) and their targets."""
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self.device)
        return in_unit_range(self.x[chosen]), None if self.y is None else self.y[chosen]

    def pick(self, indices: Sequence[int] | Tensor) -> Self:
        """Returns a loader of the items at these positions, as one batch, with validation transforms only."""
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self.device)
        y = None if self.y is None else self.y[chosen]
        return self.in_order()._copy_with(x=self.x[chosen], y=y, bs=max(len(chosen), 1))

    def augment(self, number: int = 0, *, item_tfms: object = None, batch_tfms: Transforms = None) -> Self:
        """Returns a loader of the same storage: stored order, every item, transforms of training.

        Augmentations follow from (seed, number, batch). `batch_tfms` replace the loader's augmentation.

        Raises:
            ValueError: there is no transform for training, or `item_tfms` are given, which were applied once already.
        """
        if item_tfms is not None:
            raise ValueError(
                "`item_tfms` cannot change for items in memory: they were applied when the loader was built. Give "
                "`batch_tfms`."
            )
        pipeline = self.batch_tfms if batch_tfms is None else self.batch_tfms.with_augmentation(batch_tfms)
        if not pipeline.augments():
            raise ValueError("there is no augmentation: no transform of `batch_tfms` is for training only. Give some.")
        return self._augment_with(number, pipeline)

    def fingerprint(self) -> dict[str, Any]:
        """Returns numbers and words that differ if the data differ: all labels count, and some 200 of the inputs."""
        some = self.x[:: max(1, self.n_items // 200)]
        data = digest(tuple(self.x.shape), self.x.dtype, some, self.y)
        return {"data": data, "item_tfms": repr(self.item_tfms), "batch_tfms": repr(self.batch_tfms)}

    def __repr__(self) -> str:
        return (
            f"MemoryLoader({plural(self.n_items, 'item')} of shape {tuple(self.x.shape[1:])} {self.x.dtype}, "
            f"bs={self.bs}, "
            f"{plural(len(self), 'batch')}, shuffle={self.shuffle}, drop_last={self.drop_last}, device={self.device})"
        )


def _to_storage_type(t: Tensor) -> Tensor:
    t = t.detach()
    return t.float() if t.is_floating_point() or t.dtype == torch.bool else t


def _apply_once(functions: list[TensorFunction], x: Tensor, seed: int) -> Tensor:
    n = len(x)
    for i, f in enumerate(functions):
        x = run_with_seed(f, x, derive_seed(seed, "item_tfms", i) % 2**32)
        if len(x) != n:
            raise DataError(
                f"`item_tfms[{i}]` changed the number of items from {n} to {len(x)}. It receives the whole tensor "
                "(items, ...) and must keep the first dimension."
            )
    return x
