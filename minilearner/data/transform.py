"""`Transform` and `Pipeline`: transforms with a way back, as fastai's users write them.

A `Transform` takes the place of a plain function in `item_tfms` and `batch_tfms`; `item_transforms` and
`batch_transforms` run it. It gets inputs alone, never targets.
"""

from __future__ import annotations

import random
import typing
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minilearner.checks import check_count, check_fraction, check_number
from minilearner.data.tensor_types import TensorImage, TensorImageBW
from minilearner.keywords import suggest_keywords
from minilearner.lists import L

__all__ = ["OnSplit", "Pipeline", "RandTransform", "ToTensor", "Transform"]

_WAYS = ("encodes", "decodes", "setups")


class _OneOfEach(dict[str, Any]):
    """The names in the body of a class. fastai collects several `encodes`; in plain Python, the last one would win."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name in _WAYS and name in self:
            raise TypeError(
                f"a Transform has one `{name}`, which may be for one type or for a union of types. Received: two. "
                "Write one transform for each type, or look at the type inside it."
            )
        super().__setitem__(name, value)


class _TransformClass(type):
    @classmethod
    def __prepare__(cls, name: str, bases: tuple[type, ...], /, **options: Any) -> _OneOfEach:
        return _OneOfEach()

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any], **options: Any) -> _TransformClass:
        return super().__new__(cls, name, bases, dict(body), **options)


@suggest_keywords
class Transform(metaclass=_TransformClass):
    """A function with a way back. Derive from it and define `encodes`, and if you like `decodes` and `setups`.

    >>> class Half(Transform):
    ...     def encodes(self, x: int): return x // 2
    ...     def decodes(self, x: int): return x * 2
    >>> Half()(8), Half()("text"), Half()((8, "text")), Half().decode(4)
    (4, 'text', (4, 'text'), 8)

    If `encodes` names the type of its argument, a thing of another type stays as it is. Of a tuple, each part is
    transformed. `setups` gets the items, or the loader, before the first use.

    Args:
        enc: a function to use as `encodes`.
        dec: a function to use as `decodes`.
        split_idx: 0 runs it in training alone, 1 in validation alone.
        order: lower numbers run first in a `Pipeline` and in `batch_tfms`; `item_tfms` run in the order given.
    """

    split_idx: int | None = None
    order: float = 0
    belongs_to: str | None = None

    def __init__(
        self,
        enc: Callable[..., Any] | None = None,
        dec: Callable[..., Any] | None = None,
        split_idx: int | None = None,
        order: float | None = None,
    ) -> None:
        _check_split(split_idx)
        if order is not None:
            check_number(order, "order")
        self.split_idx = self.split_idx if split_idx is None else split_idx
        self.order = getattr(enc, "order", self.order) if order is None else order
        self._name = getattr(enc, "__name__", type(self).__name__)
        for name, function in (("encodes", enc), ("decodes", dec)):
            if function is not None:
                setattr(self, name, function)

    def __call__(self, x: Any, split_idx: int | None = None) -> Any:
        """Returns what `encodes` makes of `x`; `x` itself if it belongs to the other split."""
        return x if self.split_idx not in (None, split_idx) else _run(getattr(self, "encodes", None), x)

    def decode(self, x: Any, split_idx: int | None = None) -> Any:
        """Returns what `decodes` makes of `x`, as `__call__` does with `encodes`."""
        return x if self.split_idx not in (None, split_idx) else _run(getattr(self, "decodes", None), x)

    def setup(self, items: Any = None, train_setup: bool = False) -> None:
        """Calls `setups`, if there is one, with the items; with `train_setup`, with their `train` if they have that."""
        if hasattr(self, "setups"):
            self.setups(getattr(items, "train", items) if train_setup else items)

    @property
    def name(self) -> str:
        """The name of its class, or of the function that it was made of."""
        return getattr(self, "_name", type(self).__name__)

    def __repr__(self) -> str:
        return self.name


@suggest_keywords
class RandTransform(Transform):
    """A transform of chance: `before_call` draws, and `encodes` uses what it drew. In training alone.

    Args:
        p: the chance that it runs, in [0, 1].
        before_call: a function to use as `before_call`.
        options: as for `Transform`.
    """

    split_idx = 0
    do = True

    def __init__(self, p: float = 1.0, before_call: Callable[..., Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        check_fraction(p, "p")
        self.p = p
        if before_call is not None:
            self.before_call = before_call  # type: ignore[method-assign]

    def before_call(self, b: Any, split_idx: int | None) -> None:
        """Draws whether it runs. Override it to draw more, from Python's, NumPy's or torch's global generator."""
        self.do = self.p == 1 or random.random() < self.p

    def __call__(self, x: Any, split_idx: int | None = None) -> Any:
        """Returns what `encodes` makes of `x`, if `before_call` has set `do`."""
        self.before_call(x, split_idx=split_idx)
        return super().__call__(x, split_idx) if self.do else x


@suggest_keywords
class ToTensor(Transform):
    """Turns a PIL image into a `TensorImage` of bytes (channels, height, width); anything else stays as it is.

    Loaders do that by themselves, after all of `item_tfms`.
    """

    order = 5

    def encodes(self, x: Image.Image) -> Tensor:
        """Returns the image's pixels."""
        pixels = torch.from_numpy(np.array(x))
        return TensorImageBW(pixels[None]) if pixels.ndim == 2 else TensorImage(pixels.permute(2, 0, 1).contiguous())


@suggest_keywords
class Pipeline:
    """Runs transforms or functions one after another, lower `order` first, and back.

    >>> Pipeline([Transform(lambda x: x + 1, lambda x: x - 1), lambda x: x * 2])(3)
    8

    Args:
        funcs: transforms or functions.
        split_idx: 0 runs those of training, 1 those of validation; None those that belong to neither.
    """

    def __init__(self, funcs: Any = None, split_idx: int | None = None) -> None:
        _check_split(split_idx)
        given = funcs.fs if isinstance(funcs, Pipeline) else L(funcs)
        made = [f if isinstance(f, Transform) else Transform(f) for f in given]
        self.fs: L[Transform] = L(made).sorted("order")
        self.split_idx = split_idx

    def setup(self, items: Any = None, train_setup: bool = False) -> None:
        """Sets up each transform with the items."""
        for f in self.fs:
            f.setup(items, train_setup)

    def __call__(self, x: Any) -> Any:
        """Returns `x` after all transforms."""
        for f in self.fs:
            x = f(x, split_idx=self.split_idx)
        return x

    def decode(self, x: Any) -> Any:
        """Undoes the transforms, the last one first."""
        for f in reversed(self.fs):
            x = f.decode(x, split_idx=self.split_idx)
        return x

    def __getitem__(self, i: Any) -> Any:
        """Returns a transform by its place, or several."""
        return self.fs[i]

    def __repr__(self) -> str:
        return f"Pipeline: {' -> '.join(f.name for f in self.fs)}"


class OnSplit:
    """A transform in training (0) or in validation (1), as a function of an input.

    Raises:
        TypeError: the transform is for a type that no input has.
    """

    def __init__(self, transform: Transform, split_idx: int) -> None:
        _check_takes_inputs(transform)
        self.transform, self.split_idx = transform, split_idx

    def __call__(self, x: Any) -> Any:
        """Returns what the transform makes of an input; of a tensor, a plain one."""
        made = self.transform(x, split_idx=self.split_idx)
        return made.as_subclass(Tensor) if isinstance(made, Tensor) else made

    def decode(self, x: Tensor) -> Tensor:
        """Undoes the transform."""
        made: Tensor = self.transform.decode(x, split_idx=self.split_idx)
        return made.as_subclass(Tensor)

    def __repr__(self) -> str:
        return repr(self.transform)


def _check_split(split_idx: int | None) -> None:
    if split_idx is None:
        return
    check_count(split_idx, "split_idx", least=0)
    if split_idx > 1:
        raise ValueError(f"`split_idx` must be 0 (training), 1 (validation) or None. Received: split_idx={split_idx}.")


def _run(function: Callable[..., Any] | None, x: Any) -> Any:
    if function is None:
        return x
    if type(x) is tuple:
        return tuple(_run(function, part) for part in x)
    kinds = _kinds(function)
    if not kinds:
        return function(x)
    for kind in kinds:
        fitting = x if isinstance(x, kind) else kind.accept(x) if hasattr(kind, "accept") else None
        if fitting is not None:
            return function(fitting)
    return x


def _kinds(function: Callable[..., Any]) -> Sequence[Any]:
    """Returns the types that a function's first argument is annotated with; none if it takes anything."""
    try:
        hints = dict(typing.get_type_hints(function))
    except (NameError, TypeError):  # a name that only a type checker knows, or no function
        return ()
    hints.pop("return", None)
    kind = next(iter(hints.values()), None)
    kinds = typing.get_args(kind) or (kind,)
    return kinds if all(isinstance(one, type) and one not in (object, Any) for one in kinds) else ()


def _check_takes_inputs(transform: Transform) -> None:
    kinds = _kinds(transform.encodes) if hasattr(transform, "encodes") else ()
    odd = [kind for kind in kinds if not (issubclass(kind, (Image.Image, Tensor, np.ndarray)) and _is_of_inputs(kind))]
    if kinds and len(odd) == len(kinds):
        raise TypeError(
            f"{transform!r} is for {odd[0].__name__}, and `item_tfms` and `batch_tfms` get inputs alone: PIL images, "
            "arrays and tensors. Change labels in `get_y`, and batches of both in a callback's `before_batch`."
        )


def _is_of_inputs(kind: type) -> bool:
    return bool(getattr(kind, "is_input", True))
