"""What is known about torchvision's classifiers, by family: where to cut, and where the later layers begin.

`backbones` uses it to build bodies and layer groups.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from minilearner.models.groups import Splitter
from minilearner.models.heads import Cut
from minilearner.models.xresnet import XResNet, xresnet18, xresnet34, xresnet50, xresnet101, xresnet152
from minilearner.vision.torchvision_models import models

__all__ = [
    "AUXILIARY",
    "IMAGENET_STATS",
    "Family",
    "Stats",
    "constructor_options",
    "family_of",
    "layer_splitter",
    "model_meta",
]

Stats: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, for inputs in [0, 1]."""

IMAGENET_STATS: Stats = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

INCEPTION_STATS: Stats = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""The statistics that GoogLeNet and Inception were trained with. A cut removes the `forward` that applies them."""

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Prefixes of the weights of auxiliary classifiers, which only help to train a network from scratch."""


@dataclass(frozen=True)
class Family:
    """One family of architectures.

    The body's layer groups are its earlier layers and its later ones, whose features are coarse and specific. For most
    families, the later layers begin where the feature map has a sixteenth of the image's height.
    """

    kind: type[nn.Module]
    cut: Cut
    later: Callable[[Any], Iterable[nn.Module]]
    """A function from the body to the modules of its second group."""
    stats: Stats | None = None
    """Used instead of the statistics that the weights state."""


def family_of(model: nn.Module) -> Family | None:
    """Returns what is known about a model's family, or None if it is not one of torchvision's classifiers."""
    return next((family for family in _FAMILIES if isinstance(model, family.kind)), None)


def layer_splitter(later: Callable[[Any], Iterable[nn.Module]] | None = None) -> Splitter:
    """Returns a splitter of ``Sequential(body, head)`` into earlier body layers, later body layers, and the head.

    Without `later`, the body is one group. Groups without parameters are left out.
    """

    def split(model: nn.Module) -> list[list[nn.Parameter]]:
        body, *head = model.children()
        late = {id(p) for part in (later(body) if later else ()) for p in part.parameters()}
        groups = [
            [p for p in body.parameters() if id(p) not in late],
            [p for p in body.parameters() if id(p) in late],
            [p for part in head for p in part.parameters()],
        ]
        return [group for group in groups if group]

    return split


def constructor_options(name: str, *, trained: bool, image_size: int | None) -> dict[str, Any]:
    """Returns the arguments that torchvision's constructor needs before its body is cut.

    Args:
        name: the constructor's name.
        trained: whether trained weights will be loaded, so that random ones need not be drawn.
        image_size: height and width that the weights were made for. A vision transformer accepts no other.
    """
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": not trained}
    if name.startswith("vit_") and image_size is not None:
        return {"image_size": image_size}
    return {}


def _cut_before_pooling(model: Any) -> nn.Module:
    """For GoogLeNet and Inception, which may have auxiliary classifiers between their layers."""
    off = ("aux1", "aux2", "AuxLogits", "avgpool", "dropout", "fc")
    return nn.Sequential(*(child for name, child in model.named_children() if name not in off))


def _keep_stem_and_blocks(model: Any) -> nn.Module:
    return nn.Sequential(model.stem, *model.blocks)


def _keep_class_token(model: Any) -> nn.Module:
    """A vision transformer has no feature map. Its body returns the class token, (batch, features)."""
    model.heads = nn.Identity()
    return model  # type: ignore[no-any-return]


def _later_vgg(body: Any) -> Any:
    layers = body[0]
    has_norm = any(isinstance(layer, nn.BatchNorm2d) for layer in layers)
    return layers[22 if has_norm else len(layers) // 2 :]  # 22: as in fastai, for all depths


def _later_encoder(body: Any) -> list[nn.Module]:
    layers = list(body.encoder.layers)
    return [*layers[len(layers) // 2 :], body.encoder.ln]


_FAMILIES = (
    Family(models.ResNet, -2, lambda body: body[6:]),
    Family(XResNet, -4, lambda body: body[3:]),
    Family(models.DenseNet, -1, lambda body: body[0][7:]),
    Family(models.VGG, -2, _later_vgg),
    Family(models.AlexNet, -2, lambda body: body[0][6:]),
    Family(models.SqueezeNet, -1, lambda body: body[0][5:]),
    Family(models.RegNet, -2, lambda body: list(body[1])[2:]),
    Family(models.EfficientNet, -2, lambda body: body[0][4:]),
    Family(models.MobileNetV2, -1, lambda body: body[0][7:]),
    Family(models.MobileNetV3, -2, lambda body: body[0][7:]),
    Family(models.MNASNet, -1, lambda body: body[0][10:]),
    Family(models.ShuffleNetV2, -1, lambda body: body[3:]),
    Family(models.GoogLeNet, _cut_before_pooling, lambda body: body[8:], INCEPTION_STATS),
    Family(models.Inception3, _cut_before_pooling, lambda body: body[10:], INCEPTION_STATS),
    Family(models.ConvNeXt, -2, lambda body: body[0][4:]),
    Family(models.SwinTransformer, -3, lambda body: [*body[0][4:], *body[1:]]),
    Family(models.MaxVit, _keep_stem_and_blocks, lambda body: body[3:]),
    Family(models.VisionTransformer, _keep_class_token, _later_encoder),
)


class _ModelMeta(Mapping[Callable[..., nn.Module], dict[str, Any]]):
    """Finds the family of a constructor by the class that it says it returns."""

    def __getitem__(self, arch: Callable[..., nn.Module]) -> dict[str, Any]:
        family = None if isinstance(arch, str) else _family_of_constructor(arch)
        if family is None:
            raise KeyError(arch)
        return {"cut": family.cut, "split": layer_splitter(family.later), "stats": family.stats or IMAGENET_STATS}

    def __iter__(self) -> Iterator[Callable[..., nn.Module]]:
        yield from (xresnet18, xresnet34, xresnet50, xresnet101, xresnet152)
        constructors = map(models.get_model_builder, models.list_models(module=models))
        yield from (arch for arch in constructors if _family_of_constructor(arch) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _family_of_constructor(arch: Callable[..., nn.Module]) -> Family | None:
    try:
        returned = inspect.signature(arch, eval_str=True).return_annotation
    except (NameError, TypeError, ValueError):
        return None
    known = (family for family in _FAMILIES if isinstance(returned, type) and issubclass(returned, family.kind))
    return next(known, None)


model_meta: Mapping[Callable[..., nn.Module], dict[str, Any]] = _ModelMeta()
"""What is known about an architecture, by its constructor, as in fastai.

"cut" says where the body ends, "split" divides ``Sequential(body, head)`` into layer groups, and "stats" are the mean
and standard deviation of its images."""
