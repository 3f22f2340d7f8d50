"""Images with the evidence that a model found in them for a class, drawn as heat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minilearner.plots.image_grid import plot_images
from minilearner.plots.style import shorten_middle

if TYPE_CHECKING:
    import os

    from matplotlib.figure import Figure

__all__ = ["Evidence"]


@dataclass(frozen=True)
class Evidence:
    """Where in each image the model found the evidence for one class.

    Example: ``learn.gradcam("cat.jpg").plot()``.
    """

    images: Sequence[Tensor]
    """The images as the model saw them, but in their real colours: (channels, height, width) each."""
    maps: Tensor
    """(items, height, width): the evidence at the size of the layer's output, at least 0."""
    layer: str
    """The path of the layer in the model."""
    classes: Tensor
    """(items,): the number of the class."""
    labels: Sequence[Any]
    """The label of the class, for each item."""

    @property
    def heat(self) -> Tensor:
        """The maps at the size of the images, (items, height, width). The largest value of each is 1, or all are 0."""
        size = tuple(self.images[0].shape[-2:])
        large = F.interpolate(self.maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        largest = large.amax((1, 2), keepdim=True)
        return large / torch.where(largest > 0, largest, 1)

    def plot(
        self,
        titles: Sequence[str] | None = None,
        colors: Sequence[str] | None = None,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws each image with its heat: bright where the evidence is.

        Args:
            titles: one for each image; by default the class.
            colors: the colours of the titles.
            nrows: rows of the grid. None is as many as are needed.
            ncols: columns of the grid. None is as many as are needed.
            figsize: width and height in inches. None is large enough for the images.
            save: a file to write the figure to, such as "gradcam.png".
        """
        own = [f"evidence for {shorten_middle(str(label), 30)}" for label in self.labels]
        return plot_images(
            list(self.images),
            own if titles is None else titles,
            colors=colors,
            heading=f"layer {self.layer}, {self.maps.shape[1]} x {self.maps.shape[2]}",
            nrows=nrows,
            ncols=ncols,
            figsize=figsize,
            heats=list(self.heat.numpy()),
            save=save,
        )
