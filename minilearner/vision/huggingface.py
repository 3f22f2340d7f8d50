"""Rows of Hugging Face's `datasets` as a table of images and labels. An image is decoded when its batch is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from minilearner.data.table import Table
from minilearner.errors import DataError, closest, plural, portion

__all__ = ["StoredImage", "as_rows", "class_names", "split_dataset"]


@dataclass(frozen=True)
class StoredImage:
    """An image in a row of a dataset, which is read when it is needed.

    Args:
        dataset: a `datasets.Dataset` that gives images as they are stored, not decoded.
        column: the name of the column.
        row: the number of the row.
    """

    dataset: Any
    column: str
    row: int

    def load(self) -> Any:
        """Returns what the row holds: a path, the bytes of a file, or an image."""
        cell = self.dataset[self.row][self.column]
        if not isinstance(cell, Mapping):
            return cell
        return cell["path"] if cell.get("bytes") is None else cell["bytes"]

    def __str__(self) -> str:
        return f"row {self.row} of column {self.column!r}"

    def __repr__(self) -> str:
        return str(self)


def split_dataset(dataset: Any, valid: Any) -> tuple[Any, Any]:
    """Returns the training set and the validation set of a dataset or a dictionary of splits; None without the latter.

    Args:
        dataset: a `datasets.Dataset`, or a `DatasetDict`, of which "train" is for training.
        valid: a `datasets.Dataset`, the name of a split, or None for the split "validation" if there is one.

    Raises:
        TypeError: one is no such dataset.
        DataError: there is no split of that name.
    """
    splits: Mapping[str, Any] = dataset if isinstance(dataset, Mapping) else {"train": dataset}
    wanted = valid if isinstance(valid, str) else None
    for name in ("train", wanted):
        if name is not None and name not in splits:
            raise DataError(f"there is no split {name!r}.{closest(name, splits)} Splits: {', '.join(splits)}.")
    held = splits[valid] if isinstance(valid, str) else splits.get("validation") if valid is None else valid
    for one in (splits["train"], held):
        if one is not None and not all(hasattr(one, name) for name in ("features", "__getitem__", "__len__")):
            way_out = " For a streamed one, use ImageDataLoaders.from_stream." if hasattr(one, "__iter__") else ""
            raise TypeError(f"`dataset` must be a datasets.Dataset. Received: {type(one).__name__}.{way_out}")
    return splits["train"], held


def as_rows(dataset: Any, image_col: str, label_col: str) -> Table:
    """Returns a dataset as a table: images are read later, and class numbers become the names of their classes.

    Raises:
        DataError: there is no such column, or an item has no class.
    """
    features = dataset.features
    for name in (image_col, label_col):
        if name not in features:
            raise DataError(f"there is no column {name!r}.{closest(name, features)} Columns: {', '.join(features)}.")
    stored = dataset.with_format(None).select_columns([image_col])
    if hasattr(features[image_col], "decode"):
        stored = stored.cast_column(image_col, replace(features[image_col], decode=False))
    images = [StoredImage(stored, image_col, row) for row in range(len(dataset))]
    plain = [name for name, kind in features.items() if name != image_col and not hasattr(kind, "decode")]
    others = dataset.with_format(None).select_columns(plain)[:]
    names = class_names(dataset, label_col)
    if names is not None:
        others[label_col] = _name_classes(others[label_col], names)
    return Table({image_col: images, **others})


def class_names(dataset: Any, label_col: str) -> list[str] | None:
    """Returns the names of the classes, in order, if the dataset knows them."""
    kind = dataset.features[label_col]
    names = getattr(getattr(kind, "feature", kind), "names", None)
    return None if names is None else list(names)


def _name_classes(numbers: list[Any], names: list[str]) -> list[Any]:
    each = [one if isinstance(one, list) else [one] for one in numbers]
    if odd := [i for i, some in enumerate(each) if any(n is None or not 0 <= n < len(names) for n in some)]:
        raise DataError(
            f"{portion(len(odd), len(each), 'item', 'has', 'have')} no class: {numbers[odd[0]]!r} in row {odd[0]}. "
            f"Leave such rows out, or correct them; there are {plural(len(names), 'class')}."
        )
    return [[names[n] for n in one] if isinstance(one, list) else names[one] for one in numbers]
