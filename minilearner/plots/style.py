"""What all plots share: colours, axes, legends, ticks and margins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minilearner.notebook import show_once

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "ACCENT",
    "COLORS",
    "RAW",
    "SMOOTH",
    "add_margins",
    "axes_of",
    "figure_of",
    "finish_axes",
    "place_legend_outside",
    "set_integer_ticks",
    "set_plain_log_axis",
]

RAW, SMOOTH, ACCENT = "#b5c7dc", "#1f5fa8", "#d1495b"
COLORS = ("#d1495b", "#2e933c", "#edae49", "#7b4ea3", "#00a6c0", "#8c564b", "#e377c2", "#444444")


def axes_of(ax: Axes | None, figsize: tuple[float, float] = (7.0, 4.2)) -> tuple[Figure, Axes]:
    """Returns `ax` and its figure, or a new figure with one. Its layout makes room for labels and outside legends."""
    import matplotlib.pyplot as plt  # heavy

    if ax is not None:
        return figure_of(ax), ax
    figure, ax = plt.subplots(figsize=figsize, layout="constrained")
    return add_margins(figure), ax


def add_margins(figure: Figure) -> Figure:
    """Adds room around the content of a figure, and returns the figure."""
    show_once(figure)
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.1, h_pad=0.1)  # inches; with the default, text touches the edge of a saved figure
    return figure


def figure_of(ax: Axes) -> Figure:
    """Returns the whole figure that the axes belong to."""
    figure: Any = ax.get_figure()
    while figure is not figure.figure:  # axes may be in a subfigure
        figure = figure.figure
    return figure  # type: ignore[no-any-return]


def finish_axes(ax: Axes, starts: Sequence[int] = ()) -> None:
    """Draws the grid and a dotted line where each run starts, and hides the frame."""
    for start in starts:
        ax.axvline(start, color="#999999", linewidth=1, linestyle=":")
    ax.grid(True, color="#dddddd", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=10)
    ax.xaxis.label.set_fontsize(11)
    ax.yaxis.label.set_fontsize(11)


def set_integer_ticks(ax: Axes) -> None:
    """Puts ticks on the x axis at whole numbers only."""
    from matplotlib.ticker import MaxNLocator  # heavy

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def set_plain_log_axis(ax: Axes) -> None:
    """Makes the loss axis logarithmic, labelled 0.2, 0.5, 1 instead of powers of ten."""
    from matplotlib.ticker import LogLocator, NullLocator  # heavy

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")


def place_legend_outside(ax: Axes) -> None:
    """Puts the legend to the right of the axes, so it covers no data, however long it is."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, fontsize=9, markerscale=0.6)
