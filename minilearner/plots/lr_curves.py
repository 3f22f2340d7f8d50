"""Plots of learning-rate sweeps and range tests. `lr_finder` runs them and computes the numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minilearner.plots.palette import Palette, palette
from minilearner.plots.style import (
    axes_of,
    check_save,
    finish_axes,
    place_legend_outside,
    save_figure,
)

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_loss_change", "plot_range_test", "plot_sweep"]

_NOTE_LETTERS = 70  # as long as the axis

_FIXED = ("minimum", "steep", "valley", "slide")
"""Suggestions that have the same colour in every figure."""


def plot_sweep(
    curves: Mapping[str, NDArray[np.float64]],
    points: Mapping[str, tuple[float, float]],
    *,
    recommended: float | None,
    interval: tuple[float, float] | None,
    bounds: tuple[float, float] | None,
    turns: Mapping[str, float],
    ax: Axes | None,
    note: str = "",
    details: bool = False,
    save: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draws a sweep over a logarithmic axis: the losses, the recommendation, and each suggestion.

    The curve in bold is the one that the recommendation was read from: the loss of a fixed set of items if it was
    measured, and otherwise the smoothed loss of the batches. The title has the recommendation.

    Args:
        curves: "lrs", "losses", "smoothed" and, optionally, "fixed": the loss of the same items after each step.
        points: suggestions as name -> (rate, loss). Each has a marker, a line, and its value in the legend. If several
            coincide, earlier markers are larger, so that a ring of each stays visible.
        recommended: the recommended rate, drawn as a black line.
        interval: the likely range of the best rate, drawn as a shade.
        bounds: the bounds for a cyclical run, drawn as a bar at the bottom of the details.
        turns: further rates by name, drawn as triangles on the bold curve of the details.
        ax: the axes to draw in; by default those of a new figure.
        note: a line below the axis, such as why the sweep ended before its last step.
        details: also draw the smoothed loss of the batches, from which suggestions are read, the bounds and the turns.
        save: a file to write the figure to.
    """
    check_save(save)
    figure, ax = axes_of(ax, (8.5, 4.6))
    lrs, losses, smoothed = curves["lrs"], curves["losses"], curves["smoothed"]
    fixed = curves.get("fixed", losses[:0])
    bold, what = (fixed, "loss of a fixed set of items") if len(fixed) else (smoothed, "smoothed loss")
    ax.plot(lrs, losses, color=palette(ax).raw, linewidth=1)
    if details and len(fixed):
        ax.plot(lrs, smoothed, color=palette(ax).smooth, linewidth=1.5, label="smoothed loss of the batches")
    ax.plot(lrs, bold, color=palette(ax).accent, linewidth=2, label=f"{what}\n(thin: of each batch)")
    if not details and len(lrs):
        points = {name: (x, float(np.interp(np.log10(x), np.log10(lrs), bold))) for name, (x, _) in points.items()}
    _keep_in_view(ax, [smoothed, fixed], losses, [y for _, y in points.values()])
    _mark_recommendation(ax, recommended, interval)
    if details:
        _mark_bounds(ax, bounds)
        _mark_turns(ax, turns, lrs, fixed if len(fixed) else losses)
    _mark_suggestions(ax, points)
    ax.set_xscale("log")
    ax.set_xlabel("\n".join(["learning rate (logarithmic)", *textwrap.wrap(note, _NOTE_LETTERS)]))
    ax.set_ylabel("loss")
    finish_axes(ax)
    if not len(lrs):  # nothing to scale or to explain
        _write_no_data(ax)
        return save_figure(figure, save)
    place_legend_outside(ax)
    return save_figure(figure, save)


def plot_loss_change(
    lrs: NDArray[np.float64],
    changes: NDArray[np.float64],
    lowest: int | None,
    *,
    y_lim: tuple[float, float] | None,
    ax: Axes | None,
    save: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draws how fast the loss changes at each rate, and marks the steepest fall.

    Args:
        lrs: the rates.
        changes: the change of the loss per step, at each rate.
        lowest: the index of the steepest fall, if there is one.
        y_lim: the range of the loss axis.
        ax: the axes to draw in; by default those of a new figure.
        save: a file to write the figure to.
    """
    check_save(save)
    figure, ax = axes_of(ax, (8.5, 4.2))
    ax.axhline(0, color=palette(ax).muted, linewidth=1)
    ax.plot(lrs, changes, color=palette(ax).smooth, linewidth=1.8, label="change of the loss per step")
    ax.set_xscale("log")
    if y_lim is not None:
        ax.set_ylim(*y_lim)
    if lowest is not None:
        x, y = lrs[lowest], changes[lowest]
        ax.axvline(x, color=palette(ax).accent, linewidth=1, linestyle="--")
        _mark_within(ax, x, y, color=palette(ax).accent, label=f"steepest fall: {x:.2e} ({y:.2g} per step)")
    ax.set_xlabel("learning rate (logarithmic)")
    ax.set_ylabel("change of the loss per step")
    finish_axes(ax)
    place_legend_outside(ax)
    return save_figure(figure, save)


def plot_range_test(
    lrs: Sequence[float],
    losses: Sequence[float],
    marks: Mapping[str, float],
    *,
    log: bool,
    ax: Axes | None,
    save: str | os.PathLike[str] | None = None,
) -> Axes:
    """Draws losses over rates, as torch-lr-finder does. Returns the axes.

    Args:
        lrs: the rates.
        losses: the smoothed loss at each rate.
        marks: rates by name. A rate in `lrs` is also marked on the curve.
        log: use a logarithmic rate axis.
        ax: the axes to draw in; by default those of a new figure.
        save: a file to write the figure to.
    """
    check_save(save)
    figure, ax = axes_of(ax, (8.5, 4.6))
    ax.plot(lrs, losses, color=palette(ax).smooth, linewidth=2, label="loss, smoothed")
    curve = np.asarray(losses, dtype=np.float64)
    _keep_in_view(ax, [curve], curve, [])
    for (name, lr), color in zip(marks.items(), palette(ax).lines, strict=False):
        ax.axvline(lr, color=color, linewidth=1.2, linestyle="--", label=f"{name}: {lr:.2e}")
        if lr in lrs:
            _mark_within(ax, lr, losses[lrs.index(lr)], markersize=8, color=color)
    ax.set_xscale("log" if log else "linear")
    ax.set_xlabel("learning rate (logarithmic)" if log else "learning rate")
    ax.set_ylabel("loss")
    finish_axes(ax)
    place_legend_outside(ax)
    save_figure(figure, save)
    return ax


def _write_no_data(ax: Axes) -> None:
    ax.tick_params(which="both", bottom=False, left=False, labelbottom=False, labelleft=False)
    ax.grid(visible=False, which="both")
    ax.text(0.5, 0.5, "no loss to draw", transform=ax.transAxes, ha="center", va="center", color=palette(ax).muted)


def _mark_recommendation(
    ax: Axes,
    recommended: float | None,
    interval: tuple[float, float] | None,
) -> None:
    """Draws the rate as a line and its likely range as a shade, and writes both above the axes."""
    if recommended is None:
        return
    ax.axvline(recommended, color=palette(ax).ink, linewidth=2.5)
    title = f"recommended rate (thick line): {recommended:.2e}"
    if interval is not None:
        ax.axvspan(*interval, color=palette(ax).ink, alpha=0.10, linewidth=0)
        title = f"{title}, likely range (shaded): {interval[0]:.1e} to {interval[1]:.1e}"
    ax.set_title(title, loc="left", fontsize="medium")


def _mark_bounds(ax: Axes, bounds: tuple[float, float] | None) -> None:
    if bounds is not None:
        text = f"range for CyclicLR: {bounds[0]:.1e} to {bounds[1]:.1e}"
        foot = ax.get_xaxis_transform()  # y is a fraction of the axes' height
        ax.plot(
            bounds,
            (0.02, 0.02),
            color=palette(ax).lines[1],
            linewidth=5,
            solid_capstyle="butt",
            transform=foot,
            label=text,
        )


def _mark_turns(ax: Axes, turns: Mapping[str, float], lrs: NDArray[np.float64], losses: NDArray[np.float64]) -> None:
    for (name, rate), marker in zip(turns.items(), "v^", strict=False):
        y = float(np.interp(np.log10(rate), np.log10(lrs), losses))
        _mark_within(ax, rate, y, marker=marker, color=palette(ax).ink, markersize=9, label=f"{name}: {rate:.1e}")


def _mark_suggestions(ax: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    rates = [x for x, _ in points.values()]
    colors = _colors_of(points, palette(ax))
    for index, (name, (x, y)) in enumerate(points.items()):
        color = colors[name]
        n_above = sum(np.isclose(x, later) for later in rates[index + 1 :])  # drawn on top of this one
        ax.axvline(x, color=color, linewidth=1, linestyle=(index * 3, (2, 4)))
        ax.plot(
            x,
            y,
            marker="o",
            color=color,
            markersize=7 + 5 * n_above,
            markeredgecolor="white",
            markeredgewidth=0.8,
            linestyle="none",
            zorder=5,
            label=f"{name}: {x:.2e}",
        )


def _colors_of(names: Iterable[str], look: Palette) -> dict[str, str]:
    """Returns a colour for each suggestion. Those of fastai's names are always the same."""
    _, *free = look.lines  # the first is the curve's
    fixed = dict(zip(_FIXED, free, strict=False))
    others, rest = [name for name in names if name not in fixed], free[len(fixed) :]
    return fixed | {name: rest[i % len(rest)] for i, name in enumerate(others)}


def _mark_within(ax: Axes, x: float, y: float, *, marker: str = "o", **style: Any) -> None:
    """Draws a marker at a point, or at the edge of the axes if the point is above or below what they show."""
    low, high = ax.get_ylim()
    ax.plot(x, min(max(y, low), high), marker=marker, linestyle="none", clip_on=False, zorder=6, **style)


def _keep_in_view(
    ax: Axes,
    curves: Sequence[NDArray[np.float64]],
    losses: NDArray[np.float64],
    marks: Sequence[float],
) -> None:
    """Fits the loss axis to the marks and the calm part of the curves. A diverging loss would flatten them."""
    finite = [curve[np.isfinite(curve)] for curve in curves]
    calm = np.concatenate([np.empty(0), *finite])
    if not len(calm):
        return
    ceiling = max(curve[0] + 0.5 * (curve[0] - curve.min()) for curve in finite if len(curve))
    low, high = min(calm.min(), *marks, calm.max()), max(min(calm.max(), ceiling), *marks, calm.min())
    raw = losses[np.isfinite(losses)]
    if len(raw):
        low, high = min(low, np.quantile(raw, 0.02)), max(high, min(np.quantile(raw, 0.98), high + 0.25 * (high - low)))
    margin = 0.06 * (high - low) or 0.05
    ax.set_ylim(low - margin, high + margin)
