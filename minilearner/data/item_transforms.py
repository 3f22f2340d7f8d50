"""The contract of item transforms: one picture (or other item) at a time, on the CPU, before batches are made.

The transforms themselves live in `vision`; batch transforms, which run on the device, in `transforms`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from torch.utils.data import get_worker_info

from minilearner.data.user_transforms import as_list, for_validation, prepares, taken_apart
from minilearner.errors import DataError
from minilearner.runtime import isolated_rng

__all__ = ["Box", "Finishing", "ItemPipeline", "ItemTransform", "ItemTransforms", "SplitTransform"]

Box: TypeAlias = tuple[int, int, int, int]
"""Left, upper, right, lower, as Pillow's: the window ``[upper:lower, left:right]``."""

Finishing: TypeAlias = Literal["none", "cut", "any"]


class ItemTransform:
    """One step on one item, on the CPU. Subclasses define `__call__`."""

    belongs_to: ClassVar[str] = "item_tfms"
    """The argument that takes it."""

    in_threads: ClassVar[bool] = False
    """Whether it may run in several threads at once, on different items. Not inherited: a subclass may keep state."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.in_threads = cls.__dict__.get("in_threads", False)

    def __call__(self, item: Any, rng: random.Random | None) -> Any:
        """Returns the transformed item, never changing it in place.

        item: what the reader gives, such as a PIL picture.
        rng: the only source of randomness in training; None in validation, where the middle of every range is taken.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(self, item, rng)`.")


class SplitTransform(ItemTransform):
    """A transform in two parts: what is always the same, whose result a cache may keep, and what may be random."""

    @property
    def finishing(self) -> Finishing:
        """What `finish` does: nothing; cut the `window` out and nothing else; or anything."""
        return "any"

    @property
    def reduce_to(self) -> tuple[int, int] | None:
        """(width, height) of a decoded picture that are enough; None where every pixel may be needed."""
        return None

    def prepare(self, item: Any) -> Any:
        """Returns the item after the part that is the same in every epoch, in training and in validation."""
        return item

    def finish(self, item: Any, rng: random.Random | None) -> Any:
        """Returns the prepared item after the rest; `rng` as for `ItemTransform`. Here: the window of a picture."""
        return item if self.finishing == "none" else item.crop(self.window(item.size, rng))

    def window(self, size: tuple[int, int], rng: random.Random | None) -> Box:
        """Returns what to cut out of a prepared picture of `size` (width, height), where `finishing` is "cut"."""
        raise NotImplementedError(f"{type(self).__name__} must define `window` or `finish`.")

    def __call__(self, item: Any, rng: random.Random | None) -> Any:
        """Returns the item after both parts."""
        return self.finish(self.prepare(item), rng)


ItemTransforms: TypeAlias = ItemTransform | Callable[[Any], Any] | Sequence[ItemTransform | Callable[[Any], Any]] | None
"""What users pass as `item_tfms`: one transform, several, or none. A plain function of the item will do."""


class ItemPipeline:
    """Runs item transforms in the order given.

    A plain function runs in training and in validation. A torchvision transform runs as `torchvision_transforms` says:
    random ones in training only, those that decide the size without chance in validation, a `Compose` taken apart.
    Around both kinds the global generators are seeded from `rng`, in validation by a constant; `isolated` puts them
    back. An array of bytes (height, width, 1, 3 or 4) that comes out at the end is a picture: its channels come first.

    The pipeline is split where its first random part begins: ``pipeline(item, rng)`` is
    ``pipeline.finish(pipeline.prepare(item), rng)``, bit for bit.

    Raises:
        TypeError: a transform is not callable, is a class where an instance is meant, or is one of batches.
    """

    def __init__(self, transforms: ItemTransforms = None) -> None:
        self.transforms = tuple(as_list(transforms, "item_tfms"))
        steps = [_step(f) for given in self.transforms for f in taken_apart(given)]
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
    def window(self) -> Callable[[tuple[int, int], random.Random | None], Box] | None:
        """Where finishing a picture only cuts a window out of it: (size, rng) -> that window; else None."""
        if not self._rest:
            return _whole
        only = self._rest[0] if len(self._rest) == 1 else None
        return only.split.window if isinstance(only, _Finish) and only.split.finishing == "cut" else None

    @property
    def reduce_to(self) -> tuple[int, int] | None:
        """(width, height) of a decoded picture that are enough for the first transform; None where unknown."""
        return self._fixed[0].reduce_to if self._fixed else None

    @property
    def in_threads(self) -> bool:
        """Whether all transforms may run in several threads at once, on different items."""
        return all(f.in_threads for f in (*self._fixed, *self._rest))

    @property
    def preparation(self) -> str:
        """What `prepare` does, in words: equal text means equal results."""
        return ", ".join(map(repr, self._fixed))

    def isolated(self) -> AbstractContextManager[None]:
        """Puts the global generators back on leaving, where a transform moves them and somebody could notice."""
        moves = any(isinstance(f, _Function) for f in self._rest)
        return isolated_rng() if moves and get_worker_info() is None else nullcontext()

    def __repr__(self) -> str:
        return f"ItemPipeline([{', '.join(map(repr, self.transforms))}])"


class _Preparation(SplitTransform):
    """A torchvision transform that makes one picture of another, always in the same way."""

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
        self.f, self.in_validation = f, for_validation(f)

    def __call__(self, item: Any, rng: random.Random | None) -> Any:
        f = self.in_validation if rng is None else self.f
        if f is None:
            return item
        _seed_quickly(0 if rng is None else rng.getrandbits(32))
        transformed = f(item)
        if transformed is None or isinstance(transformed, Mapping):
            hint = ": take its ['image']" if isinstance(transformed, Mapping) and "image" in transformed else ""
            raise DataError(
                f"{_name(self.f)} in `item_tfms` must return a picture, an array or a tensor. Received: "
                f"{type(transformed).__name__}{hint}."
            )
        return transformed


class _Finish(ItemTransform):
    """The second part of a split transform, whose first has run."""

    def __init__(self, split: SplitTransform) -> None:
        self.split = split
        self.in_threads = split.in_threads  # type: ignore[misc]

    def __call__(self, item: Any, rng: random.Random | None) -> Any:
        return self.split.finish(item, rng)


def _name(f: Any) -> str:
    return getattr(f, "__name__", None) or repr(f)


def _as_planes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns an array that torch takes; bytes (height, width, 1, 3 or 4) are a picture, whose channels come first."""
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] in (1, 3, 4):
        array = array.transpose(2, 0, 1)
    return array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy()


def _step(f: Any) -> ItemTransform:
    if isinstance(f, ItemTransform):
        return f
    return _Preparation(f) if prepares(f) else _Function(f)


def _is_fixed(step: ItemTransform) -> bool:
    return isinstance(step, SplitTransform) and step.finishing == "none"


def _whole(size: tuple[int, int], rng: random.Random | None) -> Box:
    return (0, 0, *size)


def _seed_quickly(seed: int) -> None:
    # A thirtieth of `set_seed`'s time, which asks every kind of device too: an item transform runs on the CPU.
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
