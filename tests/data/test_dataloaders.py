import random

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from minilearner.data.dataloaders import DataLoaders
from minilearner.data.foreign_loader import ForeignLoader
from minilearner.data.loader import Loader
from minilearner.data.memory_loader import MemoryLoader
from minilearner.data.share import Share
from minilearner.data.targets import Category, Regression
from minilearner.errors import DataError
from minilearner.runtime import isolate_rng, set_seed
from minilearner.vision.augment import Flip
from minilearner.vision.lighting import Brightness, Contrast, Hue


def images(n, side=4):
    return np.random.default_rng(n).integers(0, 256, (n, 1, side, side), dtype=np.uint8)


def dataset(n=23):
    return TensorDataset(torch.randn(n, 3), torch.arange(n))


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(p, q) for s, t in zip(a, b, strict=True) for p, q in zip(s, t, strict=True)
    )


def labels(loader):
    return torch.cat([y for _, y in loader]).tolist()


class Listed:
    """A plain re-iterable that counts its passes."""

    def __init__(self, batches):
        self.batches, self.passes = batches, 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.passes += 1
        return iter(self.batches)


class Noisy(Dataset):
    """Draws its items from its own generator."""

    def __init__(self, rng):
        self.rng = rng

    def __len__(self):
        return 8

    def __getitem__(self, i):
        if isinstance(self.rng, torch.Generator):
            return torch.rand((), generator=self.rng), i
        draw = self.rng.random_sample if isinstance(self.rng, np.random.RandomState) else self.rng.random
        return torch.tensor(draw()), i


class TestArrays:
    def test_numpy_and_tensors_are_served_alike(self):
        x, y = images(20), np.arange(20) % 3
        a = DataLoaders.from_arrays((x, y), bs=4, seed=1)
        b = DataLoaders.from_arrays((torch.from_numpy(x), torch.from_numpy(y)), bs=4, seed=1)
        assert same(list(a.train), list(b.train))
        assert (a.c, a.vocab, a.target) == (3, (0, 1, 2), Category(range(3)))

    def test_validation_is_in_order_and_complete_and_training_drops_the_short_batch(self):
        dls = DataLoaders.from_arrays((images(21), np.arange(21)), (images(7), np.arange(7)), bs=4)
        assert (len(dls.train), len(dls.valid)) == (5, 2)
        assert labels(dls.valid) == list(range(7))
        assert sorted(labels(dls.in_order(0))) == list(range(21))
        kept = DataLoaders.from_arrays((images(21), np.arange(21)), bs=4, drop_last=False)
        assert sorted(labels(kept.train)) == list(range(21))

    def test_a_short_batch_of_more_than_a_tenth_is_kept_but_for_a_single_item(self, capsys):
        dls = DataLoaders.from_arrays((images(10), np.arange(10)), bs=4)
        assert sorted(labels(dls.train)) == list(range(10))
        assert "The last batch of an epoch is short, 2 of 10 training items, 20%" in capsys.readouterr().err
        single = DataLoaders.from_arrays((images(9), np.arange(9)), bs=4)
        assert [len(y) for _, y in single.train] == [4, 4]
        assert "Every epoch leaves out 1 of 9 training items, 11%" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("kind", "n", "bs", "n_seen"),
        [
            *(("arrays", 10, 3, 10), ("arrays", 103, 16, 103), ("arrays", 64, 16, 64), ("arrays", 130, 16, 128)),
            # torch's loader has left out its own short batch before processes share the others
            *(("dataset", 10, 3, 9), ("dataset", 103, 16, 96), ("dataset", 64, 16, 64), ("dataset", 130, 16, 128)),
        ],
    )
    def test_several_processes_keep_a_short_step_of_more_than_a_tenth(self, kind, n, bs, n_seen):
        def read(i):
            given = images(n), np.arange(n)
            dataset = TensorDataset(*map(torch.as_tensor, given))
            arrays = DataLoaders.from_arrays(given, bs=bs, seed=0)
            train = (arrays if kind == "arrays" else DataLoaders(dataset, bs=bs, seed=0)).train
            part = train.take_share(Share(i, 4, is_even=True))
            batches = [y for _, y in part]
            assert len(batches) == len(part)
            assert [len(part.positions_of(k)) for k in range(len(part))] == list(map(len, batches))
            return batches

        parts = [read(i) for i in range(4)]
        assert len(torch.cat([y for part in parts for y in part]).unique()) == n_seen
        assert len(set(map(len, parts))) == 1

    def test_text_labels_are_numbered_by_the_sorted_vocabulary_of_training(self):
        y = ["owl", "cat", "owl", "dog"]
        dls = DataLoaders.from_arrays((images(4), y), (images(2), np.array(["dog", "cat"])), bs=2)
        assert dls.vocab == ("cat", "dog", "owl")
        assert labels(dls.in_order(0)) == [2, 0, 2, 1]
        assert labels(dls.valid) == [1, 0]

    def test_a_given_vocabulary_decides_the_numbers(self):
        dls = DataLoaders.from_arrays((images(2), ["b", "a"]), bs=2, vocab=["b", "a", "c"])
        assert labels(dls.in_order(0)) == [0, 1]
        assert dls.c == 3

    @pytest.mark.parametrize(("y", "n_out"), [(np.zeros(6), 1), (np.zeros((6, 2)), 2), (torch.zeros(6, 1), 1)])
    def test_floats_are_regression(self, y, n_out):
        dls = DataLoaders.from_arrays((images(6), y), bs=2)
        assert dls.target == Regression(n_out)
        assert dls.one_batch()[1].dtype == torch.float32
        assert dls.vocab is None

    def test_integers_can_be_regressed(self):
        dls = DataLoaders.from_arrays((images(6), np.arange(6)), bs=2, target=Regression())
        assert dls.one_batch()[1].dtype == torch.float32

    def test_read_only_and_reversed_arrays_are_taken_without_a_warning(self):
        x = images(6)
        x.flags.writeable = False
        _, y = DataLoaders.from_arrays((x, np.arange(6)[::-1]), bs=2).train.items(range(6))
        assert y.tolist() == [5, 4, 3, 2, 1, 0]
        taken, _ = DataLoaders.from_arrays((x[::-1], np.arange(6)), bs=2).train.items(range(6))
        np.testing.assert_array_equal(taken, DataLoaders.from_arrays((x, np.arange(6)), bs=2).train.x.flip(0) / 255)

    def test_the_seed_is_drawn_once_and_recorded(self):
        set_seed(3)
        first = DataLoaders.from_arrays((images(20), np.arange(20)), bs=4)
        second = DataLoaders.from_arrays((images(20), np.arange(20)), bs=4)
        again = DataLoaders.from_arrays((images(20), np.arange(20)), bs=4, seed=first.seed)
        assert first.seed != second.seed
        assert same(list(first.train), list(again.train))

    def test_one_batch_moves_nothing(self):
        dls = DataLoaders.from_arrays((images(20), np.arange(20)), bs=4)
        before = torch.get_rng_state().clone()
        batch = dls.one_batch()
        assert torch.equal(torch.get_rng_state(), before)
        assert dls.train.epoch == 0
        assert same([batch], [next(iter(dls.train))])

    def test_new_items_get_the_item_and_validation_transforms(self):
        dls = DataLoaders.from_arrays(
            (images(20), np.arange(20)), bs=4, item_tfms=lambda x: x[:, :, :2], batch_tfms=lambda x: x + 1
        )
        new = images(5)
        batches = list(dls.test_dl(new))
        assert torch.equal(torch.cat([x for x, _ in batches]), torch.from_numpy(new[:, :, :2]).float() / 255 + 1)
        assert all(y is None for _, y in batches)
        assert labels(dls.test_dl((new, np.arange(5)))) == list(range(5))

    def test_to_the_same_device_is_itself(self):
        dls = DataLoaders.from_arrays((images(6), np.arange(6)), bs=2, device="cpu")
        assert dls.to("cpu") is dls
        assert dls.to("meta").train.device.type == "meta"
        assert dls.device.type == "cpu"


X = np.zeros((4, 3), dtype=np.float32)
NAN = X.copy()
NAN[2, 1] = np.nan
BAD_ARRAYS = [
    ((X, [0, 1]), None, {}, r"same number of items. Received: x of shape \(4, 3\), y of shape \(2,\)"),
    ((X[:0], []), None, {}, r"`x` of train must hold at least one item"),
    ((X, [0, 1, 3, 0]), None, {"vocab": "abc"}, r"`y` of train.*from 0 to 2. Received: 3 at item 2"),
    ((X, [0, 1, 1, 0]), (X, [0, 0, 0, 2]), {}, r"`y` of valid.*from 0 to 1. Received: 2 at item 3"),
    ((X, list("abab")), (X, list("abca")), {}, r"1 of 4 valid labels is not among the classes: item 2 \('c'\)"),
    ((X, [0.0, np.inf, 1.0, 1.0]), None, {}, r"`y` of train must be finite.*first in item 1"),
    ((X.astype(object), [0, 1, 1, 0]), None, {}, r"`x` of train must be uint8 or floating.*dtype object"),
    ((X.astype(str), [0, 1, 1, 0]), None, {}, r"`x` of train must be uint8 or floating.*dtype <U"),
    ((X.astype(np.uint16), [0, 1, 1, 0]), None, {}, r"dtype uint16"),
    ((X.astype(complex), [0, 1, 1, 0]), None, {}, r"dtype complex"),
    ((X, [0, None, 1, 1]), None, {}, r"1 of 4 labels of train is missing: item 1"),
    ((X, np.eye(4, dtype=int)), None, {}, r"one-hot rows, a column or"),
    ((X, [0.5, 1, 1, 0]), None, {"vocab": "ab"}, r"class numbers or names. Received: dtype float64"),
    ((X, [0, 1, 1, 0]), (X[:, :2], [0, 1, 1, 0]), {}, r"one shape and kind. Received: train \(3,\)"),
    ((X, [0, 1, 1, 0]), (X.astype(np.uint8), [0, 1, 1, 0]), {}, r"valid \(3,\) torch.uint8"),
]


@pytest.mark.parametrize(("train", "valid", "options", "message"), BAD_ARRAYS)
def test_arrays_that_cannot_be_trained_on_are_refused(train, valid, options, message):
    with pytest.raises(DataError, match=message):
        DataLoaders.from_arrays(train, valid, **{"bs": 2} | options)


@pytest.mark.parametrize("light", [Brightness(), [Flip(), Contrast()], Hue()])
def test_arrays_beyond_the_range_of_light_are_refused(light):
    x, y = np.linspace(0, 255, 8 * 3 * 16, dtype=np.float32).reshape(8, 3, 4, 4), np.arange(8) % 2
    with pytest.raises(DataError, match=r"needs images in \[0, 1\], and `x` of train reaches from 0 to 255"):
        DataLoaders.from_arrays((x, y), bs=4, batch_tfms=light)
    for fine in (x / 255, x.astype(np.uint8)):
        DataLoaders.from_arrays((fine, y), bs=4, batch_tfms=light)
    DataLoaders.from_arrays((x, y), bs=4, batch_tfms=Flip())


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match=r"`train` must be a pair of arrays \(x, y\). Received: ndarray"):
        DataLoaders.from_arrays(X)
    with pytest.raises(TypeError, match=r"shufle"):
        DataLoaders.from_arrays((X, [0, 1, 0, 1]), shufle=True)
    with pytest.raises(ValueError, match=r"`target` or `vocab`, not both"):
        DataLoaders.from_arrays((X, [0, 1, 0, 1]), vocab="ab", target=Category("ab"))
    with pytest.raises(ValueError, match=r"`bs` must be at least 1"):
        DataLoaders(dataset(), bs=0)


BAD_SOURCES = [
    (lambda: 3, r"a int, which cannot be iterated"),
    (lambda: (b for b in []), r"a generator, which can be read only once"),
    (lambda: iter([1]), r"a list_iterator, which can be read only once"),
    (lambda: map(abs, [1]), r"read only once"),
    (lambda: {1: 2}.values().__class__, r"cannot be iterated"),
    (lambda: (torch.zeros(3), torch.zeros(3)), r"Received: arrays. Use DataLoaders.from_arrays"),
]


@pytest.mark.parametrize(("source", "message"), BAD_SOURCES)
def test_a_source_that_is_no_loader_is_refused(source, message):
    with pytest.raises(TypeError, match=rf"`valid` must be a loader.*{message}"):
        DataLoaders(dataset(), source(), bs=4)


def test_a_source_without_a_length_is_refused():
    class Endless:
        def __iter__(self):
            return iter([])

    with pytest.raises(TypeError, match=r"Endless without a length.*Define `__len__`"):
        DataLoaders(Endless())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: DataLoader(dataset(3), batch_size=4, drop_last=True), r"3 items with bs=4"),
        (list, r"`train` is empty"),
    ],
)
def test_a_source_without_batches_is_refused(source, message):
    with pytest.raises(DataError, match=message):
        DataLoaders(source(), bs=8)


class TestForeign:
    def test_a_shuffled_loader_gives_the_bits_of_the_plain_loop_and_leaves_the_generator_there(self):
        data = dataset()
        set_seed(5)
        plain_loader = DataLoader(data, batch_size=4, shuffle=True)
        plain = [batch for _ in range(2) for batch in plain_loader]
        after = torch.get_rng_state()
        set_seed(5)
        dls = DataLoaders(DataLoader(data, batch_size=4, shuffle=True))
        ours = [batch for _ in range(2) for batch in dls.train]
        assert same(ours, plain)
        assert torch.equal(torch.get_rng_state(), after)

    def test_a_dataset_is_shuffled_by_seed_and_epoch_without_a_short_batch(self):
        data = dataset()
        dls, again = DataLoaders(data, data, bs=11, seed=1), DataLoaders(data, bs=11, seed=1)
        first = list(dls.train)
        torch.rand(3)
        assert same(first, list(again.train))
        assert not same(first, list(dls.train))
        assert [len(y) for _, y in first] == [11] * 2
        assert labels(dls.valid) == list(range(23))
        assert dls.train.state_dict()["derived"] == {"seed": 1, "epoch": 2}

    @pytest.mark.parametrize(
        "make", [lambda: DataLoaders(dataset(), bs=5, seed=1), lambda: DataLoaders(Listed([(i, i) for i in range(4)]))]
    )
    def test_a_pass_can_start_in_the_middle(self, make):
        set_seed(0)
        whole = list(make().train)
        set_seed(0)
        assert str(list(make().train.iterate(2))) == str(whole[2:])

    def test_the_last_part_of_a_longer_batch_is_the_target(self):
        a, b, y = torch.ones(2), torch.zeros(2), torch.arange(2)
        ((x, target),) = DataLoaders([[a, b, y]]).train
        assert isinstance(x, tuple) and x[0] is a and x[1] is b and target is y

    @pytest.mark.parametrize(
        ("batch", "kind"), [({"image": 1}, r"keys \['image'\]"), (torch.zeros(2), "Tensor"), ((1,), "tuple")]
    )
    def test_a_batch_that_is_no_pair_is_refused(self, batch, kind):
        with pytest.raises(DataError, match=rf"must yield batches \(x, y\). Received: {kind}"):
            next(iter(DataLoaders(Listed([batch])).train))

    def test_classes_are_found_on_the_dataset_under_a_subset(self):
        data = dataset()
        data.classes = ["a", "b"]
        assert DataLoaders(DataLoader(Subset(data, range(4)))).vocab == ("a", "b")

    def test_an_unknown_number_of_outputs_is_an_error_that_names_the_way_out(self):
        with pytest.raises(DataError, match=r"`dls.c` is unknown.*Give `vocab` or `target` to DataLoaders"):
            _ = DataLoaders(DataLoader(dataset())).c

    @pytest.mark.parametrize(
        "options",
        [
            {"shuffle": True, "batch_size": 4, "drop_last": True},
            {"batch_sampler": BatchSampler(RandomSampler(range(23)), 4, False)},
            {"batch_sampler": [list(range(23))[::-1]]},
            {"sampler": torch.utils.data.WeightedRandomSampler([1.0] * 23, 23), "batch_size": 4},
        ],
    )
    def test_in_order_covers_every_item_and_draws_nothing(self, options):
        dls = DataLoaders(DataLoader(dataset(), **options))
        before = torch.get_rng_state().clone()
        assert labels(dls.in_order(0)) == list(range(23))
        assert torch.equal(torch.get_rng_state(), before)
        assert dls.train.n_items == 23

    def test_in_order_keeps_to_the_items_of_a_subset(self):
        dls = DataLoaders(DataLoader(dataset(), sampler=SubsetRandomSampler([9, 2, 5]), batch_size=2))
        assert labels(dls.in_order(0)) == [9, 2, 5]
        assert dls.train.n_items == 3

    def test_in_order_keeps_to_the_items_of_a_batch_sampler(self):
        batches = BatchSampler(SubsetRandomSampler([9, 2, 5]), 2, False)
        assert labels(DataLoaders(DataLoader(dataset(), batch_sampler=batches)).in_order(0)) == [9, 2, 5]
        assert labels(DataLoaders(DataLoader(dataset(), batch_sampler=[[7, 3], [5]])).in_order(0)) == [3, 5, 7]

    def test_new_items_may_be_a_dataset_or_a_loader(self):
        dls = DataLoaders(dataset(), bs=5)
        assert labels(dls.test_dl(dataset(7))) == list(range(7))
        assert labels(dls.test_dl(DataLoader(dataset(7), shuffle=True))) == list(range(7))


class TestUnmoved:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: DataLoader(dataset(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(1)),
            lambda: DataLoader(dataset(), sampler=RandomSampler(range(9), generator=torch.Generator().manual_seed(1))),
            lambda: DataLoader(Noisy(torch.Generator().manual_seed(1)), batch_size=4),
            lambda: DataLoader(Noisy(np.random.default_rng(1)), batch_size=4),
            lambda: DataLoader(Noisy(np.random.RandomState(1)), batch_size=4),
            lambda: DataLoader(Noisy(random.Random(1)), batch_size=4),
            lambda: DataLoader(Subset(Noisy(random.Random(1)), range(4)), batch_size=2),
            lambda: dataset(),
        ],
    )
    def test_what_comes_after_is_what_comes_without_it(self, make):
        set_seed(1)
        without = str(list(DataLoaders(make(), bs=4, seed=1).train))
        set_seed(1)
        dls = DataLoaders(make(), bs=4, seed=1)
        with dls.unmoved(), isolate_rng():
            list(dls.train)
            next(iter(dls.train))
        assert str(list(dls.train)) == without

    def test_our_pass_counter_and_a_users_are_put_back(self):
        ours = DataLoaders.from_arrays((images(8), np.arange(8)), bs=4)
        users = Listed([(1, 2)])
        with ours.unmoved(), DataLoaders(users).unmoved():
            list(ours.train), list(users)
        assert (ours.train.epoch, users.passes) == (0, 0)

    def test_a_loader_keeps_its_own_state(self):
        class Stateful(Listed):
            def __init__(self, batches):
                super().__init__(batches)
                self.seen = []

            def __iter__(self):
                self.seen.append(1)
                return super().__iter__()

            def state_dict(self):
                return {"seen": self.seen}

            def load_state_dict(self, state):
                self.seen = state["seen"]

        loader = Stateful([(1, 2)])
        with DataLoaders(loader).unmoved():
            list(loader)
        assert loader.seen == []

    def test_an_exception_passes_through_and_everything_is_put_back(self):
        dls = DataLoaders.from_arrays((images(8), np.arange(8)), bs=4)
        with pytest.raises(KeyError), dls.unmoved():
            list(dls.train)
            raise KeyError
        assert dls.train.epoch == 0

    @pytest.mark.slow
    def test_persistent_workers_are_put_aside_and_come_back(self):
        def make():
            return DataLoader(Noisy(np.random.default_rng(1)), batch_size=4, num_workers=1, persistent_workers=True)

        plain = make()
        expected = [*plain, *plain]
        loader = make()
        dls = DataLoaders(loader)
        got = list(dls.train)
        kept = loader._iterator
        with dls.unmoved():
            list(dls.train)
            temporary = loader._iterator
            assert temporary is not kept
        assert loader._iterator is kept
        assert not any(worker.is_alive() for worker in temporary._workers)
        assert same([*got, *dls.train], expected)
        kept._shutdown_workers()
        plain._iterator._shutdown_workers()


def test_both_kinds_are_loaders():
    dls = DataLoaders.from_arrays((images(8), np.arange(8)), bs=4)
    assert isinstance(dls.train, MemoryLoader) and isinstance(dls.train, Loader)
    assert isinstance(DataLoaders(dataset(), bs=4).train, ForeignLoader)
    assert isinstance(DataLoaders(dataset(), bs=4).train, Loader)


def test_a_split_is_asked_for_by_number():
    dls = DataLoaders(dataset(), bs=4)
    assert dls.loader(0) is dls.train
    with pytest.raises(ValueError, match=r"no validation set. Give `valid`"):
        dls.loader(1)
    with pytest.raises(ValueError, match=r"must be 0 \(training\) or 1 \(validation\). Received: ds_idx=2"):
        dls.loader(2)


def test_loaders_unpack_and_count():
    dls = DataLoaders.from_arrays((images(20), ["a", "b"] * 10), (images(6), ["b", "a"] * 3), bs=4)
    train, valid = dls
    assert train is dls[0] is dls.train and valid is dls[1] is dls.valid and dls.loaders == [train, valid]
    assert dls.n_inp == 1 and dls.cpu() is dls and len(dls.train_ds) == dls.train.n == 20
    x, y = dls.valid_ds[1]
    assert torch.equal(x, torch.as_tensor(images(6)[1])) and dls.vocab[y] == "a"
    with pytest.raises(IndexError):
        DataLoaders(dataset())[1]


def test_a_vocabulary_finds_names_and_numbers():
    vocab = DataLoaders.from_arrays((images(4), ["a", "b", "a", "c"]), bs=2).vocab
    assert vocab == ("a", "b", "c") and vocab == ["a", "b", "c"] and vocab != ["a"]
    assert hash(vocab) == hash(tuple(vocab))
    assert vocab.o2i == {"a": 0, "b": 1, "c": 2} and vocab.map_objs(["c", "a"]) == [2, 0]
    assert vocab[torch.tensor(1)] == "b" and vocab[torch.tensor([2, 0])] == vocab.map_ids([2, 0]) == ["c", "a"]
    assert vocab[torch.tensor([True, False, True])] == ["a", "c"] and vocab[1:] == ("b", "c")


def test_one_batch_lists_inputs_as_the_source_does():
    a, b, y = torch.zeros(4, 1), torch.ones(4, 2), torch.arange(4)
    assert [t.shape for t in DataLoaders([(a, b, y)]).one_batch()] == [a.shape, b.shape, y.shape]
    pair, labels = DataLoaders([((a, b), y)]).one_batch()
    assert len(pair) == 2 and torch.equal(labels, y)
    assert len(DataLoaders(TensorDataset(a, b, y), bs=2).one_batch()) == 3


def test_each_loader_shows_its_batch():
    dls = DataLoaders.from_arrays((images(20), ["a", "b"] * 10), (images(6), ["b", "a"] * 3), bs=4)
    figure = dls.valid.show_batch(max_n=2, nrows=1)
    assert [ax.get_title() for ax in figure.axes] == ["b", "a"]
    assert len(dls.train.show_batch(dls.one_batch(), max_n=3, nrows=1).axes) == 3
    plt.close("all")


def test_loaders_of_lists_of_pairs():
    pairs = [(torch.full((2,), float(i)), torch.tensor(i % 2)) for i in range(10)]
    dls = DataLoaders.from_dsets(pairs, pairs[:4], bs=4, seed=0)
    assert dls.valid.one_batch()[0][:, 0].tolist() == [0, 1, 2, 3] and dls.train_ds.items is pairs
    with pytest.raises(TypeError, match="there is no argument `shufle`"):
        DataLoaders.from_dsets(pairs, shufle=True)


def test_a_loader_with_other_arguments_starts_anew():
    dls = DataLoaders.from_arrays((images(20), [0, 1] * 10), bs=4, seed=0)
    next(dls.train.iterate())
    other = dls.new(bs=5, shuffle=False, drop_last=False)
    assert (len(other), other.shuffle, other.epoch, dls.train.bs) == (4, False, 0, 4)
    assert dls.test_dl(images(6), bs=2).bs == 2
    with pytest.raises(TypeError, match="there is no argument `num_workers`. Arguments: bs, shuffle"):
        dls.new(num_workers=2)
    with pytest.raises(ValueError, match="`bs` must be at least 1"):
        dls.train.new(bs=0)


def test_the_repr_says_what_there_is_in_a_few_lines():
    x, y = np.zeros((23, 2), np.float32), np.arange(23) % 3
    dls = DataLoaders.from_arrays((x, y), (x[:5], y[:5]), bs=4, vocab=["a", "b", "c"], seed=1, device="cpu")
    assert repr(dls).splitlines() == [
        "DataLoaders",
        "  train: 23 items in 6 batches of 4",
        "  valid: 5 items in 2 batches of 4",
        "  classes: a, b, c",
        "  device: cpu",
        "  seed: 1",
    ]
    assert "valid: none" in repr(DataLoaders(dataset(), bs=4)) and "<table>" in dls._repr_html_()


def test_loaders_of_loaders_keep_their_classes_and_their_batch_size():
    x, y = torch.rand(40, 3), ["cat", "dog"] * 20
    dls = DataLoaders.from_arrays((x, y), (x[:8], y[:8]), bs=10, seed=0)
    again = DataLoaders(dls.new(bs=4), dls.valid)
    assert list(again.vocab) == ["cat", "dog"] and again.c == 2
    assert again.bs == 4 and len(again.train) == 10
    assert list(dls.vocab) == ["cat", "dog"] and dls.valid.target is not None  # the first ones are as they were


def test_a_loader_of_torch_says_the_batch_size():
    data = torch.utils.data.TensorDataset(torch.rand(40, 3), torch.arange(40) % 2)
    given = DataLoaders(torch.utils.data.DataLoader(data, 10))
    by_sampler = torch.utils.data.BatchSampler(range(len(data)), 5, drop_last=False)
    assert given.bs == DataLoaders(given.train).bs == 10
    assert DataLoaders(torch.utils.data.DataLoader(data, batch_sampler=by_sampler)).bs == 5
    batches = [(torch.rand(4, 3), torch.arange(4))] * 2
    assert DataLoaders(batches).bs == 64  # unknown: what `test_dl` takes
