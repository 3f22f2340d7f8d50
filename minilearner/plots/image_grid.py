"""Draw images in a grid, each with its title: batches, predictions and top losses.

`plt.show()` is never called. Matplotlib is imported inside the function, because loading it takes longer than loading
the rest of the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from minilearner.checks import check_count
from minilearner.notebook import show_once

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NEUTRAL", "RIGHT", "WRONG", "plot_images", "room"]

RIGHT, WRONG, NEUTRAL = "#1a7f37", "#c62828", "#222222"
"""Colours of titles: a right prediction, a wrong one, and what was not judged."""

_LETTER = 0.083  # inches: the mean width of a letter at 9 points
_ROUNDING = 1e-4  # undoing a normalisation gives a white of 1.0000001


def plot_images(
    images: Sequence[NDArray[Any] | Tensor],
    titles: Sequence[str],
    *,
    colors: Sequence[str] | None = None,
    heading: str | None = None,
    nrows: int | None = None,
    ncols: int | None = None,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Draws pictures (channels, height, width) of one channel, in grey, or three, each below its title.

    Values mean [0, 1], and few beyond are clipped. A picture with more than a tenth of them beyond was standardised by
    someone who did not tell, and is spread over its own range.

    Args:
        colors: of the titles.
        heading: above all.
        nrows, ncols: the grid; about square by default, wider than high.
        figsize: width and height in inches; as the pictures and titles need by default.

    Raises:
        ValueError: the grid is too small.
    """
    import matplotlib.pyplot as plt  # heavy

    rows, columns = _grid(len(images), nrows, ncols)
    lines = max(title.count("\n") + 1 for title in titles)
    widest = _LETTER * max(len(line) for title in titles for line in title.split("\n"))
    size = figsize or (columns * max(2.0, widest) + 0.2, rows * (2.1 + 0.19 * lines) + (0.4 if heading else 0))
    font = 9 * min(1.0, size[0] / columns / max(widest, _LETTER))
    figure, grid = plt.subplots(rows, columns, squeeze=False, figsize=size, layout="constrained")
    show_once(figure)
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.1, h_pad=0.1)  # inches; the default lets titles touch the edge of a saved picture
    for ax in grid.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_color("#dddddd")  # a frame, for pictures on white
    for ax in grid.flat[len(images) :]:
        ax.set_axis_off()
    for ax, image, title, color in zip(grid.flat, images, titles, colors or [NEUTRAL] * len(titles), strict=False):
        picture = _in_view(np.moveaxis(np.asarray(image, dtype=np.float32), 0, -1))
        ax.imshow(picture[..., 0] if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=1)
        ax.set_title(title, fontsize=font, color=color)
    if heading:
        figure.suptitle(heading, fontsize=10, color=NEUTRAL)
    return figure


def _in_view(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns values in [0, 1]: clipped, or spread where too many lie outside for that to be a true picture."""
    beyond = np.mean((picture < -_ROUNDING) | (picture > 1 + _ROUNDING))
    if beyond <= 0.1:
        return picture.clip(0, 1)
    low, high = float(picture.min()), float(picture.max())
    return (picture - low) / max(high - low, 1e-12)


def room(max_n: int, nrows: int | None, ncols: int | None) -> int:
    """Returns how many of at most `max_n` pictures a grid has room for: of one given by both sides, its places.

    Raises:
        ValueError: `max_n`, or a side that is given, is below 1.
    """
    for name, value in (("max_n", max_n), ("nrows", nrows), ("ncols", ncols)):
        if value is not None:
            check_count(value, name)
    return min(max_n, nrows * ncols) if nrows is not None and ncols is not None else max_n


def _grid(n: int, nrows: int | None, ncols: int | None) -> tuple[int, int]:
    if nrows is None and ncols is None:
        ncols = int(np.ceil(np.sqrt(n)))
    columns = ncols or -(-n // (nrows or 1))
    rows = nrows or -(-n // columns)
    if rows * columns < n:
        raise ValueError(f"`nrows` x `ncols` must hold {n} pictures. Received: nrows={nrows}, ncols={ncols}.")
    return rows, columns
