import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minilearner.data.targets import (
    Category,
    ClassNumbers,
    MultiCategory,
    Regression,
    Target,
    as_labels,
    encode_labels,
    mean_squared_error,
    restore_category,
    restore_multi_category,
)
from minilearner.data.vocabulary import build_vocabulary
from minilearner.errors import DataError


def test_a_category_has_one_output_a_class_and_cross_entropy():
    target = Category(["cat", "dog", "owl"])
    pred, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    assert (target.n_out, target.c, target.vocab) == (3, 3, ("cat", "dog", "owl"))
    assert torch.equal(target.loss_func(pred, y), F.cross_entropy(pred, y))


def test_a_category_reads_predictions_over_dimension_1():
    pred = torch.tensor([[0.0, 2.0], [3.0, 1.0]])
    target = Category("ab")
    assert torch.equal(target.decode(pred), torch.tensor([1, 0]))
    assert torch.equal(target.activate(pred), pred.softmax(1))
    assert target.decode(torch.randn(2, 2, 4, 5)).shape == (2, 4, 5)
    assert target.label(torch.tensor(1)) == "b"


@pytest.mark.parametrize(("vocab", "message"), [([], "at least one class"), (["a", "b", "a"], r"once.*\['a'\]")])
def test_an_impossible_vocabulary_is_refused(vocab, message):
    with pytest.raises(ValueError, match=message):
        Category(vocab)


@pytest.mark.parametrize(("shape", "target_shape"), [((4, 1), (4,)), ((4,), (4, 1)), ((4, 2), (4, 2))])
def test_squared_error_compares_items_one_to_one(shape, target_shape):
    pred, y = torch.randn(shape), torch.randn(target_shape)
    expected = ((pred.flatten() - y.flatten()) ** 2).mean()
    torch.testing.assert_close(Regression().loss_func(pred, y), expected)


@pytest.mark.parametrize(("shape", "target_shape"), [((4, 2), (4,)), ((2, 3), (3, 2)), ((1,), (4,))])
def test_squared_error_refuses_what_would_broadcast(shape, target_shape):
    with pytest.raises(ValueError, match=r"`pred` and `target`.*Let the model end"):
        mean_squared_error(torch.zeros(shape), torch.zeros(target_shape))


def test_squared_error_reduces_as_torchs_losses_do():
    pred, target = torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0])
    assert mean_squared_error(pred, target, reduction="none").tolist() == [[1.0], [4.0]]
    assert mean_squared_error(pred, target, reduction="sum") == 5


def test_regression_leaves_predictions_as_they_are():
    pred, target = torch.randn(3, 2), Regression(2)
    assert target.activate(pred) is pred
    assert target.decode(pred) is pred
    assert target.label(torch.tensor([0.5, 2.0])) == [0.5, 2.0]
    assert target.label(torch.tensor(0.5)) == 0.5


def test_regression_needs_an_output():
    with pytest.raises(ValueError, match=r"`n_out` must be at least 1. Received: n_out=0"):
        Regression(0)


def test_both_are_targets_and_printable():
    assert isinstance(Category("ab"), Target)
    assert isinstance(Regression(), Target)
    assert repr(Category("ab")) == "Category(vocab=('a', 'b'))"


def test_several_classes_are_probabilities_of_their_own():
    target = MultiCategory(["clear", "haze", "road"], thresh=0.6)
    pred, y = torch.tensor([[0.1, 2.0, -1.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    assert isinstance(target, Target) and target.n_out == 3
    assert torch.equal(target.loss_func(pred, y), F.binary_cross_entropy_with_logits(pred, y))
    assert torch.equal(target.activate(pred), pred.sigmoid())
    assert target.decode(target.activate(pred)).tolist() == [[False, True, False]]
    assert target.label(y[0]) == ["clear", "haze"] and target.label([0, 0, 0]) == []


def test_several_classes_need_names_and_a_threshold_that_is_a_probability():
    with pytest.raises(ValueError, match="at least one class"):
        MultiCategory([])
    with pytest.raises(ValueError, match=r"`thresh` must be in \[0, 1\]. Received: thresh=2"):
        MultiCategory("ab", thresh=2)


def encode(target, labels):
    return encode_labels(target, np.asarray(labels), split="train")


def test_names_become_numbers_and_integers_are_numbers_already():
    assert encode(Category(["b", "a"]), ["a", "b", "a"]).tolist() == [1, 0, 1]
    assert encode(Category(["b", "a"]), [["a", "b"], ["b", "b"]]).tolist() == [[1, 0], [0, 0]]
    assert encode(Category([10, 20]), [1, 0]).tolist() == [1, 0]
    assert Category([10, 20]).encode([20, 10], split="train", name_item=str).tolist() == [1, 0]
    assert encode(ClassNumbers(), [7, -100]).tolist() == [7, -100]
    assert encode(Category("ab"), ["b"]).dtype == encode(ClassNumbers(), [1]).dtype == torch.int64


def test_unknown_names_are_reported_by_item_or_get_a_number():
    masks = np.array([["a", "b"], ["b", "c"], ["d", "a"]])
    with pytest.raises(
        DataError, match=r"2 of 6 train labels are not among the classes: item 1 \('c'\), item 2 \('d'\)"
    ):
        encode(Category("ab"), masks)
    assert Category("ab").encode(list("bxa"), split="new", name_item=str, unknown=0).tolist() == [1, 0, 0]
    with pytest.raises(DataError, match=r"The classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 30 more\."):
        Category(range(40)).encode(["x"], split="new", name_item=str)


@pytest.mark.parametrize(
    ("target", "labels", "message"),
    [
        (Category("ab"), [0, 2], "class numbers from 0 to 1. Received: 2 at item 1"),
        (Category("ab"), [0.0, 1.0], "must be class numbers or names. Received: dtype float64"),
        (Regression(), ["a"], "must be numbers for this target. Received: text such as 'a'"),
        (
            Regression(),
            [0.0, np.nan],
            "must be finite. Received: 1 value that is NaN or infinite, the first in item 1",
        ),
    ],
)
def test_labels_that_do_not_fit_their_target_are_refused(target, labels, message):
    with pytest.raises(DataError, match=message):
        encode(target, labels)


def test_several_classes_are_lists_of_names_or_rows_that_are_encoded():
    target = MultiCategory("abc")
    assert target.encode([["c", "a"], []], split="train", name_item=str).tolist() == [[1, 0, 1], [0, 0, 0]]
    assert target.encode_rows([[0, 1, 1]], split="train", name_item=str).tolist() == [[0, 1, 1]]
    assert encode(target, [[0, 1, 1]]).dtype == torch.float32


class Angle:
    """A target written by a user, with the five members and nothing else."""

    n_out = 2
    loss_func = staticmethod(F.mse_loss)

    def activate(self, pred):
        return pred

    def decode(self, pred):
        return pred

    def label(self, value):
        return float(value)


class Degrees(Angle):
    def encode(self, labels, *, split, name_item):
        return torch.as_tensor(labels).deg2rad()


def test_your_own_target_needs_no_encode_and_may_have_one():
    assert isinstance(Angle(), Target)
    assert encode(Angle(), [0.5, 1.5]).tolist() == [0.5, 1.5] and encode(Angle(), [0.5]).dtype == torch.float32
    assert encode(Angle(), [3, 4]).dtype == torch.int64
    with pytest.raises(DataError, match="must be numbers for this target"):
        encode(Angle(), ["north"])
    torch.testing.assert_close(encode(Degrees(), [180.0]), torch.tensor([torch.pi], dtype=torch.float64))


@pytest.mark.parametrize("make", [Category, MultiCategory])
def test_a_vocabulary_without_an_order_or_with_empty_names_is_refused(make):
    for vocab in ({"b", "a"}, frozenset("ab"), {"a": 1}, {"a": 1}.keys(), {0: "a"}.values(), (name for name in "ab")):
        with pytest.raises(TypeError, match="`vocab` must be a list of names in the order of their numbers"):
            make(vocab)
    for empty in ("", " ", None, float("nan"), np.str_("\t")):
        with pytest.raises(DataError, match="`vocab` must not hold an empty name. Received: .* as class number 1"):
            make(["a", empty])
    with pytest.raises(DataError, match=r"differ only in blanks.*Received: 'a b' and 'a\\xa0b'"):
        make(["a b", "c", "a\u00a0b"])
    assert [type(name) for name in make(np.array([3, 1])).vocab] == [int, int]
    assert make(np.array(["b", "a"])).vocab == ("b", "a")


def test_a_file_may_have_names_that_are_refused_today():
    assert restore_category(("", " cat", "cat")).label(1) == " cat"
    assert restore_multi_category(("", "cat"), 0.25).thresh == 0.25
    with pytest.raises(ValueError, match="name each class once"):
        restore_category(("a", "a"))


def test_labels_in_arrays_are_of_one_kind_and_complete():
    assert as_labels(["b ", "a"], "train").tolist() == ["b", "a"]
    assert as_labels(np.array([1, np.int64(2)], dtype=object), "train").dtype.kind == "i"
    for labels, message in [
        (["cat", float("nan"), ""], "2 of 3 labels of train are missing: item 1, item 2"),
        (np.ma.array([1, 2, 3], mask=[0, 1, 0]), "1 of 3 labels of train is missing: item 1"),
        (["a", 1], "must be a sequence of numbers or of text"),
        ([[1, 2], [3]], "must have one shape for all items"),
    ]:
        with pytest.raises(DataError, match=message):
            as_labels(labels, "train")


def test_truth_values_and_numbers_are_not_one_kind():
    with pytest.raises(DataError, match="must be of one kind, so that they can be sorted. Received: bool, int"):
        build_vocabulary(None, [True, 1, 0], sort=True, add_na=False)
