"""Stratified splits, against scikit-learn's."""

import random
from collections import Counter

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from minilearner.data.splits import StratifiedSplitter, TrainTestSplitter, split_items
from minilearner.errors import DataError


def labels_of(n, seed):
    rng = random.Random(seed)
    return [rng.choice("aaaaabbbccd") for _ in range(n)]


@pytest.mark.parametrize("sizes", [{}, {"test_size": 0.3}, {"test_size": 17}, {"test_size": 0.3, "train_size": 0.4}])
@pytest.mark.parametrize("seed", range(10))
def test_the_split_is_scikit_learns_bit_for_bit(sizes, seed):
    y = labels_of(151, seed)
    sizes = {"test_size": 0.2, **sizes}
    for stratify in (None, y):
        train, valid = train_test_split(range(151), random_state=seed, stratify=stratify, **sizes)
        assert TrainTestSplitter(random_state=seed, stratify=stratify, **sizes)(y) == (train, valid)


def test_a_fifth_validates_if_no_size_is_given():
    train, valid = TrainTestSplitter(test_size=None)(range(10))
    assert (train, valid) == TrainTestSplitter(0.2)(range(10)) and len(valid) == 2


@pytest.mark.parametrize("stratify", [[("a", 1), ("b", 2)] * 6, [True, False] * 6])
def test_classes_may_be_anything_that_can_be_sorted(stratify):
    _, valid = TrainTestSplitter(0.5, stratify=stratify)(range(12))
    assert sorted(Counter(stratify[i] for i in valid).values()) == [3, 3]


def test_without_shuffling_the_front_trains():
    assert TrainTestSplitter(0.25, shuffle=False)(range(8)) == ([0, 1, 2, 3, 4, 5], [6, 7])
    with pytest.raises(ValueError, match="`stratify` needs shuffle=True"):
        TrainTestSplitter(stratify=["a"], shuffle=False)


def test_every_class_is_split_alike():
    y = labels_of(500, 0)
    train, valid = split_items(StratifiedSplitter(0.2, seed=3), y, y)
    assert len(valid) == 100 and sorted(train + valid) == list(range(500))
    ours, theirs = (
        Counter(y[i] for i in valid),
        Counter(train_test_split(y, test_size=0.2, stratify=y, random_state=0)[1]),
    )
    assert ours == theirs
    assert train != sorted(train) and split_items(StratifiedSplitter(0.2, seed=4), y, y)[1] != valid


def test_labels_of_the_items_stratify_where_true_is_given():
    y = ["a"] * 8 + ["b"] * 4
    train, valid = split_items(TrainTestSplitter(0.25, stratify=True), range(12), y)
    assert Counter(y[i] for i in valid) == {"a": 2, "b": 1}
    assert (train, valid) == TrainTestSplitter(0.25, stratify=y)(range(12))


def test_a_class_of_one_stays_in_training():
    y = ["rare", "rarer"] + ["common"] * 3
    train, _ = StratifiedSplitter(0.8)(y, y)
    assert {0, 1} <= set(train) and len(train) == 3


def test_what_cannot_be_stratified_is_refused():
    with pytest.raises(DataError, match="needs two items of each of 2 classes.*The rarest class has 1"):
        TrainTestSplitter(stratify=["a", "a", "a", "b"])(range(4))
    with pytest.raises(DataError, match="one label an item"):
        StratifiedSplitter(0.5)([0, 1], [["a"], ["b"]])
    with pytest.raises(DataError, match="needs labels, and the items have none"):
        split_items(StratifiedSplitter(), range(9), None)
    with pytest.raises(DataError, match="`stratify` must have one class for each of 3 items. Received: 2"):
        TrainTestSplitter(stratify=["a", "b"])(range(3))


@pytest.mark.parametrize("size", [1.5, 0.0, 0, -1, "half", True])
@pytest.mark.parametrize("name", ["test_size", "train_size"])
def test_a_size_that_is_neither_share_nor_count_is_refused(name, size):
    with pytest.raises(ValueError, match=f"`{name}` must be a share.*Received: {name}={size!r}"):
        TrainTestSplitter(**{name: size})


def test_sizes_may_be_numpys_numbers():
    for size in (0.3, 3):
        assert TrainTestSplitter(np.asarray(size)[()])(range(10)) == TrainTestSplitter(size)(range(10))


@pytest.mark.parametrize(
    ("sizes", "n", "reason"),
    [
        ({"test_size": 12}, 10, "10 items cannot be split by test_size=12, train_size=None: test_size=12 should be"),
        ({"test_size": 6, "train_size": 5}, 10, "test_size=6, train_size=5: The sum of train_size and test_size = 11"),
        ({"test_size": 0.5, "train_size": 0.6}, 10, "The sum of test_size and train_size = 1.1"),
        ({"test_size": 0.2}, 1, "1 items cannot be split.*train set will be empty"),
    ],
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_sizes_that_the_items_do_not_allow_are_refused_with_the_reason(sizes, n, reason, shuffle):
    with pytest.raises(DataError, match=reason):
        TrainTestSplitter(**sizes, shuffle=shuffle)(range(n))
