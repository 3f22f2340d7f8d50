"""The plot of a confusion matrix, readable from 2 to 200 classes. `results.report` computes the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minilearner.plots.fonts import literal_text
from minilearner.plots.palette import palette
from minilearner.plots.style import (
    axes_of,
    check_save,
    check_size,
    clean_text,
    inches_of,
    save_figure,
    shorten_middle,
    text_columns,
)

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["find_worst_classes", "order_by_confusion", "plot_confusion"]

_LONGEST_NAME = 30  # letters; longer names lose their middle
_LONGEST_SIDE = 14.0  # inches of all cells together: what a wide screen shows
_SMALLEST_FONT = 5.5  # points: what can be read on a screen
_FEW = 12  # classes up to here have large letters, and colours in proportion to the counts


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
    chosen: Sequence[int] | None = None,
    dpi: float | None = None,
    save: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draws a confusion matrix of `counts` (actual, predicted).

    Numbers and names are drawn if they fit. With more than 20 classes, cells with zero show no number, since hundreds
    of zeros would hide the others. If there is no room for all names, every second, third, ... is drawn. A bar then
    says what colours mean. With many classes, colours grow with the square root, so that rare errors can be seen.

    Args:
        counts: how often each actual class (row) was predicted as each class (column).
        labels: the names of the classes.
        normalize: show shares of the row instead of counts. The row of an absent class is zero, and hatched.
        title: the title of the plot.
        cmap: the name of a Matplotlib colour map.
        norm_dec: decimals of the shares.
        plot_txt: write the numbers into the cells if they fit.
        figsize: width and height in inches; by default large enough for the numbers and labels.
        ax: the axes to draw in; by default those of a new figure.
        chosen: the classes to draw, in this order; all by default. Shares stay those of the whole row.
        dpi: dots per inch of a new figure.
        save: a file to write the figure to.
    """
    check_save(save)
    check_size(ax, figsize=figsize, dpi=dpi)
    shown = range(len(labels)) if chosen is None else chosen
    is_absent = [not counts[i].any() for i in shown]
    cells = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) if normalize else counts
    cells, names = cells[np.ix_(shown, shown)], [clean_text(labels[i]) for i in shown]
    texts = [[f"{c:.{norm_dec}f}" if normalize else str(c) for c in row] for row in cells.tolist()]
    layout = _Layout(names, max(len(text) for row in texts for text in row), figsize, ax)
    figure, ax = axes_of(ax, layout.figsize)
    if dpi is not None:
        figure.set_dpi(dpi)
    image = _draw_cells(ax, cells, cmap, is_share=normalize)
    _name_classes(ax, layout)
    ax.set_title(clean_text(title), fontsize=13 if min(figure.get_size_inches()) > 5 else 10, **literal_text(title))
    ax.set_xlabel("predicted", fontsize=11)
    ax.set_ylabel("actual", fontsize=11)
    if normalize:
        _hatch_rows(ax, [row for row, absent in enumerate(is_absent) if absent])
    if plot_txt and layout.number_font:
        _write_numbers(ax, texts, cells, _choose_ink(image.to_rgba(cells)), layout.number_font)
    elif len(names) > _FEW:
        figure.colorbar(image, ax=ax, shrink=0.5, pad=0.02, label="share of the actual class" if normalize else "items")
    return save_figure(figure, save)


def order_by_confusion(counts: NDArray[Any]) -> list[int]:
    """Returns the classes in an order that puts those side by side which are taken for each other.

    It is the order of the leaves of a hierarchical clustering, as SciPy finds it.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage  # takes a second to load
    from scipy.spatial.distance import squareform

    if len(counts) < 3:
        return list(range(len(counts)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    mutual = shares + shares.T
    distance = 1 / (1 + 100 * mutual)
    np.fill_diagonal(distance, 0)
    order: list[int] = leaves_list(linkage(squareform(distance, checks=False), "average", True)).tolist()
    return order


def find_worst_classes(counts: NDArray[Any], most: int) -> list[int]:
    """Returns the `most` classes with the most frequent confusions, in the order of their numbers."""
    pairs = np.argwhere(counts)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    commonest = np.argsort(-counts[tuple(pairs.T)], kind="stable")
    return sorted(list(dict.fromkeys([*pairs[commonest].ravel().tolist(), *range(len(counts))]))[:most])


class _Layout:
    """How large a matrix is drawn, and which letters fit.

    Args:
        names: the names of the classes.
        digits: the length of the longest number.
        figsize: the size that was asked for.
        ax: the axes that were given.
    """

    def __init__(self, names: Sequence[str], digits: int, figsize: tuple[float, float] | None, ax: Axes | None) -> None:
        n = len(names)
        wanted = 10.0 if n <= _FEW else 8.5 if n <= 25 else 7.5  # points
        letter = 0.0088 * wanted  # inches: the width of a digit, and roughly of a letter
        given = min(inches_of(ax)) if ax is not None else None if figsize is None else min(figsize)
        most_letters = _LONGEST_NAME if given is None else max(8, min(_LONGEST_NAME, int(given / 3.5 / letter)))
        self.names = [shorten_middle(name, most_letters) for name in names]
        self.width = max(map(text_columns, self.names)) * letter
        lines = max(name.count("\n") + 1 for name in self.names)
        cell = max(0.3, letter * digits + 0.1, 0.018 * wanted * lines)
        cells = min(max(cell * n, 3.1 - min(self.width, 2.0)), _LONGEST_SIDE)
        side = cells + self.width + 1.1
        self.figsize = figsize or (side, side)
        self.cell = cells / n if given is None else max(given - 1.0 - (0 if ax is not None else self.width), 0.3) / n
        room = 72 * self.cell  # points
        self.name_font = min(wanted, max(room * 0.8, _SMALLEST_FONT))
        self.name_every = max(1, int(np.ceil(self.name_font * 1.1 / room)))
        fits = min(wanted, (self.cell - 0.04) / (0.0088 * digits), room * 0.7)
        self.number_font = fits if fits >= _SMALLEST_FONT else 0.0


def _draw_cells(ax: Axes, cells: NDArray[Any], cmap: str, *, is_share: bool) -> Any:
    from matplotlib.colors import PowerNorm  # heavy

    gamma = 1.0 if len(cells) <= _FEW else 0.5
    norm = PowerNorm(gamma, vmin=0, vmax=1 if is_share else max(cells.max(), 1))
    return ax.imshow(cells, cmap=cmap, interpolation="nearest", norm=norm)


def _name_classes(ax: Axes, layout: _Layout) -> None:
    every = layout.name_every
    places, shown = range(0, len(layout.names), every), layout.names[::every]
    width = 0.0088 * layout.name_font * max(map(text_columns, shown))
    written = {"fontsize": layout.name_font, **literal_text(*shown)}
    ax.set_xticks(places, shown, rotation=0 if width < layout.cell * every - 0.05 else 90, **written)
    ax.set_yticks(places, shown, **written)
    ax.tick_params(length=0 if every == 1 else 2)
    ax.spines[:].set_visible(False)


def _hatch_rows(ax: Axes, rows: Sequence[int]) -> None:
    """Hatches the rows of classes that no item has: their zeros are not shares of anything."""
    from matplotlib.patches import Rectangle  # heavy

    n = ax.images[0].get_size()[1]
    for row in rows:
        ax.add_patch(
            Rectangle((-0.5, row - 0.5), n, 1, fill=False, hatch="////", edgecolor=palette(ax).faint, linewidth=0)
        )


def _write_numbers(ax: Axes, texts: list[list[str]], cells: NDArray[Any], colors: list[list[str]], font: float) -> None:
    for row, column in zip(*np.nonzero(cells if len(cells) > 20 else np.ones_like(cells)), strict=True):
        ink = colors[row][column]
        ax.text(column, row, texts[row][column], ha="center", va="center", color=ink, fontsize=font)


def _choose_ink(rgba: NDArray[Any]) -> list[list[str]]:
    """Returns white or black for each cell, by the brightness of its colour as the eye sees it (Rec. 601 weights)."""
    brightness = rgba[..., :3] @ np.array([0.299, 0.587, 0.114])
    return [["white" if value < 0.55 else "black" for value in row] for row in brightness.tolist()]
