"""A table as a sequence of rows: from any mapping of columns, pandas' and polars' frames among them, or a CSV file."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minilearner.errors import DataError, closest

__all__ = ["Row", "Table", "as_row", "as_table", "is_table", "read_csv"]


class Row(Mapping[str, Any]):
    """One row: ``row["fname"]``, ``row.fname`` or, by position, ``row[0]``."""

    __slots__ = ("_position", "_table")

    def __init__(self, table: Table, position: int) -> None:
        self._table, self._position = table, position

    def __getitem__(self, col: str | int) -> Any:
        """Returns the cell in a column, given by its name or, if no column has that name, by its position."""
        return self._table.column(col)[self._position]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._table.columns:
            raise AttributeError(f"a row has no column {name!r}")
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.columns)

    def __len__(self) -> int:
        return len(self._table.columns)

    def __repr__(self) -> str:
        return f"Row({', '.join(f'{name}={value!r}' for name, value in self.items())})"


class Table(Sequence[Row]):
    """Columns of one length, read row by row.

    Raises:
        DataError: there is no column, or they differ in length.
    """

    def __init__(self, columns: Mapping[Any, Sequence[Any]]) -> None:
        self.columns: dict[Any, Sequence[Any]] = dict(columns)
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) != 1:
            raise DataError(f"the columns of a table must have one length. Received: {lengths or 'no column'}.")
        self._length = next(iter(lengths.values()))

    def column(self, col: str | int) -> Sequence[Any]:
        """Returns a column by its name or its position.

        Raises:
            DataError: there is no such column.
        """
        if col in self.columns:
            return self.columns[col]
        if isinstance(col, int) and -len(self.columns) <= col < len(self.columns):
            return [*self.columns.values()][col]
        names = [str(name) for name in self.columns]
        raise DataError(f"there is no column {col!r}.{closest(str(col), names)} Columns: {', '.join(names)}.")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: Any) -> Any:
        """Returns the row at a position, the rows of a slice, or the column of a name."""
        if isinstance(position, str):
            return self.column(position)
        if isinstance(position, slice):
            return [Row(self, i) for i in range(*position.indices(len(self)))]
        if not -len(self) <= position < len(self):
            raise IndexError(f"row {position} of {len(self)}")
        return Row(self, position % len(self))


def as_table(source: Any) -> Table:
    """Returns a mapping of columns, or a frame (an object with `columns` that is indexed by their names), as a table.

    Raises:
        DataError: as `Table`.
        TypeError: `source` is neither.
    """
    if isinstance(source, Table):
        return source
    names = list(source) if isinstance(source, Mapping) else getattr(source, "columns", None)
    if names is None or not hasattr(source, "__getitem__"):
        raise TypeError(f"a table must be a mapping of columns or a frame. Received: a {type(source).__name__}.")
    return Table({name: _values(source[name]) for name in names})


def as_row(item: Any) -> Any:
    """Returns a dictionary, a named tuple or a row of pandas (`iloc`, `itertuples`) as a `Row`; anything else as it is.

    The index that `itertuples` puts first is not a column.
    """
    if isinstance(item, Row):
        return item
    if hasattr(item, "iloc") and hasattr(item, "index"):
        cells = dict(zip(item.index, item.tolist(), strict=True))
    elif hasattr(item, "_asdict"):
        cells = dict(item._asdict())
        if type(item).__name__ == "Pandas":
            cells.pop("Index", None)
    elif isinstance(item, Mapping):
        cells = dict(item)
    else:
        return item
    return Row(Table({name: [value] for name, value in cells.items()}), 0)


def is_table(source: Any) -> bool:
    """Returns whether `as_table` takes it."""
    return isinstance(source, (Table, Mapping)) or hasattr(source, "columns")


def read_csv(
    path: str | os.PathLike[str],
    header: int | str | None = "infer",
    delimiter: str | None = None,
    quoting: int = csv.QUOTE_MINIMAL,
    typed: Sequence[str | int] = (),
) -> Table:
    """Reads a CSV file, UTF-8, as text.

    Args:
        path: the file.
        header: "infer" or 0 if the first line has names; None if columns have no names, but positions.
        delimiter: between cells, "," by default.
        quoting: as in the module `csv`.
        typed: columns to read as whole numbers, numbers or truth values, if all their cells are written like that.
            "007" stays text, because 7 is written differently. Empty cells become None.

    Raises:
        DataError: the file is missing or empty, a line has more or fewer cells than the first, or a column is missing.
        ValueError: `header` is something else.
    """
    if header not in ("infer", 0, None):
        raise ValueError(f"`header` must be 'infer', 0 or None. Received: header={header!r}.")
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file '{path}'.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = [line for line in csv.reader(file, delimiter=delimiter or ",", quoting=quoting) if line]  # type: ignore[arg-type]
    names: Sequence[Any] = range(len(lines[0]) if lines else 0) if header is None else (lines or [[]])[0]
    rows = lines if header is None else lines[1:]
    _check_lines(path, names, rows)
    table = Table({name: [row[i] for row in rows] for i, name in enumerate(names)})
    chosen = [table.column(col) for col in typed]
    return Table({name: _convert(cells) if cells in chosen else cells for name, cells in table.columns.items()})


def _check_lines(path: Path, names: Sequence[Any], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        raise DataError(f"'{path}' has no rows.")
    if len(set(names)) < len(names):
        raise DataError(f"'{path}' must name each column once. Received: {', '.join(map(str, names))}.")
    odd = [i for i, row in enumerate(rows) if len(row) != len(names)]
    if odd:
        raise DataError(
            f"{len(odd)} of {len(rows)} rows of '{path}' have not {len(names)} cells, as the first line has: first row "
            f"{odd[0]}, {rows[odd[0]]}. Correct them, or give the file's `delimiter`."
        )


def _values(column: Any) -> list[Any]:
    for name in ("tolist", "to_list"):  # NumPy's and pandas', polars': Python's own numbers come out
        if hasattr(column, name):
            return list(getattr(column, name)())
    return list(column)


_INTEGER = re.compile(r"-?(0|[1-9]\d*)$")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
_TRUTH = {"True": True, "False": False, "true": True, "false": False, "TRUE": True, "FALSE": False}


def _convert(column: Sequence[Any]) -> Sequence[Any]:
    texts = [text for text in column if text]
    convert: Any = None
    if texts and all(text in _TRUTH for text in texts):
        convert = _TRUTH.__getitem__
    elif texts and all(_INTEGER.match(text) for text in texts):
        convert = int
    elif texts and all(_NUMBER.match(text) and not re.match(r"-?0\d", text) for text in texts):
        convert = float
    return column if convert is None else [convert(text) if text else None for text in column]
