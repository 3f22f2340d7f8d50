"""`load_learner`, and which of the package's own classes and functions a file may name.

The table below is all there is: a name in a file is looked up in it and among what the script has registered, and never
imported. Torchvision is only loaded where a model for pictures is built.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from minilearner import processes, registry
from minilearner.data.blocks import TransformBlock
from minilearner.data.targets import Category, ClassNumbers, MultiCategory, Regression, mean_squared_error
from minilearner.learner import Learner
from minilearner.losses import FocalLoss, LabelSmoothingCrossEntropy
from minilearner.models.minigooglenet import MiniGoogLeNet
from minilearner.models.mlp import MLP
from minilearner.runtime import resolve_precision
from minilearner.saving.export import read_export
from minilearner.vision import augment, crops, erasing, lighting, normalize, resize, shift
from minilearner.vision.fashion_mnist import resized
from minilearner.vision.image_block import ImageBlock
from minilearner.vision.recipes import VisionModel, build_from_recipe

__all__ = ["load_learner"]


def load_learner(
    path: str | os.PathLike[str], model: nn.Module | None = None, *, device: torch.device | str | None = None
) -> Learner:
    """Returns a learner for predicting from a file that `learn.export` wrote. It has no data to train on.

    It predicts the same bits as the exporting learner, on the same machine and torch version:

    >>> learn = load_learner("export.safetensors")  # doctest: +SKIP
    >>> label, number, probabilities = learn.predict("cat.jpg")  # doctest: +SKIP
    >>> preds, _ = learn.get_preds(dl=learn.dls.test_dl(["cat.jpg", "dog.jpg"]))  # doctest: +SKIP

    What is named in the file is looked up, never imported or executed, and nothing is unpickled: a file from anywhere
    is loaded or refused, and runs no code of its own. (fastai's `load_learner` runs whatever the file says.)

    Of several processes all must load, once the first has written; each then predicts for itself.

    Args:
        model: a module of your own class, whose weights the file has; needed where the file does not say how it is
            built, for its class is not registered.
        device: where it predicts; the GPU where there is one by default.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: the file is damaged, foreign, newer than this version reads, needs what is not registered here,
            does not fit the model, or needs `model`. Names the file.
    """
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch module. Received: {type(model).__name__}.")
    processes.wait()
    loaded = read_export(Path(path), model, device)
    learn = Learner(loaded.dls, loaded.model, loaded.loss_func, path=Path(path).parent, device=device, strategy=None)
    learn.precision = resolve_precision(loaded.precision, learn.device)
    return learn


def _kept(*names: str, **renamed: str) -> Callable[[Any], dict[str, Any]]:
    """Returns a function from an object to its arguments, which it keeps under these names."""
    return lambda thing: {
        argument: getattr(thing, kept) for argument, kept in (*zip(names, names, strict=True), *renamed.items())
    }


def _add_all() -> None:
    for cls in (
        *(MLP, MiniGoogLeNet),
        *(ClassNumbers, Regression, FocalLoss, TransformBlock),
        *(lighting.Brightness, lighting.Contrast, lighting.Hue, lighting.Saturation, erasing.RandomErasing),
        *(augment.Dihedral, augment.Flip, shift.RandomShift, augment.Rotate, augment.Warp, augment.Zoom),
        crops.RandomResizedCropBatch,
        *(resize.Resize, resize.RandomResizedCrop, resize.CropPad, resize.RandomCrop),
        resize.RatioResize,
    ):
        registry.register(cls)
    for function in (resized, mean_squared_error, F.cross_entropy, F.mse_loss, F.l1_loss, F.nll_loss):
        registry.register(function)
    reduced = ("reduction",)
    for loss, names in {
        nn.CrossEntropyLoss: ("weight", "ignore_index", "label_smoothing", *reduced),
        nn.NLLLoss: ("weight", "ignore_index", *reduced),
        nn.BCEWithLogitsLoss: ("weight", "pos_weight", *reduced),
        nn.MSELoss: reduced,
        nn.L1Loss: reduced,
        nn.SmoothL1Loss: ("beta", *reduced),
        nn.HuberLoss: ("delta", *reduced),
    }.items():
        registry.add(loss.__name__, loss, arguments=_kept(*names))
    smoothing = LabelSmoothingCrossEntropy
    registry.add(smoothing.__name__, smoothing, arguments=_kept("weight", "reduction", eps="label_smoothing"))
    registry.add("Category", Category, arguments=_kept("vocab"), build=_category)
    registry.add("MultiCategory", MultiCategory, arguments=_kept("vocab", "thresh"), build=_multi_category)
    registry.add("ImageBlock", ImageBlock, arguments=_kept(cls="mode"))
    registry.add("Normalize", normalize.Normalize, arguments=_statistics, build=normalize.Normalize.from_stats)
    registry.add("VisionModel", VisionModel, arguments=_recipe, build=build_from_recipe)


def _statistics(transform: normalize.Normalize) -> dict[str, Any]:
    return {"mean": transform.mean.tolist(), "std": transform.std.tolist()}


def _recipe(model: VisionModel) -> dict[str, Any]:
    if model.recipe is None:
        raise TypeError("the model was made of a body, a cut or a head of your own")
    return dict(model.recipe)


def _category(vocab: Any) -> Category:
    return Category(_checked_vocab(vocab))


def _multi_category(vocab: Any, thresh: float) -> MultiCategory:
    return MultiCategory(_checked_vocab(vocab), thresh)


def _checked_vocab(vocab: Any) -> tuple[Any, ...]:
    if not isinstance(vocab, tuple) or not all(type(name) in (str, int, float, bool) for name in vocab):
        raise TypeError("a vocabulary is a tuple of text or numbers")
    return vocab


_add_all()
