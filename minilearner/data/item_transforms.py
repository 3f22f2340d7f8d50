"""Runs item transforms: one image (or other item) at a time, on the CPU, before batches are made.

`item_steps` says what one is; the transforms themselves live in `vision`. `batch_transforms` has those that run on the
device.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import get_worker_info

from minilearner.data.albumentations_call import AlbumentationsCall, is_albumentations
from minilearner.data.item_steps import Box, Finishing, ItemTransform, SplitTransform
from minilearner.data.transform import ToTensor
from minilearner.data.user_transforms import as_list, for_training, for_validation, is_preparation, split_compose
from minilearner.errors import DataError
from minilearner.runtime import isolate_rng

__all__ = ["ItemPipeline", "ItemTransform", "ItemTransforms", "SplitTransform"]

ItemTransforms: TypeAlias = ItemTransform | Callable[[Any], Any] | Sequence[ItemTransform | Callable[[Any], Any]] | None
"""What users pass as `item_tfms`: one transform, several, or none. A plain function of the item also works."""


class ItemPipeline:
    """Runs item transforms in the order given.

    A plain function runs in training and in validation. torchvision's transforms run as `user_transforms` says: random
    ones in training only, those that decide the size without chance in validation, and a `Compose` is split.
    albumentations' run likewise, and those with a `p` below 1 in training only. For all these kinds, the global
    generators are seeded from `rng`, or by a constant in validation; `isolate_rng` puts them back. If the result is an
    array of bytes (height, width, 1, 3 or 4), it is an image, and its channels are moved to the front.

    The pipeline is split before its first random part: ``pipeline(item, rng)`` is
    ``pipeline.finish(pipeline.prepare(item), rng)``, bit for bit.

    Raises:
        TypeError: a transform is not callable, is a class instead of an instance, or belongs to batches.
    """

    def __init__(self, transforms: ItemTransforms = None) -> None:
        self.transforms = tuple(as_list(transforms, "item_tfms"))
        given = [f for one in self.transforms for f in split_compose(one)]
        while given and isinstance(given[-1], ToTensor):
            given.pop()  # loaders make the tensors of a batch all at once
        steps = [_step(f) for f in given]
        n_fixed = next((i for i, f in enumerate(steps) if not _is_fixed(f)), len(steps))
        self._fixed = [f for f in steps[: n_fixed + 1] if isinstance(f, SplitTransform)]
        self._rest = steps[n_fixed:]
        if self._rest and isinstance(self._rest[0], SplitTransform):
            self._rest[0] = _Finish(self._rest[0])

    def __call__(self, item: Any, rng: random.Random | None) -> Any:
        """Returns the item after all transforms; `rng` is None in validation."""
        return self.finish(self.prepare(item), rng)

    def prepare(self, item: Any) -> Any:
        """Returns the item after the part that is the same in every epoch, in training and in validation."""
        for f in self._fixed:
            item = f.prepare(item)
        return item

    def finish(self, item: Any, rng: random.Random | None) -> Any:
        """Returns the prepared item after the rest."""
        for f in self._rest:
            item = f(item, rng)
        return _as_planes(item) if isinstance(item, np.ndarray) else item

    @property
    def is_fixed(self) -> bool:
        """Whether `prepare` does everything, so that every pass gives the same item."""
        return not self._rest

    @property
    def window(self) -> Callable[[tuple[int, int], random.Random | None], Box] | None:
        """The function (size, rng) -> window, if finishing an image only cuts a window out of it; else None.

        `only_cuts` says for which sizes of images it is enough.
        """
        if not self._rest:
            return _whole
        only = self._rest[0] if len(self._rest) == 1 else None
        return only.split.window if isinstance(only, _Finish) and only.split.finishing == "cut" else None

    def only_cuts(self, size: tuple[int, int]) -> bool:
        """Whether there is a `window` for a prepared image of `size` (width, height), so `finish` is not needed."""
        only = self._rest[0] if self._rest else None
        return self.window is not None and (not isinstance(only, _Finish) or only.split.only_cuts(size))

    @property
    def reduce_to(self) -> tuple[int, int] | None:
        """The (width, height) of a decoded image that is enough for the first transform; None if unknown."""
        return self._fixed[0].reduce_to if self._fixed else None

    @property
    def in_threads(self) -> bool:
        """Whether all transforms may run in several threads at once, on different items."""
        return all(f.in_threads for f in (*self._fixed, *self._rest))

    @property
    def preparation(self) -> str:
        """What `prepare` does, as text: equal texts mean equal results."""
        return ", ".join(map(repr, self._fixed))

    def isolate_rng(self) -> AbstractContextManager[None]:
        """Puts the global generators back on leaving, if a transform moves them, except in a worker."""
        moves = any(isinstance(f, _Function) for f in self._rest)
        return isolate_rng() if moves and get_worker_info() is None else nullcontext()

    def __repr__(self) -> str:
        return f"ItemPipeline([{', '.join(map(repr, self.transforms))}])"


class _Preparation(SplitTransform):
    """A torchvision transform that always makes the same image from another."""

    in_threads = True

    def __init__(self, f: Callable[[Any], Any]) -> None:
        self.f = f

    @property
    def finishing(self) -> Finishing:
        return "none"

    def prepare(self, item: Any) -> Any:
        return self.f(item)

    def __repr__(self) -> str:
        return repr(self.f)


class _Function(ItemTransform):
    """A plain function of the item as a transform."""

    def __init__(self, f: Callable[[Any], Any]) -> None:
        self.f, self.in_validation = for_training(f), for_validation(f)

    def __call__(self, item: Any, rng: random.Random | None) -> Any:
        f = self.in_validation if rng is None else self.f
        if f is None:
            return item
        _seed_quickly(0 if rng is None else rng.getrandbits(32))
        transformed = f(item)
        if transformed is None or isinstance(transformed, Mapping):
            hint = ": take its ['image']" if isinstance(transformed, Mapping) and "image" in transformed else ""
            raise DataError(
                f"{_name(self.f)} in `item_tfms` must return an image, an array or a tensor. Received: "
                f"{type(transformed).__name__}{hint}."
            )
        return transformed


class _Finish(ItemTransform):
    """The second part of a split transform; the first has run."""

    def __init__(self, split: SplitTransform) -> None:
        self.split = split
        self.in_threads = split.in_threads  # type: ignore[misc]

    def __call__(self, item: Any, rng: random.Random | None) -> Any:
        return self.split.finish(item, rng)


def _name(f: Any) -> str:
    return getattr(f, "__name__", None) or repr(f)


def _as_planes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns an array that torch takes; bytes (height, width, 1, 3 or 4) get their channels in front."""
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] in (1, 3, 4):
        array = array.transpose(2, 0, 1)
    return array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy()


def _step(f: Any) -> ItemTransform:
    if isinstance(f, ItemTransform):
        return f
    if is_albumentations(f):
        return _Function(AlbumentationsCall(f))
    return _Preparation(f) if is_preparation(f) else _Function(f)


def _is_fixed(step: ItemTransform) -> bool:
    return isinstance(step, SplitTransform) and step.finishing == "none"


def _whole(size: tuple[int, int], rng: random.Random | None) -> Box:
    return (0, 0, *size)


def _seed_quickly(seed: int) -> None:
    # 30 times as fast as `set_seed`, which also seeds every device; item transforms run on the CPU.
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
