"""Together, the processes read what one process would read with a batch as large as all of theirs."""

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from minilearner import DataLoaders
from minilearner.data.foreign_loader import ForeignLoader
from minilearner.data.item_dataset import ItemDataset
from minilearner.data.item_loader import ItemLoader
from minilearner.data.memory_loader import MemoryLoader
from minilearner.data.share import WHOLE, Share

X = torch.arange(50.0)[:, None]


def in_memory(bs, n, drop_last=False):
    return MemoryLoader(X[:n], torch.arange(n), bs=bs, shuffle=True, drop_last=drop_last, seed=5, training=True)


def from_items(bs, n, drop_last=False):
    dataset = ItemDataset(list(X[:n]), lambda item: item, seed=5)
    options = {"shuffle": True, "drop_last": drop_last, "seed": 5, "training": True, "num_workers": 0}
    return ItemLoader(dataset, torch.arange(n), bs=bs, **options)


def from_torch(bs, n, drop_last=False):
    generator = torch.Generator().manual_seed(5)
    data = TensorDataset(X[:n], torch.arange(n))
    return ForeignLoader(DataLoader(data, bs, shuffle=True, drop_last=drop_last, generator=generator))


def passes(loader, n=2):
    return [[(x[:, 0].tolist(), y.tolist()) for x, y in loader] for _ in range(n)]


def joined(parts):
    """Joins the batches of all processes, in order within each step."""
    steps = [zip(*these, strict=True) for these in zip(*parts, strict=True)]
    return [[[i for _, y in step for i in y] for step in one] for one in steps]


@pytest.mark.parametrize("make", [in_memory, from_items, from_torch])
@pytest.mark.parametrize("n, drop_last", [(48, False), (50, False), (45, False), (37, False), (50, True)])
def test_steps_are_those_of_one_process_with_the_whole_batch(make, n, drop_last):
    parts = [passes(make(4, n, drop_last).take_share(Share(rank, 3, is_even=True))) for rank in range(3)]
    whole = [[y for _, y in one] for one in passes(make(12, n, drop_last))]
    assert joined(parts) == whole


@pytest.mark.parametrize("make", [in_memory, from_items, from_torch])
def test_the_last_items_are_shared_out_evenly_and_none_is_read_twice(make):
    parts = [passes(make(4, 37).take_share(Share(rank, 3, is_even=True)), 1)[0] for rank in range(3)]
    assert [len(part) for part in parts] == [4, 4, 4]
    assert [len(part[-1][1]) for part in parts] == [1, 0, 0]


@pytest.mark.parametrize("make", [in_memory, from_items, from_torch])
def test_whole_batches_are_dealt_out_for_validation(make):
    first, second = (make(8, 50).in_order().take_share(Share(rank, 2)) for rank in range(2))
    whole = passes(make(8, 50).in_order(), 1)[0]
    assert passes(first, 1)[0] == whole[0::2]
    assert passes(second, 1)[0] == whole[1::2]
    assert (len(first), len(second)) == (4, 3)


@pytest.mark.parametrize("make", [in_memory, from_items, from_torch])
def test_an_empty_batch_stands_in_for_a_missing_one_if_all_make_each_pass(make):
    loader = make(8, 17).in_order()
    parts = [passes(loader.take_share(Share(rank, 4, is_filled_up=True)), 1)[0] for rank in range(4)]
    assert [part for part in parts if part[0][1]] == [[batch] for batch in passes(loader, 1)[0]]
    assert parts[3] == [([], [])]
    assert [len(loader.take_share(Share(rank, 4, is_filled_up=True))) for rank in range(4)] == [1] * 4


@pytest.mark.parametrize("make", [in_memory, from_items])
@pytest.mark.parametrize("share", [Share(1, 3), Share(1, 3, is_even=True), Share(2, 3, is_filled_up=True), WHOLE])
def test_the_positions_of_a_shared_batch_are_those_of_its_items(make, share):
    loader = make(4, 37).take_share(share)
    assert [loader.positions_of(i) for i, _ in enumerate(loader)] == [y.tolist() for _, y in _again(loader)]


def _again(loader):
    loader.epoch -= 1
    return loader


@pytest.mark.parametrize("make", [in_memory, from_items, from_torch])
def test_a_process_without_batches_sees_the_first_one_all_the_same(make):
    whole = make(8, 5).in_order()
    _, y = whole.take_share(Share(3, 4)).first_batch()
    assert y.tolist() == [0, 1, 2, 3, 4]


def test_any_other_source_is_read_whole_and_dealt_out():
    batches = [(X[i : i + 5], torch.arange(i, i + 5)) for i in range(0, 50, 5)]
    parts = [list(ForeignLoader(batches).take_share(Share(rank, 4, is_even=True))) for rank in range(4)]
    assert [[len(y) for _, y in part] for part in parts] == [[5, 5, 5], [5, 5, 5], [5, 5, 0], [5, 5, 0]]
    assert sorted(i for part in parts for _, y in part for i in y.tolist()) == list(range(50))


@pytest.mark.parametrize("make", [in_memory, from_items, from_torch])
def test_a_shared_pass_begins_at_a_batch(make):
    share = Share(1, 2, is_even=True)
    whole, rest = make(4, 50).take_share(share), make(4, 50).take_share(share)
    assert [y.tolist() for _, y in rest.iterate(3)] == [y.tolist() for _, y in whole][3:]


def test_datasets_are_shuffled_alike_for_all():
    data = TensorDataset(X, torch.arange(50))
    parts = [
        passes(DataLoaders(data, bs=5, seed=2).train.take_share(Share(rank, 2, is_even=True))) for rank in range(2)
    ]
    assert joined(parts) == [[y for _, y in one] for one in passes(DataLoaders(data, bs=10, seed=2).train)]


def test_what_is_asked_in_order_is_whole_again():
    loader = in_memory(4, 50).take_share(Share(1, 2, is_even=True))
    assert loader.in_order().share == loader.pick([1, 2]).share == WHOLE
    assert len(loader.in_order()) == 13


def test_a_loader_that_is_shared_out_already_is_refused():
    data = TensorDataset(X, torch.arange(50))
    loader = DataLoader(data, 5, sampler=DistributedSampler(data, 2, 0))
    with pytest.raises(ValueError, match="DataLoader with a DistributedSampler"):
        DataLoaders(loader).train.take_share(Share(0, 2))
