"""`vision_learner`: a learner for images on a pretrained body, for transfer learning in one call.

`backbones` builds the body, `models.heads` the head, and `Learner` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from minilearner.checks import check_count, check_not_negative, check_rate
from minilearner.copies import copy_apart
from minilearner.data.dataloaders import DataLoaders
from minilearner.keywords import suggest_keywords
from minilearner.learner import Learner
from minilearner.models.groups import Splitter
from minilearner.models.heads import Cut, create_head, initialize
from minilearner.runtime import set_seed
from minilearner.training.callback import Callbacks
from minilearner.training.compiler import Compile
from minilearner.training.optimizers import OptimizerFactory, Rate
from minilearner.training.step import LossFunction
from minilearner.vision.backbones import Arch, Backbone, build_backbone
from minilearner.vision.families import Stats
from minilearner.vision.normalize import Normalize
from minilearner.vision.pretrained import Weights
from minilearner.vision.recipes import VisionModel, recipe_of

__all__ = ["cnn_learner", "vision_learner"]

_Label = TypeVar("_Label", default=Any)


@suggest_keywords
def vision_learner(
    dls: DataLoaders[_Label],
    arch: Arch,
    normalize: bool = True,
    n_out: int | None = None,
    pretrained: bool = True,
    weights: Weights | None = None,
    loss_func: LossFunction | None = None,
    opt_func: OptimizerFactory | None = None,
    lr: Rate = 1e-3,
    splitter: Splitter | None = None,
    cbs: Callbacks = None,
    metrics: Any = None,
    path: str | Path | None = None,
    model_dir: str | Path = ".",
    wd: float | None = None,
    wd_bn_bias: bool = False,
    train_bn: bool = True,
    moms: tuple[float, float, float] = (0.95, 0.85, 0.95),
    cut: Cut | None = None,
    init: Callable[[Tensor], Any] | None = nn.init.kaiming_normal_,
    custom_head: nn.Module | None = None,
    concat_pool: bool = True,
    pool: bool = True,
    lin_ftrs: Sequence[int] | None = None,
    ps: float | Sequence[float] = 0.5,
    first_bn: bool = True,
    bn_final: bool = False,
    lin_first: bool = False,
    y_range: tuple[float, float] | None = None,
    n_in: int = 3,
    *,
    precision: str = "fp32",
    device: str | torch.device | None = None,
    seed: int | None = None,
    compile: Compile = False,
) -> Learner[_Label]:
    """Returns a learner whose model is ``Sequential(body, head)``: the body of `arch`, and a new head for these labels.

    With trained weights, everything but the head is frozen. Norm layers still learn if `train_bn`. The usual next step
    is `learn.fine_tune(3)`. Images are normalized by the mean and standard deviation that the body was trained with.
    This happens in `learn.dls`, a copy; the caller's `dls` does not change.

    Example::

        learn = vision_learner(dls, resnet34, metrics=error_rate)
        learn.fine_tune(3)

    Args:
        dls: loaders of images (batch, channels, height, width).
        arch: a torchvision constructor (`resnet34`), a timm name ("convnext_tiny", with the extra `timm`), a module of
            your own, or a function that makes one. A module is copied, and with `pretrained` its own weights count as
            trained.
        normalize: add the statistics to the batch transforms, unless `dls` has a `Normalize`. Images must be in [0, 1].
            Nothing is added for bodies of your own, or if there are not 3 channels, since their statistics are unknown.
        n_out: outputs; by default as many as `dls` has classes, or numbers for regression.
        pretrained: start with trained weights, the best of torchvision or timm. They come from torch hub's folder, or
            are downloaded if they are missing there.
        weights: other trained weights: a member of a torchvision enum, its name ("IMAGENET1K_V1"), or the path of a
            file of tensors by name (.pth or .safetensors), for a whole model or a body.
        splitter: divides the model into layer groups. By default earlier body, later body and head, or body and head if
            nothing is known about the layers.
        path: the folder for files of this learner.
        model_dir: the folder for `save` and `load`, in `path` or anywhere; `path` itself by default.
        cut: where the body ends: how many children to keep, or a function from the model to its body.
        init: sets the weights of the head, also of a custom one, with torch's global generator. None leaves them.
        custom_head: a head for the body's output, instead of the one from `create_head`.
        concat_pool, pool, lin_ftrs, ps, first_bn, bn_final, lin_first, y_range: see `create_head`. If the body pools
            itself, as a transformer does, the head does not.
        n_in: channels of the images. The first convolution is adapted and keeps what it has learned.
        loss_func, opt_func, lr, cbs, metrics, wd, wd_bn_bias, train_bn, moms, precision, device, compile: see
            `Learner`.
        seed: seeds the four global generators now, before anything random happens.

    Raises:
        ValueError, TypeError: an argument cannot work.
        DownloadError: trained weights are missing and cannot be downloaded. Says which file to put where.
        FileFormatError, FileNotFoundError: the weights file is damaged, belongs to another model, or is missing.
        ImportError: `arch` is a timm name, and timm is not installed.

    Source: fastai, `vision_learner`. There, `cut` is ignored, and the statistics are added to the caller's `dls`.
    """
    given = {name: _keep_apart(value) for name, value in locals().items() if name not in ("dls", "arch", "cbs")}
    if not isinstance(dls, DataLoaders):
        raise TypeError(f"`dls` must be DataLoaders: DataLoaders(train, valid). Received: {type(dls).__name__}.")
    check_rate(lr, "lr", auto=True)
    check_count(n_in, "n_in")
    if wd is not None:
        check_not_negative(wd, "wd")
    n_out = _count_outputs(dls, n_out)
    size = _image_size(dls, n_in)
    if seed is not None:
        set_seed(seed)
    backbone = build_backbone(arch, n_in=n_in, size=size, pretrained=pretrained, weights=weights, cut=cut)
    layers: dict[str, Any] = {"nf": backbone.features[0], "n_out": n_out, "lin_ftrs": lin_ftrs, "ps": ps}
    layers |= {"pool": custom_head is None and _needs_pooling(backbone, pool), "concat_pool": concat_pool}
    layers |= {"first_bn": first_bn, "bn_final": bn_final, "lin_first": lin_first, "y_range": y_range}
    model = _put_together(backbone, layers, custom_head, init)
    if custom_head is None:
        model.recipe = recipe_of(arch, backbone.body, n_in=n_in, cut=cut, head=layers)
    learn = Learner(
        _add_normalize(dls, backbone.stats) if normalize else dls,
        model,
        loss_func,
        opt_func,
        lr,
        splitter or backbone.splitter,
        cbs,
        metrics,
        wd=wd,
        wd_bn_bias=wd_bn_bias,
        train_bn=train_bn,
        moms=moms,
        path=path,
        model_dir=model_dir,
        precision=precision,
        device=device,
        compile=compile,
    )
    if pretrained:
        learn.freeze()
    learn._recipe = partial(vision_learner, arch=arch, **given)
    return learn


cnn_learner = vision_learner
"""The old name of `vision_learner`."""


def _put_together(
    backbone: Backbone,
    layers: dict[str, Any],
    custom_head: nn.Module | None,
    init: Callable[[Tensor], Any] | None,
) -> VisionModel:
    head = create_head(**layers) if custom_head is None else custom_head
    if init is not None:
        initialize(head, init)
    return VisionModel(backbone.body, head)


def _keep_apart(value: Any) -> Any:
    """Returns a copy of a module that the learner would train, and anything else as it is."""
    return copy_apart(value) if isinstance(value, nn.Module) else value


def _count_outputs(dls: DataLoaders, n_out: int | None) -> int:
    n = n_out if n_out is not None or dls.target is None else dls.target.n_out
    if n is None:
        raise ValueError(
            "`n_out` is needed, since `dls` does not say how many classes there are. Pass it, or pass `vocab` to "
            "DataLoaders."
        )
    check_count(n, "n_out")
    return n


def _image_size(dls: DataLoaders, n_in: int) -> tuple[int, int]:
    """Returns height and width of the images, which must have `n_in` channels."""
    x, _ = dls.loader(0).first_batch()
    if not isinstance(x, Tensor) or x.ndim != 4:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"`dls` must return images (batch, channels, height, width). Received: {shape}.")
    if x.shape[1] != n_in:
        raise ValueError(
            f"`n_in` must be the number of channels of the images. Received: n_in={n_in}, images of shape "
            f"{tuple(x.shape)}. Pass n_in={x.shape[1]} to adapt the first convolution."
        )
    return int(x.shape[2]), int(x.shape[3])


def _needs_pooling(backbone: Backbone, pool: bool) -> bool:
    """Returns whether the head must pool."""
    has_map = len(backbone.features) == 3
    if has_map and not pool:
        raise ValueError(
            "`pool=False` needs a body that pools itself. Received: a body that returns "
            f"{('batch', *backbone.features)}. Leave it out, or pass `custom_head`."
        )
    return has_map


def _add_normalize(dls: DataLoaders, stats: Stats | None) -> DataLoaders:
    if stats is None or any(map(_is_normalize, dls.train.batch_tfms.transforms)):
        return dls
    _check_range(dls)
    return dls.with_batch_tfms(Normalize.from_stats(*stats))


def _check_range(dls: DataLoaders) -> None:
    """Raises if images are clearly not in [0, 1]. Looks at images without augmentation, which may exceed it."""
    low, high = map(float, dls.in_order(0).first_batch()[0].aminmax())
    if low < -0.5 or high > 1.5:  # resampling may overshoot a little
        raise ValueError(
            f"`normalize=True` needs images in [0, 1], but these range from {low:.3g} to {high:.3g}. Pass "
            "normalize=False if they are normalized already. Divide them by 255 if they are bytes."
        )


def _is_normalize(transform: Any) -> bool:
    """Returns whether a transform is our `Normalize`, or torchvision's in the wrapper of a plain function."""
    return type(getattr(transform, "f", transform)).__name__ == "Normalize"
