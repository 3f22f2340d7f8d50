"""Plots with one row for each class or group: its scores, its interval, or what changed in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from minilearner.plots.fonts import literal_text
from minilearner.plots.palette import palette
from minilearner.plots.style import (
    axes_of,
    check_save,
    check_size,
    clean_text,
    figure_of,
    inches_of,
    place_legend_below,
    save_figure,
    set_integer_ticks,
    shorten_middle,
    text_columns,
    wrap_name,
)

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_changes", "plot_class_scores", "plot_groups"]

_MOST_ROWS = 40  # on a page of its own; the title says if there are more
_LONGEST_NAME = 34  # letters
_ROW = 0.25  # inches


class _Group(Protocol):
    @property
    def value(self) -> str: ...
    @property
    def n_items(self) -> int: ...
    @property
    def score(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def is_worse(self) -> bool: ...


class _Groups(Protocol):
    @property
    def column(self) -> str: ...
    @property
    def measure(self) -> str: ...
    @property
    def overall(self) -> float: ...
    @property
    def rows(self) -> Sequence[_Group]: ...


def plot_class_scores(
    labels: Sequence[str],
    scores: Sequence[Any],
    *,
    most: int | None,
    figsize: tuple[float, float] | None,
    ax: Axes | None,
    save: str | os.PathLike[str] | None,
) -> Figure:
    """Draws precision, recall and F1 of each class, the lowest F1 first, with the number of items on the right.

    Args:
        labels: the names of the classes.
        scores: for each class, an object with precision, recall, f1 and support.
        most: how many classes to draw at most; None draws up to 40.
        figsize: width and height in inches.
        ax: where to draw; None makes a new figure.
        save: a file to write the figure to.
    """
    check_save(save)
    check_size(ax, figsize=figsize)
    order = sorted(range(len(labels)), key=lambda i: (scores[i].f1, labels[i]))
    chosen = order[: most or _most_rows(figsize, ax)]
    names = [labels[i] for i in chosen]
    figure, ax = _row_axes(names, figsize, ax)
    y = np.arange(len(chosen))
    columns = {name: np.array([getattr(scores[i], name) for i in chosen]) for name in ("precision", "recall", "f1")}
    spread = np.stack([columns["precision"], columns["recall"]])
    ax.hlines(y, spread.min(0), spread.max(0), color=palette(ax).faint, linewidth=3, zorder=1)
    look = palette(ax)
    marks = {"precision": (look.smooth, "o"), "recall": (look.accent, "D"), "f1": (look.ink, "|")}
    for name, (color, marker) in marks.items():
        size = 11 if marker == "|" else 6
        label = "F1" if name == "f1" else name
        ax.plot(
            columns[name],
            y,
            marker,
            color=color,
            markersize=size,
            markeredgewidth=2 if marker == "|" else 0.8,
            markeredgecolor=color if marker == "|" else "white",
            label=label,
            clip_on=False,
        )
    _write_counts(ax, [scores[i].support for i in chosen])
    ax.set_xlim(0, 1)
    ax.set_xlabel("score")
    _title(ax, "Scores of each class", len(chosen), len(labels), "classes", "with the lowest F1")
    place_legend_below(ax, 3)
    return save_figure(figure, save)


def plot_groups(
    groups: _Groups,
    *,
    figsize: tuple[float, float] | None,
    ax: Axes | None,
    save: str | os.PathLike[str] | None,
) -> Figure:
    """Draws each group's score with its interval, the worst first, and a line at the score over all items.

    Args:
        groups: the groups of one column.
        figsize: width and height in inches.
        ax: where to draw; None makes a new figure.
        save: a file to write the figure to.
    """
    check_save(save)
    check_size(ax, figsize=figsize)
    rows = groups.rows[: _most_rows(figsize, ax)]
    figure, ax = _row_axes([row.value for row in rows], figsize, ax)
    finite = [end for row in rows for end in (row.low, row.high, row.score) if math.isfinite(end)]
    look = palette(ax)
    kinds = ((False, look.smooth, "mean and 95 % interval"), (True, look.accent, "worse than the rest"))
    for is_worse, color, label in kinds:
        places = [y for y, row in enumerate(rows) if row.is_worse is is_worse]
        if not places:
            continue
        lows = [max(rows[y].low, min(finite)) for y in places]
        highs = [min(rows[y].high, max(finite)) for y in places]
        ax.hlines(places, lows, highs, color=color, linewidth=2.5, alpha=0.55)
        marker = "D" if is_worse else "o"
        ax.plot([rows[y].score for y in places], places, marker, color=color, markersize=6, label=label, clip_on=False)
    ax.axvline(
        groups.overall, color=look.muted, linewidth=1.2, linestyle="--", label=f"all items: {groups.overall:.3g}"
    )
    _write_counts(ax, [row.n_items for row in rows])
    if groups.measure == "accuracy":
        ax.set_xlim(0, 1)
    else:
        ax.set_xlim(left=0)
    ax.set_xlabel(clean_text(groups.measure), **literal_text(groups.measure))
    _title(ax, f"By {groups.column}", len(rows), len(groups.rows), "groups", "that do worst")
    place_legend_below(ax, 3)
    return save_figure(figure, save)


def plot_changes(
    rows: Sequence[Mapping[str, Any]],
    heading: str,
    *,
    sides: tuple[tuple[str, str, str], tuple[str, str, str]],
    both_ends: bool,
    figsize: tuple[float, float] | None,
    ax: Axes | None,
    save: str | os.PathLike[str] | None,
) -> Figure:
    """Draws two counts of each class, one to the left and one to the right.

    Args:
        rows: label, n_items and the two counts of each class, in the order of their importance.
        heading: the title.
        sides: the key, the meaning and the colour (by its name in `Palette`) of the left count and of the right one.
        both_ends: if there is no room for all rows, draw the first and the last ones. Otherwise draw the first ones.
        figsize: width and height in inches.
        ax: where to draw; None makes a new figure.
        save: a file to write the figure to.
    """
    check_save(save)
    check_size(ax, figsize=figsize)
    most = _most_rows(figsize, ax)
    (left, *_), (right, *_) = sides
    counted = [row for row in rows if row[left] or row[right]] or list(rows[:most])
    n = len(counted)
    half = most // 2
    shown = [*counted[:half], *counted[-half:]] if both_ends and n > most else counted[:most]
    figure, ax = _row_axes([row["label"] for row in shown], figsize, ax)
    look = palette(ax)
    y = np.arange(len(shown))
    for (key, meaning, color), sign, hatch in zip(sides, (-1, 1), ("////", ""), strict=True):
        values = np.array([row[key] for row in shown])
        bars = ax.barh(
            y, sign * values, color=getattr(look, color), height=0.66, hatch=hatch, edgecolor="white", linewidth=0
        )
        bars[0].set_label(meaning)
    reach = max(1, *(max(row[left], row[right]) for row in shown))
    ax.set_xlim(-1.08 * reach, 1.08 * reach)
    ax.axvline(0, color=look.ink, linewidth=1)
    _write_counts(ax, [row["n_items"] for row in shown])
    ax.set_xlabel("items")
    ax.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    set_integer_ticks(ax)
    _title(ax, heading, len(shown), n, "classes", "that changed most" if both_ends else "with the most errors")
    place_legend_below(ax, 2)
    return save_figure(figure, save)


def _most_rows(figsize: tuple[float, float] | None, ax: Axes | None) -> int:
    """Returns how many rows can be read, at least 2: 9 points each in a given height."""
    if ax is not None:
        height = inches_of(ax)[1]
    elif figsize is not None:
        height = figsize[1] - 1.5
    else:
        return _MOST_ROWS
    return max(2, min(_MOST_ROWS, int(height * 72 / 9)))


def _row_axes(names: Sequence[str], figsize: tuple[float, float] | None, ax: Axes | None) -> tuple[Figure, Axes]:
    """Returns axes with a named row for each name, the first at the top."""
    given = inches_of(ax)[0] if ax is not None else figsize and figsize[0]
    longest = _LONGEST_NAME if not given else max(8, min(_LONGEST_NAME, int(given / 3 / 0.085)))  # a third for names
    shown = [shorten_middle(clean_text(name), longest) for name in names]
    width = 4.6 + 0.085 * max(map(text_columns, shown))
    figure, ax = axes_of(ax, figsize or (width, 1.5 + _ROW * max(len(names), 3)))
    height = figure.get_size_inches()[1] - 1.5
    font = min(9.5, max(4.0, 60 * height / max(len(names), 1)))  # points: five sixths of a row
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(True, color=palette(ax).grid, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_yticks(range(len(names)), shown, fontsize=font, **literal_text(*shown))
    return figure, ax


def _write_counts(ax: Axes, counts: Sequence[int]) -> None:
    """Writes the number of items of each row to its right."""
    beside: Any = {"transform": ax.get_yaxis_transform(), "va": "center", "ha": "left", "color": palette(ax).muted}
    labels = ax.get_yticklabels()
    font = labels[0].get_fontsize() if labels else 9
    for y, count in enumerate(counts):
        ax.text(1.03, y, f"{count:,}", fontsize=font, **beside)
    ax.text(1.03, 1.01, "items", fontsize=font, transform=ax.transAxes, va="bottom", ha="left", color=palette(ax).muted)


def _title(ax: Axes, text: str, n_shown: int, n: int, what: str, which: str) -> None:
    if n_shown < n:
        text = f"{text}\nthe {n_shown} of {n} {what} {which}"
    width = figure_of(ax).get_size_inches()[0]
    font = 12 if width > 6 else 10
    names = [label.get_text() for label in ax.get_yticklabels()]
    room = width - 0.3 - 0.085 * max(map(text_columns, names), default=0)  # inches, from the left end of the axes
    text = wrap_name(clean_text(text), max(20, int(room / 0.0085 / font)))
    ax.set_title(text, fontsize=font, loc="left", pad=16, **literal_text(text))
