"""Single items in a report: their images, the evidence in them, and what is said of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from minilearner.pages.content import Card, FileName, Name, Text
from minilearner.pages.pixels import blend_heat
from minilearner.results.evidence import Evidence
from minilearner.results.origins import Origins

__all__ = ["NOTHING_SHOWN", "NO_IMAGES", "Load", "find_evidence", "make_cards", "name_item", "read_images"]

Load = Callable[[Sequence[int]], Sequence["Tensor | str"]]
"""Returns the items at given positions as images, or why one is missing."""

NO_IMAGES = "There are no images to show, because these predictions name no files."
"""What a report says without a `Load`."""

NOTHING_SHOWN = "No items are shown, because n_images is 0."


def make_cards(
    indices: Sequence[int],
    images: Sequence[Tensor | str],
    lines: Sequence[Sequence[tuple[str, Text]]],
    is_right: Sequence[bool | None],
    heats: Sequence[tuple[Any, str] | None],
) -> list[Card]:
    """Returns one card for each item.

    Args:
        indices: the positions of the items in their set.
        images: their images, or why one is missing.
        lines: what is said of each.
        is_right: whether each prediction is right.
        heats: the evidence in each, (height, width) in [0, 1], or why there is none, with the class it speaks for.
    """
    cards = []
    for index, image, said, right, heat in zip(indices, images, lines, is_right, heats, strict=True):
        if isinstance(image, str):
            cards.append(Card((), image, said, right))
            continue
        shown: list[tuple[Any, str]] = [(image, f"item {index}")]
        if heat is not None and isinstance(heat[0], str):
            said = [*said, ("evidence", heat[0])]
        elif heat is not None:
            shown.append((blend_heat(image, heat[0]), f"item {index} with the evidence for {heat[1]}"))
        cards.append(Card(shown, "", said, right))
    return cards


def read_images(load: Load, indices: Sequence[int]) -> list[Tensor | str]:
    """Returns the images of items, each (channels, height, width), or the reason in a few words why one is missing."""
    try:
        found = list(load(indices))
    except Exception:  # of one item perhaps: the others are shown
        found = [_read_one(load, index) for index in indices]
    return [image if isinstance(image, str) else _check_image(image) for image in found]


def _read_one(load: Load, index: int) -> Tensor | str:
    try:
        return load([index])[0]
    except Exception as error:  # a data set may raise anything; the page says what
        return f"cannot be read: {_first_line(error)}"


def _check_image(image: Any) -> Tensor | str:
    return image if isinstance(image, Tensor) and image.ndim == 3 and image.numel() else "the item is not an image"


def find_evidence(
    explain: Callable[..., Evidence] | None, indices: Sequence[int], classes: Sequence[int], images: Sequence[Any]
) -> tuple[list[tuple[Any, str] | None], str]:
    """Returns the evidence in each item for its class, with the name of the class, and a sentence about it.

    Args:
        explain: returns the evidence. None if there is no model.
        indices: the positions of the items.
        classes: the number of a class for each.
        images: the images of the items; there is no evidence in one that is missing.
    """
    none: list[tuple[Any, str] | None] = [None] * len(indices)
    if explain is None:
        return (
            none,
            "Grad-CAM needs the model, which is not known here: it needs an interpretation built with from_learner.",
        )
    seen = [place for place, image in enumerate(images) if isinstance(image, Tensor)]
    if not seen:
        return none, ""
    try:
        found = explain([indices[p] for p in seen], [classes[p] for p in seen], layer=None, method="gradcam")
    except Exception as error:  # a model may raise anything; the page says what
        return none, f"Grad-CAM does not work with this model: {_first_line(error)}"
    for place, heat, label, remark in zip(seen, found.heat, found.labels, found.remarks, strict=True):
        none[place] = remark or heat, str(label)
    size = " x ".join(map(str, found.maps.shape[1:]))
    return none, (
        "The second image of each item shows where the model finds the evidence for the class that it predicts: bright "
        f"colors mean much (Grad-CAM, layer {found.layer}, {size})."
    )


def name_item(origins: Origins | None, index: int) -> FileName:
    """Returns the name of an item's file with its folder, or else the item's position in the set."""
    path = "" if origins is None else origins.path(index).replace("\\", "/")
    return FileName("/".join(path.split("/")[-2:]) or f"item {index}")


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n")[0] or "no reason was given"
    return Name(f"{type(error).__name__}: {text}"[:200])
