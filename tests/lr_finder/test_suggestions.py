"""The suggestion rules have fastai's values on any curve, and raise if there are too few points."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilearner.errors import NoSuggestion
from minilearner.lr_finder.suggestions import caution, minimum, slide, steep, valley

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
# fastai's own functions on its own grid; B/steep and C/steep are missing because rounding alone decides them.
GOLDEN = {
    ("A", minimum): 5.7544e-3,
    ("A", steep): 8.31764e-4,
    ("A", valley): 1.58489e-4,
    ("A", slide): 1.09648e-6,
    ("B", minimum): 0.331131,
    ("B", valley): 1.202264e-3,
    ("B", slide): 0.2089296,
    ("C", minimum): 6.30957e-8,
    ("C", valley): 6.30957e-7,
    ("C", slide): 0.2089296,
    ("D", minimum): 6.30957e-8,
    ("D", steep): 6.30957e-7,
    ("D", valley): 6.30957e-7,
    ("D", slide): 0.2089296,
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


@pytest.mark.parametrize("curve", ["C", "D"])
def test_a_curve_that_never_falls_calls_for_caution(curve):
    assert "never falls below its first value" in caution(KEPT, CURVES[curve])
    assert "only one point" in caution(KEPT[:1], CURVES[curve][:1])
    assert caution(KEPT, CURVES["A"]) == ""


@pytest.mark.parametrize(("function", "n"), [(minimum, 0), (steep, 1), (valley, 0), (slide, 15)])
def test_a_curve_that_is_too_short_gives_no_suggestion(function, n):
    with pytest.raises(NoSuggestion, match=f"at least .* points? with a finite loss; it got {n} "):
        function(KEPT[:n], SIGMOID[:n])


def fastai_valley(lrs, losses):
    """fastai 2.8's own lines, in NumPy."""
    n, max_start, max_end = len(losses), 0, 0
    lds = [1] * n
    for i in range(1, n):
        for j in range(i):
            if losses[i] < losses[j] and lds[i] < lds[j] + 1:
                lds[i] = lds[j] + 1
            if lds[max_end] < lds[i]:
                max_end = i
                max_start = max_end - lds[max_end]
    sections = (max_end - max_start) / 3
    return lrs[max_start + int(sections) + int(sections / 2)]


def fastai_slide(lrs, losses, lr_diff=15, thresh=0.005, adjust_value=1.0):
    """fastai 2.8's own lines, in NumPy."""
    gradients = np.gradient(losses)
    right, left, found = -1, -1 - lr_diff, lrs[-1 - lr_diff]
    while left >= -len(losses) and abs(gradients[right] - gradients[left]) > thresh:
        found, right, left = lrs[left], right - 1, left - 1
    return found * adjust_value


FASTAI = {
    minimum: lambda lrs, losses: lrs[losses.argmin()] / 10,
    steep: lambda lrs, losses: lrs[(np.diff(losses) / np.diff(np.log(lrs))).argmin()],
    valley: fastai_valley,
    slide: fastai_slide,
}
FEWEST = {minimum: 1, steep: 2, valley: 1, slide: 16}


@given(st.lists(st.floats(0, 4, width=16), min_size=1, max_size=40), st.booleans())
def test_suggestions_are_fastais_on_any_curve(losses, is_sorted):
    losses = np.array(sorted(losses) if is_sorted else losses)
    lrs = KEPT[: len(losses)]
    for function, fastais in FASTAI.items():
        if len(losses) >= FEWEST[function]:
            assert function(lrs, losses)[0] == fastais(lrs, losses)


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
