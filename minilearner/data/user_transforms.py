"""Transforms as people pass them: one or several, functions, and torchvision's classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from minilearner.errors import DataError

__all__ = ["as_list", "check_takes_batches", "for_validation", "prepares", "run", "taken_apart"]


def as_list(transforms: Any, name: str, kind: str | None = None) -> list[Any]:
    """Returns one transform, several or none as a list; `name` is the argument that an error is about.

    kind: "item_tfms" or "batch_tfms", what may stand here; `name` when None. Transforms of ours say in an attribute
    `belongs_to` which they are.

    Raises:
        TypeError: a transform is not callable, is a class or a function that makes transforms, where its result is
            meant, or belongs to the other argument.
    """
    several = list(transforms) if isinstance(transforms, Sequence) else [] if transforms is None else [transforms]
    for f in several:
        if isinstance(f, type):
            raise TypeError(f"`{name}` takes instances. Received the class {f.__name__}: write {f.__name__}(...).")
        if not callable(f):
            raise TypeError(f"`{name}` takes transforms or functions of their input. Received: {f!r}.")
        if _makes_transforms(f):
            raise TypeError(
                f"`{name}` takes transforms or functions of their input. Received the function {f.__name__}, which "
                f"needs no input: write {f.__name__}(...)."
            )
        belongs_to = getattr(f, "belongs_to", None)
        if belongs_to not in (None, kind or name):
            raise TypeError(f"{f!r} belongs to `{belongs_to}`. Received among `{name}`.")
    return several


def _makes_transforms(f: Any) -> bool:
    """Whether it is a function that can be called without an input, such as `aug_transforms` itself."""
    if not inspect.isfunction(f):
        return False
    inputs = [p for p in inspect.signature(f).parameters.values() if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
    return all(p.default is not p.empty for p in inputs)


_SEQUENCES = ("Compose", "Sequential")
_PIL = ("ToTensor", "PILToTensor", "ToPILImage")
_TARGETS = ("MixUp", "CutMix")
_SEVERAL = ("FiveCrop", "TenCrop")
_PREPARATION = ("CenterCrop", "Grayscale", "Pad", "RGB", "Resize")

# Augmentation whose name does not begin with "Random".
_AUGMENTATION = (
    "AugMix",
    "AutoAugment",
    "ColorJitter",
    "ElasticTransform",
    "GaussianNoise",
    "RandAugment",
    "ScaleJitter",
    "TrivialAugmentWide",
)

# Augmentation where a range was given, a fixed step of preparation where one number was.
_RANGES = {"GaussianBlur": "sigma", "JPEG": "quality"}


def taken_apart(f: Callable[..., Any]) -> list[Callable[..., Any]]:
    """Returns the parts of a `Compose` or `torch.nn.Sequential`, and of those inside it; anything else alone."""
    if not _names(f) & set(_SEQUENCES):
        return [f]
    parts: Any = getattr(f, "transforms", f)
    return [part for outer in parts for part in taken_apart(outer)]


def prepares(f: Callable[..., Any]) -> bool:
    """Tells whether it makes one picture of another, always in the same way: a cache may keep what it gives."""
    return bool(_names(f)) and type(f).__name__ in _PREPARATION


def check_takes_batches(f: Callable[..., Any]) -> None:
    """Refuses what cannot work on a float batch of inputs.

    Raises:
        TypeError: `f` takes or gives PIL pictures, mixes targets, or gives several batches.
    """
    for names, why in (
        (_PIL, "converts PIL pictures; batches are float tensors already, so leave it out"),
        (_TARGETS, "mixes the targets too, and batch transforms see the inputs alone; mixing is a callback's work"),
        (_SEVERAL, "gives several pictures for one; crop in the item transforms"),
    ):
        if _names(f) & set(names):
            raise TypeError(f"`batch_tfms` cannot run torchvision's {type(f).__name__}: it {why}.")


def for_validation(f: Callable[..., Any]) -> Callable[..., Any] | None:
    """Returns what validation runs for `f`: itself, the same size without chance, or None for augmentation.

    torchvision's random transforms are augmentation. Of the two that decide the size, `RandomResizedCrop` becomes the
    whole picture resized, and `RandomCrop` the crop of the centre. Anything not torchvision's, a subclass of
    `v2.Transform` with a name of its own among it, runs as it is.
    """
    names = _names(f)
    if names & {"RandomResizedCrop", "RandomCrop"}:
        # By now the user has imported it; at the top of the module everybody would.
        from torchvision.transforms import v2

        crop: Any = f
        whole: Callable[..., Any] = v2.CenterCrop(crop.size)
        if "RandomResizedCrop" in names:
            whole = v2.Resize(crop.size, interpolation=crop.interpolation, antialias=crop.antialias)
        return whole
    augments = any(name.startswith("Random") for name in names) or names & set(_AUGMENTATION)
    ranges = [getattr(f, attribute) for name, attribute in _RANGES.items() if name in names]
    return None if augments or any(low != high for low, high in ranges) else f


def run(f: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """Returns ``f(x)``; where `f` is torchvision's, a failure says what batch transforms are given.

    Raises:
        DataError: torchvision refused the batch, or did not return one.
    """
    if not _names(f):
        return f(x)  # type: ignore[no-any-return]
    given = f"a batch transform receives tensors (batch, channels, height, width). Received: {x.dtype} {tuple(x.shape)}"
    try:
        transformed = f(x)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"torchvision's {type(f).__name__} failed as a batch transform: {error} ({given}.)") from error
    if not isinstance(transformed, Tensor) or len(transformed) != len(x):
        raise DataError(f"torchvision's {type(f).__name__} returned no batch of the same length; {given}.")
    return transformed


def _names(f: Callable[..., Any]) -> set[str]:
    """Returns the names of those of its classes that are torchvision's transforms, or a sequence of modules."""
    modules = ("torchvision.transforms.", "torch.nn.modules.container")
    return {c.__name__ for c in type(f).__mro__ if c.__module__.startswith(modules)}
