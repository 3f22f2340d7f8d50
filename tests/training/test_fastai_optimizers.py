"""Optimizers with fastai's arguments make torch's updates, or those of the formula by hand."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from minilearner import Callback, DataLoaders, Learner
from minilearner.training.fastai_optimizers import SGD, Adam, Lookahead, OptimWrapper, RAdam, RMSProp, ranger


def updated(make, n=13):
    """Returns the weights after `n` updates with the same random gradients."""
    g = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(3, 2, generator=g)), nn.Parameter(torch.randn(2, generator=g))]
    optimizer = make(weights)
    for _ in range(n):
        for p in weights:
            p.grad = torch.randn(p.shape, generator=g)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in weights])


PAIRS = [
    (partial(SGD, lr=0.1, mom=0.9), partial(torch.optim.SGD, lr=0.1, momentum=0.9)),
    (
        partial(SGD, lr=0.1, wd=0.1, decouple_wd=False),
        partial(torch.optim.SGD, lr=0.1, weight_decay=0.1),
    ),
    (partial(Adam, lr=0.1), partial(torch.optim.AdamW, lr=0.1, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.01)),
    (
        partial(Adam, lr=0.1, decouple_wd=False),
        partial(torch.optim.Adam, lr=0.1, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.01),
    ),
    (partial(RMSProp, lr=0.1, sqr_mom=0.9), partial(torch.optim.RMSprop, lr=0.1, alpha=0.9)),
    (
        partial(RAdam, lr=0.1, wd=0.1),
        partial(torch.optim.RAdam, lr=0.1, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.1, decoupled_weight_decay=True),
    ),
    (partial(OptimWrapper, opt=torch.optim.SGD, lr=0.1), partial(torch.optim.SGD, lr=0.1)),
]


@pytest.mark.parametrize(("ours", "torchs"), PAIRS, ids=lambda make: make.func.__name__)
def test_the_updates_are_torchs(ours, torchs):
    assert torch.equal(updated(ours), updated(torchs))


@pytest.mark.parametrize("make", [partial(SGD, mom=0.9), RMSProp])
def test_decoupled_weight_decay_shrinks_weights_before_the_update(make):
    weight, plain = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer, other = make([weight], lr=0.1, wd=0.5), make([plain], lr=0.1)
    for _ in range(3):
        with torch.no_grad():
            plain *= 1 - 0.1 * 0.5
        weight.grad, plain.grad = torch.ones(2), torch.ones(2)
        optimizer.step()
        other.step()
        torch.testing.assert_close(weight, plain)
    assert optimizer.param_groups[0]["weight_decay"] == 0.5
    frozen = nn.Parameter(torch.ones(2))
    make([frozen], lr=0.1, wd=0.5).step()
    assert torch.equal(frozen, torch.ones(2))


def test_lookahead_goes_back_part_of_the_way_each_k_updates():
    fast, slow = nn.Parameter(torch.zeros(1)), torch.zeros(1)
    optimizer = Lookahead(torch.optim.SGD([fast], lr=1.0), k=3, alpha=0.25)
    expected = torch.zeros(1)
    for step in range(1, 8):
        fast.grad = torch.full((1,), float(step))
        optimizer.step()
        expected -= step
        if step % 3 == 0:
            slow += 0.25 * (expected - slow)
            expected = slow.clone()
        assert torch.equal(fast.detach(), expected)


def test_lookahead_goes_on_from_a_saved_state():
    whole = updated(ranger, 13)
    saved = {}

    def resumed(weights):
        first = ranger(weights)
        step = first.step

        def step_and_move(closure=None):
            step()
            if len(saved) == 0 and first.state[weights[0]]["n_fast"] == 8:
                saved.update(copy.deepcopy(first.state_dict()))
                second = ranger(weights)
                second.load_state_dict(saved)
                first.step = second.step

        first.step = step_and_move
        return first

    assert torch.equal(updated(resumed, 13), whole) and saved


def test_a_copy_of_lookahead_makes_its_own_updates():
    weight = nn.Parameter(torch.ones(2))
    optimizer = ranger([weight])
    twin = copy.deepcopy(optimizer)
    (moved,) = twin.param_groups[0]["params"]
    moved.grad = torch.ones(2)
    twin.step()
    assert torch.equal(weight, torch.ones(2)) and not torch.equal(moved, weight)


def learner(tmp_path, opt_func):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    x, y = torch.randn(64, 4), torch.randint(2, (64,))
    return Learner(DataLoaders.from_arrays((x, y), (x, y), bs=16, seed=0), model, opt_func=opt_func, path=tmp_path)


@pytest.mark.parametrize("opt_func", [Adam, partial(SGD, mom=0.9, wd=0.1), partial(RMSProp, wd=0.1), ranger])
def test_a_learner_spares_norms_and_biases_from_their_weight_decay(tmp_path, opt_func):
    learn = learner(tmp_path, opt_func)
    learn.fit(1, 1e-3)
    groups = learn.optimizer.param_groups
    assert [len(group["params"]) for group in groups if group["weight_decay"]] == [2]
    assert [len(group["params"]) for group in groups if not group["weight_decay"]] == [4]


@pytest.mark.parametrize("opt_func", [partial(SGD, mom=0.9), RMSProp, Adam, RAdam, ranger])
def test_every_way_to_train_takes_them(tmp_path, opt_func):
    learn = learner(tmp_path, opt_func)
    learn.lr_find(show_plot=False)
    learn.fit_one_cycle(1, 1e-3)
    learn.save("weights")
    learn.load("weights")
    learn.fit_flat_cos(1, 1e-3)
    assert all(torch.isfinite(p).all() for p in learn.model.parameters())


class StopAt(Callback):
    ignored_arguments = ("epoch",)

    def __init__(self, epoch):
        self.epoch = epoch

    def before_epoch(self, run):
        if run.epoch == self.epoch:
            raise InterruptedError


def test_a_resumed_run_with_ranger_ends_at_the_same_weights(tmp_path):
    whole = learner(tmp_path, ranger)
    whole.fit_one_cycle(4, 1e-2)
    with pytest.raises(InterruptedError):
        learner(tmp_path, ranger).fit_one_cycle(4, 1e-2, cbs=StopAt(2), checkpoint=tmp_path / "run")
    rest = learner(tmp_path, ranger)
    rest.fit_one_cycle(4, 1e-2, cbs=StopAt(None), checkpoint=tmp_path / "run")
    for a, b in zip(whole.model.parameters(), rest.model.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: Lookahead(SGD(p), k=0), ValueError, "`k` must be at least 1"),
        (lambda p: Lookahead(SGD(p), alpha=0.0), ValueError, r"`alpha` must be in \(0, 1\]"),
        (lambda p: Lookahead(torch.optim.SGD), TypeError, "`opt` must be a torch optimizer"),
        (lambda p: OptimWrapper(p), TypeError, "`OptimWrapper` needs `params`"),
        (lambda p: SGD(p, momentum=0.9), TypeError, "Did you mean 'mom'"),
    ],
)
def test_what_cannot_work_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make([nn.Parameter(torch.ones(1))])
