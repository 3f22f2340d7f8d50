import math

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binomtest

from minilearner.results.slices import slice_items


def test_each_group_has_its_accuracy_and_wilsons_interval_the_worst_first():
    right = np.array([True] * 90 + [False] * 10 + [True] * 20 + [False] * 30)
    found = slice_items("camera", ["day"] * 100 + ["night"] * 50, right, measure="accuracy")
    assert [(row.value, row.n_items, row.score) for row in found.rows] == [("night", 50, 0.4), ("day", 100, 0.9)]
    expected = binomtest(20, 50).proportion_ci(method="wilson")
    assert (found.rows[0].low, found.rows[0].high) == (expected.low, expected.high)
    assert [row.is_worse for row in found.rows] == [True, False] and found.overall == pytest.approx(110 / 150)
    assert "night    0.4000" in str(found) and "worse than the rest" in str(found)


def test_numbers_are_cut_into_ranges_and_missing_values_are_a_group():
    values = [*range(100), None, math.nan]
    found = slice_items("age", values, np.ones(102, dtype=bool), measure="accuracy")
    sizes = {row.value: row.n_items for row in found.rows}
    assert sizes["missing"] == 2 and sorted(sizes.values()) == [2, 25, 25, 25, 25]
    few = slice_items("n", [1, 2, 1], np.ones(3, dtype=bool), measure="accuracy")
    assert {row.value for row in few.rows} == {"1", "2"}


def test_errors_have_an_interval_of_their_mean_and_the_largest_is_worst():
    errors = np.array([1.0, 1.2, 0.8, 1.1, 5.0, 5.2, 4.9, 9.0])
    found = slice_items("site", list("aaaabbbc"), errors, measure="mean absolute error")
    assert [row.value for row in found.rows] == ["c", "b", "a"]
    low, high = stats.t.interval(0.95, 3, loc=errors[:4].mean(), scale=stats.sem(errors[:4]))
    assert (found.rows[2].low, found.rows[2].high) == pytest.approx((low, high))
    assert not found.rows[0].is_worse and found.rows[1].is_worse  # one item proves nothing


def test_the_plot_names_each_group_and_its_number_of_items():
    found = slice_items("site", list("aab"), np.array([True, False, True]), measure="accuracy")
    ax = found.plot().axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in ax.texts] == ["2", "1", "items"] and ax.get_xlim() == (0, 1)
    assert found.to_dict()["rows"][0]["value"] == "a"
