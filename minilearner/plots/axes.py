"""Single images on axes, as people look at them between the steps of a notebook. `image_grid` draws batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from minilearner.checks import check_count, check_positive
from minilearner.keywords import suggest_keywords

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["show_image", "show_images", "subplots"]


@suggest_keywords
def show_image(
    im: Any,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    title: Any = None,
    ctx: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draws an image, and returns its axes.

    Args:
        im: a PIL image; an array (height, width) or (height, width, channels); or a tensor, which may also be
            (channels, height, width) with at most 4 channels.
        ax: the axes; new ones when None.
        figsize: width and height of a new figure in inches; by default 1 to 5 inches, by the number of pixels.
        title: a text above the image.
        ctx: fastai's other name for `ax`.
        kwargs: as for Matplotlib's `imshow`, such as `cmap`.
    """
    import matplotlib.pyplot as plt  # heavy

    pixels = _as_pixels(im)
    ax = ax if ax is not None else ctx
    if ax is None:
        size = figsize or tuple(min(5, max(1, side // 32)) for side in pixels.shape[:2])
        ax = plt.subplots(figsize=size)[1]
    ax.imshow(pixels, **kwargs)
    if title is not None:
        ax.set_title(str(title))
    ax.axis("off")
    return ax


@suggest_keywords
def show_images(
    ims: Sequence[Any],
    nrows: int = 1,
    ncols: int | None = None,
    titles: Sequence[Any] | None = None,
    **kwargs: Any,
) -> None:
    """Draws images in a grid.

    Args:
        ims: the images, as for `show_image`.
        nrows: how many rows.
        ncols: how many columns; by default as many as the images need.
        titles: one for each image.
        kwargs: as for `subplots`.
    """
    check_count(nrows, "nrows")
    columns = math.ceil(len(ims) / nrows) if ncols is None else ncols
    _, grid = subplots(nrows, columns, **kwargs)
    for im, title, ax in zip(ims, titles or [None] * len(ims), grid.flat, strict=False):
        show_image(im, ax=ax, title=title)


@suggest_keywords
def subplots(
    nrows: int = 1,
    ncols: int = 1,
    figsize: tuple[float, float] | None = None,
    imsize: float = 3,
    suptitle: str | None = None,
    **kwargs: Any,
) -> tuple[Figure, NDArray[Any]]:
    """Returns a new figure and an array of its axes, even if there is only one.

    Args:
        nrows: how many rows.
        ncols: how many columns.
        figsize: width and height in inches; by default `imsize` for each image.
        imsize: width and height of each image in inches.
        suptitle: a text above all.
        kwargs: as for Matplotlib's `subplots`.
    """
    import matplotlib.pyplot as plt  # heavy

    check_count(nrows, "nrows")
    check_count(ncols, "ncols")
    check_positive(imsize, "imsize")
    room = 0.6 if suptitle is not None and imsize <= 2 else 0.0
    figure, grid = plt.subplots(nrows, ncols, figsize=figsize or (ncols * imsize, nrows * imsize + room), **kwargs)
    if suptitle is not None:
        figure.suptitle(suptitle)
    return figure, grid if isinstance(grid, np.ndarray) else np.array([grid])


def _as_pixels(im: Any) -> NDArray[Any]:
    if isinstance(im, Tensor):
        im = im.detach().cpu()
        im = (im.permute(1, 2, 0) if im.ndim == 3 and im.shape[0] < 5 else im).numpy()
    pixels = np.asarray(im)
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
