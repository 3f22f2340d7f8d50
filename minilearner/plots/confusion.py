"""The plot of a confusion matrix. `results.report` computes the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minilearner.plots.style import axes_of, clean_text, literal_text, text_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_confusion"]


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
    """Draws a confusion matrix of `counts` (actual, predicted), with cells large enough for their numbers.

    With more than 20 classes, cells with zero show no number, since hundreds of zeros would hide the others.

    Args:
        counts: how often each actual class (row) was predicted as each class (column).
        labels: the names of the classes.
        normalize: show shares of the row instead of counts. The row of an absent class is zero.
        title: the title of the plot.
        cmap: the name of a Matplotlib colour map.
        norm_dec: decimals of the shares.
        plot_txt: write the numbers into the cells.
        figsize: width and height in inches; by default large enough for the numbers and labels.
        ax: the axes to draw in; by default those of a new figure.
    """
    labels = [clean_text(label) for label in labels]
    n = len(labels)
    cells = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) if normalize else counts
    texts = [[f"{c:.{norm_dec}f}" if normalize else str(c) for c in row] for row in cells.tolist()]
    digits = max(len(text) for row in texts for text in row)
    font = 10.0 if n <= 12 else 8.5 if n <= 25 else 7.5
    letter = 0.0088 * font  # inches: the width of a digit, and roughly of a letter
    longest = max(map(text_columns, labels)) * letter
    lines = max(label.count("\n") + 1 for label in labels)
    cell = max(0.3, letter * digits + 0.1, 0.018 * font * lines)
    side = max(4.2, cell * n + longest + 1.1)
    figure, ax = axes_of(ax, figsize or (side, side))
    image = ax.imshow(cells, cmap=cmap, interpolation="nearest", vmin=0, vmax=1 if normalize else max(counts.max(), 1))
    written = {"fontsize": font, **literal_text(*labels)}
    ax.set_xticks(range(n), labels, rotation=0 if longest < (side - longest - 1.1) / n - 0.1 else 90, **written)
    ax.set_yticks(range(n), labels, **written)
    ax.set_title(clean_text(title), fontsize=13, **literal_text(title))
    ax.set_xlabel("predicted", fontsize=11)
    ax.set_ylabel("actual", fontsize=11)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if plot_txt:
        colors = _choose_ink(image.to_rgba(cells))
        for row, column in zip(*np.nonzero(cells if n > 20 else np.ones_like(cells)), strict=True):
            ink = colors[row][column]
            ax.text(column, row, texts[row][column], ha="center", va="center", color=ink, fontsize=font)
    return figure


def _choose_ink(rgba: NDArray[Any]) -> list[list[str]]:
    """Returns white or black for each cell, by the brightness of its colour as the eye sees it (Rec. 601 weights)."""
    brightness = rgba[..., :3] @ np.array([0.299, 0.587, 0.114])
    return [["white" if value < 0.55 else "black" for value in row] for row in brightness.tolist()]
