"""Stratified splits, against scikit-learn's."""

import random
from collections import Counter

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


def test_what_cannot_be_stratified_is_told():
    with pytest.raises(DataError, match="needs two items of each of 2 classes.*The rarest class has 1"):
        TrainTestSplitter(stratify=["a", "a", "a", "b"])(range(4))
    with pytest.raises(DataError, match="one label an item"):
        StratifiedSplitter(0.5)([0, 1], [["a"], ["b"]])
    with pytest.raises(DataError, match="needs labels, and the items have none"):
        split_items(StratifiedSplitter(), range(9), None)
    with pytest.raises(ValueError, match="`test_size` must be a share.*Received: test_size=1.5"):
        TrainTestSplitter(1.5)
