"""All loaders keep the same promises, whatever they read from."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from minilearner.data.foreign_loader import ForeignLoader
from minilearner.data.item_dataset import ItemDataset
from minilearner.data.item_loader import ItemLoader
from minilearner.data.loader import DerivedLoader, Loader
from minilearner.data.memory_loader import MemoryLoader

X = torch.arange(20.0)[:, None]


def in_memory():
    return MemoryLoader(X, torch.arange(20), bs=3, shuffle=True, seed=5, training=True)


def from_items():
    dataset = ItemDataset(list(X), lambda item: item, seed=5)
    return ItemLoader(dataset, torch.arange(20), bs=3, shuffle=True, seed=5, training=True, num_workers=0)


def from_torch():
    return ForeignLoader(DataLoader(TensorDataset(X, torch.arange(20)), 3, generator=torch.Generator().manual_seed(1)))


def labels(batches):
    return [y.tolist() for _, y in batches]


MEMBERS = {name for name, member in vars(Loader).items() if callable(member) and not name.startswith("_")} - {
    "one_batch"
}


def duck_typed(without=()):
    """Returns a class with the methods of a loader that does not inherit from `Loader`."""
    names = (MEMBERS | {"__len__", "__iter__"}) - set(without)
    return type("OfMyOwn", (), dict.fromkeys(names, lambda self, *args: None))()


def test_an_object_with_all_methods_counts_as_a_loader():
    assert isinstance(duck_typed(), Loader) and not isinstance(duck_typed(), DerivedLoader)
    assert not isinstance(object(), Loader) and not isinstance([(X, X)], Loader)


@pytest.mark.parametrize("name", ["__len__", "__iter__", "iterate", "take_share", "first_batch", "state_dict"])
def test_an_object_that_lacks_a_method_is_no_loader(name):
    assert not isinstance(duck_typed(without=[name]), Loader)


def test_a_loader_that_leaves_a_method_out_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (Loader,), {"__len__": lambda self: 1})()


@pytest.mark.parametrize("make", [in_memory, from_items, from_torch])
def test_the_first_batch_is_the_one_that_the_next_pass_begins_with(make):
    loader = make()
    list(loader)
    state = loader.state_dict()
    first = loader.first_batch()[1].tolist()
    assert str(loader.state_dict()) == str(state)
    assert first == loader.one_batch()[1].tolist() == labels(loader)[0]


@pytest.mark.parametrize("make", [in_memory, from_items, from_torch])
def test_a_pass_from_a_batch_on_is_the_rest_of_the_whole_pass(make):
    assert labels(make().iterate(4)) == labels(make())[4:]


@pytest.mark.parametrize("make", [in_memory, from_items, from_torch])
def test_a_sample_holds_the_first_items_or_what_a_seed_draws(make):
    loader = make()
    assert labels(loader.sample(4, None)) == [[0, 1, 2, 3]]
    (drawn,) = labels(loader.sample(4, 3))
    assert len(set(drawn)) == 4 and drawn != [0, 1, 2, 3] and [drawn] == labels(loader.sample(4, 3))
    (every,) = labels(loader.sample(99, 3))
    assert sorted(every) == list(range(20))
    with pytest.raises(ValueError, match="`max_n` must be at least 1. Received: max_n=0"):
        loader.sample(0, None)


@pytest.mark.parametrize("make", [in_memory, from_items, from_torch])
def test_other_loaders_leave_this_one_as_it_is(make):
    loader, same = make(), make()
    list(loader.in_order()), list(loader.pick([1])), loader.with_batch_tfms(lambda x: x + 1), loader.first_batch()
    assert loader.batch_tfms.transforms == () and labels(loader) == labels(same)


def test_picked_items_are_read_in_this_process_however_many_batches_they_would_fill():
    dataset = ItemDataset(list(X), lambda item: item)
    assert ItemLoader(dataset, torch.arange(20), bs=1, num_workers=2).pick(range(5)).num_workers == 0
