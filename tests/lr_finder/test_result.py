"""The result of a sweep can be read, plotted and written to files."""

import copy
import csv
import json
import math
from functools import partial

import numpy as np
import pytest

from minilearner.checks import check_positive, check_rate
from minilearner.lr_finder.result import LRSweep, smooth
from minilearner.lr_finder.suggestions import minimum, slide, valley

LRS = 1e-7 * (10 / 1e-7) ** (np.arange(100) / 100)
X = np.log10(LRS[10:95])
SIGMOID = 2.3 / (1 + np.exp(2.5 * (X + 3))) + 0.4 + np.exp(3 * X)
RISING, FLAT = 1 + 0.01 * np.arange(85), np.full(85, 2.0)


def full_curve(kept=SIGMOID):
    """Returns a raw curve of 100 steps whose points 10 to 94 are `kept`."""
    return np.concatenate([np.full(10, kept[0]), kept, np.full(5, kept[-1])])


def test_smoothing_is_fastais():
    assert smooth([1, 2, 3, 4]) == pytest.approx([1, 1.50505, 2.01347, 2.52525], abs=1e-5)


@pytest.fixture
def sweep():
    return LRSweep.from_curve(LRS, full_curve(), suggest_funcs=(minimum, valley), smoothing=0, start_lr=1e-7, end_lr=10)


def test_a_sweep_unpacks_in_order_and_names_its_values(sweep):
    low, longest = sweep
    assert (low, longest) == (pytest.approx(5.7544e-3, rel=1e-5), pytest.approx(1.58489e-4, rel=1e-5))
    assert sweep.minimum == low and sweep.valley == longest
    assert list(sweep.suggestions) == ["minimum", "valley"] and sweep.notes == {}
    assert sweep.settings["skip_start"] == 10 and sweep.settings["num_it"] == 100


def test_an_unknown_name_suggests_the_nearest(sweep):
    with pytest.raises(AttributeError, match=r"no 'vallye'.*'valley'"):
        _ = sweep.vallye


def test_a_sweep_is_frozen_with_its_arrays(sweep):
    with pytest.raises(AttributeError):
        sweep.losses = None
    with pytest.raises(ValueError, match="read-only"):
        sweep.losses[0] = 1


def test_on_a_curve_that_never_falls_suggestions_are_fastais_with_a_note():
    sweep = LRSweep.from_curve(LRS, full_curve(RISING), suggest_funcs=[valley, minimum], smoothing=0)
    assert list(sweep) == pytest.approx([LRS[10], LRS[10] / 10]) and list(sweep.points) == ["valley", "minimum"]
    assert "never falls" in sweep.notes["valley"] and "never falls" in sweep.notes["minimum"]
    assert math.isnan(sweep.recommended) and sweep.interval is None and sweep.bounds is None
    assert f"valley: {LRS[10]:.2e}, but the loss never falls" in repr(sweep)


def test_names_come_from_partials_and_lambdas_and_are_numbered():
    functions = [slide, partial(slide, adjust_value=0.5), lambda x, y: 1e-3, lambda x, y: (1e-2, (1e-2, 1.0))]
    sweep = LRSweep.from_curve(LRS, full_curve(), suggest_funcs=functions, smoothing=0)
    assert list(sweep.suggestions) == ["slide", "slide_2", "lambda", "lambda_2"]
    assert sweep.slide_2 == pytest.approx(sweep.slide / 2) and list(sweep)[2:] == [1e-3, 1e-2]
    assert sweep.points["lambda"] == (1e-3, pytest.approx(np.interp(-3, X, SIGMOID)))


def test_one_function_or_none_may_be_given():
    assert list(LRSweep.from_curve(LRS, full_curve(), suggest_funcs=valley, smoothing=0).suggestions) == ["valley"]
    assert list(LRSweep.from_curve(LRS, full_curve(), suggest_funcs=None)) == []


def test_the_curve_is_cut_at_the_first_nan_and_trimmed_by_the_planned_steps():
    losses = full_curve()[:70]
    losses[66:] = np.nan  # point 66 is in the kept part, which then ends at 65
    sweep = LRSweep.from_curve(LRS[:70], losses, suggest_funcs=minimum, smoothing=0, num_it=100, skip_end=0)
    assert sweep.minimum == pytest.approx(LRS[65] / 10)
    assert sweep.settings["skip_start"] == 10


def test_the_highest_rate_of_a_group_must_be_positive():
    with pytest.raises(ValueError, match="`highest` must .*positive"):
        LRSweep.from_curve([1e-3] * 12, [1.0] * 12, highest=0)


def test_a_sweep_that_ended_at_once_has_no_suggestion():
    sweep = LRSweep.from_curve(LRS[:3], [1, 2, 9], num_it=100, stop_reason="the loss diverged")
    assert math.isnan(sweep.valley) and "it got 0 (skipped points" in sweep.notes["valley"]
    assert "the loss diverged" in repr(sweep)


def test_a_suggestion_without_ground_is_nan_which_prints_and_keeps_its_reason():
    sweep = LRSweep.from_curve(LRS[:3], [1, 2, 9], num_it=100, suggest_funcs=(slide, valley))
    for rate in (*sweep, sweep.recommended, sweep.valley / 10, 2 * sweep.valley, copy.deepcopy(sweep.valley)):
        assert f"{rate:.2e}" == "nan" and isinstance(rate, float) and rate.reason
    for name in ("lr", "lr_max"):
        with pytest.raises(
            ValueError,
            match=f"`{name}` must be .* Received: {name}=.* The sweep found no rate: the sweep has only 2 of",
        ):
            check_rate(slice(sweep.recommended / 100, sweep.recommended), name)
    with pytest.raises(ValueError, match="The sweep found no rate: valley needs at least 1 point"):
        check_positive(sweep.valley, "base_lr")


def test_a_function_that_returns_nan_gives_no_rate():
    sweep = LRSweep.from_curve(LRS, full_curve(), suggest_funcs=lambda lrs, losses: math.nan)
    assert math.isnan(sweep.suggestions["lambda"]) and sweep.points == {} and "returned NaN" in repr(sweep)
    sweep.plot()


@pytest.mark.parametrize("saved", [None, "nan"])  # earlier versions wrote null
def test_a_missing_rate_comes_back_from_a_file_with_its_reason(tmp_path, saved):
    file = LRSweep.from_curve(LRS[:3], [1, 2, 9], num_it=100).to_json(tmp_path / "sweep.json")
    content = json.loads(file.read_text())
    assert content["recommended"] == "nan"
    file.write_text(json.dumps(content | {"recommended": saved, "suggestions": {"valley": saved}}))
    back = LRSweep.from_json(file)
    assert back.recommended.reason == back.reason and "needs at least" in back.valley.reason


@pytest.mark.parametrize("rate", ["inf", -1, 0, True, "1e-3", [1]])
@pytest.mark.parametrize("name", ["recommended", "suggestions", "bounds", "interval", "turns"])
def test_a_rate_in_a_file_must_be_positive_and_finite(tmp_path, name, rate):
    file = LRSweep.from_curve(LRS, full_curve()).to_json(tmp_path / "sweep.json")
    values = {"recommended": rate, "bounds": [1e-3, rate], "interval": [rate, 1e-3]}
    content = json.loads(file.read_text()) | {name: values.get(name, {"valley": rate})}
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="does not hold a sweep"):
        LRSweep.from_json(file)


def test_the_recommendation_reads_the_fixed_losses_if_there_are_some():
    swept = LRSweep.from_curve(LRS, np.full(100, 2.0), fixed=full_curve())
    alone = LRSweep.from_curve(LRS, full_curve())
    assert swept.recommended == pytest.approx(alone.recommended, rel=0.4)
    assert math.isnan(LRSweep.from_curve(LRS, np.full(100, 2.0)).recommended)


def test_the_recommendation_and_why_are_shown(sweep):
    lines = " ".join(repr(sweep).split())  # long lines are wrapped
    assert f"recommended: {sweep.recommended:.2e}, most likely within" in lines and sweep.reason in lines
    html = sweep._repr_html_()
    assert html.count("<tr>") == html.count("</tr>") == 5
    assert f">{sweep.recommended:.2e}, most" in html and sweep.reason in html and ">valley</th>" in html


def test_a_usual_rate_has_no_bounds_to_show():
    fixed = full_curve(2 + np.maximum(X - 0.5, 0))
    found = LRSweep.from_curve(LRS, fixed, fixed=fixed, untrained=True, suggest_funcs=None)
    assert found.bounds is None and "nan" not in repr(found) and "is usual for such optimizers" in found.reason


def test_without_a_recommendation_the_reason_is_shown():
    sweep = LRSweep.from_curve(LRS, full_curve(FLAT), suggest_funcs=valley)
    assert f"recommended: none, because {sweep.reason}" in " ".join(repr(sweep).split())
    assert f">none, because {sweep.reason}</td>" in sweep._repr_html_()


def test_the_html_is_escaped():
    sweep = LRSweep.from_curve(LRS, full_curve(), suggest_funcs=valley, stop_reason="loss < 1 & <b>done</b>")
    assert "loss &lt; 1 &amp; &lt;b&gt;done" in sweep._repr_html_()


def test_the_summary_has_everything_but_the_curve(sweep):
    summary = sweep.summary()
    assert summary["recommended"] == sweep.recommended and summary["reason"] == sweep.reason
    assert summary["num_it"] == 100 and "losses" not in summary


def test_json_restores_everything_even_infinities(tmp_path, sweep):
    losses = full_curve()
    losses[96], losses[97] = np.inf, np.nan
    sweep = LRSweep.from_curve(LRS, losses, fixed=losses + 1, suggest_funcs=(slide, valley), step_mode="exp")
    path = sweep.to_json(tmp_path / "sweep.json")
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    again = LRSweep.from_json(path)
    for name in ("lrs", "losses", "smoothed", "fixed"):
        assert np.array_equal(getattr(again, name), getattr(sweep, name), equal_nan=True)
    assert list(again) == list(sweep) and again.points == sweep.points and again.bounds == sweep.bounds
    assert again.settings == sweep.settings and again.reason == sweep.reason and again.turns == sweep.turns
    assert again.recommended == sweep.recommended and again.interval == sweep.interval
    assert repr(again) == repr(sweep)


def test_another_json_file_is_refused(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"lrs": [1]}')
    with pytest.raises(ValueError, match=r"other\.json does not hold a sweep"):
        LRSweep.from_json(path)


def test_csv_has_one_row_per_step(tmp_path, sweep):
    rows = list(csv.DictReader(sweep.to_csv(tmp_path / "sweep.csv").read_text().splitlines()))
    assert len(rows) == 100 and list(rows[0]) == ["lr", "loss", "smoothed", "fixed"]
    assert float(rows[50]["lr"]) == LRS[50] and float(rows[50]["loss"]) == sweep.losses[50]
    assert rows[50]["fixed"] == ""
    measured = LRSweep.from_curve(LRS, full_curve(), fixed=full_curve() + 1).to_csv(tmp_path / "sweep.csv")
    assert float(list(csv.DictReader(measured.read_text().splitlines()))[50]["fixed"]) == full_curve()[50] + 1


def test_the_plot_marks_each_suggestion_at_its_value(sweep):
    ax = sweep.plot(details=True).axes[0]
    assert ax.get_xscale() == "log"
    marks = {line.get_label(): line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"}
    assert marks == {"minimum: 5.75e-03": sweep.minimum, "valley: 1.58e-04": sweep.valley}
    smoothed = next(line for line in ax.lines if line.get_label().startswith("smoothed loss"))
    assert np.array_equal(smoothed.get_xdata(), LRS[:95])  # the last five are left out
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "range for CyclicLR: {:.1e} to {:.1e}".format(*sweep.bounds) in texts
    assert f"{sweep.recommended:.2e}, likely range (shaded)" in ax.get_title(loc="left")


def find_last_rate(sweep, **how):
    return max(line.get_xdata()[-1] for line in sweep.plot(**how).axes[0].lines if len(line.get_xdata()) > 2)


@pytest.mark.parametrize("end", [64, 66, 68, 100])
def test_the_plot_shows_all_points_up_to_the_rates_that_it_names(end):
    fixed = np.interp(np.log10(LRS), [-4, -2, -1.2], [2.0, 1.0, 3.0])
    sweep = LRSweep.from_curve(LRS[:end], fixed[:end], fixed=fixed[:end])
    named = max(sweep.recommended, *sweep.interval, *sweep.bounds, *sweep.turns.values())
    assert min(named, LRS[end - 1]) <= find_last_rate(sweep) <= max(LRS[end - 6], LRS[named <= LRS][0])
    assert find_last_rate(sweep, skip_end=7) == LRS[end - 8]


def test_the_plot_of_a_sweep_for_auto_shows_the_rate_at_which_it_ended():
    fixed = np.interp(np.log10(LRS), [-4, -2, -1.2], [2.0, 1.0, 3.0])[:80]
    sweep = LRSweep.from_curve(LRS[:80], fixed, fixed=fixed, stop_when_settled=True)
    assert find_last_rate(sweep) == LRS[79] and find_last_rate(sweep, skip_end=5) == LRS[74]


def test_the_plot_takes_axes_and_skips(sweep):
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots()
    assert sweep.plot(ax, skip_start=20, skip_end=10) is figure
    line = next(line for line in ax.lines if line.get_label().startswith("smoothed loss"))
    assert np.array_equal(line.get_xdata(), LRS[20:90])
    with pytest.raises(ValueError, match="`skip_end` must be at least 0"):
        sweep.plot(skip_end=-1)


def test_the_plot_of_the_change_marks_its_minimum():
    sweep = LRSweep.from_curve(LRS[:30], np.r_[np.full(15, 4.0), 3.9, 3.0, 2.9, np.full(12, 2.9)], smoothing=0)
    ax = sweep.plot_loss_change(sma=2, y_lim=None).axes[0]
    curve = next(line for line in ax.lines if line.get_label() == "change of the loss per step")
    assert np.array_equal(curve.get_xdata(), LRS[10:25])
    assert curve.get_ydata()[6] == pytest.approx((3.0 - 4.0) / 2)  # step 16
    mark = next(line for line in ax.lines if line.get_label().startswith("steepest fall"))
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (LRS[16], pytest.approx(-0.5))
    for wrong in ({"sma": 0}, {"sma": 1.5}, {"skip_start": -1}):
        with pytest.raises((TypeError, ValueError), match=f"`{next(iter(wrong))}` must"):
            sweep.plot_loss_change(**wrong)


def test_the_plot_of_the_change_has_familiar_limits(sweep):
    ax = sweep.plot_loss_change().axes[0]
    assert ax.get_ylim() == (-0.01, 0.01)
    mark = next(line for line in ax.lines if line.get_label().startswith("steepest fall"))
    assert mark.get_ydata()[0] == -0.01  # it falls faster than the axis shows
