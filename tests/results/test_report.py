import numpy as np
import pytest
from sklearn import metrics

from minilearner.results.report import classification_report


def both(actual, predicted, labels, **kw):
    """Returns our report and that of scikit-learn for the same predictions."""
    numbers = np.arange(len(labels))
    confusion = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(confusion, (actual, predicted), 1)
    theirs = metrics.classification_report(
        actual, predicted, labels=numbers, target_names=labels, zero_division=0, **kw
    )
    return classification_report(confusion, labels), theirs


def random_answers(n_classes, n, seed):
    rng = np.random.default_rng(seed)
    actual = rng.integers(n_classes, size=n)
    return actual, np.where(rng.random(n) < 0.7, actual, rng.integers(n_classes, size=n))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n_classes", "n"), [(2, 50), (10, 1000), (37, 1478)])
def test_text_and_numbers_are_scikit_learns(n_classes, n, seed):
    actual, predicted = random_answers(n_classes, n, seed)
    labels = [f"breed {i}" for i in range(n_classes)]
    report, theirs = both(actual, predicted, labels)
    assert str(report) == theirs
    _, numbers = both(actual, predicted, labels, output_dict=True)
    ours = report.as_dict()
    assert list(ours) == list(numbers)
    assert ours == numbers


@pytest.mark.parametrize(
    ("actual", "predicted", "labels"),
    [
        ([0, 0, 2, 2], [0, 2, 2, 2], ["cat", "dog", "cow"]),  # dog is absent
        ([0, 1, 2, 2], [0, 0, 2, 2], ["cat", "dog", "cow"]),  # dog is never predicted
        ([0, 0, 2], [0, 1, 2], ["cat", "dog", "cow"]),  # dog is predicted and never there
        ([0, 0, 0], [0, 0, 0], ["only"]),
        ([0, 1], [1, 0], ["a", "b"]),  # nothing is right
        ([0, 1, 1], [0, 1, 0], ["a rather long label for one class", "Ankle boot"]),
    ],
)
def test_unusual_sets_are_scikit_learns_too(actual, predicted, labels):
    report, theirs = both(actual, predicted, labels)
    assert str(report) == theirs


def test_a_matrix_without_items_has_zeros_everywhere():
    report = classification_report(np.zeros((2, 2), dtype=int), ["cat", "dog"])
    assert report.scores == ((0, 0, 0, 0), (0, 0, 0, 0)) and report.accuracy == 0
    assert report.macro_avg == report.weighted_avg == (0, 0, 0, 0)


def test_the_work_does_not_grow_with_the_items():
    confusion = np.array([[2, 1], [0, 3]])
    few, many = (classification_report(confusion * n, ["cat", "dog"]) for n in (1, 10**12))
    assert many.support == {"cat": 3 * 10**12, "dog": 3 * 10**12}
    assert (many.precision, many.recall, many.accuracy) == (few.precision, few.recall, few.accuracy)


def test_a_narrow_integer_type_does_not_overflow():
    confusion = np.full((3, 3), 200, dtype=np.uint8)
    assert (
        classification_report(confusion, list("abc")).as_dict()
        == classification_report(confusion.astype(int), list("abc")).as_dict()
    )


@pytest.mark.parametrize("digits", [0, 4, 14])
def test_digits_are_scikit_learns(digits):
    actual, predicted = random_answers(4, 99, 0)
    report, theirs = both(actual, predicted, list("abcd"), digits=digits)
    assert report.text(digits) == theirs


def test_columns_are_named_by_label():
    report = classification_report([[2, 1], [0, 3]], ["cat", "dog"])
    assert report.precision == {"cat": 1.0, "dog": 0.75}
    assert report.recall == {"cat": pytest.approx(2 / 3), "dog": 1.0}
    assert report.f1 == {"cat": pytest.approx(0.8), "dog": pytest.approx(6 / 7)}
    assert report.support == {"cat": 3, "dog": 3} and report.accuracy == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("confusion", "labels", "message"),
    [
        ([[1, 2]], ["a"], "square matrix"),
        ([[1, -2], [0, 1]], ["a", "b"], "square matrix of counts"),
        (np.zeros((0, 0)), [], "square matrix"),
        ([[1, 0], [0, 1]], ["a"], "each of the 2 classes. Received: 1"),
    ],
)
def test_what_is_no_confusion_matrix_is_refused(confusion, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_report(confusion, labels)
