"""MiniGoogLeNet, a small inception network for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minilearner.checks import check_count
from minilearner.keywords import suggest_keywords

__all__ = ["MiniGoogLeNet"]

_SMALLEST = 28  # pixels: the size of the paper's crops


@suggest_keywords
class MiniGoogLeNet(nn.Module):
    """An inception network for small images: 1.65 million weights, about 230 million multiply-adds at 32 x 32.

    Takes images (batch, in_channels, height, width) of at least 28 x 28 pixels and returns logits (batch, num_classes).
    `body` ends in features (batch, 336, 7, 7) for 32 pixels; `head` pools them globally and classifies.

    Source: Zhang et al., "Understanding deep learning requires rethinking generalization" (2017), figure 3, in the form
    of its Keras port: the two downsamplings have no padding (32 -> 15 -> 7 pixels), convolutions have biases, and
    dropout takes half of the pooled features. The last pool is global, since a 7 x 7 pool would need 32 pixels.

    Weights start as in Keras: Glorot uniform, with zero biases. Before batch norm the scale of the weights does not
    change the output, but it divides the effective learning rate. So the port's learning rates only mean the same here
    if the weights have the port's scale. Batch norm has torch's momentum (0.1): its running statistics settle in tens
    of batches, and in Keras in hundreds.

    Example: ``MiniGoogLeNet(10)(torch.zeros(64, 1, 32, 32)).shape`` is ``(64, 10)``.

    Raises:
        ValueError: `num_classes` or `in_channels` is less than 1; in `forward`, the images are of another shape.
    """

    def __init__(self, num_classes: int, in_channels: int = 1) -> None:
        super().__init__()
        check_count(num_classes, "num_classes")
        check_count(in_channels, "in_channels")
        self.num_classes, self.in_channels = num_classes, in_channels
        self.body = nn.Sequential(
            _unit(in_channels, 96, kernel=3),
            _Inception(96, 32, 32),
            _Inception(64, 32, 48),
            _Downsample(80, 80),
            _Inception(160, 112, 48),
            _Inception(160, 96, 64),
            _Inception(160, 80, 80),
            _Inception(160, 48, 96),
            _Downsample(144, 96),
            _Inception(240, 176, 160),
            _Inception(336, 176, 160),
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(336, num_classes))
        self.apply(_initialize)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits of images (batch, in_channels, height, width)."""
        if x.ndim != 4 or x.shape[1] != self.in_channels or x.shape[2] < _SMALLEST or x.shape[3] < _SMALLEST:
            raise ValueError(
                f"MiniGoogLeNet takes images (batch, {self.in_channels}, height, width) of at least {_SMALLEST} x "
                f"{_SMALLEST} pixels. Received: shape {tuple(x.shape)}."
            )
        logits: Tensor = self.head(self.body(x))
        return logits


class _Inception(nn.Module):
    """A 1 x 1 and a 3 x 3 unit side by side, whose channels are concatenated."""

    def __init__(self, in_channels: int, out_1x1: int, out_3x3: int) -> None:
        super().__init__()
        self.unit_1x1 = _unit(in_channels, out_1x1, kernel=1)
        self.unit_3x3 = _unit(in_channels, out_3x3, kernel=3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.unit_1x1(x), self.unit_3x3(x)], dim=1)


class _Downsample(nn.Module):
    """A strided unit and a max pool side by side, both without padding: n pixels become (n - 1) // 2."""

    def __init__(self, in_channels: int, out_unit: int) -> None:
        super().__init__()
        self.unit = _unit(in_channels, out_unit, kernel=3, stride=2, padding=0)
        self.pool = nn.MaxPool2d(3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.unit(x), self.pool(x)], dim=1)


def _unit(
    in_channels: int,
    out_channels: int,
    *,
    kernel: int,
    stride: int = 1,
    padding: int | None = None,
) -> nn.Module:
    padding = kernel // 2 if padding is None else padding
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def _initialize(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
