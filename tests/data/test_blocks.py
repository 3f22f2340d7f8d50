"""Labels become class numbers, zeros and ones, or numbers, by the vocabulary of the training set, or are refused."""

import numpy as np
import pytest
import torch

from minilearner.data.blocks import CategoryBlock, MultiCategoryBlock, RegressionBlock, TransformBlock
from minilearner.data.targets import Category, MultiCategory, Regression
from minilearner.errors import DataError


def encoded(block, train, labels=None, split="training"):
    labels = train if labels is None else labels
    return block.encode(labels, block.target(train), [f"{i}.jpg" for i in range(len(labels))], split)


def test_classes_are_sorted_or_in_the_given_order():
    assert CategoryBlock().target([4, 2, 3, 4]).vocab == (2, 3, 4)
    assert CategoryBlock(sort=False).target(list("bac")).vocab == ("b", "a", "c")
    assert CategoryBlock(vocab=["b", "a"]).target(list("aa")).vocab == ("b", "a")
    assert encoded(CategoryBlock(), [4, 2, 3, 4]).tolist() == [2, 0, 1, 2]


def test_an_unknown_label_is_reported_with_counts_and_files():
    message = (
        r"5 of 6 validation labels are not among the classes: '1.jpg' \('c'\), '2.jpg' \('d'\), '3.jpg' \('c'\), "
        r"\.\.\.\. The classes are 'a', 'b'\. Name every class in `vocab`, keep each class in both sets with Strat"
    )
    with pytest.raises(DataError, match=message):
        encoded(CategoryBlock(), list("ab"), list("acdccc"), "validation")
    with pytest.raises(DataError, match="1 of 2 training labels is not among the classes: '1.jpg'"):
        encoded(CategoryBlock(vocab=["a"]), list("ab"))


def test_missing_labels_are_reported_or_get_a_class_of_their_own():
    labels = ["b", None, "a", float("nan")]
    with pytest.raises(DataError, match="2 of 4 training labels are missing: '1.jpg', '3.jpg'"):
        encoded(CategoryBlock(), labels)
    assert CategoryBlock(add_na=True).target(labels).vocab == ("#na#", "a", "b")
    assert encoded(CategoryBlock(add_na=True), labels, [*labels, "new"]).tolist() == [2, 0, 1, 0, 0]


def test_labels_of_no_use_as_classes_are_refused():
    with pytest.raises(DataError, match=r"one name or number. Received: \['a'\]. For several .* MultiCategoryBlock"):
        CategoryBlock().target([["a"]])
    with pytest.raises(DataError, match="of one kind, so that they can be sorted. Received: int, str"):
        CategoryBlock().target([1, "a"])
    with pytest.raises(DataError, match="no training item has a label"):
        CategoryBlock().target([None])


def test_several_labels_become_zeros_and_ones():
    labels = [["b"], [], ("c", "a"), {"c"}]
    target = MultiCategoryBlock().target(labels)
    assert target.vocab == ("a", "b", "c")
    y = encoded(MultiCategoryBlock(), labels)
    assert y.dtype == torch.float32 and y.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1]]
    assert encoded(MultiCategoryBlock(add_na=True), [["a"]], [["z", "a"]]).tolist() == [[1, 1]]
    with pytest.raises(DataError, match=r"1 of 3 validation labels is not among the classes: '1.jpg' \('z'\)"):
        encoded(MultiCategoryBlock(), labels, [["a"], ["b", "z"]], "validation")


def test_text_is_no_list_of_labels():
    with pytest.raises(DataError, match=r"2 of 2 training labels are not lists: '0.jpg' \('a b'\).*label_delim"):
        encoded(MultiCategoryBlock(vocab="ab"), ["a b", "c"])


def test_rows_that_are_already_encoded():
    block = MultiCategoryBlock(encoded=True, vocab=["x", "y"])
    assert encoded(block, [[0, 1], np.array([1, 1])]).tolist() == [[0, 1], [1, 1]]
    with pytest.raises(DataError, match=r"2 of 3 training labels are not 2 zeros and ones.*'1.jpg' \(\[1\]\)"):
        encoded(block, [[0, 1], [1], [0, 2]])
    with pytest.raises(ValueError, match="`vocab` is needed with encoded=True"):
        MultiCategoryBlock(encoded=True)


def test_numbers_one_or_several():
    assert RegressionBlock().target([1.5, 2]).n_out == 1 and RegressionBlock().target([(1, 2)]).n_out == 2
    assert torch.equal(encoded(RegressionBlock(), [1.5, 2, "3"]), torch.tensor([1.5, 2.0, 3.0]))
    assert torch.equal(encoded(RegressionBlock(), [[1, 2], (3, 4)]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


def test_what_is_no_number_is_reported():
    with pytest.raises(
        DataError, match=r"3 of 4 training labels are not one finite number: '1.jpg' \('a'\), '2.jpg' \(nan\)"
    ):
        encoded(RegressionBlock(), [1.0, "a", float("nan"), [1, 2]])
    with pytest.raises(DataError, match="1 of 1 training label is not 3 finite numbers"):
        encoded(RegressionBlock(n_out=3), [[1, 2]])


def test_a_plain_block_infers_what_labels_mean():
    block = TransformBlock()
    assert block.read("x") == "x" and TransformBlock(len).read("xy") == 2
    assert block.target(["b", "a"]) == Category(["a", "b"]) and block.target([0.5]) == Regression(1)
    assert encoded(block, ["b", "a"]).tolist() == [1, 0]


def test_a_block_encodes_with_the_target_that_it_is_given():
    labels, items = ["b", "a"], ["0.jpg", "1.jpg"]
    assert CategoryBlock().encode(labels, Category("ba"), items, "new").tolist() == [0, 1]
    assert MultiCategoryBlock().encode([["b"]], MultiCategory("ab"), items, "new").tolist() == [[0, 1]]
    with pytest.raises(DataError, match=r"1 of 2 new labels is not among the classes: '0.jpg' \('b'\)"):
        TransformBlock().encode(labels, Category("a"), items, "new")


@pytest.mark.parametrize(
    ("block", "train"),
    [
        (CategoryBlock(), list("ab")),
        (MultiCategoryBlock(), [["a"], ["b", "a"]]),
        (MultiCategoryBlock(encoded=True, vocab=["a", "b"]), [[0, 1], [1, 0]]),
        (RegressionBlock(), [1.0, 2.0]),
        (RegressionBlock(n_out=2), [[1.0, 2.0], [3.0, 4.0]]),
    ],
)
def test_no_labels_make_an_empty_target_of_the_right_shape(block, train):
    empty, full = encoded(block, train, [], "validation"), encoded(block, train)
    assert empty.shape == (0, *full.shape[1:]) and empty.dtype == full.dtype
