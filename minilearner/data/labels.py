"""Reads the labels of items: from their names, their folders, or the columns of a table."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from minilearner.data.items import name_items
from minilearner.errors import DataError

__all__ = [
    "AttrGetter",
    "ColReader",
    "Getter",
    "ItemGetter",
    "RegexLabeller",
    "apply_to_all",
    "is_missing",
    "parent_label",
    "using_attr",
]

Getter: TypeAlias = Callable[[Any], Any]
"""Item -> its label, or what its input is read from."""


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


def using_attr(f: Getter, attr: str) -> Getter:
    """Returns a function that applies `f` to an attribute of the item, such as the "name" of a path."""
    return _UsingAttr(f, attr)


def parent_label(item: str | os.PathLike[str]) -> str:
    """Returns the name of the folder that a file lies in."""
    path = item if isinstance(item, Path) else Path(item)
    return path.parent.name


@dataclass(frozen=True)
class ItemGetter:
    """Takes ``item[i]``."""

    i: Any

    def __call__(self, item: Any) -> Any:
        """Returns that part of an item."""
        return item[self.i]


@dataclass(frozen=True)
class AttrGetter:
    """Takes the attribute `nm` of an item; `default` if it has none."""

    nm: str
    default: Any = None

    def __call__(self, item: Any) -> Any:
        """Returns that attribute of an item."""
        return getattr(item, self.nm, self.default)


@dataclass(frozen=True)
class ColReader:
    """Reads one or several columns of a row: of a table, a dictionary, a tuple or a named tuple.

    >>> ColReader("labels", label_delim=";")({"labels": "clear;primary"})
    ['clear', 'primary']

    Args:
        cols: a name or position, or a list of them; then a list of values is returned.
        pref: put before the value; a folder, given as a `Path`, with a separator.
        suff: put after the value.
        label_delim: what separates the labels of one cell; an empty cell has no labels.
    """

    cols: str | int | Sequence[str | int]
    pref: str | Path = ""
    suff: str = ""
    label_delim: str | None = None

    def __call__(self, row: Any) -> Any:
        """Returns the value, or the list of values, of a row."""
        if isinstance(self.cols, (str, int)):
            return self._one(row, self.cols)
        return [self._one(row, col) for col in self.cols]

    def _one(self, row: Any, col: str | int) -> Any:
        value = _cell(row, col)
        if self.label_delim is not None:
            return str(value).split(self.label_delim) if not is_missing(value) and value != "" else []
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
        raise DataError(
            f"`{name}` failed on {len(failed)} of {len(items)} items: {name_items(items, failed, causes)}. Correct "
            f"`{name}={_name(getter if given is None else given)}`, or leave these items out."
        ) from reasons[0]
    return values


def is_missing(value: Any) -> bool:
    """Returns whether a cell is empty: None, or the NaN that tables use for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _cell(row: Any, col: str | int) -> Any:
    if isinstance(col, int) and hasattr(row, "iloc"):  # a row of a pandas frame, which counts positions there
        return row.iloc[col]
    return getattr(row, col) if isinstance(col, str) and col in getattr(row, "_fields", ()) else row[col]


def _name(getter: Any) -> str:
    return getattr(getter, "__name__", None) or repr(getter)
