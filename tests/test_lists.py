import copy
import pickle
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minilearner.lists import L, first, noop


def test_a_list_shows_its_length_and_ten_items():
    assert repr(L()) == "(#0) []"
    assert repr(L(["a", 1])) == "(#2) ['a', 1]"
    assert str(L(range(7393))) == "(#7393) [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...]"


@pytest.mark.parametrize(
    ["made", "items"],
    [
        (L(1, 2, 3), [1, 2, 3]),
        (L(range(3)), [0, 1, 2]),
        (L("abc"), ["abc"]),
        (L(None), []),
        (L({"a": 1}), [{"a": 1}]),
        (L(np.array([1, 2]), use_list=True), [1, 2]),
        (L(1, match=3), [1, 1, 1]),
        (L([0], match="ab"), [0, 0]),
        (L([1], [2, 3]), [[1], [2, 3]]),
    ],
)
def test_what_a_list_is_made_of(made, items):
    assert made == items and isinstance(made, list)


def test_a_single_tensor_is_one_item():
    assert len(L(torch.tensor([1, 2]))) == 1
    with pytest.raises(ValueError, match="`items` must be one, or 3 as `match`. Received: 2 items."):
        L(1, 2, match=3)


def test_items_by_several_positions_masks_and_slices():
    tens = L(range(0, 50, 10))
    for index in ([1, 3], (1, 3), np.array([1, 3]), torch.tensor([1, 3]), L(1, 3), slice(1, 4, 2)):
        assert tens[index] == [10, 30] and isinstance(tens[index], L)
    mask = [False, True, False, True, False]
    for index in (mask, np.array(mask), torch.tensor(mask)):
        assert tens[index] == [10, 30]
    assert tens[torch.tensor(2)] == 20 and tens[-1] == 40 and tens[[]] == []
    tens[[0, 1]] = [5, 6]
    tens[[2, 3]] = 7
    assert tens == [5, 6, 7, 7, 40]


def test_methods_return_what_fastais_do():
    assert L(1, 2).map(lambda a, b, c=0: a + b + c, 3, c=1) == [5, 6]
    assert L("a", "b").map({"a": 1, "b": 2}) == [1, 2] and L(1, 2).map("{}!") == ["1!", "2!"]
    assert L([(1, 2), (3, 4)]).starmap(lambda a, b: a + b) == [3, 7] and L(1).map_dict(str) == {1: "1"}
    assert L(1, 0, 2).filter() == [1, 2] and L(1, 2, 3).filter(lambda o: o > 1, negate=True) == [1]
    assert L(1, 2, 3).argwhere(lambda o: o % 2) == [0, 2] and L(1, 2, 3).argfirst(lambda o: o > 1) == 1
    assert L(3, 1, 2).sorted(reverse=True) == [3, 2, 1] and L([(1, 5), (2, 3)]).sorted(1) == [(2, 3), (1, 5)]
    assert L(3, 1, 3).unique() == [3, 1] and L(3, 1).unique(sort=True, start=0) == [0, 1, 3]
    assert L(3, 1, 3).unique(bidir=True) == [[3, 1], {3: 0, 1: 1}]
    assert L(4, 5).enumerate() == [(0, 4), (1, 5)] and L(4, 5).renumerate() == [(4, 0), (5, 1)]
    assert L([[1, 2, 3], [4, 5]]).zip() == [(1, 4), (2, 5)]
    assert L([[1, 2, 3], [4, 5]]).zip(cycled=True) == [(1, 4), (2, 5), (3, 4)]
    assert L(1, 2).zipwith([3, 4]) == [(1, 3), (2, 4)] and L([1, 2], [3], 4).concat() == [1, 2, 3, 4]
    assert L([{"a": [7, 8]}]).itemgot("a", 0) == [7] and L({"a": 1}, {}).attrgot("a", 9) == [1, 9]
    assert L(SimpleNamespace(a=SimpleNamespace(b=3)), 1).attrgot("a.b", 0) == [3, 0]
    assert L(1, 2).reduce(lambda a, b: a - b) == -1 and L(1, 2, 3).sum() == 6 and L(2, 3).product() == 6
    assert L.range(2, 5) == [2, 3, 4] and L.range("abc") == [0, 1, 2] and L.range(0, 6, 2) == [0, 2, 4]
    assert L.split("a b") == ["a", "b"] and ~L(True, False) == [False, True]


def test_sums_and_copies_are_lists_of_the_same_kind():
    both = (L(1) + 2, L(1).__radd__([5]), L(1) + L(4), L(1, 2) * 2, L(1).copy(), copy.copy(L(1)), L(L(1)))
    assert both == ([1, 2], [5, 1], [1, 4], [1, 2, 1, 2], [1], [1], [1])
    assert all(isinstance(one, L) for one in both)
    assert L(1, 2) == (1, 2) and L(1) != [2] and pickle.loads(pickle.dumps(L(1, "a"))) == [1, "a"]


def test_a_shuffle_is_that_of_pythons_generator_and_changes_nothing():
    numbers, expected = L(range(8)), list(range(8))
    random.seed(3)
    shuffled = numbers.shuffle()
    random.seed(3)
    random.shuffle(expected)
    assert shuffled == expected and numbers == list(range(8))


def test_first_and_noop():
    assert first([3, 4, 5], lambda o: o > 3) == 4 and first([3, 4], lambda o: o == 3, negate=True) == 4
    assert first(iter([7])) == 7 and first([]) is None and L(3, 4).first(lambda o: o > 3) == 4
    assert noop(5, 6, a=7) == 5 and noop() is None
