"""MiniGoogLeNet has the published numbers of weights, shapes and initial values."""

import math

import pytest
import torch
from torch import nn

from minilearner.models.minigooglenet import MiniGoogLeNet
from minilearner.models.summary import summarize


def n_weights(model, without=()):
    return sum(p.numel() for m in model.modules() if not isinstance(m, without) for p in m.parameters(recurse=False))


def test_weights_are_as_many_as_published():
    assert n_weights(MiniGoogLeNet(10)) == 1_651_098
    assert n_weights(MiniGoogLeNet(10, 3)) == 1_652_826
    assert n_weights(MiniGoogLeNet(10, 3), without=nn.BatchNorm2d) == 1_649_402  # Zhang et al. 2017, table 1


def test_multiply_adds_are_as_many_as_derived():
    assert summarize(MiniGoogLeNet(10), torch.zeros(1, 1, 32, 32)).multiply_adds == pytest.approx(233e6, rel=0.003)


@pytest.mark.parametrize(("pixels", "features"), [(28, 6), (32, 7), (64, 15)])
def test_images_from_28_pixels_up(pixels, features):
    model = MiniGoogLeNet(7, 3).eval()
    x = torch.rand(2, 3, pixels, pixels)
    assert model.body(x).shape == (2, 336, features, features)
    assert model(x).shape == (2, 7)


@pytest.mark.parametrize("shape", [(2, 1, 27, 28), (2, 1, 28, 27), (2, 3, 32, 32), (1, 32, 32)])
def test_images_of_another_shape_are_an_error(shape):
    with pytest.raises(
        ValueError, match=r"takes images \(batch, 1, height, width\) of at least 28 x 28 .* Received: shape"
    ):
        MiniGoogLeNet(10)(torch.zeros(shape))


@pytest.mark.parametrize("arguments", [(0,), (10, 0)])
def test_wrong_arguments(arguments):
    with pytest.raises(ValueError, match="must be at least 1"):
        MiniGoogLeNet(*arguments)


def test_channels_last_stays_channels_last():
    x = torch.rand(2, 1, 32, 32).to(memory_format=torch.channels_last)
    model = MiniGoogLeNet(10).to(memory_format=torch.channels_last)
    assert model.body(x).is_contiguous(memory_format=torch.channels_last)


def test_weights_begin_as_in_keras():
    model = MiniGoogLeNet(10)
    convolution = model.body[1].unit_3x3[0]
    fan_in, fan_out = 96 * 9, 32 * 9
    bound = math.sqrt(6 / (fan_in + fan_out))
    assert 0.99 * bound < convolution.weight.abs().max() <= bound
    assert all(not m.bias.any() for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


def test_half_of_the_pooled_features_are_dropped_in_training_only():
    model = MiniGoogLeNet(10)
    dropout = model.head[2]
    assert (dropout(torch.ones(10_000)) == 0).float().mean() == pytest.approx(0.5, abs=0.03)
    assert dropout.eval()(torch.ones(4)).tolist() == [1.0] * 4


def test_it_learns_a_small_batch():
    x, y = torch.rand(8, 1, 28, 28), torch.arange(8)
    model = MiniGoogLeNet(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(5):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in model.parameters())
    assert losses[-1] < 0.7 * losses[0]
