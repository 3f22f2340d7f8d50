"""What a reviewer decided about items: `read_review` reads the CSV file, and `Corrections` changes labels by it.

Files on disk stay as they are: an item to delete is only left out of the loaders.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilearner.data.labels import as_label
from minilearner.data.table import Table, read_csv, read_text
from minilearner.errors import DataError, closest, plural
from minilearner.review_file import ACTIONS, read_cell

__all__ = ["Correction", "Corrections", "read_review"]

_DELIMITERS = (",", ";", "\t")  # spreadsheets write semicolons if the comma is the decimal sign


@dataclass(frozen=True)
class Correction:
    """One decision."""

    where: str
    """How an error names the row: "line 5 of 'review.csv'"."""
    path: str
    """The item's file."""
    action: str
    """"delete" or "relabel"."""
    given_label: str = ""
    """The label that the item had at the review. Empty if the file does not say it."""
    new_label: str = ""
    """The label that the item gets, with "relabel"."""


@dataclass(frozen=True)
class Corrections:
    """The decisions of a review that change something."""

    path: Path
    """The file that they were read from."""
    rows: tuple[Correction, ...]
    """The decisions in the order of the file, at most one for each item."""

    def apply(
        self, sources: Sequence[Any], labels: list[Any] | None, vocab: Sequence[Any] = ()
    ) -> tuple[list[Any] | None, set[int]]:
        """Returns the corrected labels, and the positions of the items to leave out.

        Args:
            sources: what each item is read from, such as its path.
            labels: the label of each item, or None if the items have none.
            vocab: classes that exist besides those of the labels.

        Raises:
            DataError: an item is not there, its label is another one than at the review, or a new label is no class.
        """
        if not self.rows:
            return labels, set()
        positions = {key: i for i, source in reversed([*enumerate(sources)]) if (key := _key(_path_of(source)))}
        classes = {} if labels is None else {str(name): name for name in (*map(as_label, labels), *vocab)}
        changed, left_out = None if labels is None else list(labels), set()
        for row in self.rows:
            i = _find(row, positions)
            if labels is not None:
                _check_label(row, str(as_label(labels[i])))
            if row.action == "delete":
                left_out.add(i)
            elif changed is not None:
                changed[i] = _find_class(row, classes)
            else:
                raise DataError(f"{row.where} gives '{row.path}' a new label, but the items have no labels.")
        return changed, left_out

    def __str__(self) -> str:
        n_deleted = sum(row.action == "delete" for row in self.rows)
        n_changed = len(self.rows) - n_deleted
        return f"'{self.path}': {plural(n_changed, 'new label')}, {plural(n_deleted, 'item')} left out"


def read_review(path: str | os.PathLike[str]) -> Corrections:
    """Reads a review that `to_csv` wrote and somebody filled in, also from a spreadsheet.

    The column `action` says "keep", "delete" or "relabel", and "relabel" takes the class from `new_label`.
    "relabel:cat" names it at once, and so does `new_label` without an action. Rows without a decision change nothing.

    Raises:
        DataError: a column is missing, an action is unknown, a new label is missing, or two rows contradict each other.
            Names the line.
    """
    table = read_csv(path, delimiter=_find_delimiter(path))
    columns = {str(name).strip().lower(): name for name in table.columns}
    for name in ("path", "action"):
        if name not in columns:
            known = ", ".join(map(str, table.columns))
            raise DataError(f"a review must have a column {name!r}. Received: '{path}' with columns {known}.")

    def cell(name: str, i: int) -> str:
        return read_cell(table.column(columns[name])[i]) if name in columns else ""

    rows: dict[str, Correction] = {}
    for i in range(len(table)):
        row = _read_row(table, i, cell("path", i), cell("action", i), cell("given_label", i), cell("new_label", i))
        if row is None:
            continue
        first = rows.setdefault(_key(row.path), row)
        if (first.action, first.new_label) != (row.action, row.new_label):
            raise DataError(f"{row.where} contradicts {first.where} about '{row.path}'. Keep one of them.")
    return Corrections(Path(path), tuple(rows.values()))


def _read_row(table: Table, i: int, path: str, action: str, given: str, new: str) -> Correction | None:
    """Returns the decision in a row; None if it changes nothing."""
    where = table.name_row(i)
    verb, colon, after = (part.strip() for part in action.partition(":"))
    verb = verb.lower() or ("relabel" if new else "keep")
    if verb not in ACTIONS or (colon and verb != "relabel"):
        raise DataError(
            f"`action` must be keep, delete, relabel or relabel:<class>.{closest(verb, ACTIONS)} "
            f"Received: {action!r} on {where} ('{path}')."
        )
    if new and after and new != after:
        raise DataError(f"{where} names two new labels for '{path}': {after!r} and {new!r}. Keep one of them.")
    new = new or after
    if verb == "relabel" and not new:
        raise DataError(f"{where} says relabel, but names no class for '{path}'. Write it into the column new_label.")
    if verb != "relabel" and new:
        raise DataError(f"{where} says {verb}, but names the new label {new!r} for '{path}'. Clear one of them.")
    if verb == "keep":
        return None
    if not path:
        raise DataError(
            f"{where} says {verb}, but its item has no file to be found by. Change the labels of arrays in memory "
            "yourself: the column item has their positions."
        )
    return Correction(where, path, verb, given, new)


def _find_delimiter(path: str | os.PathLike[str]) -> str:
    head = read_text(path).lstrip().split("\n", 1)[0]
    return max(_DELIMITERS, key=head.count)


def _path_of(source: Any) -> str:
    parts = source if isinstance(source, tuple) else (source,)
    return next((os.fspath(part) for part in parts if isinstance(part, (str, os.PathLike))), "")


def _key(path: str) -> str:
    """Returns what all spellings of a path share: relative or absolute, with accents stored in either way."""
    return unicodedata.normalize("NFC", os.path.abspath(path.strip())) if path else ""


def _find(row: Correction, positions: dict[str, int]) -> int:
    position = positions.get(_key(row.path))
    if position is None:
        of_name = [path for path in positions if os.path.basename(path) == os.path.basename(row.path)]
        hint = f" Did you mean {of_name[0]!r}?" if of_name else ""
        raise DataError(
            f"{row.where} names '{row.path}', which is not among the {plural(len(positions), 'file')}.{hint}"
        )
    return position


def _check_label(row: Correction, now: str) -> None:
    if row.given_label and row.given_label != now.strip() and row.new_label != now:
        raise DataError(
            f"{row.where} says that '{row.path}' is labelled {row.given_label!r}, but its label is {now!r}. The data "
            "have changed since the review."
        )


def _find_class(row: Correction, classes: dict[str, Any]) -> Any:
    if any(isinstance(label, (list, tuple, float)) for label in classes.values()):
        raise DataError(
            f"{row.where} gives '{row.path}' a new label, which works for items of one class each. These have several "
            "labels, or numbers. Delete the item, or change its label in the data."
        )
    if row.new_label not in classes:
        known = sorted(classes)
        hint = closest(row.new_label, known)
        raise DataError(
            f"{row.where} gives '{row.path}' the label {row.new_label!r}, which is no class.{hint} "
            f"Classes: {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}."
        )
    return classes[row.new_label]
