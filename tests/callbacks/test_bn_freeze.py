"""Frozen norm layers keep their statistics, and other norm layers update theirs."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from minilearner import BnFreeze, Callback, DataLoaders, Learner


def running_mean_after(net, blobs, *, frozen, cbs):
    model = net()
    model[1].requires_grad_(not frozen)
    learn = Learner(DataLoaders.from_arrays(*blobs, bs=16, seed=3), model, cbs=cbs)
    with learn.no_logging():
        learn.lr_find(num_it=3, show_plot=False)
        learn.fit(2)
    return model, model[1].running_mean


def test_statistics_of_frozen_norms_stay(net, blobs):
    _, mean = running_mean_after(net, blobs, frozen=True, cbs=BnFreeze())
    assert torch.equal(mean, torch.zeros(16))


def test_statistics_move_without_the_callback_and_if_norms_learn(net, blobs):
    assert running_mean_after(net, blobs, frozen=True, cbs=Callback())[1].any()
    assert running_mean_after(net, blobs, frozen=False, cbs=BnFreeze())[1].any()


def test_flags_are_restored(net, blobs):
    model, _ = running_mean_after(net, blobs, frozen=True, cbs=BnFreeze())
    assert model[1].training is model.training


def make_frozen_learner(**options):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 2))
    split = lambda model: [list(part.parameters()) for part in model]  # noqa: E731
    data = [(torch.randn(6, 1, 8, 8), torch.arange(6) % 2) for _ in range(3)]
    return Learner(
        DataLoaders(data), nn.Sequential(body, head), nn.CrossEntropyLoss(), torch.optim.SGD, 0.1, split, **options
    )


@pytest.mark.parametrize("train_bn", [True, False])
def test_without_train_bn_no_backward_pass_goes_through_a_frozen_body(train_bn):
    learn = make_frozen_learner(train_bn=train_bn)
    seen = []
    learn.freeze()
    learn.model[0].register_forward_hook(lambda body, args, out: seen.append(out.requires_grad))
    with learn.no_logging():
        learn.fit(1)
    assert seen == [False, *[train_bn] * 3]  # the first is the check of one batch before training


def test_without_train_bn_a_frozen_phase_equals_a_loop_whose_body_has_no_gradient():
    learn = make_frozen_learner(train_bn=False)
    body, head = map(copy.deepcopy, learn.model)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    body.eval()
    for _ in range(2):
        for x, y in learn.dls.train:
            with torch.no_grad():
                features = body(x)
            F.cross_entropy(head(features), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    learn.freeze()
    with learn.no_logging():
        learn.fit(2)
    expected = [*body.state_dict().values(), *head.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(learn.model.state_dict().values(), expected))


def test_without_train_bn_unfrozen_norms_move_again():
    learn = make_frozen_learner(train_bn=False)
    with learn.no_logging():
        learn.fine_tune(1)
    assert learn.model[0][1].num_batches_tracked == 3
