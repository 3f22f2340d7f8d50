"""A learner for pictures on a pretrained body: transfer learning in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minilearner.data.dataloaders import DataLoaders
from minilearner.learner import Learner
from minilearner.models.groups import Splitter
from minilearner.models.heads import Cut, create_head, initialize
from minilearner.runtime import set_seed
from minilearner.training.callback import Callbacks
from minilearner.training.compiler import Compile
from minilearner.training.optimizers import OptimizerFactory, Rate, check_rate
from minilearner.training.step import LossFunction
from minilearner.vision.backbones import Arch, Backbone, build_backbone
from minilearner.vision.families import Stats
from minilearner.vision.normalize import Normalize
from minilearner.vision.pretrained import Weights
from minilearner.vision.recipes import VisionModel, recipe_of

__all__ = ["cnn_learner", "vision_learner"]


def vision_learner(
    dls: DataLoaders,
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
    model_dir: None = None,
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
) -> Learner:
    """Returns a learner whose model is ``Sequential(body, head)``: the body of `arch`, and a new head for these labels.

    With trained weights, all but the head is frozen (norm layers learn on, with `train_bn`): `learn.fine_tune(3)` is
    the usual next step. The pictures get the mean and standard deviation that the body was trained with, in
    `learn.dls`, a copy: the caller's `dls` stays as it is, and its loaders get them where the learner is given one.

    Example::

        learn = vision_learner(dls, resnet34, metrics=error_rate)
        learn.fine_tune(3)

    Args:
        dls: loaders of pictures (batch, channels, height, width).
        arch: a constructor of torchvision's (`resnet34`), a name of timm's ("convnext_tiny", with the extra `timm`), a
            module of your own or a function that makes one. A module is copied, and with `pretrained` its own weights
            count as trained.
        normalize: append the statistics, unless `dls` has a `Normalize`; the pictures must be in [0, 1] for it. None
            are known of bodies of your own, nor for other than 3 channels.
        n_out: outputs; by default as many as `dls` has classes or numbers to regress.
        pretrained: begin with trained weights, torchvision's or timm's best. From torch hub's folder where they are
            there, else downloaded.
        weights: other trained weights: a torchvision enum's member, its name ("IMAGENET1K_V1"), or the path of a file
            of tensors by name (.pth or .safetensors), of a whole model or of a body.
        splitter: divides the model into layer groups instead of earlier body, later body, head (body and head where
            nothing is known of the layers).
        path: where files of this learner go. `model_dir` only keeps its place among the arguments, and must be None.
        cut: where the body ends: how many children to keep, or a function from the model to its body.
        init: gives the head its weights, a custom one too, drawing from torch's global generator; None leaves them.
        custom_head: takes what the body gives, instead of `create_head`'s.
        concat_pool, pool, lin_ftrs, ps, first_bn, bn_final, lin_first, y_range: see `create_head`. A body that pools
            itself, as a transformer does, gets a head without pooling.
        n_in: channels of the pictures. The first convolution is adapted, and keeps what it has learnt.
        loss_func, opt_func, lr, cbs, metrics, wd, wd_bn_bias, train_bn, moms, precision, device, compile: see
            `Learner`.
        seed: seeds the four global generators now, before anything is drawn.

    Raises:
        ValueError, TypeError: an argument cannot work.
        DownloadError: trained weights are not here and cannot be had. Says which file to put where.
        FileFormatError, FileNotFoundError: the file of weights is damaged, of another model, or not there.
        ImportError: a timm name without timm.

    Source: fastai, `vision_learner`; there `cut` is ignored, and the statistics are added to the caller's `dls`.
    """
    if not isinstance(dls, DataLoaders):
        raise TypeError(f"`dls` must be DataLoaders: DataLoaders(train, valid). Received: {type(dls).__name__}.")
    check_rate(lr)
    if model_dir is not None:
        raise ValueError(f"`model_dir` is not used: give the whole `path`. Received: model_dir={model_dir!r}.")
    n_out = _n_outputs(dls, n_out)
    size = _picture_size(dls, n_in)
    if seed is not None:
        set_seed(seed)
    backbone = build_backbone(arch, n_in=n_in, size=size, pretrained=pretrained, weights=weights, cut=cut)
    layers: dict[str, Any] = {"nf": backbone.features[0], "n_out": n_out, "lin_ftrs": lin_ftrs, "ps": ps}
    layers |= {"pool": custom_head is None and _pools(backbone, pool), "concat_pool": concat_pool, "first_bn": first_bn}
    layers |= {"bn_final": bn_final, "lin_first": lin_first, "y_range": y_range}
    head = create_head(**layers) if custom_head is None else custom_head
    if init is not None:
        initialize(head, init)
    model = VisionModel(backbone.body, head)
    if custom_head is None:
        model.recipe = recipe_of(arch, backbone.body, n_in=n_in, cut=cut, head=layers)
    learn = Learner(
        _normalized(dls, backbone.stats) if normalize else dls,
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
        precision=precision,
        device=device,
        compile=compile,
    )
    if pretrained:
        learn.freeze()
    return learn


cnn_learner = vision_learner
"""`vision_learner` by its old name."""


def _n_outputs(dls: DataLoaders, n_out: int | None) -> int:
    n = dls.c if n_out is None else n_out
    if n is None:
        raise ValueError(
            "`n_out` is needed, since `dls` does not say how many classes there are. Give it, or give `vocab` to "
            "DataLoaders."
        )
    if n < 1:
        raise ValueError(f"`n_out` must be at least 1. Received: n_out={n_out}.")
    return n


def _picture_size(dls: DataLoaders, n_in: int) -> tuple[int, int]:
    """Returns height and width of the pictures, which must have `n_in` channels."""
    x, _ = dls.one_batch()
    if not isinstance(x, Tensor) or x.ndim != 4:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"`dls` must give pictures (batch, channels, height, width). Received: {shape}.")
    if x.shape[1] != n_in:
        raise ValueError(
            f"`n_in` must be the number of channels of the pictures. Received: n_in={n_in}, pictures of shape "
            f"{tuple(x.shape)}. Pass n_in={x.shape[1]}, and the first convolution is adapted."
        )
    return int(x.shape[2]), int(x.shape[3])


def _pools(backbone: Backbone, pool: bool) -> bool:
    """Whether the head must pool."""
    has_map = len(backbone.features) == 3
    if has_map and not pool:
        raise ValueError(
            "`pool=False` needs a body that pools itself. Received a body that gives "
            f"{('batch', *backbone.features)}. Leave it out, or give `custom_head`."
        )
    return has_map


def _normalized(dls: DataLoaders, stats: Stats | None) -> DataLoaders:
    if stats is None or any(map(_normalizes, dls.train.batch_tfms.transforms)):
        return dls
    _check_range(dls)
    return dls.with_batch_tfms(Normalize.from_stats(*stats))


def _check_range(dls: DataLoaders) -> None:
    """Raises where pictures are clearly not in [0, 1]; first pictures without augmentation, which may go beyond."""
    low, high = map(float, dls.in_order(0).first_batch()[0].aminmax())
    if low < -0.5 or high > 1.5:  # resampling may overshoot a little
        raise ValueError(
            f"`normalize=True` needs pictures in [0, 1], and these reach from {low:.3g} to {high:.3g}. Pass "
            "normalize=False where they are normalised already; divide them by 255 where they are bytes."
        )


def _normalizes(transform: Any) -> bool:
    """Whether a transform is our `Normalize`, or one of torchvision's in the wrapping of a plain function."""
    return type(getattr(transform, "f", transform)).__name__ == "Normalize"
