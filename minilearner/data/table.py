"""A table as a sequence of rows: from any mapping of columns, pandas' and polars' frames among them, or a CSV file."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from minilearner.data.labels import is_missing
from minilearner.errors import DataError, FileFormatError, agree, closest, plural
from minilearner.files import check_is_file

__all__ = ["Row", "Table", "as_row", "as_table", "is_table", "read_csv", "read_text"]


class Row(Mapping[str, Any]):
    """One row: ``row["fname"]``, ``row.fname`` or, by position, ``row[0]``."""

    __slots__ = ("_position", "_table")

    def __init__(self, table: Table, position: int) -> None:
        self._table, self._position = table, position

    def __getitem__(self, col: Any) -> Any:
        """Returns the cell in a column, given by its name or, if no column has that name, by its position.

        For a list of columns, returns the list of their cells.
        """
        if isinstance(col, list):
            return [self[one] for one in col]
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

    Args:
        columns: name -> cells.
        path: the file that they were read from, for errors.
        lines: the line of the file on which each row begins.

    Raises:
        DataError: there is no column, or they differ in length.
    """

    def __init__(
        self, columns: Mapping[Any, Sequence[Any]], path: Path | None = None, lines: Sequence[int] = ()
    ) -> None:
        self.columns: dict[Any, Sequence[Any]] = dict(columns)
        self.path, self.lines = path, lines
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) != 1:
            raise DataError(f"the columns of a table must have one length. Received: {lengths or 'no column'}.")
        self._length = next(iter(lengths.values()))

    def column(self, col: str | int) -> Sequence[Any]:
        """Returns a column by its name or its position.

        Raises:
            DataError: there is no such column.
        """
        return self.columns[self.column_name(col)]

    def column_name(self, col: str | int) -> Any:
        """Returns the name of a column that is given by its name or its position.

        Raises:
            DataError: there is no such column.
        """
        if col in self.columns:
            return col
        if isinstance(col, int) and -len(self.columns) <= col < len(self.columns):
            return [*self.columns][col]
        names = [str(name) for name in self.columns]
        raise DataError(f"there is no column {col!r}.{closest(str(col), names)} Columns: {', '.join(names)}.")

    def name_row(self, position: int) -> str:
        """Returns how an error names a row: "row 3", or "line 5 of 'labels.csv'" if it comes from a file."""
        return f"row {position}" if self.path is None else f"line {self.lines[position]} of '{self.path}'"

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
    encoding: str | None = None,
) -> Table:
    """Reads a CSV file as text. Cells may be of any length.

    Args:
        path: the file.
        header: "infer" or 0 if the first line has names; None if columns have no names, but positions.
        delimiter: between cells. None is what the first line has: ",", or else ";" or a tab, which comes first in a
            .tsv file.
        quoting: as in the module `csv`.
        typed: columns to read as whole numbers, numbers or truth values, if all their cells are written like that.
            "007" stays text, because 7 is written differently. Empty cells become None, and so do words such as "NaN"
            and "NA" among numbers.
        encoding: as for `read_text`.

    Raises:
        DataError: the file is missing or empty, a line has more or fewer cells than the first, a quote is not closed,
            or a column is missing. Names the file and the line.
        FileFormatError: the file is not text in this encoding.
        ValueError: `header`, `delimiter` or `quoting` is something else.
    """
    if header not in ("infer", 0, None):
        raise ValueError(f"`header` must be 'infer', 0 or None. Received: header={header!r}.")
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '\r\n"'):
        raise ValueError(f"`delimiter` must be one character. Received: delimiter={delimiter!r}.")
    path = Path(path)
    numbered = _parse(path, read_text(path, encoding), delimiter, quoting)
    lines = [line for _, line in numbered]
    names: Sequence[Any] = range(len(lines[0]) if lines else 0) if header is None else (lines or [[]])[0]
    if header is not None:
        numbered = numbered[1:]
    _check_lines(path, names, numbered)
    columns = {name: [row[i] for _, row in numbered] for i, name in enumerate(names)}
    table = Table(columns, path, [number for number, _ in numbered])
    chosen = [table.column(col) for col in typed]
    for name, cells in columns.items():
        if any(cells is column for column in chosen):
            table.columns[name] = _convert(cells)
    return table


def read_text(path: str | os.PathLike[str], encoding: str | None = None) -> str:
    """Reads a text file.

    Args:
        path: the file.
        encoding: such as "cp1252" or "shift_jis". None is UTF-8, or UTF-16 or UTF-32 if the file begins with
            its byte-order mark.

    Raises:
        DataError: there is no such file, or it cannot be read.
        FileFormatError: its bytes are not text in this encoding, and the message names the line; or it is a pipe or a
            device.
        ValueError: there is no such encoding.
    """
    path = Path(path)
    try:
        check_is_file(path)  # reading a pipe or a device might never end
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"there is no file '{path}'.") from error
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    chosen = encoding or next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(chosen)
    except LookupError as error:
        raise ValueError(f"`encoding` must be one that Python knows. Received: encoding={encoding!r}.") from error
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        line = content[:start].count(b"\n") + 1
        raise FileFormatError(
            f"line {line} of '{path}' is not text in {chosen}: {content[max(0, start - 10) : start + 10]!r}. "
            f"Save the file as UTF-8, or give its `encoding`, {_suggest_codec(content)}."
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise FileFormatError(
            f"line {line} of '{path}' has a character number 0, so it is not text in {chosen}. "
            f"Save the file as UTF-8, or give its `encoding`, {_suggest_codec(content)}."
        )
    return text.removeprefix("\ufeff")


_MARKS = (  # UTF-32's begin with those of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _suggest_codec(content: bytes) -> str:
    """Returns which encoding a file may have that is not UTF-8, as the end of a sentence."""
    if b"\0" not in content:
        return "which is 'cp1252' or 'latin-1' for many files from Windows"
    odd = content[1::2].count(0) >= content[::2].count(0)  # of most letters, the second byte is 0, or else the first
    return f"such as 'utf-16-{'le' if odd else 'be'}'"


_ONE_AT_A_TIME = threading.Lock()  # the limit for a cell belongs to the whole module `csv`
_END = "end of the table, which no file has"


def _find_delimiter(path: Path, text: str) -> str:
    """Returns what separates the cells of the first line. Spreadsheets write ";" where "," is the decimal point."""
    line = re.sub('"[^"]*"', "", next(filter(str.strip, text.splitlines()), ""))
    order = "\t,;" if path.suffix.lower() == ".tsv" else ",;\t"
    return next((sign for sign in order if sign in line), ",")


def _parse(path: Path, text: str, delimiter: str | None, quoting: int) -> list[tuple[int, list[str]]]:
    """Returns the rows that are not empty, each with the number of its first line."""
    rows: list[tuple[int, list[str]]] = []
    first = 1
    with _ONE_AT_A_TIME:
        limit = csv.field_size_limit(max(csv.field_size_limit(), len(text) + len(_END) + 1))
        try:
            # A row of our own at the end shows whether a quote is still open there: then it is no row of its own.
            source = chain(io.StringIO(text, newline=""), (f'"{_END}"',))
            reader = csv.reader(source, delimiter=delimiter or _find_delimiter(path, text), quoting=quoting)  # type: ignore[arg-type]
            for row in reader:
                if row:
                    rows.append((first, row))
                first = reader.line_num + 1
        except TypeError as error:
            raise ValueError(f"`quoting` must be a constant of the module csv. Received: {quoting!r}.") from error
        except (csv.Error, ValueError) as error:
            raise DataError(f"line {first} of '{path}' cannot be read: {error}.") from error
        finally:
            csv.field_size_limit(limit)
    number, last = rows.pop()
    if last != [_END] and last != [f'"{_END}"']:
        raise DataError(
            f"a quote on line {number} of '{path}' is not closed, so the rest of the file would be one cell. "
            "Close it, or give quoting=csv.QUOTE_NONE if quotes are plain characters there."
        )
    return rows


def _check_lines(path: Path, names: Sequence[Any], rows: Sequence[tuple[int, Sequence[str]]]) -> None:
    if not rows:
        raise DataError(f"'{path}' has no rows.")
    if len(set(names)) < len(names):
        raise DataError(f"'{path}' must name each column once. Received: {', '.join(map(str, names))}.")
    odd = [(number, row) for number, row in rows if len(row) != len(names)]
    if odd:
        number, row = odd[0]
        raise DataError(
            f"{len(odd)} of {plural(len(rows), 'row')} of '{path}' {agree(len(odd), 'does', 'do')} not have "
            f"{plural(len(names), 'cell')}, as the first line has: first line {number}, {row!s:.200}. Correct them, "
            "or give the file's `delimiter`."
        )


def _values(column: Any) -> list[Any]:
    for name in ("tolist", "to_list"):  # NumPy's and pandas', polars': Python's own numbers come out
        if hasattr(column, name):
            return list(getattr(column, name)())
    return list(column)


_INTEGER = re.compile(r"-?(0|[1-9]\d*)$")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
_TRUTH = {"True": True, "False": False, "true": True, "false": False, "TRUE": True, "FALSE": False}
_EMPTY_WORDS = ("nan", "na", "n/a", "<na>", "#n/a", "null", "none")
"""How programs write an empty cell among numbers. In a column of text, each may be a name."""


def _convert(column: Sequence[Any]) -> Sequence[Any]:
    cells = [cell.strip() if isinstance(cell, str) else cell for cell in column]
    texts = [cell for cell in cells if not is_missing(cell) and str(cell).lower() not in _EMPTY_WORDS]
    convert: Any = None
    if not texts or not all(isinstance(text, str) for text in texts):
        return column
    if all(text in _TRUTH for text in texts):
        convert = _TRUTH.__getitem__
    elif all(_INTEGER.match(text) for text in texts):
        convert = int
    elif all(_NUMBER.match(text) and not re.match(r"-?0\d", text) for text in texts):
        convert = float
    known = set(texts)
    return column if convert is None else [convert(cell) if cell in known else None for cell in cells]
