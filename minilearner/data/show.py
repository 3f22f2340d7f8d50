"""A batch as people know it: real colours, names for labels. `plots.image_grid` draws it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from minilearner.checks import check_count
from minilearner.data.targets import ClassNumbers, Target
from minilearner.errors import DataError
from minilearner.plots.image_grid import plot_images, verdict_colors
from minilearner.plots.style import wrap_name
from minilearner.tree import Tree, map_tensors, n_items

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["show_images", "show_predictions", "title", "titles_of"]

_LONGEST_LINE = 32  # letters; longer titles would make their images small


def show_images(
    x: Tree,
    titles: Sequence[str],
    *,
    max_n: int = 9,
    colors: Sequence[str] | None = None,
    **layout: Any,
) -> Figure:
    """Draws the first images of a batch of decoded inputs; transparent ones on white.

    Args:
        x: (batch, 1, 3 or 4 channels, height, width).
        titles: one for each image.
        max_n: how many images at most.
        colors: of the titles.
        layout: as in `image_grid.plot_images`.

    Raises:
        ValueError: `max_n` is below 1, or the grid is too small.
        DataError: the inputs are not images.
    """
    check_count(max_n, "max_n")
    if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[1] not in (1, 3, 4):
        raise DataError(
            "only images can be shown: inputs (batch, channels, height, width) with 1, 3 or 4 channels. Received: "
            f"{tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__}."
        )
    images = x[:max_n].detach().float().cpu()
    if x.shape[1] == 4:
        alpha = images[:, 3:]
        images = images[:, :3] * alpha + (1 - alpha)
    return plot_images(images.unbind(), titles[:max_n], colors=colors, **layout)


def show_predictions(
    x: Tree, y: Tree, decoded: Tensor, target: Target | None, *, notes: Sequence[str] | None = None, **layout: Any
) -> Figure:
    """Draws decoded inputs; each title has the actual label and, in a second line, the predicted one.

    A title is green if the two are equal, and red if they differ. Numbers of a regression, and items without a target,
    are not judged.

    Args:
        x: decoded inputs.
        y: their targets, or None.
        decoded: what the predictions mean, in the form of targets.
        target: says what targets mean.
        notes: a further line for each title.
        layout: as in `show_images`.
    """
    predicted = titles_of(target, decoded, len(decoded))
    if y is None:
        return show_images(x, predicted, max_n=len(predicted), heading="predicted", **layout)
    actual = titles_of(target, y, len(decoded))
    is_judged = isinstance(y, Tensor) and not decoded.is_floating_point()
    pairs = zip(y.cpu(), decoded.cpu(), strict=True) if is_judged else ()
    colors = verdict_colors([bool((a == p).all()) for a, p in pairs], layout.get("ax")) if is_judged else None
    both = [f"{a}\n{p}" for a, p in zip(actual, predicted, strict=True)]
    if notes is not None:
        both = [f"{title}\n{note}" for title, note in zip(both, notes, strict=True)]
    return show_images(x, both, max_n=len(both), colors=colors, heading="actual above, predicted below", **layout)


def titles_of(target: Target | None, y: Tree, n: int) -> list[str]:
    """Returns one title for each of the first `n` targets: the name of the label, several names, or numbers."""
    if y is None:
        return [""] * n
    if isinstance(y, Tensor):
        return [title(target, value) for value in y[:n].detach().cpu()]
    if not n_items(y):  # no tensors in it: a list of names
        return [str(label) for label in y[:n]]
    return [str(map_tensors(lambda t, i=i: t[i].tolist(), y)) for i in range(min(n, n_items(y)))]  # type: ignore[misc]


def title(target: Target | None, value: Tensor) -> str:
    """Returns the title of one item: the meaning of its target value."""
    if isinstance(target, ClassNumbers) and value.ndim:
        return " x ".join(map(str, value.shape)) + " labels"
    text = _text(value.tolist() if target is None else target.label(value))
    if value.ndim:  # several labels or numbers: the first lines are enough
        return textwrap.fill(text, _LONGEST_LINE, max_lines=3, placeholder=" \N{HORIZONTAL ELLIPSIS}")
    return wrap_name(text, _LONGEST_LINE)


def _text(label: Any) -> str:
    if isinstance(label, (list, tuple, set, frozenset)):
        return ", ".join(map(_text, label)) or "(none)"
    return f"{label:.4g}" if isinstance(label, float) else str(label)
