"""The contract of batch transforms, and the pipeline that runs them. The transforms themselves live in `vision`.

A batch transform gets a whole batch that is already on the device. It draws only from the generator that it gets, so
the same seed gives the same bits whatever else the program draws.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from itertools import takewhile
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from minilearner.checks import check_number
from minilearner.data.transform import OnSplit
from minilearner.data.user_transforms import (
    as_list,
    check_takes_batches,
    for_training,
    for_validation,
    run,
    split_compose,
)
from minilearner.errors import DataError
from minilearner.keywords import suggest_keywords
from minilearner.runtime import isolate_rng

__all__ = [
    "BatchTransform",
    "FunctionTransform",
    "IntToFloatTensor",
    "Pipeline",
    "PixelChange",
    "PixelTransform",
    "TensorFunction",
    "Transforms",
    "apply_changes",
    "check_unit_range",
    "in_unit_range",
    "run_step",
    "run_steps",
    "run_with_seed",
    "train_only",
]

TensorFunction: TypeAlias = Callable[[Tensor], Tensor]

PixelChange: TypeAlias = Callable[[Tensor, slice], None]
"""Changes some images of a batch in place: (images, channels, height, width), and the slice of the batch they are.

On a CPU, several threads may call it at once, for different images. It draws no random numbers.
"""

# How many values a CPU changes at once, so that they stay in its cache through many passes. Hue took 2.5 times as long
# on whole batches.
_VALUES_AT_ONCE = 2**19


@suggest_keywords
class BatchTransform:
    """One step on a whole batch. Subclasses define `__call__`, and `decode` if showing an image must undo the step."""

    train_only: bool = True
    """True for augmentation, which validation skips; False for what the model always needs, such as normalisation."""

    belongs_to: ClassVar[str] = "batch_tfms"
    """The argument that takes it."""

    order: ClassVar[float] = 50
    """A pipeline runs lower numbers first, wherever they stand in the list; equal ones as listed.

    Geometry has 30, lighting 40, hue 41, `Normalize` 99 and `RandomErasing` 100; plain functions have 50.
    """

    takes_bytes: bool = False
    """Takes uint8 too, with the same result as for its `in_unit_range`, but faster. Other transforms get floats."""

    needs_unit_range: bool = False
    """Needs values in [0, 1], as changes of light do. Loaders refuse items that are clearly outside."""

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Returns the transformed batch, never changing `x` in place.

        x: float, (batch, channels, height, width), in [0, 1] unless an earlier transform changed the range.
        rng: the only source of randomness. It may live on another device than `x`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(self, x, rng)`.")

    def by_hand(self, x: Tensor, split_idx: int | None = None) -> Tensor:
        """Returns a batch transformed outside a loader, drawn from torch's global generator.

        Args:
            x: as in `__call__`.
            split_idx: 1 does what validation does; 0 and None do what training does.
        """
        step = self.for_validation() if split_idx == 1 else self
        seed = int(torch.randint(2**62, ()).item())
        return x if step is None else step(x, torch.Generator(x.device).manual_seed(seed))

    def run(self, x: Tensor, rng: torch.Generator, pixels: Sequence[PixelTransform]) -> Tensor:
        """Returns the transformed batch, with these changes of its pixels as well. Here: one after the other."""
        return run_steps(pixels, self(x, rng), rng) if pixels else self(x, rng)

    def decode(self, x: Tensor) -> Tensor:
        """Undoes the transform for display. Here: returns `x`."""
        return x

    def for_validation(self) -> BatchTransform | None:
        """Returns what validation runs in its place, without random choices; None if it runs nothing.

        Here: the transform itself unless it is `train_only`. A crop, say, keeps the resize.
        """
        return None if self.train_only else self

    @property
    def needs_setup(self) -> bool:
        """Whether `set_up` must see training data before the first batch."""
        return False

    def set_up(self, loader: Any) -> BatchTransform:
        """Returns the transform that runs in its place, made with the training loader. Here: itself.

        loader: serves batches after the transforms that run before this one.
        """
        return self

    def merge(self, later: BatchTransform) -> BatchTransform | None:
        """Returns one transform that does `self` and then `later`, or None if two passes are needed."""
        return None


class PixelTransform(BatchTransform):
    """Computes each pixel anew from that pixel and from what is drawn for its image. Subclasses define `drawn`.

    If the transform before it made new images, they are changed in place, a few at a time, while they are in the
    processor's cache (see `BatchTransform.run`).
    """

    def drawn(self, n: int, rng: torch.Generator) -> PixelChange:
        """Draws for a batch of `n` images, and returns the function that changes any of them."""
        raise NotImplementedError(f"{type(self).__name__} must define `drawn(self, n, rng)`.")

    def __call__(self, x: Tensor, rng: torch.Generator | None = None, *, split_idx: int | None = None) -> Tensor:
        """Returns the changed images. Without `rng`, see `by_hand`."""
        if rng is None:
            return self.by_hand(x, split_idx)
        return apply_changes(x.clone(), self.drawn(len(x), rng))


Transforms: TypeAlias = BatchTransform | TensorFunction | Sequence[BatchTransform | TensorFunction] | None
"""What users pass as `batch_tfms`: one transform, several, or none. A plain function ``f(x)`` will do."""


class Pipeline:
    """Runs transforms by their `order`, and fuses neighbours if they can be fused (`BatchTransform.merge`).

    A plain function ``f(x)`` runs in training and in validation, with the global generators seeded from `rng` and put
    back afterwards; `train_only` makes it augmentation. torchvision's transforms are functions too: random ones count
    as augmentation, those that decide the size run without chance in validation, and a `Compose` is split. They draw
    once for the whole batch. The steps are chosen once, here, not for every batch.

    Raises:
        TypeError: a transform is not callable, is a class instead of an instance, or cannot run on batches.
    """

    def __init__(self, transforms: Transforms = None) -> None:
        given = [part for f in as_list(transforms, "batch_tfms") for part in split_compose(f)]
        wrapped = [_as_transform(f) for f in given if not isinstance(f, IntToFloatTensor)]  # `run_steps` does that
        self.transforms = tuple(sorted(wrapped, key=lambda transform: transform.order))
        self._in_training = _fuse(self.transforms)
        in_validation = (transform.for_validation() for transform in self.transforms)
        self._in_validation = _fuse(transform for transform in in_validation if transform is not None)

    def __call__(self, x: Tensor, rng: torch.Generator, *, training: bool) -> Tensor:
        """Returns the batch after the transforms that belong to training, or to validation."""
        for transform in self.steps(training=training):
            x = transform(x, rng)
        return x

    def steps(self, *, training: bool) -> tuple[BatchTransform, ...]:
        """Returns the steps that run, after fusing; none if there is nothing to do."""
        return self._in_training if training else self._in_validation

    def wrap_steps(self, wrap: Callable[[BatchTransform, Sequence[PixelTransform]], BatchTransform]) -> Pipeline:
        """Returns a pipeline that runs ``wrap(step, pixels)`` in place of each step and the changes of its pixels."""
        other = copy.copy(self)
        other._in_training = tuple(wrap(*group) for group in _groups(self._in_training))
        other._in_validation = tuple(wrap(*group) for group in _groups(self._in_validation))
        return other

    def set_up(self, loader: Any) -> Pipeline:
        """Returns a pipeline whose transforms have seen a training loader, as far as they need it; or itself."""
        done = list(self.transforms)
        for i, transform in enumerate(done):
            if transform.needs_setup:
                done[i] = transform.set_up(loader._copy_with(batch_tfms=Pipeline(done[:i])))
        return self if done == list(self.transforms) else Pipeline(done)

    def augments(self) -> bool:
        """Returns whether training runs transforms that validation skips."""
        return any(t.train_only for t in self.transforms)

    def unit_range_transform(self) -> BatchTransform | None:
        """Returns the transform that needs inputs to arrive in [0, 1]; None if an earlier step may bring them there."""
        before = list(takewhile(lambda transform: not transform.needs_unit_range, self.transforms))
        gets_inputs = len(before) < len(self.transforms) and all(transform.takes_bytes for transform in before)
        return self.transforms[len(before)] if gets_inputs else None

    def with_augmentation(self, transforms: Transforms) -> Pipeline:
        """Returns a pipeline of other transforms for training, followed by those that validation runs here."""
        return Pipeline([*as_list(transforms, "batch_tfms"), *self._in_validation])

    def decode(self, x: Tensor) -> Tensor:
        """Undoes the transforms of validation, the last one first, for display."""
        for transform in reversed(self._in_validation):
            x = transform.decode(x)
        return x

    def __repr__(self) -> str:
        return f"Pipeline([{', '.join(map(repr, self.transforms))}])"


def run_steps(steps: Sequence[BatchTransform], x: Tensor, rng: torch.Generator) -> Tensor:
    """Returns a batch after these steps; uint8 becomes floats in [0, 1] when they are first needed, or at the end."""
    for step, pixels in _groups(steps):
        x = run_step(step, x if step.takes_bytes else in_unit_range(x), rng, pixels)
    return in_unit_range(x)


def run_step(step: BatchTransform, x: Tensor, rng: torch.Generator, pixels: Sequence[PixelTransform]) -> Tensor:
    """Returns a batch after one step and then these changes of its pixels."""
    return (step.run if _agrees(step, "run") else partial(BatchTransform.run, step))(x, rng, pixels)


def _groups(steps: Sequence[BatchTransform]) -> list[tuple[BatchTransform, list[PixelTransform]]]:
    """Returns the steps in order, each with the pixel changes that follow it."""
    groups: list[tuple[BatchTransform, list[PixelTransform]]] = []
    for step in steps:
        if groups and isinstance(step, PixelTransform) and _agrees(step, "drawn"):
            groups[-1][1].append(step)
        else:
            groups.append((step, []))
    return groups


def _agrees(step: BatchTransform, method: str) -> bool:
    """Returns whether a method does what a call does: not if a subclass overrides `__call__` alone."""
    return _is_defined_no_earlier(type(step), method)  # type: ignore[arg-type]  # mypy takes no class for hashable


@cache  # called for every step of every batch
def _is_defined_no_earlier(kind: type, method: str) -> bool:
    method_at, call_at = (
        next(i for i, base in enumerate(kind.__mro__) if name in vars(base)) for name in (method, "__call__")
    )
    return method_at <= call_at


def apply_changes(x: Tensor, *changes: PixelChange) -> Tensor:
    """Returns images after changes in place, one after the other; on a CPU a few images at a time."""
    at_once = max(1, _VALUES_AT_ONCE // max(1, x[:1].numel())) if x.device.type == "cpu" else max(1, len(x))
    for i in range(0, len(x), at_once):
        some = slice(i, i + at_once)
        for change in changes:
            change(x[some], some)
    return x


def in_unit_range(x: Tensor) -> Tensor:
    """Returns uint8 as float32 in [0, 1], bit-equal to ``x.float() / 255``; anything else as it is."""
    if x.dtype != torch.uint8:
        return x
    return x.to(torch.float32, memory_format=torch.contiguous_format).div_(255)  # planes first, in the same pass


def check_unit_range(x: Tensor, pipeline: Pipeline, name: str) -> None:
    """Checks that inputs lie in [0, 1], if a transform needs that: a change of light would make others black or white.

    Args:
        x: the inputs.
        pipeline: the transforms.
        name: what the error calls the inputs.

    Raises:
        DataError: they are clearly outside. Names the transform.
    """
    transform = pipeline.unit_range_transform()
    if transform is None:
        return
    low, high = map(float, x.aminmax()) if x.is_floating_point() and x.numel() else (0.0, 1.0)
    if low < -0.5 or high > 1.5:  # resampling may overshoot a little
        raise DataError(
            f"{transform!r} needs images in [0, 1], and {name} reaches from {low:.3g} to {high:.3g}. Give `Normalize` "
            "in `batch_tfms`, which runs it after light, and make floats with v2.ToDtype(torch.float32, scale=True)."
        )


@suggest_keywords
class IntToFloatTensor(BatchTransform):
    """Turns bytes into floats in [0, 1]; floats stay as they are. Loaders do that by themselves.

    Args:
        div: what bytes are divided by; only 255 is supported, as transforms after it need [0, 1].
    """

    train_only = False
    order: ClassVar[float] = 10

    def __init__(self, div: float = 255.0) -> None:
        check_number(div, "div")
        if div != 255:
            raise ValueError(f"`div` must be 255, which gives values in [0, 1]. Received: div={div!r}.")
        self.div = div

    def __call__(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Returns floats."""
        return in_unit_range(x)

    def __repr__(self) -> str:
        return "IntToFloatTensor()"


@suggest_keywords
def train_only(f: TensorFunction) -> BatchTransform:
    """Returns a batch transform that runs `f` in training and leaves validation alone.

    >>> train_only(lambda x: x + 0.1 * torch.randn_like(x))  # doctest: +SKIP

    Raises:
        TypeError: `f` is not callable, or is a batch transform, which has a `train_only` of its own.
    """
    if isinstance(f, BatchTransform):
        raise TypeError(f"{f!r} is a batch transform: set `train_only = True` on its class instead of wrapping it.")
    as_list(f, "f", "batch_tfms")
    return FunctionTransform(f, in_validation=None)


class FunctionTransform(BatchTransform):
    """A plain function of the batch as a transform, and the function that validation runs, if any."""

    def __init__(self, f: TensorFunction, in_validation: TensorFunction | None) -> None:
        check_takes_batches(f)
        self.f, self.in_validation = f, in_validation
        self.train_only = in_validation is None
        if isinstance(f, OnSplit):
            self.order = f.transform.order  # type: ignore[misc]

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Returns ``f(x)``, with the global generators seeded from `rng` and put back."""
        seed = int(torch.randint(2**32, (), generator=rng, device=rng.device).item())
        return run_with_seed(partial(run, self.f), x, seed)

    def merge(self, later: BatchTransform) -> BatchTransform | None:
        """Returns one step with both functions: the second one receives what the first one returned, even bytes."""
        return _Functions((*_functions(self), *_functions(later))) if isinstance(later, FunctionTransform) else None

    def for_validation(self) -> BatchTransform | None:
        """Returns the function that validation runs, if any."""
        return None if self.in_validation is None else FunctionTransform(self.in_validation, self.in_validation)

    @property
    def needs_setup(self) -> bool:
        """Whether it is a `Transform` with `setups`."""
        return isinstance(self.f, OnSplit) and hasattr(self.f.transform, "setups")

    def set_up(self, loader: Any) -> BatchTransform:
        """Calls the `setups` of a `Transform`, and returns the same."""
        if isinstance(self.f, OnSplit):
            self.f.transform.setup(loader)
        return self

    def decode(self, x: Tensor) -> Tensor:
        """Undoes a `Transform`; other functions have no way back."""
        return self.f.decode(x) if isinstance(self.f, OnSplit) else x

    def __repr__(self) -> str:
        return getattr(self.f, "__name__", None) or repr(self.f)


class _Functions(FunctionTransform):
    """Functions one after another. Each receives what the one before returned, such as bytes for JPEG."""

    def __init__(self, parts: Sequence[FunctionTransform]) -> None:
        self.parts = tuple(parts)
        self.train_only = all(part.train_only for part in parts)

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        for part in self.parts:
            x = part(x, rng)
        return x

    def decode(self, x: Tensor) -> Tensor:
        """Undoes them, the last one first."""
        for part in reversed(self.parts):
            x = part.decode(x)
        return x

    def for_validation(self) -> BatchTransform | None:
        """Returns what validation runs for each of them, as one step."""
        (fused,) = _fuse(kept for part in self.parts if (kept := part.for_validation()) is not None) or (None,)
        return fused

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))


def _functions(transform: FunctionTransform) -> tuple[FunctionTransform, ...]:
    return transform.parts if isinstance(transform, _Functions) else (transform,)


def run_with_seed(f: TensorFunction, x: Tensor, seed: int) -> Tensor:
    """Returns ``f(x)``, run with the global generators seeded by `seed` (32 bits) and put back afterwards."""
    with isolate_rng(seed):
        return f(x)


def _as_transform(f: BatchTransform | TensorFunction) -> BatchTransform:
    return f if isinstance(f, BatchTransform) else FunctionTransform(for_training(f), for_validation(f))


def _fuse(transforms: Iterable[BatchTransform]) -> tuple[BatchTransform, ...]:
    done: list[BatchTransform] = []
    for transform in transforms:
        merged = done[-1].merge(transform) if done else None
        if merged is None:
            done.append(transform)
        else:
            done[-1] = merged
    return tuple(done)
