import numpy as np
import pytest
from sklearn import metrics

from minilearner.results.threshold_curves import precision_recall_curves, roc_curves


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    actual = rng.integers(0, 3, 200)
    return np.arange(4) == actual[:, None], rng.dirichlet(np.ones(4), 200)


def test_precision_recall_curves_are_scikit_learns_and_absent_classes_have_none(scores):
    curves = precision_recall_curves("abcd", *scores)
    assert [curve.label for curve in curves] == ["a", "b", "c"]
    for i, curve in enumerate(curves):
        precision, recall, thresholds = metrics.precision_recall_curve(scores[0][:, i], scores[1][:, i])
        assert np.array_equal(curve.x, recall) and np.array_equal(curve.y, precision)
        assert np.array_equal(curve.thresholds, thresholds)
        assert curve.area == metrics.average_precision_score(scores[0][:, i], scores[1][:, i])


def test_roc_curves_are_scikit_learns(scores):
    for i, curve in enumerate(roc_curves("abcd", *scores)):
        false, true, thresholds = metrics.roc_curve(scores[0][:, i], scores[1][:, i])
        assert np.array_equal(curve.x, false) and np.array_equal(curve.y, true)
        assert np.array_equal(curve.thresholds, thresholds)
        assert curve.area == pytest.approx(metrics.roc_auc_score(scores[0][:, i], scores[1][:, i]))


def test_a_class_that_all_items_have_has_no_roc_curve():
    assert roc_curves("a", np.ones((3, 1), dtype=bool), np.ones((3, 1))) == []
