"""Transforms as people pass them: one or several, functions, torchvision's classes and albumentations'."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from minilearner.data.albumentations_call import AlbumentationsCall, is_albumentations
from minilearner.data.transform import OnSplit, Transform
from minilearner.errors import DataError

__all__ = ["as_list", "check_takes_batches", "for_training", "for_validation", "is_preparation", "run", "split_compose"]


def as_list(transforms: Any, name: str, kind: str | None = None) -> list[Any]:
    """Returns one transform, several or none as a list.

    Args:
        transforms: what the user passed.
        name: the argument that an error names.
        kind: "item_tfms" or "batch_tfms", the kind that is allowed; `name` when None. Our own transforms have their
            kind in an attribute `belongs_to`.

    Raises:
        TypeError: a transform is not callable, is a class or a function that makes transforms instead of a transform,
            or belongs to the other argument.
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
    """Returns whether it is a function that needs no input, such as `aug_transforms` itself."""
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

# Augmentation if a range was given; a fixed step of preparation if one number was given.
_RANGES = {"GaussianBlur": "sigma", "JPEG": "quality"}


def split_compose(f: Callable[..., Any]) -> list[Callable[..., Any]]:
    """Returns the parts of a `Compose` or `torch.nn.Sequential`, nested ones too; anything else alone."""
    if not _names(f) & set(_SEQUENCES):
        return [f]
    parts: Any = getattr(f, "transforms", f)
    return [part for outer in parts for part in split_compose(outer)]


def is_preparation(f: Callable[..., Any]) -> bool:
    """Returns whether it always makes the same image from another, so that a cache may keep the result."""
    return bool(_names(f)) and type(f).__name__ in _PREPARATION


def check_takes_batches(f: Callable[..., Any]) -> None:
    """Refuses transforms that cannot work on a float batch of inputs.

    Raises:
        TypeError: `f` takes or returns PIL images, mixes targets, returns several batches, or is albumentations'.
    """
    if is_albumentations(f):
        raise TypeError(
            f"`batch_tfms` cannot run albumentations' {type(f).__name__}: it takes one image on the CPU. "
            "Give it as `item_tfms`."
        )
    for names, why in (
        (_PIL, "converts PIL images; batches are float tensors already, so leave it out"),
        (_TARGETS, "also mixes the targets, and batch transforms get only the inputs; use the callback of that name"),
        (_SEVERAL, "returns several images for one; crop in the item transforms"),
    ):
        if _names(f) & set(names):
            raise TypeError(f"`batch_tfms` cannot run torchvision's {type(f).__name__}: it {why}.")


def for_validation(f: Callable[..., Any]) -> Callable[..., Any] | None:
    """Returns what validation runs for `f`: itself, the same size without chance, or None for augmentation.

    torchvision's random transforms are augmentation. Two of them decide the size: `RandomResizedCrop` becomes a resize
    of the whole image, and `RandomCrop` a crop of its centre. albumentations' are treated alike. All other functions
    run as they are, even a user's subclass of `v2.Transform`.
    """
    if isinstance(f, Transform):
        return None if f.split_idx == 0 else OnSplit(f, 1)
    if isinstance(f, AlbumentationsCall):
        return f.in_validation()
    names = _names(f)
    if names & {"RandomResizedCrop", "RandomCrop"}:
        # The user has imported it by now. At the top of this module, everybody would have to.
        from torchvision.transforms import v2

        crop: Any = f
        whole: Callable[..., Any] = v2.CenterCrop(crop.size)
        if "RandomResizedCrop" in names:
            whole = v2.Resize(crop.size, interpolation=crop.interpolation, antialias=crop.antialias)
        return whole
    augments = any(name.startswith("Random") for name in names) or names & set(_AUGMENTATION)
    ranges = [getattr(f, attribute) for name, attribute in _RANGES.items() if name in names]
    return None if augments or any(low != high for low, high in ranges) else f


def for_training(f: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what training runs for `f`: itself; a `Transform` for its split."""
    return OnSplit(f, 0) if isinstance(f, Transform) else f


def run(f: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """Returns ``f(x)``; if `f` is torchvision's, an error says what batch transforms get.

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
    """Returns the names of its classes that are torchvision's transforms or sequences of modules."""
    modules = ("torchvision.transforms.", "torch.nn.modules.container")
    return {c.__name__ for c in type(f).__mro__ if c.__module__.startswith(modules)}
