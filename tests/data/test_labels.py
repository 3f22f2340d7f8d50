"""Labellers and getters take the right part of an item, and explain their failures."""

from collections import namedtuple
from pathlib import Path

import pytest

from minilearner.data.labels import (
    AttrGetter,
    ColReader,
    ItemGetter,
    RegexLabeller,
    apply_to_all,
    parent_label,
    using_attr,
)
from minilearner.errors import DataError

PETS = using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name")


def test_a_regex_is_searched_or_matched_from_the_start():
    assert RegexLabeller(r"/(\d)/")("mnist/3/9932.png") == "3"
    assert RegexLabeller(r"(\d*)", match=True)("9932.png") == "9932"
    assert PETS(Path("pets/great_pyrenees_12.jpg")) == "great_pyrenees"


def test_a_regex_that_misses_says_on_what():
    with pytest.raises(DataError, match=r"the pattern '\^\(\\\\d\)' is not found in 'a1'"):
        RegexLabeller(r"^(\d)")("a1")
    with pytest.raises(DataError, match="not found in 'b'"):
        RegexLabeller("(a)|b")("b")


def test_a_regex_without_a_group_or_sense_is_refused_at_once():
    with pytest.raises(ValueError, match=r"`pat` must have a group.*Received: pat='\\\\d\+'"):
        RegexLabeller(r"\d+")
    with pytest.raises(ValueError, match="`pat` must be a regular expression"):
        RegexLabeller("(")


def test_failures_are_counted_with_three_examples():
    items = [Path(f"x/pug_{i}.jpg") for i in range(6)] + [Path(f"x/bad{i}.jpg") for i in range(4)]
    with pytest.raises(
        DataError, match=r"`get_y` failed on 4 of 10 items: 'x/bad0.jpg' \(the pattern .*bad2.*, \.\.\.\."
    ) as e:
        apply_to_all(PETS, items, "get_y")
    assert "bad3" not in str(e.value) and isinstance(e.value.__cause__, DataError)


def test_whatever_a_function_raises_is_reported_with_its_kind():
    with pytest.raises(DataError, match=r"failed on 1 of 2 items: \[\] \(IndexError: list index out of range\)"):
        apply_to_all(ItemGetter(0), [[1], []], "get_x")


def test_the_parent_folder_is_a_label():
    assert parent_label("train/cat/1.jpg") == parent_label(Path("train/cat/1.jpg")) == "cat"


def test_parts_and_attributes():
    assert ItemGetter(1)(("a", "b")) == "b"
    assert AttrGetter("name")(Path("x/y")) == "y" and AttrGetter("absent", 3)("x") == 3


@pytest.mark.parametrize(
    "row", [{"fname": "a", "labels": "x y"}, namedtuple("Row", "fname labels")("a", "x y")], ids=["dict", "namedtuple"]
)
def test_columns_of_a_row(row):
    assert ColReader("fname", pref="p/", suff=".jpg")(row) == "p/a.jpg"
    assert ColReader("fname", pref=Path("p"))(row) == str(Path("p") / "a")
    assert ColReader("labels", label_delim=" ")(row) == ["x", "y"]
    assert ColReader(["labels", "fname"])(row) == ["x y", "a"]


def test_an_empty_cell_has_no_labels():
    assert ColReader(0, label_delim=" ")([""]) == ColReader(0, label_delim=" ")([float("nan")]) == []
