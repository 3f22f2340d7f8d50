"""Line plots: schedules, losses, metrics by epoch, and histograms over time.

All functions take plain numbers, draw with pyplot and return the `Figure`. They never call `plt.show()`: a notebook
shows a figure at the end of its cell, and a script saves it. Matplotlib is imported inside functions, because it takes
longer to load than the rest of the package. `results` and `callbacks` collect the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minilearner.checks import check_choice, check_count
from minilearner.keywords import suggest_keywords
from minilearner.plots.fonts import literal_text
from minilearner.plots.palette import palette
from minilearner.plots.style import (
    Starts,
    add_margins,
    axes_of,
    check_save,
    check_size,
    clean_text,
    figure_of,
    finish_axes,
    panels_of,
    place_legend,
    place_legend_outside,
    save_figure,
    set_integer_ticks,
    set_plain_log_axis,
)
from minilearner.schedules.clocks import Schedule, check_clock, check_schedule, clock_of

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_epochs", "plot_histograms", "plot_loss", "plot_schedule", "plot_series"]


@suggest_keywords
def plot_schedule(
    schedule: Schedule | Mapping[str, Schedule],
    n_steps: int,
    ax: Axes | None = None,
    *,
    clock: Literal["progress", "step", "epoch"] | None = None,
    save: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draws what a schedule will do in `n_steps` steps, before any training. Returns the figure.

    Example: ``plot_schedule(one_cycle(1e-2), 500)``, ``plot_schedule(step_decay(0.1, every=10), 100)``.

    Args:
        schedule: one function, or several by name, as `one_cycle` returns them. Each gets its own axes, or they share
            `ax` if it is given.
        n_steps: how many steps to draw.
        ax: the axes to draw in; by default those of a new figure.
        clock: what the schedule counts. Our schedules know it: a schedule of progress is called with i / n_steps, as in
            training, and a schedule of steps or epochs with i. A function of yours is called with the progress, unless
            you pass "step" or "epoch". It need not support arrays.
        save: a file to write the figure to, such as "schedule.png".

    Raises:
        ValueError: `n_steps` is below 1, or `clock` is unknown or contradicts a schedule.
        TypeError: `schedule` is not a function.
    """
    check_count(n_steps, "n_steps")
    if clock is not None:
        check_choice(clock, "clock", ("progress", "step", "epoch"))
    named = schedule if isinstance(schedule, Mapping) else {"value": schedule}
    values = {name: _sample_schedule(f, n_steps, clock) for name, f in named.items()}
    by_count = clock is None and any(clock_of(f) == "count" for f in named.values())
    label = "step or epoch" if by_count else "epoch" if clock == "epoch" else "step"
    return plot_series(values, xlabel=label, ax=ax, save=save)


def plot_series(
    series: Mapping[str, ArrayLike],
    *,
    xlabel: str,
    first: int = 0,
    marker: str = "",
    starts: Starts = (),
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    save: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draws named columns against their index, one plot below the other, or all in `ax` with a legend.

    Args:
        series: the columns, by name.
        xlabel: what the index counts.
        first: the index of the first value.
        marker: Matplotlib's marker for each value, for values that belong to whole epochs.
        starts: positions to mark by thin lines, such as the beginnings of runs, perhaps with names.
        ax: the axes to draw in; by default those of a new figure.
        figsize: size of a new figure in inches; by default it grows with the number of columns.
        save: a file to write the figure to.
    """
    import matplotlib.pyplot as plt  # heavy

    check_save(save)
    check_size(ax, figsize=figsize)
    if ax is None:
        size = figsize or (7, 1.0 + 2.3 * len(series))
        figure, grid = plt.subplots(len(series), 1, sharex=True, squeeze=False, figsize=size, layout="constrained")
        add_margins(figure).align_ylabels(list(grid[:, 0]))
        panels = list(grid[:, 0])
    else:
        figure, panels = figure_of(ax), [ax] * len(series)
    for index, (panel, (name, column)) in enumerate(zip(panels, series.items(), strict=True)):
        values = np.asarray(column, dtype=np.float64)
        look = palette(panel)
        color = look.smooth if ax is None else look.lines[index % len(look.lines)]
        panel.plot(np.arange(len(values)) + first, values, color=color, marker=marker, markersize=5, label=name)
        if ax is None or len(series) == 1:
            panel.set_ylabel(clean_text(name), **literal_text(name))
        finish_axes(panel, starts if panel is panels[0] else [*starts])
    if ax is not None and len(series) > 1:
        place_legend_outside(ax)
    set_integer_ticks(panels[-1])
    panels[-1].set_xlabel(clean_text(xlabel), **literal_text(xlabel))
    return save_figure(figure, save)


def plot_epochs(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    starts: Starts = (),
    ax: Axes | None = None,
    save: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draws panels side by side. Each shows one value over the epochs, with lines for training and validation.

    Args:
        panels: the values by name; for each, the lines by label. A line has one number per epoch.
        starts: where runs begin, between epochs, perhaps with their names.
        ax: axes whose place the panels take; None makes a new figure.
        save: a file to write the figure to.
    """
    check_save(save)
    figure, grid = panels_of(ax, 1, len(panels), (0.8 + 4.4 * len(panels), 3.6))
    for ax, (name, lines) in zip(grid[0], panels.items(), strict=True):
        for label, column in lines.items():
            epochs = np.arange(1, len(column) + 1)
            color = palette(ax).accent if label == "validation" else palette(ax).smooth
            look: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1.8, "clip_on": False}
            ax.plot(epochs, column, color=color, label=label, **look)
        values = [value for column in lines.values() for value in column if np.isfinite(value)]
        if max(map(len, lines.values())) == 1 and values:  # a dot says nothing on an axis of its own size
            ax.set_ylim(min(0, 1.1 * min(values)), max(0, 1.1 * max(values)) or 1)
        if name != "loss":
            _end_at_one(ax, values)
        ax.set_title(clean_text(name), fontsize=12, **literal_text(name))
        ax.set_xlabel("epoch")
        set_integer_ticks(ax)
        finish_axes(ax, starts)
        place_legend(ax, fontsize=9)
    return save_figure(figure, save)


def plot_loss(
    losses: NDArray[np.float64],
    smoothed: NDArray[np.float64],
    valid: tuple[Sequence[int], Sequence[float]],
    *,
    skip_start: int,
    log: bool,
    starts: Starts,
    ax: Axes | None,
    save: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draws the training loss of each batch, raw and smoothed, and the validation losses.

    Args:
        losses: the loss of each batch.
        smoothed: the same, smoothed.
        valid: the validation losses: after how many batches each was computed, and its value.
        skip_start: leave out this many batches at the beginning.
        log: use a logarithmic loss axis.
        starts: the batches where runs began, marked by thin lines, perhaps with their names.
        ax: the axes to draw in; by default those of a new figure.
        save: a file to write the figure to.
    """
    check_save(save)
    figure, ax = axes_of(ax)
    look = palette(ax)
    batches = np.arange(1, len(losses) + 1)[skip_start:]
    ax.plot(batches, losses[skip_start:], color=look.raw, linewidth=0.8, label="training, each batch")
    ax.plot(batches, smoothed[skip_start:], color=look.smooth, linewidth=2, label="training, smoothed")
    if len(valid[0]):
        ax.plot(*valid, color=look.accent, marker="o", markersize=5, linewidth=1.5, label="validation")
    if log:
        set_plain_log_axis(ax)
    ax.set_xlabel(f"batch (without the first {skip_start})" if skip_start and len(losses) else "batch")
    ax.set_ylabel("loss")
    set_integer_ticks(ax)
    finish_axes(ax, starts)
    place_legend_outside(ax)
    return save_figure(figure, save)


def plot_histograms(
    hists: NDArray[Any],
    largest: float,
    *,
    xlabel: str,
    ax: Axes | None,
    save: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draws histograms over time as columns side by side. The colour is log(1 + count).

    Args:
        hists: counts (records, bins) of values in [0, largest].
        largest: the upper end of the last bin.
        xlabel: what the records are.
        ax: the axes to draw in; by default those of a new figure.
        save: a file to write the figure to.
    """
    check_save(save)
    figure, ax = axes_of(ax, (8.5, 3.6))
    extent = (-0.5, len(hists) - 0.5, 0.0, largest)
    image = ax.imshow(np.log1p(hists.T), origin="lower", aspect="auto", extent=extent, interpolation="nearest")
    figure.colorbar(image, ax=ax, label="log(1 + values in the bin)")
    ax.set_xlabel(clean_text(xlabel), fontsize=11, **literal_text(xlabel))
    ax.set_ylabel("absolute value", fontsize=11)
    set_integer_ticks(ax)
    return save_figure(figure, save)


def _end_at_one(ax: Axes, values: Sequence[float]) -> None:
    """Ends the axis of a share at 1 and at 0, if the margin would go beyond."""
    if values and min(values) >= 0 and max(values) <= 1:
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, 0), min(high, 1))


def _sample_schedule(schedule: Schedule, n_steps: int, clock: str | None) -> list[float]:
    check_schedule(schedule, "schedule")
    if clock is None:
        counts = clock_of(schedule) == "count"
    else:
        counts = clock != "progress"
        check_clock(schedule, "count" if counts else "progress")
    return [float(schedule(step if counts else step / n_steps)) for step in range(n_steps)]
