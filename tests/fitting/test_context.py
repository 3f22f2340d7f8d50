"""Each call builds one context, and one run for each pass of training."""

import pytest

from minilearner import DataLoaders, Learner
from minilearner.training.run import Run


def layers(model):
    return [list(model[:2].parameters()), list(model[2:].parameters())]


@pytest.mark.parametrize(
    ("call", "n_runs"),
    [
        (lambda learn: learn.fit(1), 1),
        (lambda learn: learn.fit_one_cycle(1), 1),
        (lambda learn: learn.fit(1, "auto"), 2),
        (lambda learn: learn.lr_find(show_plot=False), 1),
        (lambda learn: learn.fine_tune(1), 2),
        (lambda learn: learn.fine_tune(1, "auto"), 4),
    ],
)
def test_a_call_makes_one_run_for_each_pass_of_training_and_each_sweep(net, blobs, monkeypatch, call, n_runs):
    learn = Learner(DataLoaders.from_arrays(*blobs, bs=16, seed=3), net(), splitter=layers)
    made, init = [], Run.__init__

    def count(self, *args, **kwargs):
        made.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(Run, "__init__", count)
    with learn.no_logging():
        call(learn)
    assert len(made) == n_runs


def test_a_wrong_number_of_epochs_builds_no_optimizer(net, blobs):
    learn = Learner(DataLoaders.from_arrays(*blobs, bs=16, seed=3), net())
    with pytest.raises(ValueError, match="`n_epoch` must be at least 1"):
        learn.fit(0)
    assert learn.optimizer is None
