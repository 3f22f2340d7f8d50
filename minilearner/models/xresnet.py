"""The ResNets of "Bag of Tricks", by fastai's names: three convolutions as a stem, and shortcuts that pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from minilearner.checks import check_count, check_fraction, check_positive
from minilearner.keywords import suggest_keywords
from minilearner.models.layers import ConvLayer, Flatten, ResBlock

__all__ = ["XResNet", "xresnet18", "xresnet34", "xresnet50", "xresnet101", "xresnet152"]


@suggest_keywords
class XResNet(nn.Sequential):
    """An image classifier of residual blocks: stem, pooling, stages of blocks, mean, dropout and a linear layer.

    Weights of convolutions and of the linear layer are drawn by Kaiming's normal rule. All biases start at 0.

    Args:
        expansion: 1 for blocks of two convolutions, 4 for bottlenecks of three.
        layers: the number of blocks in each stage. Each stage but the first halves the image.
        p: the dropout before the linear layer, in [0, 1).
        c_in: the number of input channels.
        n_out: the number of outputs, such as classes.
        stem_szs: the channels of the stem's three convolutions.
        widen: multiplies the channels of all stages.
        act_cls: a class or a function that makes an activation.
        ks: the size of the kernels, in pixels; odd.
        stride: of the first convolution, the pooling, and each stage but the first.

    Raises:
        ValueError: `ks` is even, or a number is out of range.

    Source: He et al., "Bag of Tricks for Image Classification with Convolutional Neural Networks", 2019, ResNet-D; and
    fastai, `XResNet`.
    """

    def __init__(
        self,
        expansion: int,
        layers: Sequence[int],
        p: float = 0.0,
        c_in: int = 3,
        n_out: int = 1000,
        stem_szs: Sequence[int] = (32, 32, 64),
        widen: float = 1.0,
        act_cls: Callable[[], nn.Module] = nn.ReLU,
        ks: int = 3,
        stride: int = 2,
    ) -> None:
        for name, count in (("expansion", expansion), ("c_in", c_in), ("n_out", n_out), ("ks", ks), ("stride", stride)):
            check_count(count, name)
        check_fraction(p, "p", closed="left")
        check_positive(widen, "widen")
        if not 1 <= 64 * widen <= 2**20:
            raise ValueError(f"`widen` must give 1 to {2**20:,} channels for 64. Received: widen={widen}.")
        if ks % 2 == 0:
            raise ValueError(f"`ks` must be odd. Received: ks={ks}.")
        widths = [c_in, *stem_szs]
        stem = [
            ConvLayer(ni, nf, ks, stride if i == 0 else 1, act_cls=act_cls)
            for i, (ni, nf) in enumerate(pairwise(widths))
        ]
        sizes = [int(width * widen) for width in (64, 128, 256, 512, *[256] * (len(layers) - 4))]
        sizes = [64 // expansion, *sizes[: len(layers)]]
        options: dict[str, Any] = {"act_cls": act_cls, "ks": ks}
        stages = [
            _make_stage(expansion, sizes[i], sizes[i + 1], n, stride if i else 1, **options)
            for i, n in enumerate(layers)
        ]
        end = [nn.AdaptiveAvgPool2d(1), Flatten(), nn.Dropout(p), nn.Linear(sizes[-1] * expansion, n_out)]
        super().__init__(*stem, nn.MaxPool2d(ks, stride, ks // 2), *stages, *end)
        self.expansion, self.layers, self.p, self.c_in, self.n_out = expansion, tuple(layers), p, c_in, n_out
        self.stem_szs, self.widen, self.act_cls, self.ks, self.stride = tuple(stem_szs), widen, act_cls, ks, stride
        for part in self.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(part.weight)
            if isinstance(getattr(part, "bias", None), Tensor):
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]


def _make_stage(expansion: int, ni: int, nf: int, n: int, stride: int, **options: Any) -> nn.Sequential:
    first = ResBlock(expansion, ni, nf, stride, **options)
    return nn.Sequential(first, *(ResBlock(expansion, nf, nf, **options) for _ in range(n - 1)))


@suggest_keywords
def xresnet18(pretrained: bool = False, **kwargs: Any) -> XResNet:
    """Returns an `XResNet` with 18 layers, without trained weights.

    Args:
        pretrained: must be False, since there are no trained weights here.
        kwargs: as in `XResNet`, such as ``n_out=10``.
    """
    return _make_model(1, [2, 2, 2, 2], pretrained, kwargs)


@suggest_keywords
def xresnet34(pretrained: bool = False, **kwargs: Any) -> XResNet:
    """Returns an `XResNet` with 34 layers, without trained weights.

    Args:
        pretrained, kwargs: as in `xresnet18`.
    """
    return _make_model(1, [3, 4, 6, 3], pretrained, kwargs)


@suggest_keywords
def xresnet50(pretrained: bool = False, **kwargs: Any) -> XResNet:
    """Returns an `XResNet` with 50 layers, without trained weights.

    Args:
        pretrained, kwargs: as in `xresnet18`.
    """
    return _make_model(4, [3, 4, 6, 3], pretrained, kwargs)


@suggest_keywords
def xresnet101(pretrained: bool = False, **kwargs: Any) -> XResNet:
    """Returns an `XResNet` with 101 layers, without trained weights.

    Args:
        pretrained, kwargs: as in `xresnet18`.
    """
    return _make_model(4, [3, 4, 23, 3], pretrained, kwargs)


@suggest_keywords
def xresnet152(pretrained: bool = False, **kwargs: Any) -> XResNet:
    """Returns an `XResNet` with 152 layers, without trained weights.

    Args:
        pretrained, kwargs: as in `xresnet18`.
    """
    return _make_model(4, [3, 8, 36, 3], pretrained, kwargs)


def _make_model(expansion: int, layers: Sequence[int], pretrained: bool, options: dict[str, Any]) -> XResNet:
    if pretrained:
        raise ValueError(
            "`pretrained=True` needs trained weights, but there are none for xresnets. Use pretrained=False."
        )
    return XResNet(expansion, layers, **options)
