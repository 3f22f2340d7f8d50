"""The contract of batch transforms, and the pipeline that runs them. The transforms themselves live in `vision`.

A batch transform sees a whole batch that is already on the device. It draws from the generator that it is handed, so
the same seed gives the same bits whatever else the program draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from minilearner.runtime import isolated_rng

__all__ = ["BatchTransform", "Pipeline", "TensorFunction", "Transforms", "run_isolated"]

TensorFunction: TypeAlias = Callable[[Tensor], Tensor]


class BatchTransform:
    """One step on a whole batch. Subclasses define `__call__`, and `decode` where showing a picture must undo it."""

    train_only: bool = True
    """True for augmentation, which validation skips; False for what the model always needs, such as normalisation."""

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Returns the transformed batch, never changing `x` in place.

        x: float, (batch, channels, height, width), in [0, 1] unless an earlier transform changed the range.
        rng: the only source of randomness. It may live on another device than `x`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(self, x, rng)`.")

    def decode(self, x: Tensor) -> Tensor:
        """Undoes the transform for display. Here: returns `x`."""
        return x

    def merge(self, later: BatchTransform) -> BatchTransform | None:
        """Returns one transform that does `self` and then `later`, or None where two passes are needed."""
        return None


Transforms: TypeAlias = BatchTransform | TensorFunction | Sequence[BatchTransform | TensorFunction] | None
"""What users pass as `batch_tfms`: one transform, several, or none. A plain function ``f(x)`` will do."""


class Pipeline:
    """Runs transforms in the order given, neighbours fused where they can be (`BatchTransform.merge`).

    A plain function ``f(x)``, such as a torchvision v2 transform, runs in training and in validation alike, with the
    global generators seeded from `rng` and put back afterwards. What to run is decided here once, not per batch.

    Raises:
        TypeError: a transform is not callable, or is a class where an instance is meant.
    """

    def __init__(self, transforms: Transforms = None) -> None:
        self.transforms = tuple(_wrapped(f) for f in as_list(transforms, "batch_tfms"))
        self._in_training = _fused(self.transforms)
        self._in_validation = _fused(t for t in self.transforms if not t.train_only)

    def __call__(self, x: Tensor, rng: torch.Generator, *, training: bool) -> Tensor:
        """Returns the batch after the transforms that belong to training, or to validation."""
        for transform in self.steps(training=training):
            x = transform(x, rng)
        return x

    def steps(self, *, training: bool) -> tuple[BatchTransform, ...]:
        """What really runs, after fusing. Empty where there is nothing to do."""
        return self._in_training if training else self._in_validation

    def augments(self) -> bool:
        """Whether a batch in training meets transforms that validation skips."""
        return any(t.train_only for t in self.transforms)

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


class _Function(BatchTransform):
    """A plain function of the batch as a transform."""

    train_only = False

    def __init__(self, f: TensorFunction) -> None:
        self.f = f

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        seed = int(torch.randint(2**32, (), generator=rng, device=rng.device).item())
        return run_isolated(self.f, x, seed)

    def __repr__(self) -> str:
        return getattr(self.f, "__name__", None) or repr(self.f)


def run_isolated(f: TensorFunction, x: Tensor, seed: int) -> Tensor:
    """Returns ``f(x)``, run with the global generators seeded by `seed` (32 bits) and put back afterwards."""
    with isolated_rng(seed):
        return f(x)


def as_list(transforms: Transforms, name: str) -> list[BatchTransform | TensorFunction]:
    """Returns one transform, several or none as a list; `name` is the argument that an error is about.

    Raises:
        TypeError: a transform is not callable, or is a class where an instance is meant.
    """
    if transforms is None:
        return []
    several: list[BatchTransform | TensorFunction]
    several = list(transforms) if isinstance(transforms, Sequence) else [transforms]
    for f in several:
        if isinstance(f, type):
            raise TypeError(f"`{name}` takes instances. Received the class {f.__name__}: write {f.__name__}(...).")
        if not callable(f):
            raise TypeError(f"`{name}` takes transforms or functions of a tensor. Received: {f!r}.")
    return several


def _wrapped(f: BatchTransform | TensorFunction) -> BatchTransform:
    return f if isinstance(f, BatchTransform) else _Function(f)


def _fused(transforms: Iterable[BatchTransform]) -> tuple[BatchTransform, ...]:
    done: list[BatchTransform] = []
    for transform in transforms:
        merged = done[-1].merge(transform) if done else None
        if merged is None:
            done.append(transform)
        else:
            done[-1] = merged
    return tuple(done)
