import math
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest

from minilearner import schedules
from minilearner.plots import lines


@pytest.mark.slow
def test_importing_the_results_does_not_load_matplotlib():
    modules = "interpretation, predictions, recorder, report"
    code = f"import sys; from minilearner.results import {modules}; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


def test_figure_of_axes_in_a_subfigure_is_the_whole_figure():
    figure = plt.figure()
    ax = figure.subfigures(1, 2)[0].subplots()
    assert lines.plot_schedule(schedules.linear(0, 1), 10, ax) is figure


def test_a_schedule_is_drawn_at_the_progress_of_each_step():
    cycle = schedules.one_cycle(1e-2)
    figure = lines.plot_schedule(cycle, 20)
    assert [ax.get_ylabel() for ax in figure.axes] == ["lr", "momentum"]
    assert figure.axes[0].lines[0].get_xdata().tolist() == list(range(20))
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx(cycle["lr"](np.arange(20) / 20))


def test_a_schedule_of_steps_is_called_with_the_step():
    ax = lines.plot_schedule(schedules.step_decay(1.0, every=2), 4, clock="step").axes[0]
    assert ax.lines[0].get_ydata().tolist() == [1, 1, 0.5, 0.5]
    assert ax.get_xlabel() == "step"


def test_a_schedule_that_knows_its_clock_is_called_with_it():
    ax = lines.plot_schedule(schedules.step_decay(1.0, every=2), 4).axes[0]
    assert ax.lines[0].get_ydata().tolist() == [1, 1, 0.5, 0.5]
    assert ax.get_xlabel() == "step or epoch"
    with pytest.raises(TypeError, match="`schedule` must be a function"):
        lines.plot_schedule(0.1, 4)


def test_a_function_without_array_support_can_be_drawn_by_the_epoch():
    ax = lines.plot_schedule(lambda epoch: 0.1 if epoch < 2 else 0.1 * math.exp(-epoch), 3, clock="epoch").axes[0]
    assert ax.lines[0].get_ydata().tolist() == [0.1, 0.1, 0.1 * math.exp(-2)]
    assert ax.get_xlabel() == "epoch"


@pytest.mark.parametrize(
    ("kw", "message"), [({"n_steps": 0}, "`n_steps`"), ({"n_steps": 5, "clock": "epochs"}, "`clock`")]
)
def test_plot_schedule_raises_for_wrong_arguments(kw, message):
    with pytest.raises(ValueError, match=message):
        lines.plot_schedule(schedules.constant(1), **kw)
