"""The contract of item transforms: one picture (or other item) at a time, on the CPU, before batches are made.

The transforms themselves live in `vision`; batch transforms, which run on the device, in `transforms`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from minilearner.runtime import isolated_rng, set_seed

__all__ = ["ItemPipeline", "ItemTransform", "ItemTransforms"]


class ItemTransform:
    """One step on one item, on the CPU. Subclasses define `__call__`."""

    def __call__(self, item: Any, rng: random.Random | None) -> Any:
        """Returns the transformed item, never changing it in place.

        item: what the reader gives, such as a PIL picture.
        rng: the only source of randomness in training; None in validation, where the middle of every range is taken.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(self, item, rng)`.")


ItemTransforms: TypeAlias = ItemTransform | Callable[[Any], Any] | Sequence[ItemTransform | Callable[[Any], Any]] | None
"""What users pass as `item_tfms`: one transform, several, or none. A plain function of the item will do."""


class ItemPipeline:
    """Runs item transforms in the order given.

    A plain function, such as a torchvision v2 transform, runs in training and in validation alike, with the global
    generators seeded from `rng` and put back afterwards.

    Raises:
        TypeError: a transform is not callable, or is a class where an instance is meant.
    """

    def __init__(self, transforms: ItemTransforms = None) -> None:
        several = transforms if isinstance(transforms, Sequence) else [] if transforms is None else [transforms]
        for f in several:
            if isinstance(f, type):
                raise TypeError(f"`item_tfms` takes instances. Received the class {f.__name__}: write {f.__name__}().")
            if not callable(f):
                raise TypeError(f"`item_tfms` takes transforms or functions of an item. Received: {f!r}.")
        self.transforms = tuple(several)

    def __call__(self, item: Any, rng: random.Random | None) -> Any:
        """Returns the item after all transforms; `rng` is None in validation."""
        for f in self.transforms:
            item = f(item, rng) if isinstance(f, ItemTransform) else _seeded(f, item, rng)
        return item

    def __repr__(self) -> str:
        return f"ItemPipeline([{', '.join(map(repr, self.transforms))}])"


def _seeded(f: Callable[[Any], Any], item: Any, rng: random.Random | None) -> Any:
    with isolated_rng():
        set_seed(0 if rng is None else rng.getrandbits(32))
        return f(item)
