"""Layers by fastai's names, and small questions about modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from minilearner.checks import check_choice, check_count, check_not_negative
from minilearner.keywords import suggest_keywords

__all__ = ["ConvLayer", "Flatten", "Module", "NormType", "ResBlock", "in_channels", "params", "sequential"]

NormType: TypeAlias = Literal["batch", "batch_zero", "instance", "instance_zero"]
"""The norm layer after a convolution. Those with "zero" start with weights of 0, so a residual block starts as its
shortcut."""

_NORMS = {
    "batch": (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    "instance": (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
}
_CONVOLUTIONS = {
    False: (nn.Conv1d, nn.Conv2d, nn.Conv3d),
    True: (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
}
_MEAN_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


class Module(nn.Module):
    """An `nn.Module` whose subclasses need not call ``super().__init__()``."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Module:
        """Makes the object ready for parameters and submodules, before its constructor runs."""
        made = super().__new__(cls)
        nn.Module.__init__(made)
        return made

    def __init__(self) -> None:
        # `__new__` has done it already. A second time would forget what a subclass has set before it calls this.
        pass


@suggest_keywords
class Flatten(nn.Module):
    """Makes (batch, ...) into (batch, features), or into one vector.

    Args:
        full: whether the batch is flattened too.
    """

    def __init__(self, full: bool = False) -> None:
        super().__init__()
        self.full = full

    def forward(self, x: Tensor) -> Tensor:
        """Returns the flattened batch."""
        return x.flatten() if self.full else x.flatten(1)


class ConvLayer(nn.Sequential):
    """A convolution, a norm layer and an activation.

    The convolution's weights are drawn by Kaiming's uniform rule if an activation of torch's ReLU family follows, and
    by torch's own otherwise. The bias of a batch norm starts at 1e-3.

    Args:
        ni: the number of input channels.
        nf: the number of output channels.
        ks: the size of the kernel, in pixels.
        stride: the distance of two positions of the kernel, in pixels.
        padding: the pixels added at each border. None keeps the size at stride 1; for ``transpose=True`` it is 0.
        bias: whether the convolution has a bias. None is: only without a norm layer.
        ndim: the dimensions of an image: 1, 2 or 3.
        norm_type: see `NormType`. None is no norm layer.
        bn_1st: whether the norm layer comes before the activation.
        act_cls: a class or a function that makes the activation. None is no activation.
        transpose: whether the convolution is transposed.
        bias_std: the standard deviation of the convolution's first biases. 0 sets them to 0.
        kwargs: passed on to the convolution, such as ``groups=``.

    Raises:
        ValueError: an unknown `norm_type`, or `ndim` is not 1, 2 or 3.
    """

    def __init__(
        self,
        ni: int,
        nf: int,
        ks: int = 3,
        stride: int = 1,
        padding: int | None = None,
        bias: bool | None = None,
        ndim: int = 2,
        norm_type: NormType | None = "batch",
        bn_1st: bool = True,
        act_cls: Callable[[], nn.Module] | None = nn.ReLU,
        transpose: bool = False,
        *,
        bias_std: float = 0.01,
        **kwargs: Any,
    ) -> None:
        check_choice(norm_type, "norm_type", (*_NORMS, *(f"{name}_zero" for name in _NORMS), None))
        _check_dimensions(ndim)
        for name, count in (("ni", ni), ("nf", nf), ("ks", ks), ("stride", stride)):
            check_count(count, name)
        check_not_negative(bias_std, "bias_std")
        if padding is not None:
            check_count(padding, "padding", least=0)
        if padding is None:
            padding = 0 if transpose else (ks - 1) // 2
        has_bias = norm_type is None if bias is None else bias
        options = {"kernel_size": ks, "stride": stride, "padding": padding, "bias": has_bias, **kwargs}
        conv = _CONVOLUTIONS[transpose][ndim - 1](ni, nf, **options)
        activation = None if act_cls is None else act_cls()
        _draw_weights(conv, activation, bias_std)
        after = [] if norm_type is None else [_make_norm(norm_type, nf, ndim)]
        if activation is not None:
            after.insert(len(after) if bn_1st else 0, activation)
        super().__init__(conv, *after)


@suggest_keywords
class ResBlock(nn.Module):
    """A residual block: two convolutions, or three with a bottleneck, beside a shortcut. Their sum is activated.

    If the size changes, the shortcut pools by the mean. If the channels change, it has a convolution of one pixel
    without activation. The last norm layer starts at 0.

    Args:
        expansion: 1 for two convolutions; more for a bottleneck, whose output has `expansion` times as many channels.
        ni: the number of input channels, divided by `expansion`.
        nf: the number of output channels, divided by `expansion`.
        stride: of the middle or first convolution, and of the shortcut.
        act_cls: a class or a function that makes an activation.
        ndim: the dimensions of an image.
        ks: the size of the kernel, in pixels.

    Source: He et al., "Bag of Tricks for Image Classification with Convolutional Neural Networks", 2019, ResNet-D.
    """

    def __init__(
        self,
        expansion: int,
        ni: int,
        nf: int,
        stride: int = 1,
        act_cls: Callable[[], nn.Module] = nn.ReLU,
        ndim: int = 2,
        ks: int = 3,
    ) -> None:
        for name, count in (("expansion", expansion), ("ni", ni), ("nf", nf), ("stride", stride), ("ks", ks)):
            check_count(count, name)
        super().__init__()
        n_in, n_out = ni * expansion, nf * expansion
        plain: dict[str, Any] = {"act_cls": act_cls, "ndim": ndim}
        last: dict[str, Any] = {"act_cls": None, "ndim": ndim, "norm_type": "batch_zero"}
        if expansion == 1:
            path = [ConvLayer(n_in, nf, ks, stride, **plain), ConvLayer(nf, n_out, ks, **last)]
        else:
            path = [ConvLayer(n_in, nf, 1, **plain), ConvLayer(nf, nf, ks, stride, **plain)]
            path += [ConvLayer(nf, n_out, 1, **last)]
        self.convpath = nn.Sequential(*path)
        shortcut: list[nn.Module] = []
        if stride != 1:
            shortcut += [_MEAN_POOLS[ndim - 1](stride, ceil_mode=True)]
        if n_in != n_out:
            shortcut += [ConvLayer(n_in, n_out, 1, act_cls=None, ndim=ndim)]
        self.idpath = nn.Sequential(*shortcut)
        self.act = act_cls()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the activated sum of both ways."""
        return self.act(self.convpath(x) + self.idpath(x))  # type: ignore[no-any-return]


class _Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def sequential(*layers: Any) -> nn.Sequential:
    """Returns an `nn.Sequential` of modules and functions, or of one ordered dictionary of modules."""
    if len(layers) == 1 and isinstance(layers[0], OrderedDict):
        return nn.Sequential(layers[0])
    return nn.Sequential(*(layer if isinstance(layer, nn.Module) else _Call(layer) for layer in layers))


@suggest_keywords
def params(module: nn.Module) -> list[nn.Parameter]:
    """Returns all parameters of a module, for a layer group."""
    return list(module.parameters())


@suggest_keywords
def in_channels(module: nn.Module) -> int:
    """Returns how many channels the first layer with a weight of four dimensions takes.

    Raises:
        ValueError: there is no such layer.
    """
    for part in module.modules():
        weight = getattr(part, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 4:
            return int(weight.shape[1])
    raise ValueError(f"`module` must have a layer for images. Received: {type(module).__name__} without one.")


def _check_dimensions(ndim: int) -> None:
    check_count(ndim, "ndim")
    if ndim > 3:
        raise ValueError(f"`ndim` must be 1, 2 or 3. Received: ndim={ndim}.")


def _draw_weights(conv: Any, activation: nn.Module | None, bias_std: float) -> None:
    if conv.bias is not None:
        nn.init.normal_(conv.bias, 0, bias_std) if bias_std else nn.init.zeros_(conv.bias)
    if isinstance(activation, (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Mish)):
        nn.init.kaiming_uniform_(conv.weight)


def _make_norm(norm_type: str, nf: int, ndim: int) -> nn.Module:
    kind, _, zero = norm_type.partition("_")
    norm: Any = _NORMS[kind][ndim - 1](nf, **({"affine": True} if kind == "instance" else {}))
    nn.init.constant_(norm.bias, 1e-3)
    nn.init.constant_(norm.weight, 0.0 if zero else 1.0)
    return norm  # type: ignore[no-any-return]
