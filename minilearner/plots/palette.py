"""The colours of figures, in a light and a dark theme. The figure's own text says which of the two it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from minilearner.checks import check_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Palette", "palette"]


@dataclass(frozen=True)
class Palette:
    """The colours of one theme. People who cannot tell red from green can tell those apart that share a plot."""

    ink: str
    """Marks that matter most, and titles without a verdict."""
    muted: str
    """Remarks. Readable as text."""
    grid: str
    """The grid, and frames of images."""
    faint: str
    """Lines in the background: other classes, spreads, hatching."""
    paper: str
    """The ground of a missing image."""
    raw: str
    """A curve before smoothing."""
    smooth: str
    """The first of two, such as training. All single curves have it."""
    accent: str
    """The second of two, such as validation."""
    changed: str
    """The same values as `smooth` after a correction."""
    right: str
    """What is right. Readable as text."""
    wrong: str
    """What is wrong. Readable as text."""
    lines: tuple[str, ...]
    """Eight lines in one plot."""
    counts: str
    """The colour map of counts, from the ground to what stands out most."""


_LIGHT = Palette(
    ink="#222222",
    muted="#5c6470",
    grid="#dddddd",
    faint="#c3c9d1",
    paper="#f1f3f5",
    raw="#b5c7dc",
    smooth="#1f5fa8",
    accent="#d1495b",
    changed="#b35900",
    right="#1a7f37",
    wrong="#c62828",
    lines=("#d1495b", "#2e933c", "#edae49", "#7b4ea3", "#00a6c0", "#8c564b", "#e377c2", "#444444"),
    counts="Blues",
)
_DARK = Palette(
    ink="#f0f0f0",
    muted="#a9b2bd",
    grid="#3b4047",
    faint="#555c66",
    paper="#24282e",
    raw="#44617f",
    smooth="#6fb1f7",
    accent="#ff7d8c",
    changed="#f5a25d",
    right="#56c271",
    wrong="#ff7b72",
    lines=("#ff7d8c", "#56c271", "#f2c14e", "#b99af0", "#3fcbe0", "#cf9c8e", "#f2a6d8", "#cccccc"),
    counts="Blues_r",
)


def palette(ax: Axes | None = None) -> Palette:
    """Returns the dark colours if text is bright, as with `plt.style.use("dark_background")`, and else the light ones.

    Args:
        ax: axes to draw in. None asks the settings for new figures.

    Raises:
        TypeError: `ax` is something else.
    """
    from matplotlib import rcParams  # heavy
    from matplotlib.colors import to_rgb

    if ax is not None:
        check_axes(ax)
    text = rcParams["axes.labelcolor"] if ax is None else ax.xaxis.label.get_color()
    return _DARK if sum(to_rgb(text)) > 1.5 else _LIGHT
