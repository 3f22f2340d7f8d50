"""Whole groups go to one side of a split, and the share of items is as near as they allow."""

import numpy as np
import pytest

from minilearner.data.data_block import DataBlock
from minilearner.data.group_splitter import GroupSplitter
from minilearner.data.labels import ColReader
from minilearner.data.table import as_table
from minilearner.errors import DataError

ITEMS = [f"{group}_{i}" for group in "abcdefghij" for i in range(10)]


def group_of(item):
    return item[0]


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_no_group_is_in_both_sets_and_a_fifth_is_held(seed):
    train, valid = GroupSplitter(group_of, seed=seed)(ITEMS)
    assert sorted(train + valid) == list(range(100)) and len(valid) == 20
    assert not {group_of(ITEMS[i]) for i in train} & {group_of(ITEMS[i]) for i in valid}


def test_the_draw_repeats_and_depends_on_the_seed():
    splits = [GroupSplitter(group_of, seed=seed)(ITEMS) for seed in (None, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_groups_of_any_size_come_near_to_the_share():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 30, 40)
    items = [f"{chr(200 + g)}_{i}" for g, n in enumerate(sizes) for i in range(n)]
    _, valid = GroupSplitter(group_of, 0.25, seed=3)(items)
    assert abs(len(valid) - int(0.25 * len(items))) <= 15  # half a group


def test_a_share_below_every_group_takes_the_smallest():
    _, valid = GroupSplitter(group_of, 0.1)(["a1", "a2", "a3", "a4", "a5", "a6", "b1", "b2", "b3", "b4"])
    assert valid == [6, 7, 8, 9]


def test_a_column_of_a_table_names_the_groups():
    table = as_table({"file": ITEMS, "video": [group_of(item) for item in ITEMS]})
    train, valid = GroupSplitter(ColReader("video"), 0.5)(table)
    assert len(valid) == 50 and len(train) == 50


def test_no_validation_set_if_it_is_not_wanted():
    assert GroupSplitter(group_of, 0)(ITEMS) == (list(range(100)), [])


def test_what_cannot_be_split_raises():
    with pytest.raises(DataError, match="all 3 items are in one group, 'a', so none is left"):
        GroupSplitter(group_of, 0.5)(["a1", "a2", "a3"])
    with pytest.raises(DataError, match="1 of 2 items has no group, the first at position 1"):
        GroupSplitter({"x": "a", "y": None}.get, 0.5)(["x", "y"])
    with pytest.raises(DataError, match="`get_group` failed on 1 of 2 items"):
        GroupSplitter({"x": "a"}.__getitem__, 0.5)(["x", "y"])
    with pytest.raises(ValueError, match="`valid_pct` must be"):
        GroupSplitter(group_of, 1.0)
    with pytest.raises(TypeError, match="`get_group` must be a function"):
        GroupSplitter("video")


def test_a_data_block_takes_it():
    block = DataBlock(splitter=GroupSplitter(group_of, 0.2))
    assert len(block.plan.split(ITEMS, None)[1]) == 20
