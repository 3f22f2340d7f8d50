"""The two halves of transfer learning: a body, cut from a model, and a new head for it.

`vision` knows where each model is cut, and where its trained weights are.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from minilearner.checks import check_count, check_fraction, check_number, check_size
from minilearner.keywords import suggest_keywords
from minilearner.models.groups import NORMS
from minilearner.models.restore import evaluation_mode, restore_buffers
from minilearner.runtime import isolate_rng

__all__ = [
    "AdaptiveConcatPool2d",
    "Cut",
    "SigmoidRange",
    "adapt_input_channels",
    "create_body",
    "create_head",
    "cut_model",
    "feature_shape",
    "initialize",
    "num_features",
    "sigmoid_range",
]

Cut: TypeAlias = "int | Callable[[nn.Module], nn.Module]"
"""Where a body ends: a number of children to keep, `children[:cut]`, or a function from the model to its body."""

_POOL = re.compile(r"Pool[123]d$")
"""Finds a pooling layer by its class name, as fastai does, so that a user's own pooling layers count too."""


@suggest_keywords
def create_head(
    nf: int,
    n_out: int,
    lin_ftrs: Sequence[int] | None = None,
    ps: float | Sequence[float] = 0.5,
    pool: bool = True,
    concat_pool: bool = True,
    first_bn: bool = True,
    bn_final: bool = False,
    lin_first: bool = False,
    y_range: tuple[float, float] | None = None,
) -> nn.Sequential:
    """Returns fastai's head: pooling, then blocks of batch norm, dropout and a linear layer, with ReLU between them.

    The default head has nine modules: pool (maximum and mean), flatten, norm, dropout, linear to 512, ReLU, norm,
    dropout, linear to `n_out`. Norm weights start at 1, norm biases at 1e-3. A linear layer after a norm has no bias.

    >>> len(create_head(512, 37)), sum(p.numel() for p in create_head(512, 37).parameters())
    (9, 546304)

    Args:
        nf: the number of features that the body returns. Pooling by maximum and mean doubles it.
        n_out: the number of outputs, such as classes.
        lin_ftrs: the widths of the hidden layers. None is one layer of 512.
        ps: the dropout, in [0, 1): one number for each linear layer, or a single number for the last one, which is
            halved for the others. 0 is no dropout layer.
        pool: whether the head pools `(batch, nf, height, width)`. Otherwise it takes `(batch, nf)`.
        concat_pool: whether to pool by maximum and mean. Otherwise by the mean alone.
        first_bn: whether the head starts with a norm layer.
        bn_final: whether it ends with a norm layer, with momentum 0.01.
        lin_first: whether each block is linear, ReLU, norm, dropout instead, after one dropout at the start.
        y_range: for regression: a sigmoid brings the outputs into this range.

    Raises:
        ValueError: a width is less than 1, or `ps` is out of range or does not fit the layers.

    Source: fastai, `create_head`.
    """
    check_count(nf, "nf")
    check_count(n_out, "n_out")
    for width in () if lin_ftrs is None else lin_ftrs:
        check_count(width, "lin_ftrs")
    widths = [nf * 2 if pool and concat_pool else nf, *([512] if lin_ftrs is None else lin_ftrs), n_out]
    dropout = _dropout(ps, n_layers=len(widths) - 1)
    layers: list[nn.Module] = []
    if pool:
        layers += [AdaptiveConcatPool2d() if concat_pool else nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if lin_first:
        layers += [nn.Dropout(dropout.pop(0))]
    for i, p in enumerate(dropout):
        is_last = i == len(widths) - 2
        layers += _block(widths[i], widths[i + 1], p, norm=first_bn or i > 0, relu=not is_last, lin_first=lin_first)
    if lin_first:
        layers += [nn.Linear(widths[-2], n_out)]
    if bn_final:
        layers += [nn.BatchNorm1d(n_out, momentum=0.01)]
    if y_range is not None:
        layers += [SigmoidRange(*y_range)]
    return nn.Sequential(*layers)


@suggest_keywords
class AdaptiveConcatPool2d(nn.Module):
    """Pools (batch, channels, height, width) to (batch, 2 * channels, size, size): first the maximum, then the mean."""

    def __init__(self, size: int = 1) -> None:
        check_count(size, "size")
        super().__init__()
        self.ap = nn.AdaptiveAvgPool2d(size)
        self.mp = nn.AdaptiveMaxPool2d(size)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the pooled batch."""
        return torch.cat([self.mp(x), self.ap(x)], dim=1)


@suggest_keywords
class SigmoidRange(nn.Module):
    """Brings every number into (low, high) by a sigmoid.

    Raises:
        ValueError: `low` is not less than `high`.
    """

    def __init__(self, low: float, high: float) -> None:
        _check_range(low, high)
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        """Returns sigmoid(x) * (high - low) + low."""
        return torch.sigmoid(x) * (self.high - self.low) + self.low


@suggest_keywords
def sigmoid_range(x: Tensor, low: float, high: float) -> Tensor:
    """Returns sigmoid(x) * (high - low) + low, which is between `low` and `high`."""
    _check_range(low, high)
    return torch.sigmoid(x) * (high - low) + low


def _check_range(low: float, high: float) -> None:
    check_number(low, "low")
    check_number(high, "high")
    if not low < high:
        raise ValueError(f"`low` must be less than `high`. Received: low={low}, high={high}.")


def initialize(module: nn.Module, init: Callable[[Tensor], Any] = nn.init.kaiming_normal_) -> nn.Module:
    """Draws new weights by `init` and sets biases to 0, in all layers but norm layers, and returns the module.

    fastai does the same with a head. Draws from torch's global generator.
    """
    for part in module.modules():
        if isinstance(part, NORMS):
            continue
        weight, bias = (getattr(part, name, None) for name in ("weight", "bias"))
        if isinstance(weight, Tensor) and weight.ndim > 1:
            init(weight)
        if isinstance(bias, Tensor):
            nn.init.zeros_(bias)
    return module


@suggest_keywords
def create_body(
    model: nn.Module,
    n_in: int = 3,
    pretrained: bool = True,
    cut: Cut | None = None,
    *,
    size: int | tuple[int, int] = 64,
) -> nn.Module:
    """Returns the part of `model` that turns images into features, for `n_in` input channels. `model` does not change.

    Args:
        model: any module, also one of your own.
        n_in: see `adapt_input_channels`.
        pretrained: whether the weights of `model` are trained, and so worth adapting.
        cut: see `Cut`. If None, a model that returns a feature map is a body already. Any other is cut before its last
            child with a pooling layer, as in fastai.
        size: the height and width of the image that is passed through `model` to see what it returns.

    Raises:
        ValueError: nothing is left, or no place to cut is found.
        TypeError: `cut` is neither a number nor a function.
    """
    check_size(size, "size")
    model = copy.deepcopy(model)
    adapt_input_channels(model, n_in, pretrained=pretrained)
    return cut_model(model, cut, size=size)


def cut_model(model: nn.Module, cut: Cut | None = None, *, size: int | tuple[int, int] = 64) -> nn.Module:
    """Returns the body of a model, which shares the model's modules; see `create_body`.

    Raises:
        ValueError, TypeError: as `create_body`.
    """
    if cut is None:
        if _gives_a_map(model, size):
            return model
        cut = _before_last_pool(model)
    if not isinstance(cut, int):
        if not callable(cut):
            raise TypeError(f"`cut` must be a number or a function of the model. Received: cut={cut!r}.")
        body = cut(model)
        if not isinstance(body, nn.Module):
            raise TypeError(f"`cut` must return a module, the body. Received: {type(body).__name__}.")
        return body
    children = list(model.children())
    if not children[:cut]:
        raise ValueError(
            f"`cut` leaves nothing of {type(model).__name__}, with {len(children)} children. Received: cut={cut}."
        )
    return nn.Sequential(*children[:cut])


def adapt_input_channels(model: nn.Module, n_in: int, *, pretrained: bool) -> None:
    """Replaces the first convolution, in place, if it takes 3 channels and `n_in` is another number.

    Trained weights are adapted. For one channel they are summed over red, green and blue. For two channels the first
    two are multiplied by 1.5. For more than three channels the additional weights are zero. Untrained weights are drawn
    anew from torch's global generator.

    Raises:
        ValueError: `n_in` is less than 1, or there is no convolution to replace.

    Source: fastai, `vision_learner(n_in=)`.
    """
    check_count(n_in, "n_in")
    path, old = next(((p, m) for p, m in model.named_modules() if isinstance(m, nn.Conv2d)), ("", None))
    if n_in == 3 or (old is not None and old.in_channels == n_in):
        return
    if old is None or not path or old.in_channels != 3 or old.groups != 1:
        found = "has no convolution" if old is None else f"starts with {path or 'itself'}: {old}"
        raise ValueError(
            f"`n_in` needs a model whose first convolution takes 3 channels. Received: n_in={n_in}, but "
            f"{type(model).__name__} {found}. Pass a model that takes {n_in}-channel images."
        )
    new = nn.Conv2d(
        n_in,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    if pretrained:
        with torch.no_grad():
            new.weight.copy_(_adapt_weight(old.weight, n_in))
            if new.bias is not None and old.bias is not None:
                new.bias.copy_(old.bias)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, new)


def feature_shape(body: nn.Module, n_in: int = 3, size: int | tuple[int, int] = 64) -> tuple[int, ...]:
    """Returns the shape of the body's output for one image, without the batch: usually (features, height, width).

    Passes an image through the body in evaluation mode, and leaves no trace.

    Raises:
        ValueError: the body cannot take such an image, or does not return a tensor.
    """
    height, width = (size, size) if isinstance(size, int) else size
    like = next(body.parameters(), torch.empty(0))
    x = torch.zeros(1, n_in, height, width, device=like.device, dtype=like.dtype)
    try:
        with evaluation_mode(body), restore_buffers(body), isolate_rng(), torch.no_grad():
            out = body(x)
    except Exception as error:
        raise ValueError(
            f"the body cannot take images of shape {tuple(x.shape)}: {str(error).rstrip('.')}. If the layers of your "
            "model are more than a sequence, pass as `cut` a function that replaces its last layer by nn.Identity() "
            "and returns the model."
        ) from error
    if not isinstance(out, Tensor):
        raise ValueError(f"the body must return one tensor. Received: {type(out).__name__}. Choose another `cut`.")
    return tuple(out.shape[1:])


def num_features(body: nn.Module, n_in: int = 3, size: int | tuple[int, int] = 64) -> int:
    """Returns how many features `body` returns: `nf` of `create_head`.

    Raises:
        ValueError: as `feature_shape`.
    """
    return feature_shape(body, n_in, size)[0]


def _dropout(ps: float | Sequence[float], *, n_layers: int) -> list[float]:
    dropout = list(ps) if isinstance(ps, Sequence) else [ps]
    for p in dropout:
        check_fraction(p, "ps", closed="left")
    if len(dropout) == 1:
        dropout = [dropout[0] / 2] * (n_layers - 1) + dropout
    if len(dropout) != n_layers:
        raise ValueError(
            f"`ps` must be one number, or one for each of the {n_layers} linear layers. Received: ps={ps}."
        )
    return dropout


def _block(n_in: int, n_out: int, p: float, *, norm: bool, relu: bool, lin_first: bool) -> list[nn.Module]:
    regular: list[nn.Module] = [_batch_norm(n_out if lin_first else n_in)] if norm else []
    regular += [nn.Dropout(p)] if p else []
    linear: list[nn.Module] = [nn.Linear(n_in, n_out, bias=not norm)]
    linear += [nn.ReLU(inplace=True)] if relu else []
    return linear + regular if lin_first else regular + linear


def _batch_norm(n: int) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(n)
    nn.init.constant_(norm.bias, 1e-3)
    return norm


def _gives_a_map(model: nn.Module, size: int | tuple[int, int]) -> bool:
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    try:
        return len(feature_shape(model, 3 if first is None else first.in_channels, size)) == 3
    except ValueError:
        return False


def _before_last_pool(model: nn.Module) -> int:
    pools = [
        i for i, child in enumerate(model.children()) if any(_POOL.search(type(m).__name__) for m in child.modules())
    ]
    if not pools:
        raise ValueError(
            f"there is no place to cut {type(model).__name__}: no child has a pooling layer. Give `cut`: how many "
            "children to keep, or a function from the model to its body."
        )
    return pools[-1]


def _adapt_weight(weight: Tensor, n_in: int) -> Tensor:
    """Turns a weight (out, 3, height, width) into one (out, n_in, height, width)."""
    if n_in == 1:
        return weight.sum(dim=1, keepdim=True)
    if n_in == 2:
        return weight[:, :2] * 1.5
    return torch.cat([weight, weight.new_zeros(len(weight), n_in - 3, *weight.shape[2:])], dim=1)
