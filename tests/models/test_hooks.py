"""Hooks see the outputs of layers, and are removed."""

import torch
from torch import nn

from minilearner.models.hooks import ForwardHooks, layers_of


def test_outputs_are_seen_by_the_place_of_their_module_until_the_hooks_come_off():
    model, seen = nn.Sequential(nn.Linear(2, 3), nn.ReLU()), []
    with ForwardHooks([model[1], model[0]], lambda index, output: seen.append((index, output))):
        y = model(torch.ones(1, 2))
    model(torch.ones(1, 2))
    assert [index for index, _ in seen] == [1, 0] and seen[1][1] is y


def test_layers_are_the_modules_without_modules_inside():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), nn.Linear(3, 1))
    assert list(layers_of(model)) == ["0.0", "1"]
    assert list(layers_of(model, with_parameters_only=False)) == ["0.0", "0.1", "1"]
