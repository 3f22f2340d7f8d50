"""Frozen norms keep their statistics, others move."""

import torch

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


def test_they_move_without_the_callback_and_where_norms_learn(net, blobs):
    assert running_mean_after(net, blobs, frozen=True, cbs=Callback())[1].any()
    assert running_mean_after(net, blobs, frozen=False, cbs=BnFreeze())[1].any()


def test_flags_are_put_back(net, blobs):
    model, _ = running_mean_after(net, blobs, frozen=True, cbs=BnFreeze())
    assert model[1].training is model.training
