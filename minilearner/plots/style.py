"""What all plots share: axes, panels, legends, ticks and margins, and names that fit."""

from __future__ import annotations

import os
import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray

from minilearner import processes
from minilearner.checks import check_axes
from minilearner.files import make_parent, replace_file
from minilearner.notebook import show_once
from minilearner.plots.fonts import literal_text
from minilearner.plots.palette import palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Starts",
    "add_margins",
    "axes_of",
    "check_save",
    "check_size",
    "clean_text",
    "figure_of",
    "finish_axes",
    "inches_of",
    "panels_of",
    "place_legend",
    "place_legend_below",
    "place_legend_outside",
    "save_figure",
    "set_integer_ticks",
    "set_plain_log_axis",
    "shorten_middle",
    "text_columns",
    "wrap_name",
]

Starts: TypeAlias = Sequence[float] | Mapping[int, str] | Mapping[float, str]
"""Where runs begin on the x axis, perhaps with their names."""

_MOST_NAMED_STARTS = 8


def axes_of(ax: Axes | None, figsize: tuple[float, float] = (7.0, 4.2)) -> tuple[Figure, Axes]:
    """Returns `ax` and its figure, or a new figure with one. Its layout makes room for labels and outside legends."""
    import matplotlib.pyplot as plt  # heavy

    if ax is not None:
        return figure_of(ax), ax
    figure, ax = plt.subplots(figsize=figsize, layout="constrained")
    return add_margins(figure), ax


def panels_of(
    ax: Axes | None,
    n_rows: int,
    n_columns: int,
    figsize: tuple[float, float],
    *,
    sharey: bool = False,
    width_ratios: Sequence[float] | None = None,
) -> tuple[Figure, NDArray[Any]]:
    """Returns a figure and axes (rows, columns) in it: those of a new figure, or new ones in the place of `ax`.

    Args:
        ax: axes that give their place away; None makes a new figure.
        n_rows, n_columns: how many panels.
        figsize: size of a new figure in inches.
        sharey: whether all panels have the same y axis.
        width_ratios: how wide the columns are, in proportion.
    """
    import matplotlib.pyplot as plt  # heavy

    split: dict[str, Any] = {"sharey": sharey, "squeeze": False}
    if ax is None:
        figure, grid = plt.subplots(
            n_rows, n_columns, figsize=figsize, layout="constrained", width_ratios=width_ratios, **split
        )
        return add_margins(figure), grid
    figure, spec = figure_of(ax), ax.get_subplotspec()
    ax.set_axis_off()
    if spec is not None:
        return figure, spec.subgridspec(n_rows, n_columns, width_ratios=width_ratios).subplots(**split)
    box = ax.get_position()
    sides = {"left": box.x0, "right": box.x1, "bottom": box.y0, "top": box.y1}
    parent: Any = ax.get_figure()
    return figure, parent.add_gridspec(n_rows, n_columns, width_ratios=width_ratios, **sides).subplots(**split)


def inches_of(ax: Axes) -> tuple[float, float]:
    """Returns the width and height of axes in inches."""
    to_inches = figure_of(ax).dpi_scale_trans.inverted()
    box = ax.get_window_extent().transformed(to_inches)
    return float(box.width), float(box.height)


def save_figure(figure: Figure, save: str | os.PathLike[str] | None) -> Figure:
    """Writes a figure to the file `save`, if one is given, and returns the figure.

    The suffix decides the format: ".png", ".pdf", ".svg" and what else Matplotlib writes. The folder is made if there
    is none. With several processes, only process 0 writes.
    """
    if save is not None and processes.is_first():
        with replace_file(save) as temporary:
            figure.savefig(temporary, dpi=150)
    return figure


def check_save(save: str | os.PathLike[str] | None) -> None:
    """Checks that a figure can be written to `save`, before anything is drawn.

    Raises:
        ValueError: the suffix names no format that Matplotlib writes, or the file cannot be written.
    """
    if save is None:
        return
    from matplotlib.backend_bases import FigureCanvasBase  # heavy

    path = Path(save)
    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        known = ", ".join(f".{name}" for name in sorted(formats))
        raise ValueError(
            f"`save` must end in the suffix of a format: {known}. Received: save={os.fspath(save)!r}. "
            "Write, for example, 'figure.png'."
        )
    make_parent(path, "save")


def check_size(ax: Axes | None, *, figsize: tuple[float, float] | None = None, dpi: float | None = None) -> None:
    """Checks that no size is asked for if axes are given, since only a new figure takes one.

    Raises:
        ValueError: both axes and a size were given.
    """
    given = {name: value for name, value in (("figsize", figsize), ("dpi", dpi)) if value is not None}
    if ax is not None and given:
        name, value = next(iter(given.items()))
        raise ValueError(
            f"`{name}` is for a new figure, and the figure of `ax` has its own. Received: {name}={value}. "
            f"Leave out `{name}`, or `ax`."
        )


def add_margins(figure: Figure) -> Figure:
    """Adds room around the content of a figure, and returns the figure."""
    show_once(figure)
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.1, h_pad=0.1)  # inches; with the default, text touches the edge of a saved figure
    return figure


def figure_of(ax: Axes) -> Figure:
    """Returns the whole figure that the axes belong to.

    Raises:
        TypeError: these are no axes, but for instance an array of them.
    """
    check_axes(ax)
    figure: Any = ax.get_figure()
    while figure is not figure.figure:  # axes may be in a subfigure
        figure = figure.figure
    return figure  # type: ignore[no-any-return]


def finish_axes(ax: Axes, starts: Starts = ()) -> None:
    """Draws the grid and a dotted line where each run starts, and hides the frame.

    Args:
        ax: the axes.
        starts: where runs start, perhaps with their names. Names are written along the lines while there is room.
    """
    look = palette(ax)
    for start in starts:
        if start:
            ax.axvline(start, color=look.muted, linewidth=1, linestyle=":")
    if isinstance(starts, Mapping) and 1 < len(starts) <= _MOST_NAMED_STARTS:
        left = ax.get_xlim()[0]
        place: dict[str, Any] = {
            "xycoords": ("data", "axes fraction"),
            "xytext": (3, -3),
            "textcoords": "offset points",
        }
        written: dict[str, Any] = {"rotation": 90, "ha": "left", "va": "top", "fontsize": 8, "color": look.muted}
        for start, name in starts.items():
            ax.annotate(clean_text(name), (max(start, left), 1), **place, **written, **literal_text(name))
    ax.grid(True, color=look.grid, linewidth=0.7)
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
    place_legend(ax, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, fontsize=9, markerscale=0.6)


def place_legend_below(ax: Axes, n_columns: int = 1) -> None:
    """Puts the legend below the label of the x axis, however high the axes are.

    Args:
        ax: the axes.
        n_columns: entries side by side, if the figure is wide enough for them.
    """
    letters = max((len(str(artist.get_label())) for artist in ax.get_children() if _is_labelled(artist)), default=0)
    fitting = int(figure_of(ax).get_size_inches()[0] / (0.6 + 0.075 * letters))
    columns = max(1, min(n_columns, fitting))
    place_legend(ax, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=columns, fontsize=9, borderaxespad=4.2)


def place_legend(ax: Axes, **how: Any) -> None:
    """Adds a legend without a frame; labels are drawn as they are written, also with a leading underscore.

    Args:
        ax: the axes. A line that needs no entry has no label.
        how: arguments of Matplotlib's `legend`.
    """
    handles: list[Any] = [artist for artist in ax.get_children() if _is_labelled(artist)]
    labels = [str(handle.get_label()) for handle in handles]
    if not handles:
        return
    # Matplotlib leaves out labels with a leading underscore, so the real texts are set afterwards.
    legend = ax.legend(handles, [f"line {i}" for i in range(len(labels))], frameon=False, **how)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(clean_text(label))
        text.update(literal_text(label))


def _is_labelled(artist: Any) -> bool:
    from matplotlib.collections import Collection  # heavy
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    # Matplotlib itself names artists "_child3", or not at all.
    is_named = re.fullmatch(r"_child\d+|_nolegend_|", str(artist.get_label())) is None
    return isinstance(artist, (Line2D, Patch, Collection)) and is_named


def clean_text(text: str) -> str:
    """Returns a text that any font machinery takes: every kind of line break as "\\n", no broken Unicode."""
    lines = text.encode("utf-8", "backslashreplace").decode().splitlines()
    return "\n".join("".join(c if c.isprintable() else _visible(c) for c in line) for line in lines)


def _visible(letter: str) -> str:
    """Returns marks of writing direction and joiners as they are, a tab as spaces, other control characters as "?"."""
    if unicodedata.category(letter) in ("Cf", "Zs"):
        return letter
    return "    " if letter == "\t" else "?"


def wrap_name(text: str, longest: int, max_lines: int = 6) -> str:
    """Returns a text in lines of at most `longest` letters. Only line breaks are added, and lines beyond 6 are cut."""
    keep_all: dict[str, Any] = {"expand_tabs": False, "replace_whitespace": False, "drop_whitespace": False}
    broken = [textwrap.wrap(line, longest, break_on_hyphens=False, **keep_all) or [""] for line in text.split("\n")]
    lines = [line for parts in broken for line in parts]
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], f"{lines[max_lines - 1][: longest - 1]}\N{HORIZONTAL ELLIPSIS}"]
    return "\n".join(lines)


def shorten_middle(text: str, longest: int) -> str:
    """Returns a text as it is, or, if a line has more than `longest` letters, in one line without its middle.

    An ellipsis stands for the middle, because long names often differ at their ends.
    """
    if text_columns(text) <= longest:
        return text
    line = text.replace("\n", " ")
    n_head, n_tail = (longest + 1) // 2, longest // 2
    while n_head + n_tail > 2:
        shorter = f"{line[:n_head]}\N{HORIZONTAL ELLIPSIS}{line[len(line) - n_tail :]}"
        if text_columns(shorter) <= longest:
            return shorter
        n_head, n_tail = (n_head - 1, n_tail) if n_head > n_tail else (n_head, n_tail - 1)
    return f"{line[0]}\N{HORIZONTAL ELLIPSIS}"


def text_columns(text: str) -> int:
    """Returns how many letters wide the longest line of a text is; letters of Chinese, Japanese and Korean count 2."""
    return max(
        (sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in line) for line in text.split("\n")), default=0
    )
