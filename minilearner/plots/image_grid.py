"""Images in a grid, each below its title: batches, predictions and top losses.

`plt.show()` is never called. Matplotlib is imported inside functions, because it takes longer to load than the rest of
the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from minilearner.checks import check_count
from minilearner.errors import plural
from minilearner.plots.fonts import literal_text
from minilearner.plots.palette import palette
from minilearner.plots.style import (
    check_save,
    check_size,
    clean_text,
    inches_of,
    panels_of,
    save_figure,
    text_columns,
)

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["limit_to_grid", "plot_images", "scale_to_unit_range", "verdict_colors"]

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
    notes: Sequence[str] = (),
    ax: Axes | None = None,
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
        notes: a remark at the foot of each image; none if empty.
        ax: axes whose place the grid takes; None makes a new figure.
        save: a file to write the figure to.

    Raises:
        ValueError: the grid is too small, or `save` cannot be written.
    """
    check_save(save)
    check_size(ax, figsize=figsize)
    rows, columns = _choose_grid(len(images), nrows, ncols)
    titles = [clean_text(title) for title in titles]
    lines = max(title.count("\n") + 1 for title in titles)
    widest = _LETTER * max(map(text_columns, titles))
    own_size = (
        columns * max(2.0, widest) + 0.2,
        rows * (2 * _aspect(images) + 0.1 + 0.19 * lines) + (0.4 if heading else 0),
    )
    size = inches_of(ax) if ax is not None else figsize or own_size
    font = 9 * min(1.0, size[0] / columns / max(widest, _LETTER))
    figure, grid = panels_of(ax, rows, columns, size)
    for panel in grid.flat:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_color(palette(panel).grid)  # a frame, for images with a white background
    for panel in grid.flat[len(images) :]:
        panel.set_axis_off()
    colors = colors or verdict_colors([None] * len(titles), grid.flat[0])
    for panel, image, title, color in zip(grid.flat, images, titles, colors, strict=False):
        _draw_image(panel, image)
        panel.set_title(title, fontsize=font, color=color, **literal_text(title))
    for panel, heat in zip(grid.flat, heats or (), strict=False):
        panel.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.75 * heat, interpolation="bilinear")
    for panel, note in zip(grid.flat, notes, strict=False):
        _write_note(panel, note, font)
    if heading:
        write: Callable[..., Any] = figure.suptitle if ax is None else ax.set_title
        write(clean_text(heading), fontsize=10, color=palette(grid.flat[0]).ink, **literal_text(heading))
    return save_figure(figure, save)


def verdict_colors(is_right: Iterable[bool | None], ax: Axes | None = None) -> list[str]:
    """Returns the colours of titles: for a right prediction, a wrong one, and an image that nobody judges (None)."""
    look = palette(ax)
    return [look.ink if right is None else look.right if right else look.wrong for right in is_right]


def _write_note(ax: Axes, note: str, font: float) -> None:
    if note:
        box = {"facecolor": palette(ax).paper, "alpha": 0.85, "linewidth": 0, "pad": 2}
        how: Any = {"transform": ax.transAxes, "ha": "center", "va": "bottom", "color": palette(ax).ink, "bbox": box}
        ax.text(0.5, 0.02, note, fontsize=font, **how)


def _draw_image(ax: Axes, image: NDArray[Any] | Tensor | str) -> None:
    if isinstance(image, str):
        ax.set(xlim=(0, 1), ylim=(0, 1), facecolor=palette(ax).paper, aspect="equal")
        ax.text(0.5, 0.5, image, ha="center", va="center", fontsize=9, color=palette(ax).muted)
        return
    values = image.detach().cpu().float().numpy() if isinstance(image, Tensor) else np.asarray(image, np.float32)
    values = scale_to_unit_range(np.moveaxis(values, 0, -1))
    ax.imshow(values[..., 0] if values.shape[-1] == 1 else values, cmap="gray", vmin=0, vmax=1)


def _aspect(images: Sequence[NDArray[Any] | Tensor | str]) -> float:
    """Returns the height of the images over their width, so that their rows leave no gaps; 0.4 to 2.5."""
    shapes = [image.shape for image in images if not isinstance(image, str)]
    return float(np.clip(max((shape[-2] / shape[-1] for shape in shapes), default=1), 0.4, 2.5))


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
