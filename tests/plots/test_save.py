"""Every method that draws a figure can write it to a file, and none leaves figures open that nobody can see."""

import inspect
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from torch import nn

import minilearner
import minilearner.vision.all
from minilearner import ActivationStats, DataLoaders, Learner, LRFinder, constant, plot_schedule
from minilearner.results.interpretation import ClassificationInterpretation
from minilearner.results.multi_label import MultiLabelInterpretation
from minilearner.results.predictions import Predictions
from minilearner.results.recorder import Recorder
from minilearner.results.regression import RegressionInterpretation

ELSEWHERE = {"subplots", "show_image", "show"}
"""They draw single images, or return axes to draw on."""


def brightness(color):
    """Returns the relative luminance of a colour, from 0 to 1 (WCAG)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def draws(function):
    is_ours = inspect.isfunction(function) and function.__module__.startswith("minilearner")
    return is_ours and "Figure" in str(inspect.signature(function).return_annotation)


def drawing():
    """Returns the public functions and methods that draw a figure, by name."""
    things = [getattr(module, name) for module in (minilearner, minilearner.vision.all) for name in module.__all__]
    members = [member for thing in [Recorder, *things] if isinstance(thing, type) for member in vars(thing).values()]
    found = {function.__qualname__: function for function in [*things, *members] if draws(function)}
    return {name: f for name, f in found.items() if f.__name__ not in ELSEWHERE and not f.__name__.startswith("_")}


@pytest.mark.parametrize(("name", "function"), sorted(drawing().items()))
def test_every_figure_can_be_saved_and_drawn_into_axes(name, function):
    parameters = inspect.signature(function).parameters
    passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert passes_on or parameters["save"].kind is inspect.Parameter.KEYWORD_ONLY
    assert passes_on or "ax" in parameters


@pytest.fixture
def learn():
    x = torch.rand(12, 1, 6, 6)
    y = torch.arange(12) % 3
    stats = ActivationStats(with_hist=True)
    learn = Learner(
        DataLoaders.from_arrays((x, y), (x, y), bs=4), nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(36, 3))
    )
    learn.add_cb(stats)
    with learn.no_logging():
        learn.fit(1)
        yield learn


@pytest.fixture
def draws_all(learn):
    """Functions that draw one figure each, by name."""
    sweep = learn.lr_find(num_it=20, show_plot=False)
    (stats,) = learn.cbs
    finder = LRFinder(learn.model, torch.optim.SGD(learn.model.parameters(), 0.1), nn.CrossEntropyLoss())
    finder.range_test(learn.dls.train, end_lr=1, num_iter=30)
    interp = ClassificationInterpretation.from_learner(learn)  # of the weights that the range test left
    several = Predictions(torch.rand(12, 3), (torch.rand(12, 3) > 0.5).float())
    labels = MultiLabelInterpretation(several)
    numbers = RegressionInterpretation(Predictions(torch.rand(12), torch.rand(12)))
    return {
        "schedule": partial(plot_schedule, constant(0.1), 5),
        "loss": learn.recorder.plot_loss,
        "metrics": learn.recorder.plot_metrics,
        "sched": learn.recorder.plot_sched,
        "sweep": sweep.plot,
        "change": sweep.plot_loss_change,
        "range": lambda **how: finder.plot(**how)[0].get_figure(),  # torch-lr-finder's result
        "range_change": finder.plot_loss_change,
        "stats": partial(stats.plot_layer_stats, 0),
        "dim": partial(stats.color_dim, 0),
        "batch": learn.dls.show_batch,
        "results": learn.show_results,
        "confusion": interp.plot_confusion_matrix,
        "top": partial(interp.plot_top_losses, 2),
        "some": partial(interp.show_results, [1, 2]),
        "gradcam": partial(interp.plot_gradcam, 2, layer="0"),
        "classes": interp.plot_per_class,
        "roc": interp.plot_roc,
        "recall": interp.plot_precision_recall,
        "calibration": interp.plot_calibration,
        "slices": interp.slices(np.arange(12) % 2).plot,
        "compare": interp.compare(interp).plot,
        "label_errors": labels.plot_errors,
        "label_classes": labels.plot_per_class,
        "label_calibration": labels.calibration().plot,
        "numbers": numbers.plot_predictions,
        "residuals": numbers.plot_residuals,
    }


def test_files_are_written_in_the_format_of_their_suffix(draws_all, tmp_path):
    for i, (name, draw) in enumerate(draws_all.items()):
        suffix, first = ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF"))[i % 3]
        draw(save=tmp_path / f"{name}{suffix}")
        assert (tmp_path / f"{name}{suffix}").read_bytes().startswith(first)
        with pytest.raises(ValueError, match="`save` must end in the suffix of a format"):
            draw(save=tmp_path / f"{name}.wrong")


def test_a_size_beside_axes_is_refused_by_every_figure_that_takes_both(draws_all):
    figure, ax = plt.subplots()
    sized = [name for name, draw in draws_all.items() if "figsize" in inspect.signature(draw).parameters]
    assert len(sized) >= 16
    for name in sized:
        with pytest.raises(ValueError, match=r"`figsize` is for a new figure.*Received: figsize=\(3, 3\)"):
            draws_all[name](figsize=(3, 3), ax=ax)
    with pytest.raises(ValueError, match="`dpi` is for a new figure.*Received: dpi=50"):
        draws_all["confusion"](dpi=50, ax=ax)
    assert not ax.has_data() and figure.axes == [ax]


@pytest.mark.parametrize("place", ["grid", "free", "subfigure"])
def test_every_figure_is_drawn_into_given_axes(draws_all, place):
    names = ("loss", "metrics", "top", "residuals") if place == "subfigure" else draws_all
    for name in names:
        draw = draws_all[name]
        plt.close("all")
        figure = plt.figure(figsize=(12, 6), layout=None if place == "free" else "constrained")
        if place == "free":
            ax, other = figure.add_axes((0.1, 0.1, 0.5, 0.8)), figure.add_axes((0.7, 0.1, 0.2, 0.8))
        else:
            ax, other = (figure.subfigures(1, 2)[0] if place == "subfigure" else figure).subplots(1, 2)
        drawn = draw(ax=ax)
        assert drawn is figure or drawn in figure.subfigs, name
        assert plt.get_fignums() == [figure.number], f"{name} opened another figure"
        figure.canvas.draw()
        frame = other.get_position()
        inside = [one for one in figure.axes if one is not other and one.axison]
        assert inside and all(one.get_position().x0 < frame.x0 for one in inside), name
        assert not other.has_data()


def test_an_array_of_axes_is_refused_before_anything_is_drawn(draws_all):
    figure, grid = plt.subplots(1, 2)
    for name, draw in draws_all.items():
        for wrong in (grid, figure):
            with pytest.raises(TypeError, match="`ax` must be one Axes of Matplotlib"):
                draw(ax=wrong)
        assert not any(ax.has_data() for ax in grid), name
    plt.close("all")


def test_in_a_dark_theme_all_texts_can_be_read(draws_all):
    with plt.style.context("dark_background"):
        figures = {name: draw() for name, draw in draws_all.items()}
        for name, figure in figures.items():
            for text in figure.findobj(plt.Text):
                is_in_cell = name == "confusion" and text.get_text().isdigit()
                if text.get_text() and text.get_visible() and not is_in_cell:
                    assert brightness(text.get_color()) > 0.35, (name, text.get_text())


def test_only_the_newest_figure_stays_open_and_the_others_can_still_be_saved(tmp_path):
    plt.close("all")
    users = plt.figure()
    figures = [plot_schedule(constant(0.1), 5) for _ in range(10)]
    assert plt.get_fignums() == [users.number, figures[-1].number] and plt.gcf() is figures[-1]
    figures[0].savefig(tmp_path / "first.png")
    assert (tmp_path / "first.png").stat().st_size > 1000
    plt.close("all")


def test_no_kind_of_figure_stays_open_when_the_next_one_is_drawn(draws_all):
    plt.close("all")
    for name, draw in draws_all.items():
        draw()
        assert len(plt.get_fignums()) == 1, name
    plt.close("all")
