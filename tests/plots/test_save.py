"""Every method that draws a figure can write it to a file, and none leaves figures open that nobody can see."""

import inspect

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

import minilearner
import minilearner.vision.all
from minilearner import ActivationStats, DataLoaders, Learner, LRFinder, constant, plot_schedule
from minilearner.results.interpretation import ClassificationInterpretation
from minilearner.results.recorder import Recorder

ELSEWHERE = {"subplots", "show_image", "show"}
"""They draw single images, or return axes to draw on."""


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
def test_every_figure_can_be_saved(name, function):
    parameters = inspect.signature(function).parameters
    passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert passes_on or parameters["save"].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.fixture
def learn():
    x = torch.rand(12, 1, 6, 6)
    y = torch.arange(12) % 3
    stats = ActivationStats(with_hist=True)
    learn = Learner(DataLoaders.from_arrays((x, y), (x, y), bs=4), nn.Sequential(nn.Flatten(), nn.Linear(36, 3)))
    learn.add_cb(stats)
    with learn.no_logging():
        learn.fit(1)
        yield learn


def test_files_are_written_in_the_format_of_their_suffix(learn, tmp_path):
    sweep = learn.lr_find(num_it=20, show_plot=False)
    interp = ClassificationInterpretation.from_learner(learn)
    (stats,) = learn.cbs
    finder = LRFinder(learn.model, torch.optim.SGD(learn.model.parameters(), 0.1), nn.CrossEntropyLoss())
    finder.range_test(learn.dls.train, end_lr=1, num_iter=30)
    figures = {
        "schedule": lambda save: plot_schedule(constant(0.1), 5, save=save),
        "loss": lambda save: learn.recorder.plot_loss(save=save),
        "metrics": lambda save: learn.recorder.plot_metrics(save=save),
        "sched": lambda save: learn.recorder.plot_sched(save=save),
        "sweep": lambda save: sweep.plot(save=save),
        "change": lambda save: sweep.plot_loss_change(save=save),
        "range": lambda save: finder.plot(save=save),
        "range_change": lambda save: finder.plot_loss_change(save=save),
        "stats": lambda save: stats.plot_layer_stats(0, save=save),
        "dim": lambda save: stats.color_dim(0, save=save),
        "batch": lambda save: learn.dls.show_batch(save=save),
        "results": lambda save: learn.show_results(save=save),
        "confusion": lambda save: interp.plot_confusion_matrix(save=save),
        "top": lambda save: interp.plot_top_losses(2, save=save),
        "classes": lambda save: interp.plot_per_class(save=save),
        "roc": lambda save: interp.plot_roc(save=save),
        "recall": lambda save: interp.plot_precision_recall(save=save),
        "calibration": lambda save: interp.plot_calibration(save=save),
        "slices": lambda save: interp.slices(np.arange(12) % 2).plot(save=save),
        "compare": lambda save: interp.compare(interp).plot(save=save),
    }
    for i, (name, draw) in enumerate(figures.items()):
        suffix, first = ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF"))[i % 3]
        draw(tmp_path / f"{name}{suffix}")
        assert (tmp_path / f"{name}{suffix}").read_bytes().startswith(first)
        with pytest.raises(ValueError, match="`save` must end in the suffix of a format"):
            draw(tmp_path / f"{name}.wrong")


def test_only_the_newest_figure_stays_open_and_the_others_can_still_be_saved(tmp_path):
    plt.close("all")
    users = plt.figure()
    figures = [plot_schedule(constant(0.1), 5) for _ in range(10)]
    assert plt.get_fignums() == [users.number, figures[-1].number] and plt.gcf() is figures[-1]
    figures[0].savefig(tmp_path / "first.png")
    assert (tmp_path / "first.png").stat().st_size > 1000
    plt.close("all")
