import numpy as np
import pytest
from scipy.stats import binomtest

from minilearner.results.comparison import compare_answers

ACTUAL = np.array([0, 0, 0, 1, 1, 1])
FIRST, SECOND = np.array([0, 1, 1, 1, 1, 0]), np.array([0, 0, 0, 1, 0, 0])


def test_it_says_who_fixed_what():
    change = compare_answers(["cat", "dog"], ACTUAL, FIRST, SECOND)
    assert change.fixed.tolist() == [1, 2] and change.broken.tolist() == [4]
    assert change.accuracy == (3 / 6, 4 / 6)
    assert change.by_class() == [
        {"label": "cat", "n_items": 3, "fixed": 2, "broken": 0, "recall_change": 2 / 3},
        {"label": "dog", "n_items": 3, "fixed": 0, "broken": 1, "recall_change": -1 / 3},
    ]
    assert "accuracy 0.5000 \N{RIGHTWARDS ARROW} 0.6667" in str(change)
    assert "fixed 2, broken 1, both wrong 1, of 6 items" in " ".join(str(change).split())  # long lines are wrapped


def test_the_p_value_is_mcnemars_exact_one():
    actual = np.zeros(100, dtype=int)
    first, second = (np.arange(100) < 12).astype(int), (np.arange(100) >= 97).astype(int)
    assert compare_answers(["a", "b"], actual, first, second).p_value == binomtest(12, 15).pvalue
    # by hand: twice the binomial sum of 0 to 3 of 15
    assert binomtest(12, 15).pvalue == pytest.approx(2 * (1 + 15 + 105 + 455) / 2**15)
    assert compare_answers(["a", "b"], actual, first, first).p_value == 1


def test_the_plot_draws_new_errors_to_the_left():
    figure = compare_answers(["cat", "dog"], ACTUAL, FIRST, SECOND).plot()
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["dog", "cat"]
    assert [bar.get_width() for bar in ax.patches] == [-1, 0, 0, 2]
    same = compare_answers(["cat", "dog"], ACTUAL, FIRST, FIRST).plot()
    assert [bar.get_width() for bar in same.axes[0].patches] == [0, 0, 0, 0]
