"""Predicted numbers beside actual ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minilearner.plots.palette import palette
from minilearner.plots.style import (
    axes_of,
    check_save,
    check_size,
    finish_axes,
    panels_of,
    place_legend,
    save_figure,
)

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_predicted_numbers", "plot_residuals"]

_MOST_POINTS = 3000  # more would cover each other; then colours say how many there are


def plot_predicted_numbers(
    actual: NDArray[Any],
    predicted: NDArray[Any],
    heading: str,
    *,
    figsize: tuple[float, float] | None,
    ax: Axes | None,
    save: str | os.PathLike[str] | None,
) -> Figure:
    """Draws predicted over actual numbers with the same scale on both axes, and the diagonal.

    Args:
        actual: (items,).
        predicted: (items,).
        heading: the title.
        figsize: width and height in inches.
        ax: where to draw; None makes a new figure.
        save: a file to write the figure to.
    """
    check_save(save)
    check_size(ax, figsize=figsize)
    figure, ax = axes_of(ax, figsize or (5.4, 5.4))
    _draw_points(figure, ax, actual, predicted)
    ends = float(min(actual.min(), predicted.min())), float(max(actual.max(), predicted.max()))
    ax.plot(ends, ends, color=palette(ax).accent, linewidth=1.2, linestyle="--", label="predicted = actual")
    margin = 0.04 * (ends[1] - ends[0]) or 1.0
    limits = (ends[0] - margin, ends[1] + margin)
    ax.set(xlim=limits, ylim=limits, aspect="equal", xlabel="actual", ylabel="predicted")
    ax.set_title(heading, fontsize=11, loc="left")
    finish_axes(ax)
    place_legend(ax, loc="upper left", fontsize=9)
    return save_figure(figure, save)


def plot_residuals(
    predicted: NDArray[Any],
    residuals: NDArray[Any],
    heading: str,
    *,
    figsize: tuple[float, float] | None,
    ax: Axes | None,
    save: str | os.PathLike[str] | None,
) -> Figure:
    """Draws residuals over predictions, and their histogram beside.

    Args:
        predicted: (items,).
        residuals: (items,), predicted minus actual.
        heading: the title.
        figsize: width and height in inches.
        ax: axes whose place the two panels take; None makes a new figure.
        save: a file to write the figure to.
    """
    check_save(save)
    check_size(ax, figsize=figsize)
    figure, grid = panels_of(ax, 1, 2, figsize or (8.0, 4.2), sharey=True, width_ratios=(3, 1))
    ax, beside = grid[0]
    _draw_points(figure, ax, predicted, residuals)
    beside.hist(
        residuals, bins="auto" if len(residuals) < 10_000 else 60, orientation="horizontal", color=palette(ax).smooth
    )
    for one in (ax, beside):
        one.axhline(0, color=palette(one).accent, linewidth=1.2, linestyle="--")
        finish_axes(one)
    ax.set(xlabel="predicted", ylabel="predicted - actual")
    beside.set_xlabel("items")
    ax.set_title(heading, fontsize=11, loc="left")
    return save_figure(figure, save)


def _draw_points(figure: Figure, ax: Axes, x: NDArray[Any], y: NDArray[Any]) -> None:
    if len(x) <= _MOST_POINTS:
        alpha = float(np.clip(200 / len(x), 0.25, 0.8))
        ax.scatter(
            x, y, s=18, color=palette(ax).smooth, alpha=alpha, edgecolor="white", linewidth=0.3, label="_nolegend_"
        )
        return
    cells = ax.hexbin(
        x, y, gridsize=50, cmap=palette(ax).counts, bins="log", mincnt=1, linewidths=0.1, edgecolors=palette(ax).muted
    )
    cells.set_label("_nolegend_")
    figure.colorbar(cells, ax=ax, label="items", shrink=0.7)
