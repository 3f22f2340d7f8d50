import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from minilearner.errors import DataError
from minilearner.results.calibration import (
    check_temperature,
    fit_temperature,
    measure_calibration,
    scale_probabilities,
)


@pytest.fixture
def sure():
    """Returns the probabilities of a model whose logits are three times too large, and the classes."""
    g = torch.Generator().manual_seed(0)
    logits = 1.5 * torch.randn(4000, 5, generator=g)
    actual = torch.distributions.Categorical(logits=logits).sample()
    return (3 * logits).softmax(1).numpy(), actual.numpy()


def measure(probs, actual, **how):
    return measure_calibration(probs.max(1), probs.argmax(1) == actual, probs=probs, actual=actual, **how)


def test_the_error_is_torchmetrics_and_the_bins_are_scikit_learns(sure):
    probs, actual = sure
    found = measure(probs, actual, n_bins=12)
    for norm, value in (("l1", found.ece), ("max", found.mce)):
        expected = multiclass_calibration_error(torch.tensor(probs), torch.tensor(actual), 5, n_bins=12, norm=norm)
        assert value == pytest.approx(float(expected), abs=1e-6)
    accuracy, confidence = calibration_curve(probs.argmax(1) == actual, probs.max(1), n_bins=12)
    filled = [one for one in found.bins if one.n_items]
    assert [one.accuracy for one in filled] == pytest.approx(accuracy.tolist())
    assert [one.confidence for one in filled] == pytest.approx(confidence.tolist(), abs=1e-6)
    assert len(found.bins) == 12 and sum(one.n_items for one in found.bins) == 4000


def test_the_temperature_finds_the_factor_of_the_logits_and_mends_the_error(sure):
    found = measure(*sure)
    assert found.temperature == pytest.approx(3, rel=0.05)
    assert found.scaled.ece < 0.2 * found.ece and found.scaled.cross_entropy[1] < found.scaled.cross_entropy[0]


def test_the_temperature_is_the_minimum_of_the_cross_entropy(sure):
    probs, actual = sure
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=100, line_search_fn="strong_wolfe")

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(torch.tensor(probs).double().log() / log_t.exp(), torch.tensor(actual))
        loss.backward()
        return loss

    optimizer.step(step)
    assert fit_temperature(probs, actual) == pytest.approx(float(log_t.detach().exp()), rel=1e-4)


def test_scaled_probabilities_are_those_of_divided_logits(sure):
    logits = torch.randn(6, 3)
    scaled = scale_probabilities(logits.softmax(1).numpy(), 2.5)
    assert scaled == pytest.approx((logits / 2.5).softmax(1).numpy(), abs=1e-6)
    assert np.isfinite(scale_probabilities(np.array([[1.0, 0.0]]), 0.5)).all()


def test_without_all_probabilities_there_is_no_temperature(sure):
    found = measure_calibration(np.array([0.9, 0.6]), np.array([True, False]), n_bins=2)
    assert found.ece == pytest.approx(0.25) and found.bins[0].n_items == 0 and np.isnan(found.bins[0].accuracy)
    with pytest.raises(ValueError, match="keep_probs=True"):
        _ = found.temperature
    with pytest.raises(ValueError, match="`n_bins` must be at least 1"):
        measure(*sure, n_bins=0)


def test_an_end_of_the_range_is_no_temperature(sure):
    probs = np.eye(3)[[0, 1, 2]] * 0.4 + 0.2
    with pytest.raises(DataError, match="all its items are right"):
        check_temperature(measure(probs, np.arange(3)))
    with pytest.raises(DataError, match="nothing to do with the classes"):
        check_temperature(measure(probs, np.array([1, 2, 0])))
    check_temperature(measure(*sure))


def test_the_plot_says_both_errors_and_the_numbers_are_plain(sure, tmp_path):
    found = measure(*sure)
    figure = found.plot(save=tmp_path / "c.png")
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert f"as predicted: ECE {found.ece:.3f}" in texts and any("with temperature 3" in text for text in texts)
    assert (tmp_path / "c.png").exists()
    assert found.to_dict()["scaled"]["temperature"] == found.temperature and f"{found.ece:.4f}" in str(found)


def test_a_temperature_that_does_not_fit_is_not_shown():
    all_right = np.array([[0.9, 0.1], [0.2, 0.8]])
    found = measure(all_right, np.array([0, 1]))
    assert found.scaled is not None and "temperature" not in str(found)
    assert not [text for text in found.plot().axes[0].get_legend().get_texts() if "temperature" in text.get_text()]


def test_its_data_are_strict_json():
    found = measure(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]))
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["bins"][0]["confidence"] is None
