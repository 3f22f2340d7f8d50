"""A sweep that cannot recommend a rate says why, and what to do."""

import math

import numpy as np
import pytest
import torch

from minilearner import Callback, CancelBackward, DataLoaders, Learner, LRSweep


def learner(net, blobs, **kwargs):
    return Learner(DataLoaders.from_arrays(*blobs, bs=16, seed=3), net(), lr=0.01, **kwargs)


def test_a_sweep_that_is_too_short_for_a_recommendation_names_the_least(net, blobs):
    sweep = learner(net, blobs).lr_find(num_it=7, show_plot=False)
    assert "has only 7 of the 8 comparable losses" in sweep.reason
    assert "sweep at least 8 steps (`num_it` of `lr_find`" in sweep.reason


def test_a_sweep_that_stopped_soon_does_not_ask_for_as_many_steps_as_it_had():
    sweep = LRSweep.from_curve([1.0, 2.0, 3.0], [2.0, 3.0, 9.0], fixed=[2.0, 3.0, 9.0], num_it=100)
    assert "stopped after 3 of 100 steps; if the loss exploded, sweep lower rates" in sweep.reason


class TrainsByHand(Callback):
    """Makes the update itself, by the learner's optimizer or by one of its own."""

    part_of_step = True

    def __init__(self, own):
        self.own = own

    def before_fit(self, run):
        optimizer = torch.optim.SGD(run.model.parameters(), 0.1) if self.own else run.optimizer

        def process_batch():
            run.pred = run.step.predict(run.x)
            run.loss = run.step.compute_loss(run.pred, run.y)
            run.loss.backward()
            optimizer.step()
            run.count_update()
            raise CancelBackward

        run.process_batch = process_batch


def test_a_sweep_whose_rates_no_update_takes_recommends_none_and_says_so(net, blobs, capsys):
    learn = learner(net, blobs, cbs=TrainsByHand(own=True))
    sweep = learn.lr_find(num_it=30, show_plot=False)
    assert math.isnan(sweep.recommended) and "made no update: a callback trains with optimizers" in sweep.reason
    assert sweep.interval is sweep.bounds is None and sweep.notes["valley"] == sweep.reason
    learn.fit(1, "auto")
    assert "so 1.00e-02 is taken: the learner's" in capsys.readouterr().out


def test_updates_by_hand_with_the_learners_optimizer_get_a_rate(net, blobs):
    sweep = learner(net, blobs, cbs=TrainsByHand(own=False)).lr_find(1e-4, show_plot=False)
    assert sweep.recommended > 1e-3


@pytest.mark.parametrize("n", [12, 60])
def test_a_short_sweep_without_a_fall_asks_for_more_steps(n):
    fixed = 2 + np.maximum(np.linspace(-2, 2, n), 0)
    losses = fixed + 0.1 * np.random.default_rng(0).normal(size=n)
    sweep = LRSweep.from_curve(np.geomspace(1e-4, 1, n), losses, fixed=fixed)
    assert math.isnan(sweep.recommended)
    assert ("12 steps show little; sweep more (`num_it`" in sweep.reason) is (n == 12)
    assert ("the model is already good" in sweep.reason) is (n == 60)
