"""fastai's layers have the parts, first weights and values that they promise."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

from minilearner.models.layers import ConvLayer, Flatten, Module, ResBlock, in_channels, params, sequential


class Small(Module):
    def __init__(self, n):
        self.layer, self.n = nn.Linear(n, 2), n

    def forward(self, x):
        return self.layer(x)


class Deeper(Small):
    def __init__(self, n):
        super().__init__(n)
        self.more = nn.Linear(2, 2)


def test_a_module_needs_no_call_of_the_base():
    small = Small(3)
    assert len(params(small)) == 2 and small(torch.zeros(1, 3)).shape == (1, 2)
    assert len(params(Deeper(3))) == 4
    twin = copy.deepcopy(small)
    assert torch.equal(twin.layer.weight, small.layer.weight) and twin.layer.weight is not small.layer.weight


def test_a_module_that_calls_the_base_late_keeps_what_it_has():
    class Late(Module):
        def __init__(self):
            self.layer = nn.Linear(1, 1)
            super().__init__()

    assert len(params(Late())) == 2


def test_flatten_keeps_the_batch_unless_it_is_full():
    assert Flatten()(torch.zeros(2, 3, 4)).shape == (2, 12)
    assert Flatten(full=True)(torch.zeros(2, 3, 4)).shape == (24,)


def test_a_convolution_layer_is_convolution_norm_and_activation():
    layer = ConvLayer(3, 8, stride=2)
    assert [type(part) for part in layer] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert layer[0].bias is None and torch.equal(layer[1].bias, torch.full((8,), 1e-3))
    assert layer(torch.zeros(2, 3, 9, 9)).shape == (2, 8, 5, 5)


def test_a_convolution_layer_takes_other_parts():
    assert [type(part) for part in ConvLayer(3, 8, bn_1st=False)] == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d]
    plain = ConvLayer(3, 8, norm_type=None, act_cls=None, bias_std=0.0)
    assert [type(part) for part in plain] == [nn.Conv2d] and not plain[0].bias.any()
    assert not ConvLayer(3, 8, norm_type="batch_zero")[1].weight.any()
    assert isinstance(ConvLayer(3, 8, norm_type="instance")[1], nn.InstanceNorm2d)
    assert isinstance(ConvLayer(3, 8, ndim=1)[0], nn.Conv1d)
    assert ConvLayer(4, 8, groups=2)[0].groups == 2
    up = ConvLayer(3, 8, ks=2, stride=2, transpose=True)
    assert up(torch.zeros(2, 3, 5, 5)).shape == (2, 8, 10, 10)


@pytest.mark.parametrize(("expansion", "stride", "ni"), [(1, 1, 8), (1, 2, 4), (4, 1, 8), (4, 2, 4)])
def test_a_residual_block_starts_as_its_shortcut(expansion, stride, ni):
    block = ResBlock(expansion, ni, 8, stride)
    x = torch.randn(2, ni * expansion, 7, 7)
    assert block(x).shape == (2, 8 * expansion, -(-7 // stride), -(-7 // stride))
    shortcut = block.idpath(x)
    assert torch.equal(block(x), (shortcut + block.convpath[-1][1].bias[None, :, None, None]).relu())


def test_sequential_takes_functions_and_names():
    net = sequential(nn.Linear(2, 3), torch.relu, lambda x: x * 2)
    assert net(torch.zeros(1, 2)).shape == (1, 3) and len(net) == 3
    assert list(sequential(OrderedDict(a=nn.ReLU()))._modules) == ["a"]


def test_in_channels_is_that_of_the_first_convolution():
    assert in_channels(nn.Sequential(nn.BatchNorm2d(5), nn.Conv2d(5, 2, 3), nn.Conv2d(2, 4, 3))) == 5
    with pytest.raises(ValueError, match="must have a layer for images"):
        in_channels(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvLayer(3, 8, norm_type="layer"), "`norm_type` must be one of 'batch', 'instance'"),
        (lambda: ConvLayer(3, 8, ndim=4), "`ndim` must be 1, 2 or 3"),
        (lambda: ResBlock(0, 8, 8), "`expansion` must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
