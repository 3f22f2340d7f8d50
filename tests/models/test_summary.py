"""The table of a model counts correctly, and making it leaves no trace."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from minilearner.models.summary import summarize


def small_model():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 3)
    )


def test_rows_have_path_type_shape_weights_and_work():
    model = small_model()
    model[0].requires_grad_(False)
    summary = summarize(model, torch.zeros(5, 2, 5, 5))
    convolution, norm, relu, *_, linear = summary.layers
    assert (convolution.path, convolution.type, convolution.output_shape) == ("0", "Conv2d", (5, 4, 3, 3))
    assert (convolution.parameters, convolution.trainable) == (4 * 1 * 9 + 4, 0)
    assert convolution.multiply_adds == 4 * 9 * 9  # outputs of one item times one input channel of a 3 x 3 kernel
    assert (norm.parameters, relu.parameters) == (8, 0)
    assert (linear.parameters, linear.multiply_adds) == (111, 108)
    assert (summary.parameters, summary.trainable, summary.buffers) == (159, 119, 9)
    assert summary.multiply_adds == 324 + 108


class Odd(nn.Module):
    """Has a lone parameter, a shared layer, a tied weight, an unused layer, and a nested output."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.shared = nn.Linear(3, 3, bias=False)
        self.alias = self.shared
        self.tied = nn.Linear(3, 3, bias=False)
        self.tied.weight = self.shared.weight
        self.unused = nn.Linear(3, 2)

    def forward(self, x, y):
        z = self.alias(self.shared(x)) * self.scale + self.tied(y)
        return {"z": z, "pair": (x, [y]), "note": "text"}


def test_lone_shared_and_tied_parameters_count_once():
    summary = summarize(Odd(), (torch.zeros(2, 3), torch.zeros(2, 3)))
    assert {layer.path: layer.parameters for layer in summary.layers} == {"": 3, "shared": 9, "tied": 0, "unused": 8}
    assert summary.layers[1].multiply_adds == 2 * 9  # called twice
    assert summary.parameters == sum(p.numel() for p in Odd().parameters())


def test_the_table_says_which_outputs_are_odd_and_which_layers_unused():
    summary = summarize(Odd(), (torch.zeros(2, 3), torch.zeros(2, 3)))
    assert summary.layers[0].output_shape == {"z": (2, 3), "pair": [(2, 3), [(2, 3)]], "note": "str"}
    assert summary.layers[-1].output_shape is None
    assert "(not used)" in str(summary)


class Restless(nn.Module):
    """Draws from every generator and changes its buffers, even in evaluation mode. Raises an error on request."""

    def __init__(self, fails=False):
        super().__init__()
        self.inner = small_model()
        self.inner[1].eval()  # one flag unlike the others
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(3))
        self.fails = fails

    def forward(self, x):
        self.calls += 1
        self.last = torch.rand(3)
        random.random()
        np.random.rand()
        out = self.inner(x)
        if self.fails:
            raise RuntimeError("in the middle")
        return out


def state(model):
    return {
        "flags": [m.training for m in model.modules()],
        "tensors": {name: t.clone() for name, t in model.state_dict().items()},
        "grads": [p.grad for p in model.parameters()],
        "hooks": [len(m._forward_hooks) for m in model.modules()],
        "random": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_has_changed_afterwards(fails):
    model = Restless(fails).train()
    model.inner[1].eval()
    buffer, before = model.last, copy.deepcopy(state(model))
    if fails:
        with pytest.raises(RuntimeError, match="in the middle"):
            summarize(model, torch.rand(2, 2, 5, 5, generator=torch.Generator().manual_seed(1)))
    else:
        summarize(model, torch.rand(2, 2, 5, 5, generator=torch.Generator().manual_seed(1)))
    after = state(model)
    assert model.last is buffer
    for name in ("flags", "grads", "hooks", "random"):
        assert after[name] == before[name], name
    torch.testing.assert_close(after["tensors"], before["tensors"], rtol=0, atol=0)
    assert np.array_equal(after["numpy"][1], before["numpy"][1])
    assert after["numpy"][2] == before["numpy"][2]
    assert torch.equal(after["torch"], before["torch"])


def test_the_table_fits_100_columns_and_keeps_the_end_of_long_paths():
    model = nn.Sequential()
    model.add_module("a_very_long_name_for_a_stage_of_the_model", nn.Sequential(nn.Linear(3, 4), nn.Identity()))
    text = str(summarize(model, torch.zeros(1, 3)))
    assert max(map(len, text.splitlines())) <= 100
    assert "\n…name_for_a_stage_of_the_model.0 " in text
    assert text.splitlines()[0] == "Sequential, input (1, 3)"
    assert "Parameters: 16 (16 trainable, 0 frozen); buffers: 0" in text


def test_partly_frozen_layers_are_marked():
    model = nn.Linear(3, 4)
    model.bias.requires_grad_(False)
    assert " partly" in str(summarize(model, torch.zeros(1, 3)))


class Watcher(nn.Module):
    """Records how it is called."""

    def forward(self, x):
        self.seen = self.training, torch.is_grad_enabled()
        return x


def test_the_model_is_called_in_evaluation_mode_without_gradients():
    model = Watcher()
    summarize(model, torch.zeros(1))
    assert model.seen == (False, False)
