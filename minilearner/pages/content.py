"""What stands on a page, as plain data. Whoever fills it knows no HTML, and `page` knows no model.

A page has sections, and a section has blocks: paragraphs, large numbers, tables, charts, and cards with images. `Name`
marks text that comes from the user, such as the name of a class, so that the page can set it apart from our words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

__all__ = [
    "Bars",
    "Block",
    "Card",
    "Cards",
    "Cell",
    "Charts",
    "Code",
    "FileName",
    "Lines",
    "Matrix",
    "Name",
    "Numbers",
    "Page",
    "Paragraph",
    "Points",
    "Section",
    "Series",
    "Table",
    "Text",
]


class Name(str):
    """Text of the user's: a class, a file, a column. It is drawn in its own direction, whatever it holds."""

    __slots__ = ()
    is_name = True


class FileName(Name):
    """A path. It is drawn from left to right, whatever script its parts are in, so that its ending stays at its end."""

    __slots__ = ()
    is_path = True


Text: TypeAlias = "str | Sequence[str]"
"""One text, or several in a row, of which some are a `Name` or `Code`."""


class Code(str):
    """What one types."""

    __slots__ = ()
    is_code = True


@dataclass(frozen=True)
class Paragraph:
    """A few sentences."""

    kind: ClassVar[str] = "paragraph"
    text: Text


@dataclass(frozen=True)
class Numbers:
    """The few numbers that matter, in large letters."""

    kind: ClassVar[str] = "numbers"
    rows: Sequence[tuple[str, str, str]]
    """Of each its name, its value, and a remark or ""."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: Text
    order: float | None = None
    """What it is sorted by. None sorts by the text."""
    share: float | None = None
    """In [0, 1], drawn as a bar behind a number. None draws none."""


@dataclass(frozen=True)
class Table:
    """Rows under the heads of columns. The first cell of each row names it."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    is_long: bool = False
    """Whether readers will want to sort and search it."""


@dataclass(frozen=True)
class Series:
    """A line of a chart. NaN is a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    look: str = "main"
    """How it is drawn: "main", "other" or "faint"."""
    has_markers: bool = False


@dataclass(frozen=True)
class Lines:
    """A chart of lines over a shared axis."""

    kind: ClassVar[str] = "lines"
    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    starts: Sequence[tuple[float, str]] = ()
    """Where on the x axis something begins, and its name."""
    has_whole_steps: bool = False
    """Whether the x axis counts whole things."""


@dataclass(frozen=True)
class Points:
    """A chart of points, with a diagonal where both axes agree. Series of points with sizes are joined by a line."""

    kind: ClassVar[str] = "points"
    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    sizes: Sequence[Sequence[float]] | None = None
    """For each series the weight of each point, in [0, 1]. Without, all points are small."""
    in_unit_range: bool = True
    """Whether both axes reach from 0 to 1."""


@dataclass(frozen=True)
class Bars:
    """A chart of bars side by side, without names: a distribution."""

    kind: ClassVar[str] = "bars"
    title: str
    x_label: str
    y_label: str
    heights: Sequence[float]


@dataclass(frozen=True)
class Charts:
    """Charts beside each other, or below each other if the page is narrow."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Lines | Points | Bars]


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: rows are actual classes, columns predicted ones."""

    kind: ClassVar[str] = "matrix"
    caption: str
    names: Sequence[str]
    counts: Any
    """(classes, classes)."""
    totals: Any
    """(classes,): the items of each actual class, which may be more than its row holds."""


@dataclass(frozen=True)
class Card:
    """One item: its images beside each other, and lines of text."""

    images: Sequence[tuple[Any, str]]
    """Images (channels, height, width) in [0, 1], each with a text that takes its place for who cannot see it."""
    missing: str
    """Why there is no image; "" if there is one."""
    lines: Sequence[tuple[str, Text]]
    """What is said about the item: names and values."""
    is_right: bool | None = None


@dataclass(frozen=True)
class Cards:
    """Items beside each other."""

    kind: ClassVar[str] = "cards"
    cards: Sequence[Card]


Block: TypeAlias = "Paragraph | Numbers | Table | Charts | Matrix | Cards"


@dataclass(frozen=True)
class Section:
    """A part of a page under its own heading."""

    key: str
    """A word that names it in links."""
    heading: str
    blocks: Sequence[Block] = ()
    missing: str = ""
    """One sentence that says why there is nothing to show; "" if there is something."""


@dataclass(frozen=True)
class Page:
    """A whole page."""

    title: str
    subtitle: str
    sections: Sequence[Section] = field(default=())
    notice: str = ""
    """What readers must know before they read on; often nothing."""
