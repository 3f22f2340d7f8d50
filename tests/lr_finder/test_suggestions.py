"""The suggestion rules give fastai's values if the loss falls, and raise an error if it does not."""

import numpy as np
import pytest

from minilearner.errors import NoSuggestion
from minilearner.lr_finder.suggestions import minimum, slide, steep, valley

KEPT = 1e-7 * (10 / 1e-7) ** (np.arange(10, 95) / 100)  # what a sweep of 100 steps shows to suggestions
X, K = np.log10(KEPT), np.arange(85)
SIGMOID = 2.3 / (1 + np.exp(2.5 * (X + 3))) + 0.4 + np.exp(3 * X)
CURVES = {
    "A": SIGMOID,
    "B": 4 - 0.03 * K,
    "C": 1 + 0.01 * K,
    "D": np.full(85, 2.0),
    "E": (X + 2) ** 2 + 0.5,
    "F": SIGMOID + 0.05 * np.sin(1.7 * K),
}
# fastai's own functions on its own grid; B/steep is missing because rounding alone decides it.
GOLDEN = {
    ("A", minimum): 5.7544e-3,
    ("A", steep): 8.31764e-4,
    ("A", valley): 1.58489e-4,
    ("A", slide): 1.09648e-6,
    ("B", minimum): 0.331131,
    ("B", valley): 1.202264e-3,
    ("B", slide): 0.2089296,
    ("E", minimum): 9.12011e-4,
    ("E", steep): 6.30957e-7,
    ("E", valley): 5.248075e-5,
    ("E", slide): 6.30957e-7,
    ("F", minimum): 5.7544e-3,
    ("F", steep): 1.44544e-3,
    ("F", valley): 3.01995e-3,
    ("F", slide): 4.78630e-6,
}


@pytest.mark.parametrize(("curve", "function"), GOLDEN)
def test_suggestions_have_fastais_golden_values_and_are_drawn_there(curve, function):
    value, (x, y) = function(KEPT, CURVES[curve])
    assert value == pytest.approx(GOLDEN[curve, function], rel=1e-5)
    assert x == value
    assert y == pytest.approx(np.interp(np.log10(value), X, CURVES[curve]))


@pytest.mark.parametrize("function", [minimum, steep, valley, slide])
@pytest.mark.parametrize("curve", ["C", "D"])
def test_a_curve_that_never_falls_gives_no_suggestion(curve, function):
    with pytest.raises(NoSuggestion, match="never falls below its first value"):
        function(KEPT, CURVES[curve])


@pytest.mark.parametrize(("function", "n"), [(minimum, 1), (steep, 1), (valley, 0), (slide, 15)])
def test_a_curve_that_is_too_short_gives_no_suggestion(function, n):
    with pytest.raises(NoSuggestion, match=f"at least .* points with a finite loss; there are {n}"):
        function(KEPT[:n], SIGMOID[:n])


@pytest.mark.parametrize("function", [minimum, steep, valley])
def test_two_falling_points_are_enough(function):
    value, _ = function([1e-3, 1e-2], [2.0, 1.0])
    assert value == 1e-3


def test_slide_takes_fastais_arguments():
    assert slide(KEPT, SIGMOID, adjust_value=0.5)[0] == pytest.approx(slide(KEPT, SIGMOID)[0] / 2)
    assert slide(KEPT[:6], 6.0 - K[:6], lr_diff=5)[0] == KEPT[0]


def test_suggestions_stop_reading_at_the_first_loss_that_is_not_finite():
    losses = SIGMOID.copy()
    losses[60:] = np.nan
    assert minimum(KEPT, losses)[0] == pytest.approx(KEPT[59] / 10)


def test_suggestions_refuse_what_is_no_curve():
    with pytest.raises(ValueError, match="equally long"):
        valley([1e-3], [1.0, 2.0])
    with pytest.raises(ValueError, match="must be positive"):
        valley([0.0, 1e-3], [1.0, 2.0])
