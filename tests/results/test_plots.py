import math
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest

from minilearner import schedules
from minilearner.results import plots


def confusion(counts, labels, **kw):
    options = {
        "normalize": False,
        "title": "t",
        "cmap": "Blues",
        "norm_dec": 2,
        "plot_txt": True,
        "figsize": None,
        "ax": None,
    }
    return plots.plot_confusion(np.array(counts), labels, **{**options, **kw})


def drawn_outside(figure):
    """The texts that a saved figure would cut off."""
    figure.canvas.draw()
    texts = [t for ax in figure.axes for t in (*ax.get_xticklabels(), *ax.get_yticklabels(), *ax.texts, ax.title)]
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text() and t.get_visible()]
    frame = figure.bbox
    return [text for text, b in boxes if b.x0 < frame.x0 or b.y0 < frame.y0 or b.x1 > frame.x1 or b.y1 > frame.y1]


def test_importing_the_results_loads_no_matplotlib():
    modules = "interpretation, lr_sweep, plots, predictions, recorder, report"
    code = f"import sys; from minilearner.results import {modules}; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


def test_an_absent_class_has_a_row_of_zeros_when_normalized():
    ax = confusion([[3, 1], [0, 0]], ["a", "b"], normalize=True, norm_dec=1).axes[0]
    assert [t.get_text() for t in ax.texts] == ["0.8", "0.2", "0.0", "0.0"]
    assert ax.images[0].get_array().tolist() == [[0.75, 0.25], [0, 0]]


@pytest.mark.parametrize("cmap", ["Blues", "Greys", "viridis"])
def test_numbers_are_readable_on_dark_cells_of_any_colour_map(cmap):
    ax = confusion([[100, 0], [0, 100]], ["a", "b"], cmap=cmap).axes[0]
    image = ax.images[0]
    for text in ax.texts:
        column, row = text.get_position()
        value = image.get_array()[int(row), int(column)]
        brightness = np.dot(image.to_rgba(value)[:3], [0.299, 0.587, 0.114])
        assert text.get_color() == ("white" if brightness < 0.55 else "black")
    assert {t.get_color() for t in ax.texts} == {"white", "black"}


@pytest.mark.parametrize("n", [2, 10, 37])
def test_no_label_is_cut_off_and_numbers_stay_in_their_cells(n):
    rng = np.random.default_rng(0)
    labels = [f"american pit bull terrier {i}"[: 8 + i] for i in range(n)]
    figure = confusion(rng.integers(0, 1000, (n, n)), labels)
    assert drawn_outside(figure) == []
    ax = figure.axes[0]
    cell = ax.transData.transform((1, 0))[0] - ax.transData.transform((0, 0))[0]
    assert max(t.get_window_extent().width for t in ax.texts) < cell


def test_many_classes_leave_zeros_without_a_number():
    counts = np.eye(21, dtype=int)
    assert len(confusion(counts, list("abcdefghijklmnopqrstu")).axes[0].texts) == 21
    assert len(confusion(counts, list("abcdefghijklmnopqrstu"), plot_txt=False).axes[0].texts) == 0


def test_a_figure_size_or_axes_are_respected():
    assert confusion(np.eye(2), ["a", "b"], figsize=(3, 4)).get_size_inches().tolist() == [3, 4]
    figure, ax = plt.subplots()
    assert confusion(np.eye(2), ["a", "b"], ax=ax) is figure


def test_axes_in_a_subfigure_give_the_whole_figure():
    figure = plt.figure()
    ax = figure.subfigures(1, 2)[0].subplots()
    assert plots.plot_schedule(schedules.linear(0, 1), 10, ax) is figure


def test_a_schedule_is_drawn_at_the_progress_of_each_step():
    cycle = schedules.one_cycle(1e-2)
    figure = plots.plot_schedule(cycle, 20)
    assert [ax.get_ylabel() for ax in figure.axes] == ["lr", "momentum"]
    assert figure.axes[0].lines[0].get_xdata().tolist() == list(range(20))
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx(cycle["lr"](np.arange(20) / 20))


def test_a_schedule_of_the_step_is_drawn_by_the_step():
    ax = plots.plot_schedule(schedules.step_decay(1.0, every=2), 4, clock="step").axes[0]
    assert ax.lines[0].get_ydata().tolist() == [1, 1, 0.5, 0.5]
    assert ax.get_xlabel() == "step"


def test_a_schedule_that_knows_its_clock_is_drawn_by_it():
    ax = plots.plot_schedule(schedules.step_decay(1.0, every=2), 4).axes[0]
    assert ax.lines[0].get_ydata().tolist() == [1, 1, 0.5, 0.5]
    assert ax.get_xlabel() == "step or epoch"
    with pytest.raises(TypeError, match="`schedule` must be a function"):
        plots.plot_schedule(0.1, 4)


def test_a_users_function_that_knows_no_arrays_is_drawn_by_the_epoch():
    ax = plots.plot_schedule(lambda epoch: 0.1 if epoch < 2 else 0.1 * math.exp(-epoch), 3, clock="epoch").axes[0]
    assert ax.lines[0].get_ydata().tolist() == [0.1, 0.1, 0.1 * math.exp(-2)]
    assert ax.get_xlabel() == "epoch"


@pytest.mark.parametrize(
    ("kw", "message"), [({"n_steps": 0}, "`n_steps`"), ({"n_steps": 5, "clock": "epochs"}, "`clock`")]
)
def test_plot_schedule_refuses_wrong_arguments(kw, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_schedule(schedules.constant(1), **kw)
