import pytest
import torch
import torch.nn.functional as F

from minilearner.data.targets import Category, MultiCategory, Regression, Target, mean_squared_error


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
