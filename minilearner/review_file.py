"""The CSV file in which people review items: what is wrong with each, and what they decide.

Who finds problems writes the file. `data.corrections` reads it again, with the decisions.

Spreadsheets run cells that begin with "=", "+", "-" or "@" as formulas. Such a cell is written with an apostrophe in
front, which `read_cell` takes away again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from minilearner.files import csv_text, make_parent, write_atomically

__all__ = ["ACTIONS", "COLUMNS", "Suspect", "read_cell", "write_review"]

COLUMNS = ("path", "item", "given_label", "suggested_label", "suspicion", "problem", "action", "new_label")

ACTIONS = ("keep", "delete", "relabel")
"""What a reviewer may write into the column `action`; nothing means "keep". "relabel:cat" needs no `new_label`."""

_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Suspect:
    """An item to review: one row of the file."""

    path: str
    """The item's file. Empty for an item in memory."""
    item: int | None = None
    """The position of the item in its set."""
    given_label: str = ""
    """The label that the item has. Empty if it is unknown."""
    suggested_label: str = ""
    """The label that a model suggests. Empty if there is none."""
    suspicion: float | None = None
    """How likely something is wrong, from 0 to 1."""
    problem: str = ""
    """What is probably wrong, such as "label error" or "near duplicate". Empty if nothing is."""
    action: str = ""
    """One of `ACTIONS`. Empty until somebody has decided."""
    new_label: str = ""
    """The new label if `action` is "relabel"."""


def write_review(path: str | os.PathLike[str], suspects: Iterable[Suspect], encoding: str = "utf-8") -> Path:
    """Writes items to review to a CSV file, whole or not at all, and returns its path.

    Args:
        path: the file.
        suspects: the items, in the order of the rows.
        encoding: "utf-8-sig" adds the byte-order mark by which Excel knows UTF-8.

    Raises:
        ValueError: the encoding is unknown, or it does not have a character of a path or of a label; or the file cannot
            be written.
    """
    text = csv_text(COLUMNS, ([_as_cell(getattr(suspect, name)) for name in COLUMNS] for suspect in suspects))
    try:
        content = text.encode(encoding)
    except (LookupError, UnicodeEncodeError) as error:
        raise ValueError(
            f"`encoding` must fit the labels and paths. Received: encoding={encoding!r} ({error})."
        ) from error
    make_parent(Path(path), "path")
    return write_atomically(path, content)


def read_cell(text: str) -> str:
    """Returns what a cell says: without the blanks around it, and without the apostrophe in front of a formula."""
    text = text.strip()
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(_FORMULAS) else text


def _as_cell(value: object) -> object:
    if isinstance(value, str):
        return f"'{value}" if value.lstrip("'").startswith(_FORMULAS) else value
    return round(value, 6) if isinstance(value, float) else value
