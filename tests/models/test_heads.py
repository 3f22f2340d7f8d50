"""Heads and bodies compute what fastai 2.8.12 does with the same weights."""

import copy

import pytest
import torch
from torch import nn

from minilearner.models.heads import (
    AdaptiveConcatPool2d,
    SigmoidRange,
    adapt_input_channels,
    create_body,
    create_head,
    feature_shape,
    initialize,
    num_features,
)

# fastai's outputs for `filled` weights and X: options, number of modules, parameters, outputs of the two items
FASTAI = {
    "default": ({}, 9, 81, [-0.302932, -5.167804, 2.481635, -0.106631, -4.758892, 2.11294]),
    "deeper": (
        {"lin_ftrs": [8, 6], "ps": [0.1, 0.2, 0.3]},
        13,
        174,
        [-1.252702, -5.808682, -6.120757, -1.318268, -5.522622, -5.69207],
    ),
    "mean": ({"concat_pool": False}, 9, 53, [-1.348093, -1.260221, 1.879392, -1.427704, -1.261501, 1.959542]),
    "norm last": (
        {"first_bn": False, "bn_final": True},
        9,
        76,
        [1.930487, -1.499223, -0.858563, 1.547209, -1.399921, -1.017225],
    ),
    "linear first": ({"lin_first": True}, 8, 68, [0.550529, -5.237171, 2.987857, 0.802275, -4.737473, 2.525443]),
    "range": ({"y_range": (-1, 2)}, 10, 81, [0.274523, -0.983006, 1.768533, 0.420102, -0.974493, 1.676464]),
    "no pool": (
        {"pool": False, "ps": 0.0},
        5,
        53,
        [-1.348093, -1.260221, 1.879392, -1.427704, -1.261501, 1.959542],
    ),
}
X = 3 * torch.cos(torch.arange(2 * 4 * 3 * 3, dtype=torch.float64) * 0.37).float().reshape(2, 4, 3, 3)


def filled(module):
    for i, (name, t) in enumerate(module.state_dict().items()):
        if t.is_floating_point():
            values = torch.sin(torch.arange(t.numel(), dtype=torch.float64) * 0.9 + i) * 0.8
            t.copy_((values.abs() + 0.5 if name.endswith("running_var") else values).reshape(t.shape))
    return module


@pytest.mark.parametrize("case", FASTAI)
def test_a_head_is_fastais(case):
    options, n_modules, n_parameters, expected = FASTAI[case]
    head = create_head(4, 3, **({"lin_ftrs": [5]} | options))
    assert (len(head), sum(p.numel() for p in head.parameters())) == (n_modules, n_parameters)
    x = X.mean((2, 3)) if case == "no pool" else X
    with torch.no_grad():
        torch.testing.assert_close(filled(head).eval()(x).flatten(), torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("nf", "expected"), [(512, 546_304), (2048, 2_125_312)])
def test_the_default_head_has_fastais_nine_modules_and_counts(nf, expected):
    head = create_head(nf, 37)
    kinds = [AdaptiveConcatPool2d, nn.Flatten, nn.BatchNorm1d, nn.Dropout, nn.Linear, nn.ReLU, nn.BatchNorm1d]
    assert [type(module) for module in head] == [*kinds, nn.Dropout, nn.Linear]
    assert sum(p.numel() for p in head.parameters()) == expected
    assert (head[3].p, head[7].p, head[4].bias, head[8].bias) == (0.25, 0.5, None, None)
    assert (head[2].weight == 1).all() and (head[2].bias == 1e-3).all()


def test_dropout_of_nothing_is_left_out_and_a_last_norm_is_slow():
    head = create_head(4, 3, ps=[0.0, 0.3], bn_final=True)
    assert [module.p for module in head if isinstance(module, nn.Dropout)] == [0.3]
    assert head[-1].momentum == 0.01


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"ps": [0.1, 0.2, 0.3]}, "one for each of the 2 linear layers. Received: ps="),
        ({"ps": 1.0}, "Received: ps=1.0"),
        ({"lin_ftrs": [0]}, "must be at least 1"),
        ({"y_range": (2, 1)}, "`low` must be less than `high`"),
    ],
)
def test_a_head_that_cannot_be_is_an_error(options, match):
    with pytest.raises(ValueError, match=match):
        create_head(4, 3, **options)


def test_the_maximum_comes_before_the_mean():
    pooled = AdaptiveConcatPool2d()(torch.tensor([[[[1.0, 5.0]], [[2.0, 4.0]]]]))
    assert pooled.flatten().tolist() == [5.0, 4.0, 3.0, 3.0]


def test_sigmoid_range():
    out = SigmoidRange(-1, 2)(torch.tensor([-10.0, 0.0, 10.0]))
    torch.testing.assert_close(out, torch.tensor([-1.0, 0.5, 2.0]), atol=2e-4, rtol=0)


def test_initialize_spares_norm_layers():
    head = filled(create_head(4, 3, lin_ftrs=[500], first_bn=False))
    norms = copy.deepcopy(head[5].state_dict())
    initialize(head)
    assert head[3].weight.std().item() == pytest.approx((2 / 8) ** 0.5, rel=0.1)  # kaiming: sqrt(2 / inputs)
    assert not head[3].bias.any()
    assert all(torch.equal(norms[name], t) for name, t in head[5].state_dict().items())


def small():
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.AvgPool2d(1), nn.Linear(3, 4))


@pytest.mark.parametrize(("cut", "children"), [(None, 2), (3, 3), (-1, 3), (lambda m: m[:1], 1)])
def test_a_body_ends_before_the_last_pool_or_where_cut_says(cut, children):
    assert len(create_body(small(), cut=cut)) == children


def test_a_model_that_gives_a_map_is_a_body_as_it_is():
    body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.MaxPool2d(2), nn.Conv2d(5, 7, 3))
    assert len(create_body(body)) == 3
    assert (feature_shape(body, 3, (20, 12)), num_features(body)) == ((7, 7, 3), 7)


@pytest.mark.parametrize(
    ("model", "cut", "error", "match"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), None, ValueError, "no child has a pooling layer. Give `cut`"),
        (small(), 0, ValueError, "leaves nothing of Sequential, with 4 children. Received: cut=0"),
        (small(), "2", TypeError, "must be a number or a function of the model. Received: cut='2'"),
        (small(), lambda m: None, TypeError, "must return a module"),
    ],
)
def test_a_wrong_place_to_cut_is_an_error(model, cut, error, match):
    with pytest.raises(error, match=match):
        create_body(model, cut=cut)


@pytest.mark.parametrize("n_in", [1, 2, 5])
def test_other_channels_keep_what_the_first_convolution_has_learnt(n_in):
    model = filled(small())
    weight = model[0].weight.detach().clone()
    body = create_body(model, n_in)
    adapted = body[0].weight
    expected = {1: weight.sum(1, keepdim=True), 2: weight[:, :2] * 1.5}.get(n_in)
    if expected is None:
        expected = torch.cat([weight, torch.zeros(5, 2, 3, 3)], dim=1)
    torch.testing.assert_close(adapted.detach(), expected)
    assert torch.equal(body[0].bias, model[0].bias)
    assert model[0].in_channels == 3  # the caller's stays


def test_untrained_weights_for_other_channels_are_fresh():
    model = filled(small())
    before = model[0].weight.detach().clone()
    adapt_input_channels(model, 4, pretrained=False)
    assert model[0].weight.shape == (5, 4, 3, 3)
    assert not torch.equal(model[0].weight[:, :3], before)


def test_channels_that_cannot_be_adapted_are_an_error():
    with pytest.raises(ValueError, match="takes 3 channels. Received: n_in=1, but Sequential starts with 0: Conv2d"):
        adapt_input_channels(nn.Sequential(nn.Conv2d(4, 5, 3)), 1, pretrained=True)
    with pytest.raises(ValueError, match="has no convolution"):
        adapt_input_channels(nn.Sequential(nn.Linear(4, 5)), 1, pretrained=True)


def test_trying_a_body_out_leaves_no_trace():
    body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout())
    before, state = copy.deepcopy(body.state_dict()), torch.get_rng_state()
    feature_shape(body)
    assert all(torch.equal(before[name], t) for name, t in body.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and body.training


def test_a_body_that_cannot_take_the_images_is_refused():
    with pytest.raises(ValueError, match=r"cannot take images of shape \(1, 3, 4, 4\): .*pass as `cut` a function"):
        feature_shape(nn.Conv2d(3, 1, 5), 3, 4)
