"""Columns of labels: types, missing cells, delimiters and vocabularies, against a plain reading of them."""

import math
import re
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minilearner.data.arrays import as_pair
from minilearner.data.blocks import CategoryBlock, MultiCategoryBlock, TransformBlock
from minilearner.data.data_block import DataBlock
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.labels import ColReader
from minilearner.data.splits import EndSplitter
from minilearner.errors import DataError

MISSING = [
    None,
    "",
    " ",
    "\t",
    "\ufeff",
    "\u00a0",
    math.nan,
    np.float32("nan"),
    np.datetime64("NaT", "D"),
    Decimal("nan"),
]
NAMES = st.lists(st.text("abcXYZé猫", min_size=1, max_size=4), min_size=1, max_size=5, unique=True)
BLANKS = st.sampled_from(["", "", "", " ", "\t", "  ", "\u00a0"])
SPELLINGS = {
    "text": [str, np.str_],
    "whole numbers": [int, np.int64, np.uint8, torch.tensor, np.array],
    "truth values": [bool, np.bool_, torch.tensor],
    "numbers": [float, np.float64, torch.tensor],
}


@st.composite
def columns(draw, kinds=tuple(SPELLINGS)):
    """Draws the classes, the labels as cells spell them, and the same labels plainly; None is a missing cell."""
    kind = draw(st.sampled_from(kinds))
    classes = {
        "text": draw(NAMES),
        "whole numbers": draw(st.lists(st.integers(0, 99), min_size=1, max_size=5, unique=True)),
        "truth values": [False, True],
        "numbers": [0.5, 1.25, 7.0],
    }[kind]
    plain = draw(st.lists(st.sampled_from(classes), min_size=1, max_size=12))
    cells = []
    for label in plain:
        spelt = draw(st.sampled_from(SPELLINGS[kind]))(label)
        cells.append(draw(BLANKS) + spelt + draw(BLANKS) if kind == "text" else spelt)
    if draw(st.booleans()):
        for i in draw(st.lists(st.integers(0, len(plain) - 1), max_size=2)):
            plain[i], cells[i] = None, draw(st.sampled_from(MISSING))
    return classes, cells, plain


def as_keys(classes):
    return dict.fromkeys(classes).keys()


def sources(cells):
    return [f"{i:03}.png" for i in range(len(cells))]


def check_missing_are_named(encode, plain):
    """Whatever a column holds beside them, missing cells are an error that counts and names their items."""
    missing = [i for i, label in enumerate(plain) if label is None]
    with pytest.raises(DataError) as caught:
        encode()
    if len(missing) < len(plain):
        assert re.search(rf"^{len(missing)} of {len(plain)}.*missing.*{missing[0]:03}\.png", str(caught.value))


@settings(max_examples=300, deadline=None)
@given(columns(), st.sampled_from([None, list, tuple, set, frozenset, np.array, as_keys]))
def test_each_label_comes_back_as_the_class_that_it_names(column, as_vocab):
    classes, cells, plain = column
    block = CategoryBlock(None if as_vocab is None else as_vocab(classes))

    def encode():
        target = block.target(cells)
        return target, block.encode(cells, target, sources(cells), "training")

    if None in plain:
        check_missing_are_named(encode, plain)
        return
    target, y = encode()
    assert [target.label(number) for number in y] == plain
    is_ordered = as_vocab in (list, tuple, np.array)
    assert list(target.vocab) == (classes if is_ordered else sorted(set(plain) if as_vocab is None else classes))
    assert {type(name) for name in target.vocab} <= {str, int, float, bool}


@settings(max_examples=200, deadline=None)
@given(columns(("text", "whole numbers")))
def test_a_class_for_missing_labels_takes_them_and_no_other(column):
    _, cells, plain = column
    block = CategoryBlock(add_na=True)
    if not any(label is not None for label in plain):
        return
    target = block.target(cells)
    y = block.encode(cells, target, sources(cells), "training")
    assert [None if number == 0 else target.label(number) for number in y] == plain


@settings(max_examples=200, deadline=None)
@given(columns(("text",)))
def test_plain_blocks_and_arrays_read_text_alike(column):
    _, cells, plain = column
    block = TransformBlock()
    if None in plain:
        check_missing_are_named(lambda: block.encode(cells, block.target(cells), sources(cells), "training"), plain)
        if not any(plain):
            return
        with pytest.raises(DataError, match="missing"):
            as_pair((torch.zeros(len(cells), 1), cells), "train")
        return
    dls = DataLoaders.from_arrays((torch.zeros(len(cells), 1), cells), bs=1)
    target = block.target(cells)
    y = block.encode(cells, target, sources(cells), "training")
    assert dls.vocab == target.vocab == tuple(sorted(set(plain)))
    assert [target.label(number) for number in y] == plain == [dls.vocab[number] for number in dls.train.y]


@settings(max_examples=200, deadline=None)
@given(
    st.data(),
    st.sampled_from([";", "|", ", ", " "]),
    st.lists(st.lists(st.text("abcé", min_size=1, max_size=3), max_size=3), min_size=2, max_size=8),
)
def test_cells_with_delimiters_have_the_labels_between_them(data, delim, rows):
    rows = [*rows, ["a"]]
    cells = []
    for row in rows:
        pieces = [piece for label in row for piece in (label, *data.draw(st.lists(BLANKS, max_size=2)))]
        cells.append(data.draw(st.sampled_from(["", delim])) + delim.join(pieces) + data.draw(BLANKS))
        if not row and data.draw(st.booleans()):
            cells[-1] = data.draw(st.sampled_from(MISSING))
    labels = [ColReader("labels", label_delim=delim)({"labels": cell}) for cell in cells]
    block = MultiCategoryBlock()
    target = block.target(labels)
    y = block.encode(labels, target, sources(cells), "training")
    assert target.vocab == tuple(sorted({label for row in rows for label in row}))
    assert [target.label(row) for row in y] == [sorted(set(row)) for row in rows]


@settings(max_examples=50, deadline=None)
@given(columns())
def test_a_column_of_a_table_becomes_targets_without_a_validation_set(column):
    _, cells, plain = column
    if None in plain:
        return
    table = {"x": [torch.zeros(1)] * len(cells), "y": cells}
    block = DataBlock(
        (TransformBlock, CategoryBlock),
        get_x=ColReader("x"),
        get_y=ColReader("y"),
        splitter=EndSplitter(0),
    )
    dls = block.dataloaders(table, bs=4, num_workers=0, drop_last=False)
    assert dls.valid is None
    assert [dls.vocab[number] for number in dls.train.y] == plain
