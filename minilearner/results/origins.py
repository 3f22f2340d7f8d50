"""Where the items of a set come from: their files, and the columns of their table.

Predictions keep it, so that an interpretation can name an item, show it, and compare groups of items without loaders.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from minilearner.errors import DataError, closest, plural

__all__ = ["Origins", "read_column"]

_LONGEST_SIDE = 512  # pixels; more would not be seen in a grid of images


@dataclass(frozen=True)
class Origins:
    """What is known about the items of a set besides their predictions."""

    sources: Sequence[Any]
    """What each item was read from, such as a path, or the image itself; one for each item."""
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """The columns of the table that the items come from: name -> one value for each item."""

    def __len__(self) -> int:
        return len(self.sources)

    def path(self, index: int) -> str:
        """Returns the path of an item's file as it was given. Empty if the item does not come from a file."""
        source = self.sources[index]
        parts = source if isinstance(source, tuple) else (source,)
        return next((os.fspath(part) for part in parts if isinstance(part, (str, os.PathLike))), "")

    def name(self, index: int) -> str:
        """Returns the name of an item's file, without its folders. Empty if the item does not come from a file."""
        return self.path(index).replace("\\", "/").rsplit("/", 1)[-1]

    def image(self, index: int) -> Tensor | str:
        """Returns an item's image, (channels, height, width) in [0, 1], at most 512 pixels wide and high.

        If its file is not there, or is not an image, returns the reason in a few words.
        """
        source = self.sources[index]
        if isinstance(source, Tensor) and source.ndim == 3:
            return source if source.is_floating_point() else source.float() / 255
        path = self.path(index)
        if not path or not Path(path).is_file():
            return "no file to show" if not path else "file not found"
        try:
            with Image.open(path) as opened:
                opened.draft("RGB", (_LONGEST_SIDE, _LONGEST_SIDE))
                upright = ImageOps.exif_transpose(opened)
                image = _on_white(upright)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises for broken files
            return "file cannot be read"
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        pixels = torch.from_numpy(np.array(image)).float() / 255
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)

    def column(self, column: str | Sequence[Any] | Callable[[Any], Any]) -> list[Any]:
        """Returns one value for each item.

        Args:
            column: the name of a column, the values themselves, or a function that gets the source of each item.

        Raises:
            DataError: there is no such column, or not one value for each item.
        """
        if callable(column):
            return [column(source) for source in self.sources]
        if isinstance(column, str):
            if column not in self.columns:
                known = ", ".join(self.columns) or "none, because the items do not come from a table"
                raise DataError(
                    f"There is no column {column!r}.{closest(column, self.columns)} Columns: {known}. Give the values "
                    "themselves, one for each item, or a function of an item's source."
                )
            return list(self.columns[column])
        values = column.tolist() if hasattr(column, "tolist") else list(column)
        if len(values) != len(self):
            raise DataError(
                f"`column` must have one value for each of {plural(len(self), 'item')}. "
                f"Received: {plural(len(values), 'value')}."
            )
        return values

    def as_data(self) -> dict[str, Any]:
        """Returns plain data: paths as text, and the values of columns as numbers or text."""
        return {
            "paths": [self.path(i) for i in range(len(self))],
            "columns": {name: list(map(_as_plain, values)) for name, values in self.columns.items()},
        }


def _on_white(image: Image.Image) -> Image.Image:
    """Returns an image in grey or RGB. Transparent pixels become white, as they do when a model reads the file."""
    if image.mode in ("1", "L", "I;16"):
        return image.convert("L")
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    pixels = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels).convert("RGB")


def read_column(
    origins: Origins | None, n: int, column: str | Sequence[Any] | Callable[[Any], Any]
) -> tuple[str, list[Any]]:
    """Returns the name of a column, and one value for each of `n` items; see `Origins.column`.

    Raises:
        DataError: there is no such column, or not one value for each item.
    """
    if origins is None:
        if isinstance(column, str) or callable(column):
            raise DataError(
                "The items come from no files or table, so a column has no values. Give the values themselves, one "
                "for each item."
            )
        origins = Origins(range(n))
    name = column if isinstance(column, str) else getattr(column, "name", None) or "group"
    return name, origins.column(column)


def _as_plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
