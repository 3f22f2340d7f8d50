"""`load_learner`, and the table of our own classes and functions that exported files may mention.

A name in a file is looked up in this table and in what the script has registered; nothing is imported by name.
Torchvision is loaded only to build a model for images.
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
from minilearner.data.targets import (
    Category,
    ClassNumbers,
    MultiCategory,
    Regression,
    mean_squared_error,
    restore_category,
    restore_multi_category,
)
from minilearner.data.transform import ToTensor
from minilearner.keywords import suggest_keywords
from minilearner.learner import Learner
from minilearner.losses import (
    BCEWithLogitsLossFlat,
    CrossEntropyLossFlat,
    FocalLoss,
    FocalLossFlat,
    L1LossFlat,
    LabelSmoothingCrossEntropy,
    LabelSmoothingCrossEntropyFlat,
    MSELossFlat,
)
from minilearner.models.minigooglenet import MiniGoogLeNet
from minilearner.models.mlp import MLP
from minilearner.models.xresnet import XResNet
from minilearner.saving import learner_files
from minilearner.saving.export import read_export
from minilearner.vision import augment, crops, erasing, lighting, normalize, resize, shift
from minilearner.vision.fashion_mnist import resize_images
from minilearner.vision.image_block import ImageBlock
from minilearner.vision.recipes import VisionModel, build_from_recipe

__all__ = ["load_learner"]


@suggest_keywords
def load_learner(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    cpu: bool | None = None,
    device: torch.device | str | None = None,
) -> Learner:
    """Returns a learner that predicts, from a file that `learn.export` wrote. It has no data to train on.

    Its model is in evaluation mode. Several threads may predict with it at once.

    It predicts the same bits as the exporting learner, on the same machine and torch version:

    >>> learn = load_learner("export.safetensors")  # doctest: +SKIP
    >>> label, number, probabilities = learn.predict("cat.jpg")  # doctest: +SKIP
    >>> preds, _ = learn.get_preds(dl=learn.dls.test_dl(["cat.jpg", "dog.jpg"]))  # doctest: +SKIP

    Names in the file are looked up, never imported or executed, and nothing is unpickled. So a file from anywhere is
    either loaded or refused, and runs no code. (fastai's `load_learner` unpickles, and so runs any code in the file.)

    With several processes, all must load, after process 0 has written. Each then predicts on its own.

    Args:
        path: the file.
        model: a module of your own class, for the weights in the file. Needed if its class was not registered.
        cpu: True predicts on the CPU, as ``device="cpu"`` does. fastai's default; here it is `device` that decides.
        device: where to predict. The GPU by default if there is one.

    Raises:
        FileNotFoundError: there is no such file. The message names the one that was probably meant.
        ValueError: both `cpu` and `device` are given.
        FileFormatError: the file is a pickle. Or it is damaged, foreign, too new for this version, mentions
            unregistered names, does not fit the model, or needs `model`. The message names the file.
    """
    if model is not None and not isinstance(model, nn.Module):
        hint = f" Write load_learner(path, cpu={model})." if isinstance(model, bool) else ""  # type: ignore[unreachable]
        raise TypeError(f"`model` must be a torch module. Received: {type(model).__name__}.{hint}")
    if cpu is not None and device is not None:
        raise ValueError(f"`cpu` and `device` both say where to predict. Received: cpu={cpu!r}, device={device!r}.")
    device = "cpu" if cpu else device
    processes.wait()
    learner_files.check_is_export(Path(path))
    loaded = read_export(Path(path), model, device)
    ready = loaded.model.eval()
    learn = Learner(loaded.dls, ready, loaded.loss_func, path=Path(path).parent, device=device, strategy=None)
    learn.precision = loaded.precision
    return learn


def _getter(*names: str, **renamed: str) -> Callable[[Any], dict[str, Any]]:
    """Returns a function that reads an object's constructor arguments off attributes of these names."""
    return lambda thing: {
        argument: getattr(thing, kept) for argument, kept in (*zip(names, names, strict=True), *renamed.items())
    }


def _add_all() -> None:
    for cls in (
        *(MLP, MiniGoogLeNet),
        *(Regression, FocalLoss, FocalLossFlat, TransformBlock),
        *(BCEWithLogitsLossFlat, MSELossFlat, L1LossFlat),
        *(lighting.Brightness, lighting.Contrast, lighting.Hue, lighting.Saturation, erasing.RandomErasing),
        *(augment.Dihedral, augment.Flip, shift.RandomShift, augment.Rotate, augment.Warp, augment.Zoom),
        crops.RandomResizedCropBatch,
        *(resize.Resize, resize.RandomResizedCrop, resize.CropPad, resize.RandomCrop),
        *(resize.RatioResize, ToTensor),
    ):
        registry.register(cls)
    registry.register(name="resized")(resize_images)  # the name in exported files
    for function in (mean_squared_error, F.cross_entropy, F.mse_loss, F.l1_loss, F.nll_loss):
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
        registry.add(loss.__name__, loss, arguments=_getter(*names))
    smoothing, flat = LabelSmoothingCrossEntropy, LabelSmoothingCrossEntropyFlat
    registry.add(smoothing.__name__, smoothing, arguments=_getter("weight", "reduction", eps="label_smoothing"))
    registry.add(flat.__name__, flat, arguments=_getter("weight", "reduction", "axis", eps="label_smoothing"))
    registry.register(CrossEntropyLossFlat)
    registry.add("XResNet", XResNet, arguments=_get_xresnet)
    registry.add("ClassNumbers", ClassNumbers, arguments=_get_temperature)
    registry.add("Category", Category, arguments=_get_category, build=_build_category)
    registry.add("MultiCategory", MultiCategory, arguments=_getter("vocab", "thresh"), build=_build_multi_category)
    registry.add("ImageBlock", ImageBlock, arguments=_getter(cls="mode"))
    registry.add("Normalize", normalize.Normalize, arguments=_get_statistics, build=normalize.Normalize.from_stats)
    registry.add("VisionModel", VisionModel, arguments=_get_recipe, build=build_from_recipe)


def _get_statistics(transform: normalize.Normalize) -> dict[str, Any]:
    return {"mean": transform.mean.tolist(), "std": transform.std.tolist()}


def _get_recipe(model: VisionModel) -> dict[str, Any]:
    if model.recipe is None:
        raise TypeError("the model has a body, a cut or a head of your own")
    return dict(model.recipe)


def _get_xresnet(model: XResNet) -> dict[str, Any]:
    if model.act_cls is not nn.ReLU:
        raise TypeError(f"the model has an activation that a file cannot name: {model.act_cls!r:.80}")
    return _getter("expansion", "layers", "p", "c_in", "n_out", "stem_szs", "widen", "ks", "stride")(model)


def _get_category(target: Category) -> dict[str, Any]:
    return {"vocab": target.vocab, **_get_temperature(target)}


def _get_temperature(target: ClassNumbers) -> dict[str, Any]:
    # Left out if it changes nothing, so that earlier versions read the file.
    return {} if target.temperature == 1 else {"temperature": target.temperature}


def _build_category(vocab: Any, temperature: float = 1.0) -> Category:
    return restore_category(_check_vocab(vocab), temperature)


def _build_multi_category(vocab: Any, thresh: float) -> MultiCategory:
    return restore_multi_category(_check_vocab(vocab), thresh)


def _check_vocab(vocab: Any) -> tuple[Any, ...]:
    if not isinstance(vocab, tuple) or not all(type(name) in (str, int, float, bool) for name in vocab):
        raise TypeError("a vocabulary is a tuple of text or numbers")
    return vocab


_add_all()
