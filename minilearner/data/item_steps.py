"""What one item transform is: a step on one image (or other item) at a time, on the CPU.

This module needs no torch, so that images are prepared by the same code where there is none; see `onnx_model`.
"""

from __future__ import annotations

import random
from typing import Any, ClassVar, Literal, TypeAlias, cast

__all__ = ["GLOBAL", "Box", "Finishing", "ItemTransform", "SplitTransform"]

Box: TypeAlias = tuple[int, int, int, int]
"""Left, upper, right, lower, as Pillow's: the window ``[upper:lower, left:right]``."""

Finishing: TypeAlias = Literal["none", "cut", "any"]


GLOBAL: random.Random = cast(random.Random, random)
"""Python's global generator: the module itself has its methods."""


class ItemTransform:
    """One step on one item, on the CPU. Subclasses define `__call__`."""

    belongs_to: ClassVar[str] = "item_tfms"
    """The argument that takes it."""

    in_threads: ClassVar[bool] = False
    """Whether several threads may run it at once, on different items. Not inherited: a subclass may keep state."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.in_threads = cls.__dict__.get("in_threads", False)

    def __call__(self, item: Any, rng: random.Random | None) -> Any:
        """Returns the transformed item, never changing it in place.

        item: what the reader returns, such as a PIL image.
        rng: the only source of randomness in training; None in validation, which takes the middle of every range.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(self, item, rng)`.")


class SplitTransform(ItemTransform):
    """A transform in two parts: the first never varies, so a cache may keep its result; the second may draw."""

    @property
    def finishing(self) -> Finishing:
        """What `finish` does: nothing, only cut out the `window`, or anything."""
        return "any"

    @property
    def reduce_to(self) -> tuple[int, int] | None:
        """The (width, height) of a decoded image that is enough; None if every pixel may be needed."""
        return None

    def prepare(self, item: Any) -> Any:
        """Returns the item after the part that is the same in every epoch, in training and in validation."""
        return item

    def finish(self, item: Any, rng: random.Random | None) -> Any:
        """Returns the prepared item after the rest; `rng` as for `ItemTransform`. Here: the window of an image."""
        return item if self.finishing == "none" else item.crop(self.window(item.size, rng))

    def only_cuts(self, size: tuple[int, int]) -> bool:
        """Whether a prepared image of `size` (width, height) needs only the cut, if `finishing` is "cut"."""
        return True

    def window(self, size: tuple[int, int], rng: random.Random | None) -> Box:
        """Returns what to cut out of a prepared image of `size` (width, height), if `finishing` is "cut"."""
        raise NotImplementedError(f"{type(self).__name__} must define `window` or `finish`.")

    def __call__(
        self,
        item: Any,
        rng: random.Random | None = GLOBAL,
        *,
        split_idx: int | None = None,
    ) -> Any:
        """Returns the item after both parts.

        Args:
            item: such as a PIL image; the result is of its class.
            rng: as for `ItemTransform`; by default Python's global generator.
            split_idx: fastai's word: 1 transforms as in validation.
        """
        made = self.finish(self.prepare(item), None if split_idx == 1 else rng)
        accept = getattr(type(item), "accept", None)
        return made if accept is None else accept(made)
