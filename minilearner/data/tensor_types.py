"""Tensors that know what they show: images, masks and labels, as fastai names them.

They are what people look at: the items of `train_ds`, and what `ToTensor` makes. Batches on their way to the model are
plain tensors, since torch computes with a class of one's own several times more slowly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from minilearner.plots.axes import show_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from typing_extensions import Self

__all__ = [
    "TensorBase",
    "TensorCategory",
    "TensorImage",
    "TensorImageBW",
    "TensorMask",
    "TensorMultiCategory",
]


class TensorBase(Tensor):
    """A tensor of anything. What torch computes from it is one too.

    >>> TensorCategory(2)
    TensorCategory(2)
    """

    is_input: ClassVar[bool] = True
    """Whether an input of a model may be one."""

    show_options: ClassVar[dict[str, Any]] = {}
    """How `show` draws it, for Matplotlib's `imshow`."""

    @staticmethod
    def __new__(cls, x: Any, *args: Any, **kwargs: Any) -> Self:
        """Returns a tensor that shares the memory of `x`, if that is a tensor or an array."""
        data = x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x) if hasattr(x, "__array__") else x)
        return data.as_subclass(cls)

    @classmethod
    def create(cls, x: Any) -> Self:
        """Returns a tensor of numbers, a list, an array or a tensor."""
        return cls(x)

    @classmethod
    def accept(cls, x: Any) -> Self | None:
        """Returns a tensor as one of this kind, if it may be one; None otherwise."""
        return x.as_subclass(cls) if cls.is_input and isinstance(x, Tensor) and type(x) is Tensor else None

    def show(self, ctx: Axes | None = None, **kwargs: Any) -> Axes:
        """Draws it as an image, and returns the axes; arguments as for `show_image`."""
        return show_image(self.as_subclass(Tensor), ctx=ctx, **{**self.show_options, **kwargs})


class TensorImage(TensorBase):
    """An image: (channels, height, width), or a batch of them."""


class TensorImageBW(TensorImage):
    """A grey image: (1, height, width)."""

    show_options: ClassVar[dict[str, Any]] = {"cmap": "Greys"}


class TensorMask(TensorBase):
    """A mask: (height, width), the number of each pixel's class."""

    is_input = False

    show_options: ClassVar[dict[str, Any]] = {"alpha": 0.5, "cmap": "tab20"}


class TensorCategory(TensorBase):
    """The number of one class."""

    is_input = False


class TensorMultiCategory(TensorBase):
    """(classes,): 1 for each class that an item has, and 0 for the others."""

    is_input = False
