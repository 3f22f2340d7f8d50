"""The largest batch that fits is found exactly, in few trials, and the search leaves no trace."""

import pytest
import torch
from torch import nn

from minilearner import DataError, DataLoaders, Learner, largest_batch_size

FULL = torch.OutOfMemoryError("full")


class Limited(nn.Module):
    """A net with batch norm and dropout that has memory for `room` items."""

    def __init__(self, room, error=FULL):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
        self.room, self.error, self.tried = room, error, []

    def forward(self, x):
        self.tried.append(len(x))
        if len(x) > self.room:
            raise self.error
        return self.net(x)


def batch(n=5):
    return torch.randn(n, 3), torch.arange(n) % 2


def found(model, **options):
    return largest_batch_size(model, nn.CrossEntropyLoss(), batch(), **options)


@pytest.mark.parametrize(("room", "largest"), [(2, 2), (3, 3), (37, 37), (63, 63), (64, 64), (99, 99), (10**6, 100)])
def test_it_is_exact(room, largest):
    assert found(Limited(room), max_bs=100) == largest


def test_few_sizes_are_tried_and_each_by_steps_that_train():
    model = Limited(37)
    assert found(model, max_bs=1000) == 37
    sizes = list(dict.fromkeys(model.tried))
    assert sizes == [2, 4, 8, 16, 32, 64, 48, 40, 36, 38, 37]
    assert all(model.tried.count(size) == (2 if size <= 37 else 1) for size in sizes)


def test_what_torch_says_on_a_cpu_counts_and_other_errors_pass():
    refused = RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried")
    assert found(Limited(20, refused), max_bs=64) == 20
    with pytest.raises(RuntimeError, match="another"):
        found(Limited(20, RuntimeError("another")), max_bs=64)


def test_training_goes_on_as_if_nothing_had_been_tried():
    def trained(*, searched):
        model = Limited(37)
        learn = Learner(DataLoaders([batch()]), model, nn.CrossEntropyLoss(), device="cpu")
        torch.manual_seed(1)
        if searched:
            model.eval()
            assert found(model, max_bs=64) == 37
            assert not model.training and all(p.grad is None for p in model.parameters())
        torch.manual_seed(2)
        with learn.no_logging():
            learn.fit(2)
        return model.state_dict().values()

    torch.manual_seed(3)
    plain = trained(searched=False)
    torch.manual_seed(3)
    assert all(torch.equal(a, b) for a, b in zip(trained(searched=True), plain))


def test_random_generators_stay():
    model, given = Limited(9), batch()
    before = torch.get_rng_state()
    largest_batch_size(model, nn.CrossEntropyLoss(), given, max_bs=16)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match=r"`max_bs` must be at least 2.* Received: max_bs=1"):
        found(Limited(9), max_bs=1)
    with pytest.raises(MemoryError, match="not even a batch of 2"):
        found(Limited(1), max_bs=8)
    with pytest.raises(DataError, match="no items"):
        largest_batch_size(Limited(9), nn.CrossEntropyLoss(), batch(0), max_bs=8)
