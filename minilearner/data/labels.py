"""Reads the labels of items: from their names, their folders, or the columns of a table."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from minilearner.data.items import name_items
from minilearner.errors import DataError, plural
from minilearner.keywords import suggest_keywords

__all__ = [
    "AttrGetter",
    "ColReader",
    "Getter",
    "ItemGetter",
    "RegexLabeller",
    "apply_to_all",
    "as_label",
    "as_python",
    "is_missing",
    "look_alike",
    "parent_label",
    "using_attr",
]

Getter: TypeAlias = Callable[[Any], Any]
"""Item -> its label, or what its input is read from."""


@suggest_keywords
@dataclass(frozen=True)
class RegexLabeller:
    r"""The label is the first group of a regular expression, searched in the path of an item with "/" between folders.

    >>> using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name")(Path("pets/great_pyrenees_12.jpg"))
    'great_pyrenees'

    Args:
        pat: the expression, with one group at least.
        match: the expression must match from the start of the item.

    Raises:
        ValueError: `pat` is not a regular expression, or has no group.
        DataError: (when called) the expression is not found in the item.
    """

    pat: str | re.Pattern[str]
    match: bool = False

    def __post_init__(self) -> None:
        try:
            n_groups = re.compile(self.pat).groups
        except re.error as error:
            raise ValueError(f"`pat` must be a regular expression. Received: pat={self.pat!r}: {error}.") from error
        if not n_groups:
            raise ValueError(f"`pat` must have a group, in parentheses, around the label. Received: pat={self.pat!r}.")

    def __call__(self, item: Any) -> str:
        """Returns the label of an item."""
        text = str(item).replace(os.sep, "/")
        pattern = re.compile(self.pat)
        found = pattern.match(text) if self.match else pattern.search(text)
        if found is None or found.group(1) is None:
            raise DataError(f"the pattern {pattern.pattern!r} is not found in {text!r}")
        return found.group(1)


@dataclass(frozen=True)
class _UsingAttr:
    f: Getter
    attr: str

    def __call__(self, item: Any) -> Any:
        return self.f(getattr(item, self.attr))

    def __repr__(self) -> str:
        return f"using_attr({_name(self.f)}, {self.attr!r})"


@suggest_keywords
def using_attr(f: Getter, attr: str) -> Getter:
    """Returns a function that applies `f` to an attribute of the item, such as the "name" of a path."""
    return _UsingAttr(f, attr)


@suggest_keywords
def parent_label(item: str | os.PathLike[str]) -> str:
    """Returns the name of the folder that a file lies in."""
    path = item if isinstance(item, Path) else Path(item)
    return path.parent.name


@suggest_keywords
@dataclass(frozen=True)
class ItemGetter:
    """Takes ``item[i]``."""

    i: Any

    def __call__(self, item: Any) -> Any:
        """Returns that part of an item."""
        return item[self.i]


@suggest_keywords
@dataclass(frozen=True)
class AttrGetter:
    """Takes the attribute `nm` of an item; `default` if it has none."""

    nm: str
    default: Any = None

    def __call__(self, item: Any) -> Any:
        """Returns that attribute of an item."""
        return getattr(item, self.nm, self.default)


@suggest_keywords
@dataclass(frozen=True)
class ColReader:
    """Reads one or several columns of a row: of a table, a dictionary, a tuple or a named tuple.

    >>> ColReader("labels", label_delim=";")({"labels": "clear;primary"})
    ['clear', 'primary']

    Args:
        cols: a name or position, or a list of them; then a list of values is returned.
        pref: put before the value; a folder, given as a `Path`, with a separator.
        suff: put after the value.
        label_delim: what separates the labels of one cell. Blanks around a label and empty pieces are dropped, so
            "a;; b;" has the labels a and b. An empty cell has no labels.

    Raises:
        ValueError: `label_delim` is an empty text.
    """

    cols: str | int | Sequence[str | int]
    pref: str | Path = ""
    suff: str = ""
    label_delim: str | None = None

    def __post_init__(self) -> None:
        if self.label_delim == "":
            raise ValueError("`label_delim` must have at least one character. Received: label_delim=''.")

    def __call__(self, row: Any) -> Any:
        """Returns the value, or the list of values, of a row."""
        if isinstance(self.cols, (str, int)):
            return self._one(row, self.cols)
        return [self._one(row, col) for col in self.cols]

    def _one(self, row: Any, col: str | int) -> Any:
        value = _cell(row, col)
        if self.label_delim is not None:
            pieces = [] if is_missing(value) else map(as_label, str(value).split(self.label_delim))
            return [piece for piece in pieces if piece]
        if is_missing(value):
            return value  # a prefix would make a class or a file name of it
        pref = f"{self.pref}{os.sep}" if isinstance(self.pref, Path) else self.pref
        return f"{pref}{value}{self.suff}" if pref or self.suff else value


def apply_to_all(getter: Getter, items: Sequence[Any], name: str, given: Any = None) -> list[Any]:
    """Returns what a getter returns for every item.

    Args:
        getter: item -> value.
        items: the items.
        name: the argument that an error names.
        given: what the user passed for that argument, if it is not the getter itself.

    Raises:
        DataError: the getter failed. Says on how many items, with three examples and their reasons.
    """
    values: list[Any] = []
    failed: list[int] = []
    reasons: list[Exception] = []
    for position, item in enumerate(items):
        try:
            values.append(getter(item))
        except Exception as error:  # whatever a user's function raises
            failed.append(position)
            if len(reasons) < 3:
                reasons.append(error)
    if failed:
        causes = [str(e) if isinstance(e, DataError) else f"{type(e).__name__}: {e}" for e in reasons]
        correct = f"Correct `{name}={_name(getter if given is None else given)}`"
        if len(failed) == len(items) > 1 and len(set(causes)) == 1:
            raise DataError(f"`{name}` failed on all items: {causes[0].rstrip('.')}. {correct}.") from reasons[0]
        raise DataError(
            f"`{name}` failed on {len(failed)} of {plural(len(items), 'item')}: {name_items(items, failed, causes)}. "
            f"{correct}, or leave these items out."
        ) from reasons[0]
    return values


def as_label(value: Any) -> Any:
    """Returns a label as classes are compared: NumPy's and torch's single values as Python's, and text trimmed.

    So "cat" and " cat" are one class, and so are 3 and np.int64(3). An accent is part of its letter, as people type it:
    macOS stores the names of folders with both apart.
    """
    value = as_python(value)
    if not isinstance(value, str):
        return value
    return unicodedata.normalize("NFC", value.strip(_BLANKS))  # returns text in ASCII as it is


def as_python(value: Any) -> Any:
    """Returns a single value of NumPy's or torch's as Python's own, and anything else as it is."""
    # A date of NumPy's would become a bare count of nanoseconds.
    if getattr(value, "ndim", None) == 0 and not isinstance(value, (np.datetime64, np.timedelta64)):
        return value.item() if hasattr(value, "item") else value
    return value


def look_alike(names: Iterable[Any]) -> tuple[str, str] | None:
    """Returns two names that differ only in blanks, invisible characters or how accents are stored; else None."""
    seen: dict[str, str] = {}
    for name in names:
        if isinstance(name, str):
            drawn = " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFC", name)).split())
            if seen.setdefault(drawn, name) != name:
                return seen[drawn], name
    return None


def is_missing(value: Any) -> bool:
    """Returns whether a cell is empty: None, blank text, and NaN, NaT or NA, as tables and NumPy have them."""
    if value is None or value is np.ma.masked:
        return True
    if isinstance(value, (str, bytes)):
        return not (value.strip(_BLANKS) if isinstance(value, str) else value.strip())
    if getattr(value, "ndim", 0):
        return False
    try:
        return bool(value != value)  # true of NaN and NaT alone
    except Exception:  # pandas' NA is neither true nor false, and a signalling NaN cannot be compared
        return type(value).__name__ in ("NAType", "Decimal")


_BLANKS = "".join(map(chr, (*range(0x21), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200C), 0x2028, 0x2029, 0x202F))) + (
    "\u205f\u2060\u3000\ufeff"
)
"""White space and characters that nobody sees, such as a byte-order mark and a space without width."""

_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")


def _cell(row: Any, col: str | int) -> Any:
    if isinstance(col, int) and hasattr(row, "iloc"):  # a row of a pandas frame, which counts positions there
        return row.iloc[col]
    return getattr(row, col) if isinstance(col, str) and col in getattr(row, "_fields", ()) else row[col]


def _name(getter: Any) -> str:
    return getattr(getter, "__name__", None) or repr(getter)
