"""Transforms of albumentations as item transforms: called with an image, seeded, and without chance in validation."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["AlbumentationsCall", "is_albumentations"]

_SEQUENCES = ("Compose", "ReplayCompose", "Sequential")
_FIXED = (
    *("CenterCrop", "Crop", "FromFloat", "Lambda", "LongestMaxSize", "NoOp", "Normalize", "Pad", "PadIfNeeded"),
    *("Resize", "SmallestMaxSize", "ToFloat", "ToGray", "ToRGB", "ToTensorV2"),
)
"""What makes the same image from another, unless it has a `p` below 1."""


def is_albumentations(f: Any) -> bool:
    """Whether it is a transform of albumentations, a composition of some, or a user's subclass."""
    return any(base.__module__.startswith("albumentations.") for base in type(f).__mro__)


class AlbumentationsCall:
    """Calls a transform of albumentations as a function of an image.

    It draws its seed from Python's global generator, so the same state of that gives the same image.

    Args:
        f: a transform or a composition. It needs nothing but an image.
    """

    def __init__(self, f: Any) -> None:
        self.f = f

    def __call__(self, image: Any) -> Image.Image | np.ndarray[Any, Any] | Tensor:
        """Returns a PIL image for one of bytes, so that other transforms may follow; floats as a tensor of planes."""
        seed = getattr(self.f, "set_random_seed", None)
        if seed is not None:  # versions before 1.4.22 draw from the global generators
            seed(random.getrandbits(32))
        made = self.f(image=_as_array(image))["image"]
        if isinstance(image, Image.Image) and not isinstance(made, Tensor) and made.dtype == np.uint8:
            return Image.fromarray(made[:, :, 0] if made.ndim == 3 and made.shape[2] == 1 else made)
        if isinstance(made, Tensor) or made.dtype == np.uint8:
            return made  # type: ignore[no-any-return]
        return torch.from_numpy(np.ascontiguousarray(made.transpose(2, 0, 1) if made.ndim == 3 else made))

    def in_validation(self) -> AlbumentationsCall | None:
        """Returns what validation runs: the parts without chance, and the same size; None if nothing is left."""
        parts = _without_chance(self.f)
        if not parts:
            return None
        import albumentations  # the user has imported it by now

        return AlbumentationsCall(albumentations.Compose(parts))

    def __repr__(self) -> str:
        return " ".join(repr(self.f).split())


def _without_chance(f: Any) -> list[Any]:
    """Returns the transforms that validation runs in place of one.

    A crop at a random place becomes a crop of the centre, and a random part at one size the whole image at that size.
    """
    if getattr(f, "p", 1) < 1:
        return []
    names = {base.__name__ for base in type(f).__mro__ if base.__module__.startswith("albumentations.")}
    if names & set(_SEQUENCES):
        return [part for one in f.transforms for part in _without_chance(one)]
    if not type(f).__module__.startswith("albumentations.") or names & set(_FIXED):
        return [f]
    import albumentations  # the user has imported it by now

    if names & {"RandomResizedCrop", "RandomSizedCrop"}:
        return [albumentations.Resize(*f.size, interpolation=f.interpolation)]
    return [albumentations.CenterCrop(f.height, f.width)] if "RandomCrop" in names else []


def _as_array(image: Any) -> np.ndarray[Any, Any]:
    """Returns an image as albumentations takes it: (height, width, channels)."""
    array = image.permute(1, 2, 0).numpy() if isinstance(image, Tensor) and image.ndim == 3 else np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array
