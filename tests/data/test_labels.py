"""Labellers and getters take the right part of an item, and explain their failures."""

from collections import namedtuple
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch

from minilearner.data.labels import (
    AttrGetter,
    ColReader,
    ItemGetter,
    RegexLabeller,
    apply_to_all,
    as_label,
    is_missing,
    look_alike,
    parent_label,
    using_attr,
)
from minilearner.data.table import as_table
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
    assert ColReader(0, label_delim=";")([" ; ;"]) == []


def test_pieces_between_delimiters_are_trimmed_and_empty_ones_dropped():
    read = ColReader("labels", label_delim=";")
    assert [read({"labels": cell}) for cell in ("a;;b", "a;b;", " a ; b", ";a")] == [["a", "b"]] * 3 + [["a"]]
    with pytest.raises(ValueError, match="`label_delim` must have at least one character"):
        ColReader("labels", label_delim="")


def test_a_prefix_makes_no_label_of_an_empty_cell():
    assert ColReader(0, pref="class ")([None]) is None
    assert np.isnan(ColReader(0, suff=".jpg")([np.float32("nan")]))


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (np.str_(" cat\u00a0"), "cat"),
        ("Ba\u0308ume", "Bäume"),
        (np.int64(3), 3),
        (torch.tensor(3), 3),
        (np.array(0.5), 0.5),
        (np.True_, True),
    ],
)
def test_labels_become_pythons_own(value, label):
    assert as_label(value) == label and type(as_label(value)) is type(label)


def test_what_is_missing_and_what_is_not():
    nothing = [
        None,
        "",
        " \t",
        b" ",
        "\ufeff",
        float("nan"),
        np.float32("nan"),
        np.datetime64("NaT", "D"),
        Decimal("nan"),
    ]
    assert all(map(is_missing, [*nothing, Decimal("snan"), np.ma.masked, torch.tensor(float("nan"))]))
    assert not any(map(is_missing, ["a", 0, 0.0, False, [], np.array([np.nan]), "nan", Decimal(0)]))


def test_names_that_look_alike_are_found():
    assert look_alike(["a b", "a  b"]) == ("a b", "a  b")
    assert look_alike(["caf\u00e9", "cafe\u0301"]) == ("caf\u00e9", "cafe\u0301")
    assert look_alike(["a", "A", "b", 1]) is None


def test_one_cause_for_all_items_is_said_once():
    rows = as_table({"file": ["a.jpg", "b.jpg"]})
    said = r"^`get_y` failed on all items: there is no column 'fiel'\. Did you mean 'file'\? .*: file\. Correct `get_y="
    with pytest.raises(DataError, match=said):
        apply_to_all(ColReader("fiel"), rows, "get_y")
