"""Curves in the unit square: precision-recall, ROC, and reliability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from minilearner.errors import plural
from minilearner.plots.palette import palette
from minilearner.plots.style import (
    axes_of,
    check_save,
    check_size,
    finish_axes,
    place_legend_below,
    place_legend_outside,
    save_figure,
    shorten_middle,
    text_columns,
)

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_reliability", "plot_threshold_curves"]

_MOST_NAMED = 8  # as many as there are colours that are easy to distinguish
_LONGEST_NAME = 30  # letters


class _Curve(Protocol):
    @property
    def label(self) -> str: ...
    @property
    def x(self) -> Any: ...
    @property
    def y(self) -> Any: ...
    @property
    def area(self) -> float: ...


def plot_threshold_curves(
    curves: Sequence[_Curve],
    *,
    kind: str,
    n_left_out: int,
    figsize: tuple[float, float] | None,
    ax: Axes | None,
    save: str | os.PathLike[str] | None,
) -> Figure:
    """Draws the curve of each class. With more than 8, the 8 worst have names and colours, and the others are grey.

    Args:
        curves: one for each class.
        kind: "precision-recall" or "ROC".
        n_left_out: the number of classes without a curve, because no item, or each one, has them.
        figsize: width and height in inches.
        ax: where to draw; None makes a new figure.
        save: a file to write the figure to.
    """
    check_save(save)
    check_size(ax, figsize=figsize)
    longest = _LONGEST_NAME if figsize is None or figsize[0] > 7 else _LONGEST_NAME // 2
    labels = [shorten_middle(curve.label, longest) for curve in curves]
    width = 6.0 + 0.075 * max(map(text_columns, labels), default=0)
    figure, ax = axes_of(ax, figsize or (width, 4.8))
    look = palette(ax)
    is_roc = kind == "ROC"
    named = sorted(curves, key=lambda curve: curve.area)[:_MOST_NAMED]
    others = [curve for curve in curves if not any(curve is one for one in named)]
    style: Any = {"drawstyle": "default" if is_roc else "steps-post", "clip_on": False}
    for i, curve in enumerate(others):
        label = plural(len(others), "other class") if i == 0 else "_nolegend_"
        ax.plot(curve.x, curve.y, color=look.faint, linewidth=0.7, label=label, **style)
    name = "AUC" if is_roc else "AP"
    for i, curve in enumerate(named):
        label = f"{shorten_middle(curve.label, longest)} ({name} {curve.area:.3f})"
        dashes = ("-", "--", "-.", ":")[i // 2 % 4]
        ax.plot(curve.x, curve.y, color=look.lines[i], linestyle=dashes, linewidth=1.8, label=label, **style)
    if is_roc:
        ax.plot((0, 1), (0, 1), color=look.muted, linewidth=1, linestyle=":", label="chance")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_xlabel("false positive rate" if is_roc else "recall")
    ax.set_ylabel("true positive rate" if is_roc else "precision")
    mean = float(np.mean([curve.area for curve in curves])) if curves else float("nan")
    left_out = f"\n{plural(n_left_out, 'class')} without a curve, because no item has it" if n_left_out else ""
    ax.set_title(f"{kind[0].upper()}{kind[1:]}, mean {name} {mean:.3f}{left_out}", fontsize=11, loc="left")
    finish_axes(ax)
    place_legend_outside(ax)
    return save_figure(figure, save)


def plot_reliability(
    series: Sequence[tuple[str, float, Sequence[Any]] | None],
    *,
    names: tuple[str, str],
    figsize: tuple[float, float] | None,
    ax: Axes | None,
    save: str | os.PathLike[str] | None,
) -> Figure:
    """Draws accuracy over confidence. The area of a marker grows with the number of items in its bin.

    Args:
        series: (name, expected calibration error, bins with confidence, accuracy and n_items); None is left out.
        names: what confidence and accuracy are called.
        figsize: width and height in inches.
        ax: where to draw; None makes a new figure.
        save: a file to write the figure to.
    """
    check_save(save)
    check_size(ax, figsize=figsize)
    figure, ax = axes_of(ax, figsize or (5.4, 5.6))
    look = palette(ax)
    diagonal = f"{names[0]} = {names[1]}\n(above: too modest, below: too sure)"
    ax.plot((0, 1), (0, 1), color=look.muted, linewidth=1, linestyle=":", label=diagonal)
    for (color, marker, dashes), one in zip(((look.smooth, "o", "-"), (look.changed, "D", "--")), series, strict=False):
        if one is None:
            continue
        name, ece, bins = one
        filled = [part for part in bins if part.n_items]
        n = np.array([part.n_items for part in filled])
        x, y = [part.confidence for part in filled], [part.accuracy for part in filled]
        ax.plot(x, y, dashes, color=color, linewidth=1.2, marker=marker, markersize=0, label=f"{name}: ECE {ece:.3f}")
        ax.lines[-1].set_markersize(4)  # for the legend; the markers of the plot are drawn below, in their own sizes
        ax.lines[-1].set_markevery([])
        sizes = 12 + 100 * np.sqrt(n / n.max())
        dots: Any = {"color": color, "marker": marker, "edgecolor": ax.get_facecolor(), "clip_on": False, "zorder": 3}
        ax.scatter(x, y, s=sizes, alpha=0.85, label="_nolegend_", **dots)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    ax.set_title("Calibration", fontsize=11, loc="left")
    finish_axes(ax)
    place_legend_below(ax)
    return save_figure(figure, save)
