"""Gradient accumulation equals one big batch, and clipping equals torch's."""

import pytest
import torch
from torch import nn

from minilearner import Callback, DataLoaders, GradientAccumulation, GradientClip, Learner


def linear():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def data(n):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 4, generator=g), torch.randint(3, (n,), generator=g)


def train(batches, cbs=None, **kwargs):
    learn = Learner(DataLoaders(batches), linear(), nn.CrossEntropyLoss(), torch.optim.SGD, lr=0.5, **kwargs)
    with learn.no_logging():
        learn.fit(1, cbs=cbs)
    return learn


def split(x, y, sizes):
    return list(zip(x.split(sizes), y.split(sizes)))


@pytest.mark.parametrize("sizes", [[4, 4, 4], [4, 4, 2], [5, 3, 1]])
def test_accumulated_batches_of_any_size_equal_the_big_batch(sizes):
    x, y = data(sum(sizes))
    big, small = train([(x, y)]), train(split(x, y, sizes), GradientAccumulation(3))
    for a, b in zip(big.model.parameters(), small.model.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_the_short_tail_of_an_epoch_is_a_full_update():
    x, y = data(20)
    as_one = train(split(x, y, [12, 8]))
    in_parts = train(split(x, y, [4] * 5), GradientAccumulation(3))
    assert len(as_one.recorder.losses) == 2
    for a, b in zip(as_one.model.parameters(), in_parts.model.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_schedules_count_updates_under_accumulation():
    steps = []

    class Watch(Callback):
        def before_batch(self, run):
            steps.append((run.global_step, run.progress))

    x, y = data(20)
    train(split(x, y, [4] * 5), [GradientAccumulation(2), Watch()])
    assert steps == [(0, 0), (0, 0), (1, 1 / 3), (1, 1 / 3), (2, 2 / 3)]


def test_accumulation_is_undone_after_the_run():
    x, y = data(8)
    learn = train(split(x, y, [4, 4]), GradientAccumulation(2))
    with learn.no_logging():
        learn.fit(1)
    assert list(learn.recorder.runs[1].steps["step"]) == [1, 2]


def test_clipping_equals_torchs():
    x, y = data(8)
    learn = train([(x * 100, y)], GradientClip(0.1))
    model = linear()
    nn.functional.cross_entropy(model(x * 100), y).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    assert all(torch.equal(a, b) for a, b in zip(learn.model.parameters(), model.parameters()))


@pytest.mark.parametrize("n", [0, -1])
def test_accumulation_of_nothing_is_refused(n):
    with pytest.raises(ValueError, match=f"`n_batches` must be at least 1. Received: n_batches={n}"):
        GradientAccumulation(n)


def test_clipping_to_nothing_is_refused():
    with pytest.raises(ValueError, match="`max_norm` must be positive and finite"):
        GradientClip(0)
