"""The rows of epochs as columns: in the order in which people read them, as numbers, and as text for tables and CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minilearner.errors import closest

__all__ = ["collect_history", "csv_columns", "format_cells", "is_in_mid_epoch", "list_metrics", "order_columns"]

_FIRST = ("epoch", "train_loss", "smooth_loss", "valid_loss")


def csv_columns(names: Iterable[str]) -> list[str]:
    """Returns the columns of a CSV file for rows with these names: the fixed columns, with the metrics among them."""
    start = ("run", "kind", "epoch", "step", "train_loss", "smooth_loss", "valid_loss")
    return [*start, *(name for name in names if name not in (*start, "time_seconds")), "time_seconds"]


def collect_history(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, list[float]]:
    """Returns the columns of whole epochs; NaN if a row has no value. A name that was not recorded raises KeyError."""
    whole = [row for row in rows if not is_in_mid_epoch(row)]
    return _History({name: [row.get(name, math.nan) for row in whole] for name in order_columns(whole)})


class _History(dict[str, list[float]]):
    def __missing__(self, name: str) -> list[float]:
        raise KeyError(f"No column {name!r}.{closest(name, self)} Recorded: {', '.join(self) or 'nothing yet'}.")


def is_in_mid_epoch(row: Mapping[str, Any]) -> bool:
    """Whether the row is of a validation between two steps, and not of an epoch's end."""
    return "step" in row and "train_loss" not in row


def order_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the names of all columns: the losses, the metrics in the order of their first row, and the time."""
    seen = dict.fromkeys(name for row in rows for name in row)
    return [name for name in (*_FIRST, *list_metrics(rows), "time_seconds") if name in seen]


def list_metrics(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the names of the metrics in the order of their first row."""
    seen = dict.fromkeys(name for row in rows for name in row)
    return [name for name in seen if name not in (*_FIRST, "time_seconds")]


def format_cells(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[list[str]]:
    """Returns the text of each cell of a table, row by row; empty if a row has no value."""
    return [[_cell(row.get(name)) for name in names] for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else str(value)
