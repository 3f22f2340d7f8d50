"""What an object shows of itself: a few lines in a terminal, a table in a notebook, its public names.

A class derives from `AtAGlance` and says in `glance` what matters. Both views are made of that one answer.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

__all__ = ["AtAGlance", "Glance", "PublicNames", "enumerate_names"]

_COLUMNS_OF_A_FILE = 100
"""How wide lines are where there is no terminal, as in a log."""
_FEWEST_COLUMNS = 40
"""In a narrower terminal, broken lines would be harder to read than those that the terminal breaks."""
_MOST_ROWS = 60
"""A notebook's table shows as many rows at each end at most; nobody reads the 10,000th epoch there."""


@dataclass(frozen=True)
class Glance:
    """A title, facts by name, and perhaps a table.

    Args:
        title: the first line.
        facts: short texts by their names, in order.
        columns: the head of the table.
        rows: the cells of the table, as text.
        after: lines below the table.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    after: Sequence[str] = ()

    def as_text(self) -> str:
        """Returns the lines for a terminal."""
        lines = [self.title, *(f"  {name}: {fact}" for name, fact in self.facts.items())]
        table = _align([self.columns, *self.rows]) if self.columns else []
        return "\n".join([*map(_wrap, lines), *table, *map(_wrap, self.after)])

    def as_html(self) -> str:
        """Returns the table for a notebook. All text is escaped."""
        left = ' style="text-align: left"'
        facts = "".join(
            f"<tr><th{left}>{escape(name)}</th><td{left}>{escape(fact)}</td></tr>" for name, fact in self.facts.items()
        )
        rows = [*map(_as_row, self.rows)]
        if len(rows) > 2 * _MOST_ROWS:
            gap = f'<tr><td colspan="{len(self.columns)}">{len(rows) - 2 * _MOST_ROWS:,} more rows</td></tr>'
            rows = [*rows[:_MOST_ROWS], gap, *rows[-_MOST_ROWS:]]
        head = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in self.columns)}</tr>" if self.columns else ""
        table = f"<table>{head}{''.join(rows)}</table>" if self.columns else ""
        after = "<br>".join(map(escape, self.after))
        return (
            f"<div><b>{escape(self.title)}</b></div>{f'<table>{facts}</table>' if facts else ''}{table}"
            f"{f'<div>{after}</div>' if after else ''}"
        )


class PublicNames:
    """The base of classes whose objects offer only their public names to `dir` and to completion by the TAB key."""

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if not name.startswith("_") or name.endswith("__")]


class AtAGlance(PublicNames):
    """The base of classes whose objects show a `Glance` of themselves."""

    def glance(self) -> Glance:
        """Returns what matters."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.glance().as_text()

    def _repr_html_(self) -> str:
        return self.glance().as_html()


def enumerate_names(names: Iterable[object], most: int = 5) -> str:
    """Returns the first names, and how many more there are: "cat, dog, ... (37)"."""
    every = [str(name) for name in names]
    text = ", ".join(every[:most])
    return text if len(every) <= most else f"{text}, ... ({len(every):,})"


def _wrap(line: str) -> str:
    """Returns a line that is longer than the terminal is wide in several, of which the later ones stand further in."""
    columns = shutil.get_terminal_size((_COLUMNS_OF_A_FILE, 24)).columns
    if len(line) <= columns or columns < _FEWEST_COLUMNS:
        return line
    inset = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(line, columns, subsequent_indent=inset, break_long_words=False, break_on_hyphens=False)


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _as_row(cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
