"""The contract of batch transforms, and the pipeline that runs them. The transforms themselves live in `vision`.

A batch transform sees a whole batch that is already on the device. It draws from the generator that it is handed, so
the same seed gives the same bits whatever else the program draws.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from itertools import takewhile
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from minilearner.data.user_transforms import as_list, check_takes_batches, for_validation, run, taken_apart
from minilearner.errors import DataError
from minilearner.runtime import isolated_rng

__all__ = [
    "BatchTransform",
    "FunctionTransform",
    "Pipeline",
    "PixelChange",
    "PixelTransform",
    "TensorFunction",
    "Transforms",
    "changed",
    "check_unit_range",
    "in_unit_range",
    "run_isolated",
    "run_step",
    "run_steps",
    "train_only",
]

TensorFunction: TypeAlias = Callable[[Tensor], Tensor]

PixelChange: TypeAlias = Callable[[Tensor, slice], None]
"""Changes, in place, the pictures of a batch that the slice names: (pictures, channels, height, width)."""

# Values that are changed at once on a CPU: many passes over a whole batch would each leave its cache. Hue took 2.5 x as
# long without.
_VALUES_AT_ONCE = 2**19


class BatchTransform:
    """One step on a whole batch. Subclasses define `__call__`, and `decode` where showing a picture must undo it."""

    train_only: bool = True
    """True for augmentation, which validation skips; False for what the model always needs, such as normalisation."""

    belongs_to: ClassVar[str] = "batch_tfms"
    """The argument that takes it."""

    order: ClassVar[float] = 50
    """A pipeline runs lower numbers first, whatever place they have in the list; equal ones as listed.

    Geometry has 30, lighting 40, hue 41, `Normalize` 99 and `RandomErasing` 100; plain functions have 50.
    """

    takes_bytes: bool = False
    """Takes uint8 too, and makes of it what it would make of `in_unit_range` of it, sooner. Others are given floats."""

    needs_unit_range: bool = False
    """Only makes sense of values in [0, 1], as changes of light do: loaders refuse items clearly beyond."""

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Returns the transformed batch, never changing `x` in place.

        x: float, (batch, channels, height, width), in [0, 1] unless an earlier transform changed the range.
        rng: the only source of randomness. It may live on another device than `x`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(self, x, rng)`.")

    def run(self, x: Tensor, rng: torch.Generator, pixels: Sequence[PixelTransform]) -> Tensor:
        """Returns the transformed batch after these changes of its pixels too. Here: one after the other."""
        return run_steps(pixels, self(x, rng), rng) if pixels else self(x, rng)

    def decode(self, x: Tensor) -> Tensor:
        """Undoes the transform for display. Here: returns `x`."""
        return x

    def for_validation(self) -> BatchTransform | None:
        """Returns what validation runs in its place, without random choices; None where it runs nothing.

        Here: the transform itself unless it is `train_only`. A crop, say, keeps the resize.
        """
        return None if self.train_only else self

    def merge(self, later: BatchTransform) -> BatchTransform | None:
        """Returns one transform that does `self` and then `later`, or None where two passes are needed."""
        return None


class PixelTransform(BatchTransform):
    """A new value for each pixel, made of that pixel alone and of what is drawn for its picture. Define `drawn`.

    A transform that made new pictures just before has these changed a few at a time, in its own memory and while they
    are in the processor's cache (see `BatchTransform.run`).
    """

    def drawn(self, n: int, rng: torch.Generator) -> PixelChange:
        """Draws for a batch of `n` pictures, and returns what changes any of them."""
        raise NotImplementedError(f"{type(self).__name__} must define `drawn(self, n, rng)`.")

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Returns changed pictures."""
        return changed(x.clone(), self.drawn(len(x), rng))


Transforms: TypeAlias = BatchTransform | TensorFunction | Sequence[BatchTransform | TensorFunction] | None
"""What users pass as `batch_tfms`: one transform, several, or none. A plain function ``f(x)`` will do."""


class Pipeline:
    """Runs transforms by their `order`, neighbours fused where they can be (`BatchTransform.merge`).

    A plain function ``f(x)`` runs in training and in validation alike, with the global generators seeded from `rng` and
    put back afterwards; `train_only` makes it augmentation. torchvision's transforms are functions too: random ones are
    known as augmentation, those that decide the size run without chance in validation, a `Compose` is taken apart.
    They draw once for the whole batch. What to run is decided here once, not per batch.

    Raises:
        TypeError: a transform is not callable, is a class where an instance is meant, or cannot run on batches.
    """

    def __init__(self, transforms: Transforms = None) -> None:
        wrapped = [_wrapped(part) for f in as_list(transforms, "batch_tfms") for part in taken_apart(f)]
        self.transforms = tuple(sorted(wrapped, key=lambda transform: transform.order))
        self._in_training = _fused(self.transforms)
        in_validation = (transform.for_validation() for transform in self.transforms)
        self._in_validation = _fused(transform for transform in in_validation if transform is not None)

    def __call__(self, x: Tensor, rng: torch.Generator, *, training: bool) -> Tensor:
        """Returns the batch after the transforms that belong to training, or to validation."""
        for transform in self.steps(training=training):
            x = transform(x, rng)
        return x

    def steps(self, *, training: bool) -> tuple[BatchTransform, ...]:
        """What really runs, after fusing. Empty where there is nothing to do."""
        return self._in_training if training else self._in_validation

    def wrapped(self, wrap: Callable[[BatchTransform, Sequence[PixelTransform]], BatchTransform]) -> Pipeline:
        """Returns a pipeline that runs the same: each step, with what changes its pixels, as `wrap` makes it."""
        other = copy.copy(self)
        other._in_training = tuple(wrap(*group) for group in _groups(self._in_training))
        other._in_validation = tuple(wrap(*group) for group in _groups(self._in_validation))
        return other

    def augments(self) -> bool:
        """Whether a batch in training meets transforms that validation skips."""
        return any(t.train_only for t in self.transforms)

    def in_need_of_unit_range(self) -> BatchTransform | None:
        """Returns what needs inputs in [0, 1] and meets them as they come; None where a step may bring them there."""
        before = list(takewhile(lambda transform: not transform.needs_unit_range, self.transforms))
        is_met = len(before) < len(self.transforms) and all(transform.takes_bytes for transform in before)
        return self.transforms[len(before)] if is_met else None

    def with_augmentation(self, transforms: Transforms) -> Pipeline:
        """Returns a pipeline of other transforms for training, and after them of what validation runs here."""
        return Pipeline([*as_list(transforms, "batch_tfms"), *self._in_validation])

    def decode(self, x: Tensor) -> Tensor:
        """Undoes, last first, what validation does to a batch, for display."""
        for transform in reversed(self._in_validation):
            x = transform.decode(x)
        return x

    def __repr__(self) -> str:
        return f"Pipeline([{', '.join(map(repr, self.transforms))}])"


def run_steps(steps: Sequence[BatchTransform], x: Tensor, rng: torch.Generator) -> Tensor:
    """Returns a batch after these steps; uint8 becomes floats in [0, 1] where they are first needed, or at the end."""
    for step, pixels in _groups(steps):
        x = run_step(step, x if step.takes_bytes else in_unit_range(x), rng, pixels)
    return in_unit_range(x)


def run_step(step: BatchTransform, x: Tensor, rng: torch.Generator, pixels: Sequence[PixelTransform]) -> Tensor:
    """Returns a batch after one step and then these changes of its pixels."""
    return (step.run if _agrees(step, "run") else partial(BatchTransform.run, step))(x, rng, pixels)


def _groups(steps: Sequence[BatchTransform]) -> list[tuple[BatchTransform, list[PixelTransform]]]:
    """Returns steps in order, each with those after it that change the pixels which it made."""
    groups: list[tuple[BatchTransform, list[PixelTransform]]] = []
    for step in steps:
        if groups and isinstance(step, PixelTransform) and _agrees(step, "drawn"):
            groups[-1][1].append(step)
        else:
            groups.append((step, []))
    return groups


def _agrees(step: BatchTransform, method: str) -> bool:
    """Whether a method does what calling does: not where a subclass defines another `__call__` and leaves it alone."""
    return _defined_no_earlier(type(step), method)  # type: ignore[arg-type]  # mypy takes no class for hashable


@cache  # every step of every batch is asked
def _defined_no_earlier(kind: type, method: str) -> bool:
    method_at, call_at = (
        next(i for i, base in enumerate(kind.__mro__) if name in vars(base)) for name in (method, "__call__")
    )
    return method_at <= call_at


def changed(x: Tensor, *changes: PixelChange) -> Tensor:
    """Returns pictures after changes in place, one after the other; on a CPU a few pictures at a time."""
    at_once = max(1, _VALUES_AT_ONCE // max(1, x[:1].numel())) if x.device.type == "cpu" else max(1, len(x))
    for i in range(0, len(x), at_once):
        pictures = slice(i, i + at_once)
        for change in changes:
            change(x[pictures], pictures)
    return x


def in_unit_range(x: Tensor) -> Tensor:
    """Returns uint8 as float32 in [0, 1], bit-equal to ``x.float() / 255``; anything else as it is."""
    if x.dtype != torch.uint8:
        return x
    return x.to(torch.float32, memory_format=torch.contiguous_format).div_(255)  # planes first, in the same pass


def check_unit_range(x: Tensor, pipeline: Pipeline, name: str) -> None:
    """Raises where inputs are clearly beyond [0, 1] and a change of light would make black and white of them.

    Raises:
        DataError: so it is; says which transform needs them there, and calls them by this name.
    """
    transform = pipeline.in_need_of_unit_range()
    if transform is None:
        return
    low, high = map(float, x.aminmax()) if x.is_floating_point() and x.numel() else (0.0, 1.0)
    if low < -0.5 or high > 1.5:  # resampling may overshoot a little
        raise DataError(
            f"{transform!r} needs pictures in [0, 1], and {name} reaches from {low:.3g} to {high:.3g}. Give "
            "`Normalize` in `batch_tfms`, where it runs after the light, and make floats with "
            "v2.ToDtype(torch.float32, scale=True)."
        )


def train_only(f: TensorFunction) -> BatchTransform:
    """Returns a batch transform that runs `f` in training and leaves validation alone.

    >>> train_only(lambda x: x + 0.1 * torch.randn_like(x))  # doctest: +SKIP

    Raises:
        TypeError: `f` is not callable, or is a batch transform, which says so itself by its `train_only`.
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

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Returns ``f(x)``, with the global generators seeded from `rng` and put back."""
        seed = int(torch.randint(2**32, (), generator=rng, device=rng.device).item())
        return run_isolated(partial(run, self.f), x, seed)

    def merge(self, later: BatchTransform) -> BatchTransform | None:
        """Becomes one step with another function, which so receives bytes where this one returned them."""
        return _Functions((*_functions(self), *_functions(later))) if isinstance(later, FunctionTransform) else None

    def for_validation(self) -> BatchTransform | None:
        """Returns the function that validation runs, if any."""
        return None if self.in_validation is None else FunctionTransform(self.in_validation, self.in_validation)

    def __repr__(self) -> str:
        return getattr(self.f, "__name__", None) or repr(self.f)


class _Functions(FunctionTransform):
    """Functions one after another. Each receives what the one before returned: JPEG, say, bytes from a `ToDtype`."""

    def __init__(self, parts: Sequence[FunctionTransform]) -> None:
        self.parts = tuple(parts)
        self.train_only = all(part.train_only for part in parts)

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        for part in self.parts:
            x = part(x, rng)
        return x

    def for_validation(self) -> BatchTransform | None:
        """Returns what validation runs for each of them, in a row."""
        (fused,) = _fused(kept for part in self.parts if (kept := part.for_validation()) is not None) or (None,)
        return fused

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))


def _functions(transform: FunctionTransform) -> tuple[FunctionTransform, ...]:
    return transform.parts if isinstance(transform, _Functions) else (transform,)


def run_isolated(f: TensorFunction, x: Tensor, seed: int) -> Tensor:
    """Returns ``f(x)``, run with the global generators seeded by `seed` (32 bits) and put back afterwards."""
    with isolated_rng(seed):
        return f(x)


def _wrapped(f: BatchTransform | TensorFunction) -> BatchTransform:
    return f if isinstance(f, BatchTransform) else FunctionTransform(f, for_validation(f))


def _fused(transforms: Iterable[BatchTransform]) -> tuple[BatchTransform, ...]:
    done: list[BatchTransform] = []
    for transform in transforms:
        merged = done[-1].merge(transform) if done else None
        if merged is None:
            done.append(transform)
        else:
            done[-1] = merged
    return tuple(done)
