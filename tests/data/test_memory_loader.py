import pytest
import torch

from minilearner.data.batch_transforms import BatchTransform
from minilearner.data.memory_loader import MemoryLoader
from minilearner.errors import DataError


class AddNoise(BatchTransform):
    def __call__(self, x, rng):
        return x + torch.rand(x.shape, generator=rng)


@pytest.fixture
def arrays():
    return torch.randint(0, 256, (23, 1, 4, 4), dtype=torch.uint8), torch.arange(23)


def training_loader(arrays, **options):
    return MemoryLoader(*arrays, **{"bs": 5, "shuffle": True, "drop_last": True, "training": True, "seed": 1} | options)


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(p, q) for s, t in zip(a, b, strict=True) for p, q in zip(s, t, strict=True)
    )


def test_uint8_stays_in_store_and_arrives_as_division_by_255(arrays):
    loader = MemoryLoader(*arrays, bs=23)
    ((x, y),) = loader
    assert loader.x.dtype == torch.uint8
    assert torch.equal(x, arrays[0].float() / 255)
    assert torch.equal(y, arrays[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bool])
def test_other_kinds_arrive_as_float32(dtype):
    x = torch.randn(4, 784).to(dtype)
    ((got, y),) = MemoryLoader(x, torch.zeros(4, dtype=torch.float64))
    assert torch.equal(got, x.float())
    assert y.dtype == torch.float32


def test_the_order_of_a_pass_is_decided_by_seed_and_epoch(arrays):
    loader, again, other = training_loader(arrays), training_loader(arrays), training_loader(arrays, seed=2)
    first = list(loader)
    torch.rand(7)
    assert same(first, list(again))
    assert not same(first, list(loader))
    assert not same(first, list(other))
    chosen = loader.indices(0)[:20]
    assert torch.equal(torch.cat([y for _, y in first]), arrays[1][chosen])


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_a_pass_that_starts_in_the_middle_gives_the_same_batches(arrays, start):
    whole = list(training_loader(arrays, batch_tfms=AddNoise()))
    assert same(list(training_loader(arrays, batch_tfms=AddNoise()).iterate(start)), whole[start:])


def test_a_start_beyond_the_pass_is_refused(arrays):
    with pytest.raises(ValueError, match=r"between 0 and 4. Received: start_batch=5"):
        training_loader(arrays).iterate(5)


def test_a_started_pass_counts_and_a_state_restores_it(arrays):
    loader, resumed = training_loader(arrays), training_loader(arrays)
    next(iter(loader))
    assert loader.state_dict() == {"seed": loader.seed, "epoch": 1}
    resumed.load_state_dict(loader.state_dict())
    assert same(list(loader), list(resumed))


@pytest.mark.parametrize(("drop_last", "sizes"), [(True, [5] * 4), (False, [5] * 4 + [3])])
def test_the_short_batch(arrays, drop_last, sizes):
    loader = training_loader(arrays, drop_last=drop_last)
    assert [len(y) for _, y in loader] == sizes
    assert len(loader) == len(sizes)
    assert loader.n_items == 23


def test_in_order_gives_every_item_without_augmentation(arrays):
    loader = training_loader(arrays, batch_tfms=AddNoise())
    batches = list(loader.in_order())
    assert torch.equal(torch.cat([x for x, _ in batches]), arrays[0].float() / 255)
    assert torch.equal(torch.cat([y for _, y in batches]), arrays[1])
    assert loader.epoch == 0
    assert loader.in_order().x is loader.x


def test_a_random_function_sees_validation_the_same_way_every_pass(arrays):
    loader = MemoryLoader(*arrays, bs=5, batch_tfms=lambda x: x + torch.rand_like(x))
    assert same(list(loader), list(loader))


def test_nothing_moves_the_global_generator(arrays):
    before = torch.get_rng_state().clone()
    list(training_loader(arrays, batch_tfms=[AddNoise(), lambda x: x + torch.rand(1)]))
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_may_be_changed_without_changing_the_store():
    loader = MemoryLoader(torch.ones(4, 3), torch.ones(4), bs=2)
    for x, y in loader:
        x.zero_(), y.zero_()
    assert all(x.eq(1).all() and y.eq(1).all() for x, y in loader)


def test_item_transforms_run_once_on_the_whole_store(arrays):
    calls = []
    loader = MemoryLoader(*arrays, item_tfms=lambda x: calls.append(x.shape) or x[:, :, :2])
    list(loader), list(loader)
    assert calls == [(23, 1, 4, 4)]
    assert loader.x.shape == (23, 1, 2, 4)


def test_an_item_transform_keeps_the_number_of_items(arrays):
    with pytest.raises(DataError, match=r"`item_tfms\[0\]` changed the number of items from 23 to 3"):
        MemoryLoader(*arrays, item_tfms=lambda x: x[:3])


def test_items_are_shown_as_stored(arrays):
    x, y = training_loader(arrays, batch_tfms=AddNoise()).items([3, 0])
    assert torch.equal(x, arrays[0][[3, 0]].float() / 255)
    assert y.tolist() == [3, 0]


def test_items_without_labels_come_with_none(arrays):
    assert [y for _, y in MemoryLoader(arrays[0], bs=20)] == [None, None]


def test_wrong_arguments_are_refused(arrays):
    with pytest.raises(ValueError, match=r"`bs` must be at least 1. Received: bs=0"):
        MemoryLoader(*arrays, bs=0)
    with pytest.raises(DataError, match=r"same number of items. Received: 23 and 22"):
        MemoryLoader(arrays[0], arrays[1][1:])


def test_to_the_same_device_is_the_loader_itself_and_another_a_view(arrays):
    loader = training_loader(arrays, device="cpu")
    assert loader.to("cpu") is loader
    moved = loader.to("meta")
    assert (moved.x.device.type, loader.x.device.type) == ("meta", "cpu")


def test_picked_items_come_as_one_batch_in_the_order_asked_for_without_augmentation(arrays):
    loader = training_loader(arrays, batch_tfms=AddNoise())
    ((x, y),) = loader.pick([3, 0, 3])
    assert torch.equal(x, loader.items([3, 0, 3])[0]) and torch.equal(y, loader.items([3, 0, 3])[1])


def test_augmented_items_are_in_order_complete_and_drawn_by_number(arrays):
    loader = training_loader(arrays, batch_tfms=AddNoise())
    first, again, other = (torch.cat([x for x, _ in loader.augment(n)]) for n in (0, 0, 1))
    plain = torch.cat([x for x, _ in loader.in_order()])
    assert first.shape == plain.shape and not torch.equal(first, plain)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.cat([y for _, y in loader.augment()]), loader.y)
    assert loader.epoch == 0
