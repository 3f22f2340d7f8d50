import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

from minilearner import DataLoaders, Learner, RegressionInterpretation
from minilearner.data.targets import Regression
from minilearner.errors import DataError
from minilearner.results.predictions import Predictions


@pytest.fixture
def predictions():
    g = torch.Generator().manual_seed(0)
    actual = 10 * torch.rand(60, 2, generator=g)
    return Predictions(actual + torch.randn(60, 2, generator=g) + 0.5, actual)


def test_scores_are_scikit_learns(predictions):
    interp = RegressionInterpretation(predictions)
    for number in (0, 1):
        actual, predicted = predictions.targets[:, number].double(), predictions.preds[:, number].double()
        found = interp.scores(number)
        assert found.mae == pytest.approx(metrics.mean_absolute_error(actual, predicted))
        assert found.rmse == pytest.approx(metrics.mean_squared_error(actual, predicted) ** 0.5)
        assert found.r2 == pytest.approx(metrics.r2_score(actual, predicted))
        assert found.bias == pytest.approx(float((predicted - actual).mean()))
    with pytest.raises(ValueError, match="`number` must be below 2"):
        interp.scores(2)


def test_the_worst_items_and_groups_are_those_with_the_largest_errors(predictions):
    interp = RegressionInterpretation(predictions)
    errors = (predictions.preds - predictions.targets) ** 2
    assert int(interp.top_losses(1).indices[0]) == int(errors.mean(1).argmax())
    rows = interp.slices(["even", "odd"] * 30, number=1).rows
    expected = {name: float(errors[i::2, 1].sqrt().mean()) for i, name in enumerate(["even", "odd"])}
    assert {row.value: row.score for row in rows} == pytest.approx(expected, rel=1e-5)
    assert rows[0].score >= rows[1].score


@pytest.mark.parametrize("n", [60, 4000])
def test_figures_draw_all_items_and_the_diagonal(predictions, n, tmp_path):
    many = Predictions(predictions.preds.repeat(n // 60 + 1, 1)[:n], predictions.targets.repeat(n // 60 + 1, 1)[:n])
    interp = RegressionInterpretation(many)
    ax = interp.plot_predictions(number=1, save=tmp_path / "p.png").axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("actual", "predicted") and ax.get_xlim() == ax.get_ylim()
    points = ax.collections[0]
    assert len(points.get_offsets()) == n if n == 60 else points.get_array().sum() == n
    assert f"MAE {interp.scores(1).mae:.3g}" in ax.get_title("left")
    left, beside = interp.plot_residuals().axes[:2]
    assert sum(bar.get_width() for bar in beside.patches) == n and left.get_ylabel() == "predicted - actual"


def test_one_number_has_the_shape_of_the_targets_or_a_column():
    x, y = torch.rand(8, 3), torch.rand(8)
    learn = Learner(DataLoaders.from_arrays((x, y), (x, y), bs=4, target=Regression()), nn.Linear(3, 1))
    with learn.no_logging():
        interp = RegressionInterpretation.from_learner(learn)
        assert interp.actual.shape == interp.predicted.shape == (8, 1)
        assert np.allclose(interp.actual[:, 0], y) and interp.losses.mean() == pytest.approx(learn.validate()[0])


def test_what_are_no_numbers_is_refused(predictions):
    with pytest.raises(DataError, match=r"as many predicted numbers.*\(60, 2\) and targets NoneType"):
        RegressionInterpretation(Predictions(predictions.preds, None))
    with pytest.raises(DataError, match=r"\(60, 2\) and targets \(60,\)"):
        RegressionInterpretation(Predictions(predictions.preds, predictions.targets[:, 0]))


def test_numbers_that_are_not_finite_are_counted():
    interp = RegressionInterpretation(Predictions(torch.tensor([1.0, float("nan"), 2.0]), torch.ones(3)))
    for method in (interp.scores, interp.plot_predictions, interp.plot_residuals, lambda: interp.slices([1, 2, 3])):
        with pytest.raises(DataError, match=r"1 of 3 items .*NaN.*such as item 1: predicted nan, actual 1.0"):
            method()
    assert interp.top_losses(1).indices.tolist() == [1]
