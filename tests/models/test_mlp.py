"""The multilayer perceptron has the right layers, and refuses wrong sizes."""

import pytest
import torch
from torch import nn

from minilearner.models.mlp import MLP


def test_the_default_is_784_300_100_10():
    model = MLP()
    assert [type(layer) for layer in model] == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert sum(p.numel() for p in model.parameters()) == 266_610


def test_it_computes_what_its_layers_do():
    model, x = MLP((6, 4, 2)), torch.rand(5, 1, 2, 3)
    first, last = model[1], model[3]
    expected = (x.reshape(5, 6) @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (784,)])
def test_an_input_of_another_size_is_an_error(shape):
    with pytest.raises(ValueError, match=r"takes 784 numbers per item. Received: shape \("):
        MLP()(torch.zeros(shape))


@pytest.mark.parametrize("sizes", [(784,), (784, 0, 10)])
def test_wrong_sizes_are_an_error(sizes):
    with pytest.raises(ValueError, match=r"`sizes` must .* Received: sizes="):
        MLP(sizes)
