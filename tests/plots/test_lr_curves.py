import numpy as np
import pytest

from minilearner.plots.lr_curves import plot_range_test, plot_sweep

NOTHING = {"recommended": None, "interval": None, "bounds": None, "turns": {}, "ax": None}


def curves(losses, smoothed=None, **more):
    lrs = np.logspace(-6, 0, len(losses))
    return {"lrs": lrs, "losses": losses, "smoothed": losses if smoothed is None else smoothed} | more


def test_coinciding_suggestions_are_drawn_as_shrinking_markers():
    points = dict.fromkeys(("valley", "slide", "steep", "minimum"), (1e-3, 1.5))
    ax = plot_sweep(curves(np.linspace(2, 1, 50)), points, **NOTHING).axes[0]
    sizes = [line.get_markersize() for line in ax.lines if line.get_marker() == "o"]
    assert len(sizes) == 4 and sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4


def test_one_diverging_loss_does_not_flatten_the_curve():
    calm = np.linspace(2, 1, 100)
    wild = calm.copy()
    wild[-1] = 1e6
    ax = plot_sweep(curves(wild, calm, fixed=wild), {}, **NOTHING).axes[0]
    assert ax.get_ylim()[1] < 3


def test_the_recommendation_is_a_line_its_interval_a_shade_and_the_bounds_a_bar_at_the_bottom():
    advice = {
        "recommended": 1e-3,
        "interval": (5e-4, 3e-3),
        "bounds": (1e-5, 2e-3),
        "turns": {"turn": 1e-3},
        "ax": None,
    }
    points = {"minimum": (1e-2, 2.0), "steep": (1e-4, 2.0), "slide": (1e-4, 2.0), "valley": (1e-3, 2.0)}
    curve = curves(np.linspace(2, 1, 50), np.full(50, 2.0), fixed=np.linspace(2, 1, 50))
    for details in (False, True):
        ax = plot_sweep(curve, points, **advice, details=details).axes[0]
        title = "recommended rate (thick line): 1.00e-03, likely range (shaded): 5.0e-04 to 3.0e-03"
        assert ax.get_title(loc="left") == title and any(set(line.get_xdata()) == {1e-3} for line in ax.lines)
        (shade,) = ax.patches
        assert (shade.get_x(), shade.get_x() + shade.get_width()) == (5e-4, 3e-3)
        lines = {line.get_label(): line for line in ax.lines}
        assert "loss of a fixed set of items\n(thin: of each batch)" in lines
        on_curve = lines["minimum: 1.00e-02"].get_ydata()[0]
        assert on_curve == (2.0 if details else pytest.approx(1.333, abs=0.01))
        assert len(ax.get_legend().get_texts()) == (8 if details else 5)
    assert tuple(lines["range for CyclicLR: 1.0e-05 to 2.0e-03"].get_xdata()) == (1e-5, 2e-3)
    assert lines["turn: 1.0e-03"].get_xdata().tolist() == [1e-3]


def test_a_suggestion_keeps_its_colour():
    def color_of(name, *others):
        ax = plot_sweep(curves(np.linspace(2, 1, 50)), dict.fromkeys((*others, name), (1e-3, 1.5)), **NOTHING).axes[0]
        (mark,) = [line for line in ax.lines if line.get_label().startswith(name)]
        return mark.get_color()

    assert color_of("valley") == color_of("valley", "mine", "minimum")
    assert color_of("mine", "steep") not in {color_of(name) for name in ("minimum", "steep", "valley", "slide")}


def test_a_curve_without_a_finite_loss_gives_an_empty_plot():
    assert plot_sweep(curves(np.full(9, np.nan)), {}, **NOTHING).axes


def test_a_range_test_shows_its_calm_part_and_marks_points_outside_at_the_edge():
    losses = [2.0, 1.9, 1.5, 1.8, 9.0, 50.0]
    ax = plot_range_test([1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0], losses, {"steepest fall": 10.0}, log=True, ax=None)
    top = ax.get_ylim()[1]
    assert 2 < top < 5
    assert [line.get_ydata()[0] for line in ax.lines if line.get_marker() == "o"] == [top]


def test_a_turn_out_of_view_is_marked_at_the_edge():
    losses = np.linspace(2.0, 1.0, 50)
    deep = losses.copy()
    deep[25] = -50.0  # one odd batch, exactly where the loss turned
    lrs = np.logspace(-6, 0, 50)
    ax = plot_sweep(curves(deep, losses), {}, **(NOTHING | {"turns": {"turn": lrs[25]}}), details=True).axes[0]
    (mark,) = [line for line in ax.lines if line.get_label().startswith("turn")]
    assert mark.get_ydata()[0] == ax.get_ylim()[0] > -5
