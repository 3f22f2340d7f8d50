"""Hooks see the outputs of layers, and are removed."""

import torch
from torch import nn

from minilearner.models.hooks import ForwardHooks, Hook, hook_output, layers_of


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


def test_a_hook_keeps_the_newest_result_until_it_is_removed():
    layer = nn.Linear(3, 2)
    with Hook(layer, lambda module, inputs, output: (module, inputs[0].sum(), output)) as hook:
        out = layer(torch.ones(1, 3))
    assert hook.stored[0] is layer and hook.stored[1] == 3
    assert torch.equal(hook.stored[2], out) and not hook.stored[2].requires_grad
    layer(torch.zeros(1, 3))
    assert hook.stored[1] == 3


def test_a_hook_of_the_output_keeps_it_or_its_gradient():
    layer = nn.Linear(3, 2)
    with hook_output(layer, detach=False) as output, hook_output(layer, grad=True) as gradient:
        out = layer(torch.ones(1, 3, requires_grad=True))
        (2 * out).sum().backward()
    assert output.stored.requires_grad and torch.equal(output.stored, out)
    assert torch.equal(gradient.stored[0], torch.full((1, 2), 2.0))
