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

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Evidence"]

_ONLY_AGAINST = "no evidence:\nall of it is against this class"
_IGNORED = "no evidence: the score\ndoes not depend on this layer"


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
    depends: Tensor | None = None
    """(items,): whether the score of the class depends on the layer's output at all. None if that is unknown."""

    @property
    def remarks(self) -> list[str]:
        """Why a map is all 0, for each item; empty if it is not."""
        depends = [True] * len(self.maps) if self.depends is None else self.depends.tolist()
        why = [_ONLY_AGAINST if is_used else _IGNORED for is_used in depends]
        return ["" if heat.any() else reason for heat, reason in zip(self.maps, why, strict=True)]

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
        ax: Axes | None = None,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws each image with its heat: bright where the evidence is. If there is none, the image says why.

        Args:
            titles: one for each image; by default the class.
            colors: the colours of the titles.
            nrows: rows of the grid. None is as many as are needed.
            ncols: columns of the grid. None is as many as are needed.
            figsize: width and height in inches. None is large enough for the images.
            ax: axes whose place the grid takes. None makes a new figure.
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
            notes=self.remarks,
            ax=ax,
            save=save,
        )
