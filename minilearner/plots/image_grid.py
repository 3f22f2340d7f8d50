"""Images in a grid, each below its title: batches, predictions and top losses.

`plt.show()` is never called. Matplotlib is imported inside functions, because it takes longer to load than the rest of
the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from minilearner.checks import check_count
from minilearner.errors import plural
from minilearner.notebook import show_once
from minilearner.plots.style import MUTED, check_save, clean_text, literal_text, save_figure, text_columns

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NEUTRAL", "RIGHT", "WRONG", "limit_to_grid", "plot_images", "scale_to_unit_range"]

RIGHT, WRONG, NEUTRAL = "#1a7f37", "#c62828", "#222222"
"""Colours of titles: for a right prediction, a wrong one, and an image without a prediction."""

_LETTER = 0.083  # inches: the mean width of a letter at 9 points
_ROUNDING = 1e-4  # undoing a normalization turns white into 1.0000001


def plot_images(
    images: Sequence[NDArray[Any] | Tensor | str],
    titles: Sequence[str],
    *,
    colors: Sequence[str] | None = None,
    heading: str | None = None,
    nrows: int | None = None,
    ncols: int | None = None,
    figsize: tuple[float, float] | None = None,
    heats: Sequence[NDArray[Any]] | None = None,
    save: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draws images (channels, height, width) with one channel (grey) or three (RGB), each below its title.

    Values are in [0, 1], and a few values outside are clipped. If more than a tenth are outside, the image was probably
    standardized somewhere else, and it is scaled to its own range.

    Args:
        images: the images, at least one. A text in place of an image says why it is missing.
        titles: one for each image. A title may have several lines.
        colors: the colours of the titles.
        heading: a text above the grid.
        nrows, ncols: the grid. By default about square, and wider than high.
        figsize: width and height in inches. By default large enough for the images and titles.
        heats: for each image, (height, width) in [0, 1]: drawn over it in colours, where it is not 0.
        save: a file to write the figure to.

    Raises:
        ValueError: the grid is too small, or `save` cannot be written.
    """
    import matplotlib.pyplot as plt  # heavy

    check_save(save)
    rows, columns = _choose_grid(len(images), nrows, ncols)
    titles = [clean_text(title) for title in titles]
    lines = max(title.count("\n") + 1 for title in titles)
    widest = _LETTER * max(map(text_columns, titles))
    size = figsize or (columns * max(2.0, widest) + 0.2, rows * (2.1 + 0.19 * lines) + (0.4 if heading else 0))
    font = 9 * min(1.0, size[0] / columns / max(widest, _LETTER))
    figure, grid = plt.subplots(rows, columns, squeeze=False, figsize=size, layout="constrained")
    show_once(figure)
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.1, h_pad=0.1)  # inches; with the default, titles touch the edge of a saved figure
    for ax in grid.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_color("#dddddd")  # a frame, for images with a white background
    for ax in grid.flat[len(images) :]:
        ax.set_axis_off()
    for ax, image, title, color in zip(grid.flat, images, titles, colors or [NEUTRAL] * len(titles), strict=False):
        _draw_image(ax, image)
        ax.set_title(title, fontsize=font, color=color, **literal_text(title))
    for ax, heat in zip(grid.flat, heats or (), strict=False):
        ax.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.75 * heat, interpolation="bilinear")
    if heading:
        figure.suptitle(clean_text(heading), fontsize=10, color=NEUTRAL, **literal_text(heading))
    return save_figure(figure, save)


def _draw_image(ax: Axes, image: NDArray[Any] | Tensor | str) -> None:
    if isinstance(image, str):
        ax.set(xlim=(0, 1), ylim=(0, 1), facecolor="#f1f3f5", aspect="equal")
        ax.text(0.5, 0.5, image, ha="center", va="center", fontsize=9, color=MUTED)
        return
    values = image.detach().cpu().float().numpy() if isinstance(image, Tensor) else np.asarray(image, np.float32)
    values = scale_to_unit_range(np.moveaxis(values, 0, -1))
    ax.imshow(values[..., 0] if values.shape[-1] == 1 else values, cmap="gray", vmin=0, vmax=1)


def limit_to_grid(max_n: int, nrows: int | None, ncols: int | None) -> int:
    """Returns how many images fit: `max_n`, or at most the cells of the grid if `nrows` and `ncols` are given.

    Raises:
        ValueError: `max_n`, `nrows` or `ncols` is below 1.
    """
    for name, value in (("max_n", max_n), ("nrows", nrows), ("ncols", ncols)):
        if value is not None:
            check_count(value, name)
    return min(max_n, nrows * ncols) if nrows is not None and ncols is not None else max_n


def scale_to_unit_range(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns values in [0, 1]: clipped, or scaled if too many are outside for an ordinary image."""
    beyond = np.mean((image < -_ROUNDING) | (image > 1 + _ROUNDING))
    if beyond <= 0.1:
        return image.clip(0, 1)
    low, high = float(image.min()), float(image.max())
    return (image - low) / max(high - low, 1e-12)


def _choose_grid(n: int, nrows: int | None, ncols: int | None) -> tuple[int, int]:
    if nrows is None and ncols is None:
        ncols = int(np.ceil(np.sqrt(n)))
    columns = ncols or -(-n // (nrows or 1))
    rows = nrows or -(-n // columns)
    if rows * columns < n:
        raise ValueError(f"`nrows` x `ncols` must hold {plural(n, 'image')}. Received: nrows={nrows}, ncols={ncols}.")
    return rows, columns
