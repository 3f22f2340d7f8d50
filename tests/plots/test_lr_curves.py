import numpy as np

from minilearner.plots.lr_curves import plot_range_test, plot_sweep

NOTHING = {"recommended": None, "interval": None, "bounds": None, "turns": {}, "ax": None}


def curves(losses, smoothed=None, **more):
    lrs = np.logspace(-6, 0, len(losses))
    return {"lrs": lrs, "losses": losses, "smoothed": losses if smoothed is None else smoothed} | more


def test_coinciding_suggestions_are_drawn_as_shrinking_markers():
    points = dict.fromkeys(("valley", "slide", "steep", "minimum"), (1e-3, 1.5))
    ax = plot_sweep(curves(np.linspace(2, 1, 50)), points, **NOTHING).axes[0]
    sizes = [line.get_markersize() for line in ax.lines if ":" in line.get_label()]
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
    ax = plot_sweep(curves(np.linspace(2, 1, 50), fixed=np.linspace(2, 1, 50)), {}, **advice).axes[0]
    lines = {line.get_label(): line.get_xdata() for line in ax.lines}
    assert set(lines["recommended: 1.00e-03"]) == {1e-3}
    assert tuple(lines["range for CyclicLR: 1.0e-05 to 2.0e-03"]) == (1e-5, 2e-3)
    assert "loss of a fixed set of items" in lines and lines["turn: 1.0e-03"].tolist() == [1e-3]
    (shade,) = ax.patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (5e-4, 3e-3)


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
    ax = plot_sweep(curves(deep, losses), {}, **(NOTHING | {"turns": {"turn": lrs[25]}})).axes[0]
    (mark,) = [line for line in ax.lines if line.get_label().startswith("turn")]
    assert mark.get_ydata()[0] == ax.get_ylim()[0] > -5
