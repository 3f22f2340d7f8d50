"""Where curves and matrices are drawn: functions that take plain numbers, draw with pyplot, return the `Figure`.

Pictures, which data shows too, are drawn by `minilearner.pictures`.

`plt.show()` is never called: a notebook shows a figure at the end of the cell by itself, a script saves it. Matplotlib
is imported inside the functions, because it takes longer to load than the rest of the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minilearner.curves import check_choice, check_clock, check_schedule, clock_of
from minilearner.notebook import shown_once
from minilearner.schedules import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "axes_of",
    "plot_confusion",
    "plot_histograms",
    "plot_loss",
    "plot_schedule",
    "plot_series",
]

_RAW, _SMOOTH, _ACCENT = "#b5c7dc", "#1f5fa8", "#d1495b"
_COLORS = ("#d1495b", "#2e933c", "#edae49", "#7b4ea3", "#00a6c0", "#8c564b", "#e377c2", "#444444")


def plot_schedule(
    schedule: Schedule | Mapping[str, Schedule],
    n_steps: int,
    ax: Axes | None = None,
    *,
    clock: Literal["progress", "step", "epoch"] | None = None,
) -> Figure:
    """Draws what a schedule will do in `n_steps` steps, before anything is trained. Returns the figure.

    `schedule` is one function or several by name (as `one_cycle` gives them), each drawn on axes of its own, or
    together where `ax` is given. Schedules of progress are asked at i / n_steps, as in training, those of the step or
    the epoch at i itself. A function of yours, which need not know arrays, is taken for one of progress;
    ``clock="step"`` or "epoch" says that it is none.

    Example: ``plot_schedule(one_cycle(1e-2), 500)``, ``plot_schedule(step_decay(0.1, every=10), 100)``.

    Raises:
        ValueError: `n_steps` is below 1, or `clock` is unknown or not that of a schedule.
        TypeError: `schedule` is no function.
    """
    if n_steps < 1:
        raise ValueError(f"`n_steps` must be at least 1. Received: n_steps={n_steps}.")
    if clock is not None:
        check_choice("clock", clock, ("progress", "step", "epoch"))
    named = schedule if isinstance(schedule, Mapping) else {"value": schedule}
    values = {name: _values(f, n_steps, clock) for name, f in named.items()}
    by_count = clock is None and any(clock_of(f) == "count" for f in named.values())
    label = "step or epoch" if by_count else "epoch" if clock == "epoch" else "step"
    return plot_series(values, xlabel=label, ax=ax)


def _values(schedule: Schedule, n_steps: int, clock: str | None) -> list[float]:
    check_schedule("schedule", schedule)
    if clock is None:
        counts = clock_of(schedule) == "count"
    else:
        counts = clock != "progress"
        check_clock(schedule, "count" if counts else "progress")
    return [float(schedule(step if counts else step / n_steps)) for step in range(n_steps)]


def axes_of(ax: Axes | None, figsize: tuple[float, float] = (7.0, 4.2)) -> tuple[Figure, Axes]:
    """Returns `ax` with its figure, or a new figure with one; its layout makes room for labels and outside legends."""
    import matplotlib.pyplot as plt  # heavy

    if ax is not None:
        return _figure_of(ax), ax
    figure, ax = plt.subplots(figsize=figsize, layout="constrained")
    return _with_margins(figure), ax


def _with_margins(figure: Figure) -> Figure:
    shown_once(figure)
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.1, h_pad=0.1)  # inches; the default lets text touch the edge of a saved picture
    return figure


def _figure_of(ax: Axes) -> Figure:
    figure: Any = ax.get_figure()
    while figure is not figure.figure:  # an axes may live in a subfigure
        figure = figure.figure
    return figure  # type: ignore[no-any-return]


def plot_series(
    series: Mapping[str, ArrayLike],
    *,
    xlabel: str,
    first: int = 0,
    marker: str = "",
    starts: Sequence[int] = (),
    ax: Axes | None = None,
) -> Figure:
    """Draws named columns against their index (from `first`), one below the other, or all in `ax` with a legend.

    `starts` marks positions, such as the beginnings of runs, by thin lines.
    """
    import matplotlib.pyplot as plt  # heavy

    if ax is None:
        height = 1.0 + 2.3 * len(series)
        figure, grid = plt.subplots(
            len(series), 1, sharex=True, squeeze=False, figsize=(7, height), layout="constrained"
        )
        _with_margins(figure).align_ylabels(list(grid[:, 0]))
        panels = list(grid[:, 0])
    else:
        figure, panels = _figure_of(ax), [ax] * len(series)
    for index, (panel, (name, column)) in enumerate(zip(panels, series.items(), strict=True)):
        values = np.asarray(column, dtype=np.float64)
        color = _SMOOTH if ax is None else _COLORS[index % len(_COLORS)]
        panel.plot(np.arange(len(values)) + first, values, color=color, marker=marker, markersize=5, label=name)
        panel.set_ylabel(name if ax is None or len(series) == 1 else "")
        _finish(panel, starts)
    if ax is not None and len(series) > 1:
        _legend_outside(ax)
    if marker:  # whole epochs
        _integer_ticks(panels[-1])
    panels[-1].set_xlabel(xlabel)
    return figure


def plot_epochs(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draws panels side by side, each a value with its lines over the epochs, training's beside validation's."""
    import matplotlib.pyplot as plt  # heavy

    figure, grid = plt.subplots(
        1, len(panels), squeeze=False, figsize=(0.8 + 4.4 * len(panels), 3.6), layout="constrained"
    )
    _with_margins(figure)
    for ax, (name, lines) in zip(grid[0], panels.items(), strict=True):
        for (label, column), color in zip(lines.items(), (_SMOOTH, _ACCENT), strict=False):
            epochs = np.arange(1, len(column) + 1)
            ax.plot(epochs, column, color=color, marker="o", markersize=4, linewidth=1.8, label=label)
        ax.set_title(name, fontsize=12)
        ax.set_xlabel("epoch")
        ax.legend(frameon=False, fontsize=9)
        _finish(ax)
        _integer_ticks(ax)
    return figure


def plot_loss(
    losses: NDArray[np.float64],
    smoothed: NDArray[np.float64],
    valid: tuple[Sequence[int], Sequence[float]],
    *,
    skip_start: int,
    log: bool,
    starts: Sequence[int],
    ax: Axes | None,
) -> Figure:
    """Draws the training loss of each batch, raw and smoothed, and validation losses at (batches so far, values)."""
    figure, ax = axes_of(ax)
    batches = np.arange(1, len(losses) + 1)[skip_start:]
    ax.plot(batches, losses[skip_start:], color=_RAW, linewidth=0.8, label="training, each batch")
    ax.plot(batches, smoothed[skip_start:], color=_SMOOTH, linewidth=2, label="training, smoothed")
    if len(valid[0]):
        ax.plot(*valid, color=_ACCENT, marker="o", markersize=5, linewidth=1.5, label="validation")
    if log:
        _plain_log_axis(ax)
    ax.set_xlabel("batch")
    ax.set_ylabel("loss")
    _finish(ax, starts)
    _legend_outside(ax)
    return figure


def plot_histograms(hists: NDArray[Any], largest: float, *, xlabel: str, ax: Axes | None) -> Figure:
    """Draws histograms, `hists` (records, bins) of values in [0, largest], as columns side by side: log1p of counts."""
    figure, ax = axes_of(ax, (8.5, 3.6))
    extent = (-0.5, len(hists) - 0.5, 0.0, largest)
    image = ax.imshow(np.log1p(hists.T), origin="lower", aspect="auto", extent=extent, interpolation="nearest")
    figure.colorbar(image, ax=ax, label="log(1 + values in the bin)")
    ax.set_xlabel(xlabel, fontsize=11)
    ax.set_ylabel("absolute value", fontsize=11)
    _integer_ticks(ax)
    return figure


def plot_confusion(
    counts: NDArray[Any],
    labels: Sequence[str],
    *,
    normalize: bool,
    title: str,
    cmap: str,
    norm_dec: int,
    plot_txt: bool,
    figsize: tuple[float, float] | None,
    ax: Axes | None,
) -> Figure:
    """Draws a confusion matrix, `counts` (actual, predicted), in cells large enough for their numbers.

    ``normalize=True`` shows shares of the row; the row of an absent class is zero. With more than 20 classes, cells
    that hold zero stay without a number, since hundreds of zeros hide the others.
    """
    n = len(labels)
    cells = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) if normalize else counts
    texts = [[f"{c:.{norm_dec}f}" if normalize else str(c) for c in row] for row in cells.tolist()]
    digits = max(len(text) for row in texts for text in row)
    font = 10.0 if n <= 12 else 8.5 if n <= 25 else 7.5
    letter = 0.0088 * font  # inches: the width of a digit, and about that of a letter
    longest = max(map(len, labels)) * letter
    cell = max(0.3, letter * digits + 0.1)
    side = max(4.2, cell * n + longest + 1.1)
    figure, ax = axes_of(ax, figsize or (side, side))
    image = ax.imshow(cells, cmap=cmap, interpolation="nearest", vmin=0, vmax=1 if normalize else max(counts.max(), 1))
    ax.set_xticks(range(n), labels, rotation=0 if longest < (side - longest - 1.1) / n - 0.1 else 90, fontsize=font)
    ax.set_yticks(range(n), labels, fontsize=font)
    ax.set_title(title, fontsize=13)
    ax.set_xlabel("predicted", fontsize=11)
    ax.set_ylabel("actual", fontsize=11)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if plot_txt:
        colors = _readable_on(image.to_rgba(cells))
        for row, column in zip(*np.nonzero(cells if n > 20 else np.ones_like(cells)), strict=True):
            ink = colors[row][column]
            ax.text(column, row, texts[row][column], ha="center", va="center", color=ink, fontsize=font)
    return figure


def _readable_on(rgba: NDArray[Any]) -> list[list[str]]:
    """Returns white or black ink for each cell, by how bright the eye finds the cell's colour (Rec. 601 weights)."""
    brightness = rgba[..., :3] @ np.array([0.299, 0.587, 0.114])
    return [["white" if value < 0.55 else "black" for value in row] for row in brightness.tolist()]


def _finish(ax: Axes, starts: Sequence[int] = ()) -> None:
    for start in starts:
        ax.axvline(start, color="#999999", linewidth=1, linestyle=":")
    ax.grid(True, color="#dddddd", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=10)
    ax.xaxis.label.set_fontsize(11)
    ax.yaxis.label.set_fontsize(11)


def _integer_ticks(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator  # heavy

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _plain_log_axis(ax: Axes) -> None:
    """Makes the loss axis logarithmic, with 0.2, 0.5, 1 on it rather than powers of ten."""
    from matplotlib.ticker import LogLocator, NullLocator  # heavy

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")


def _legend_outside(ax: Axes) -> None:
    """Puts the legend to the right of the axes, where it covers no data however long it is."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, fontsize=9, markerscale=0.6)
