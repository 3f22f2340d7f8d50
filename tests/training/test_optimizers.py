"""Rates are spread over parameter groups, weight decay goes where it belongs, and settings are put back."""

from functools import partial

import pytest
import torch
from timm.optim import Adahessian
from torch import nn

from minilearner.training.optimizers import (
    build_optimizer,
    is_adaptive,
    restore_hyperparameters,
    set_weight_decay,
    spread,
)


def model():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def stages(m):
    return [list(m[0].parameters()), list(m[1].parameters()), list(m[2].parameters())]


@pytest.mark.parametrize(
    ("lr", "n", "expected"),
    [
        (0.1, 2, [0.1, 0.1]),
        ([0.1, 0.2], 2, [0.1, 0.2]),
        (slice(1e-3), 3, [1e-4, 1e-4, 1e-3]),
        (slice(1e-6, 1e-4), 3, [1e-6, 1e-5, 1e-4]),
        (slice(1e-6, 1e-4), 1, [1e-4]),
        (slice(0, 1e-3), 3, [1e-4, 1e-4, 1e-3]),
    ],
)
def test_rates_are_spread_as_fastai_does(lr, n, expected):
    assert spread(lr, n) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("lr", "error", "message"),
    [
        (-0.1, ValueError, "`lr` must be finite and not negative. Received: lr=-0.1"),
        (float("nan"), ValueError, "must be finite"),
        ([0.1], ValueError, "one value for each of the 2 groups"),
        ([], ValueError, "must not be an empty list"),
        ("fast", TypeError, "must be a number, a list of numbers or a slice"),
        (True, TypeError, "must be a number"),
    ],
)
def test_rates_that_cannot_be_are_refused(lr, error, message):
    with pytest.raises(error, match=message):
        spread(lr, 2)


def test_the_default_is_adamw_that_spares_norms_and_biases():
    m = model()
    optimizer = build_optimizer(m, None, 1e-3)
    assert type(optimizer) is torch.optim.AdamW
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [decay[id(p)] for p in m.parameters()] == [0.01, 0, 0, 0, 0.01, 0]
    assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.9, 0.99), 1e-5)


def test_decay_that_a_users_factory_brings_goes_to_all():
    optimizer = build_optimizer(model(), partial(torch.optim.SGD, weight_decay=0.5), 1e-3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5]


def test_an_explicit_decay_spares_norms_and_biases_by_default():
    spares = build_optimizer(model(), torch.optim.SGD, 1e-3, wd=0.1)
    takes_all = build_optimizer(model(), torch.optim.SGD, 1e-3, wd=0.1, wd_bn_bias=True)
    assert [group["weight_decay"] for group in spares.param_groups] == [0.1, 0]
    assert [group["weight_decay"] for group in takes_all.param_groups] == [0.1]


def test_decay_for_an_optimizer_without_it_is_refused():
    class Plain(torch.optim.Optimizer):
        def __init__(self, groups, lr):
            super().__init__(groups, {"lr": lr})

        def step(self, closure=None):
            pass

    with pytest.raises(ValueError, match="Plain has no weight decay"):
        build_optimizer(model(), Plain, 1e-3, wd=0.1)


def test_each_layer_group_gets_its_rate():
    optimizer = build_optimizer(model(), None, slice(1e-6, 1e-4), splitter=stages)
    rates = {group["layer_group"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({0: 1e-6, 1: 1e-5, 2: 1e-4})


def test_a_splitter_that_loses_a_parameter_is_refused_and_the_parameter_named():
    with pytest.raises(ValueError, match="each parameter of the model exactly once.*missing: 2.weight, 2.bias"):
        build_optimizer(model(), None, 1e-3, splitter=lambda m: stages(m)[:2])


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="nothing to train"):
        build_optimizer(nn.ReLU(), None, 1e-3)


def test_a_lazy_model_is_refused():
    with pytest.raises(ValueError, match="lazy layers without a shape: weight"):
        build_optimizer(nn.LazyLinear(3), None, 1e-3)


def test_a_factory_that_makes_no_optimizer_is_refused():
    with pytest.raises(TypeError, match="must return a torch optimizer. Received: dict"):
        build_optimizer(model(), lambda groups, lr: {}, 1e-3)


@pytest.mark.parametrize(
    ("factory", "message"),
    [(torch.optim.LBFGS, "LBFGS calls the model several times"), (Adahessian, "Adahessian needs second derivatives")],
)
def test_an_optimizer_that_needs_more_than_gradients_is_refused(factory, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(nn.Linear(2, 1), lambda groups, lr: factory(groups[0]["params"], lr=lr), 1e-3)


def test_settings_and_groups_are_put_back():
    m = model()
    optimizer = build_optimizer(m, torch.optim.SGD, 1e-3)
    with restore_hyperparameters(optimizer):
        set_weight_decay(optimizer, m, 0.3)
        optimizer.param_groups[0]["lr"] = 7
        assert len(optimizer.param_groups) == 2
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups] == [(1e-3, 0, 6)]


@pytest.mark.parametrize("name", ["Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta"])
def test_optimizers_that_scale_by_the_gradients_are_adaptive_and_plain_ones_are_not(name):
    weights = [nn.Parameter(torch.zeros(1))]
    assert is_adaptive(getattr(torch.optim, name)(weights, lr=0.1))
    assert not is_adaptive(torch.optim.SGD(weights, lr=0.1, momentum=0.9, nesterov=True))
