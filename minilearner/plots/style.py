"""What all plots share: colours, axes, legends, ticks and margins, and names drawn exactly as they are written."""

from __future__ import annotations

import functools
import os
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minilearner import processes
from minilearner.files import make_parent, replace_file
from minilearner.notebook import show_once
from minilearner.tracebacks import stacklevel_of_user

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "ACCENT",
    "COLORS",
    "MUTED",
    "RAW",
    "SMOOTH",
    "add_margins",
    "axes_of",
    "check_save",
    "clean_text",
    "figure_of",
    "finish_axes",
    "literal_text",
    "place_legend",
    "place_legend_outside",
    "save_figure",
    "set_integer_ticks",
    "set_plain_log_axis",
    "shorten_middle",
    "text_columns",
    "wrap_name",
]

RAW, SMOOTH, ACCENT = "#b5c7dc", "#1f5fa8", "#d1495b"
MUTED = "#5c6470"
"""The grey of remarks, dark enough to be read on white."""
_MOST_NAMED_STARTS = 8
COLORS = ("#d1495b", "#2e933c", "#edae49", "#7b4ea3", "#00a6c0", "#8c564b", "#e377c2", "#444444")


def axes_of(ax: Axes | None, figsize: tuple[float, float] = (7.0, 4.2)) -> tuple[Figure, Axes]:
    """Returns `ax` and its figure, or a new figure with one. Its layout makes room for labels and outside legends."""
    import matplotlib.pyplot as plt  # heavy

    if ax is not None:
        return figure_of(ax), ax
    figure, ax = plt.subplots(figsize=figsize, layout="constrained")
    return add_margins(figure), ax


def save_figure(figure: Figure, save: str | os.PathLike[str] | None) -> Figure:
    """Writes a figure to the file `save`, if one is given, and returns the figure.

    The suffix decides the format: ".png", ".pdf", ".svg" and what else Matplotlib writes. The folder is made if there
    is none. With several processes, only process 0 writes.
    """
    if save is not None and processes.is_first():
        with replace_file(save) as temporary:
            figure.savefig(temporary, dpi=150)
    return figure


def check_save(save: str | os.PathLike[str] | None) -> None:
    """Checks that a figure can be written to `save`, before anything is drawn.

    Raises:
        ValueError: the suffix names no format that Matplotlib writes, or the file cannot be written.
    """
    if save is None:
        return
    from matplotlib.backend_bases import FigureCanvasBase  # heavy

    path = Path(save)
    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        known = ", ".join(f".{name}" for name in sorted(formats))
        raise ValueError(
            f"`save` must end in the suffix of a format: {known}. Received: save={os.fspath(save)!r}. "
            "Write, for example, 'figure.png'."
        )
    make_parent(path, "save")


def add_margins(figure: Figure) -> Figure:
    """Adds room around the content of a figure, and returns the figure."""
    show_once(figure)
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.1, h_pad=0.1)  # inches; with the default, text touches the edge of a saved figure
    return figure


def figure_of(ax: Axes) -> Figure:
    """Returns the whole figure that the axes belong to."""
    figure: Any = ax.get_figure()
    while figure is not figure.figure:  # axes may be in a subfigure
        figure = figure.figure
    return figure  # type: ignore[no-any-return]


def finish_axes(ax: Axes, starts: Sequence[int] | Mapping[int, str] = ()) -> None:
    """Draws the grid and a dotted line where each run starts, and hides the frame.

    Args:
        ax: the axes.
        starts: where runs start, perhaps with their names. Names are written along the lines while there is room.
    """
    for start in starts:
        if start:
            ax.axvline(start, color="#999999", linewidth=1, linestyle=":")
    if isinstance(starts, Mapping) and 1 < len(starts) <= _MOST_NAMED_STARTS:
        left = ax.get_xlim()[0]
        place: dict[str, Any] = {
            "xycoords": ("data", "axes fraction"),
            "xytext": (3, -3),
            "textcoords": "offset points",
        }
        look: dict[str, Any] = {"rotation": 90, "ha": "left", "va": "top", "fontsize": 8, "color": MUTED}
        for start, name in starts.items():
            ax.annotate(clean_text(name), (max(start, left), 1), **place, **look, **literal_text(name))
    ax.grid(True, color="#dddddd", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=10)
    ax.xaxis.label.set_fontsize(11)
    ax.yaxis.label.set_fontsize(11)


def set_integer_ticks(ax: Axes) -> None:
    """Puts ticks on the x axis at whole numbers only."""
    from matplotlib.ticker import MaxNLocator  # heavy

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def set_plain_log_axis(ax: Axes) -> None:
    """Makes the loss axis logarithmic, labelled 0.2, 0.5, 1 instead of powers of ten."""
    from matplotlib.ticker import LogLocator, NullLocator  # heavy

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")


def place_legend_outside(ax: Axes) -> None:
    """Puts the legend to the right of the axes, so it covers no data, however long it is."""
    place_legend(ax, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, fontsize=9, markerscale=0.6)


def place_legend(ax: Axes, **how: Any) -> None:
    """Adds a legend without a frame; labels are drawn as they are written, also with a leading underscore.

    Args:
        ax: the axes. A line that needs no entry has no label.
        how: arguments of Matplotlib's `legend`.
    """
    handles: list[Any] = [artist for artist in ax.get_children() if _is_labelled(artist)]
    labels = [str(handle.get_label()) for handle in handles]
    if not handles:
        return
    # Matplotlib leaves out labels with a leading underscore, so the real texts are set afterwards.
    legend = ax.legend(handles, [f"line {i}" for i in range(len(labels))], frameon=False, **how)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(clean_text(label))
        text.update(literal_text(label))


def _is_labelled(artist: Any) -> bool:
    from matplotlib.collections import Collection  # heavy
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    # Matplotlib itself names artists "_child3", or not at all.
    is_named = re.fullmatch(r"_child\d+|_nolegend_|", str(artist.get_label())) is None
    return isinstance(artist, (Line2D, Patch, Collection)) and is_named


def literal_text(*texts: str) -> dict[str, Any]:
    """Returns properties of a Matplotlib text that draw these texts as they are, in any script.

    Dollar signs do not start mathematics, nor is TeX used. If Matplotlib's font lacks a letter, an installed font that
    has it is added. If none has, a warning says so, once, and the letter becomes a box.
    """
    properties: dict[str, Any] = {"parse_math": False, "usetex": False}
    # Matplotlib's own font has all of Latin, Greek, Cyrillic, Hebrew and Arabic.
    letters = frozenset(letter for text in texts for letter in text if ord(letter) > 0x7E and not letter.isspace())
    if letters and (families := _families_for(letters)):
        properties["fontfamily"] = families
    return properties


def clean_text(text: str) -> str:
    """Returns a text that any font machinery takes: every kind of line break as "\\n", no broken Unicode."""
    lines = text.encode("utf-8", "backslashreplace").decode().splitlines()
    return "\n".join("".join(c if c.isprintable() else _visible(c) for c in line) for line in lines)


def _visible(letter: str) -> str:
    """Returns marks of writing direction and joiners as they are, a tab as spaces, other control characters as "?"."""
    if unicodedata.category(letter) in ("Cf", "Zs"):
        return letter
    return "    " if letter == "\t" else "?"


def wrap_name(text: str, longest: int, max_lines: int = 6) -> str:
    """Returns a text in lines of at most `longest` letters. Only line breaks are added, and lines beyond 6 are cut."""
    keep_all: dict[str, Any] = {"expand_tabs": False, "replace_whitespace": False, "drop_whitespace": False}
    broken = [textwrap.wrap(line, longest, break_on_hyphens=False, **keep_all) or [""] for line in text.split("\n")]
    lines = [line for parts in broken for line in parts]
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], f"{lines[max_lines - 1][: longest - 1]}\N{HORIZONTAL ELLIPSIS}"]
    return "\n".join(lines)


def shorten_middle(text: str, longest: int) -> str:
    """Returns a text as it is, or, if a line has more than `longest` letters, in one line without its middle.

    An ellipsis stands for the middle, because long names often differ at their ends.
    """
    if text_columns(text) <= longest:
        return text
    line = text.replace("\n", " ")
    n_head, n_tail = (longest + 1) // 2, longest // 2
    while n_head + n_tail > 2:
        shorter = f"{line[:n_head]}\N{HORIZONTAL ELLIPSIS}{line[len(line) - n_tail :]}"
        if text_columns(shorter) <= longest:
            return shorter
        n_head, n_tail = (n_head - 1, n_tail) if n_head > n_tail else (n_head, n_tail - 1)
    return f"{line[0]}\N{HORIZONTAL ELLIPSIS}"


def text_columns(text: str) -> int:
    """Returns how many letters wide the longest line of a text is; letters of Chinese, Japanese and Korean count 2."""
    return max(
        (sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in line) for line in text.split("\n")), default=0
    )


@functools.lru_cache(maxsize=64)
def _families_for(letters: frozenset[str]) -> list[str]:
    """Returns the default font families, and those of installed fonts that have the other letters."""
    from matplotlib import rcParams  # heavy
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    families = list(rcParams["font.family"])
    missing = {ord(letter) for letter in letters} - _letters_of(findfont(FontProperties(family=families)))
    if not missing:
        return []
    # Fonts for many scripts first; a font for symbols alone, or in bold, would look odd.
    entries = sorted(fontManager.ttflist, key=lambda font: (not _MANY_SCRIPTS.search(font.name), str(font.weight)))
    seen: set[str] = set()
    for font in entries:
        if not missing:
            break
        if font.name in seen or font.name.startswith("Last Resort"):
            continue
        seen.add(font.name)
        found = missing & _letters_of(font.fname)
        if found:
            families.append(font.name)
            missing -= found
    if missing:
        shown = "".join(chr(code) for code in sorted(missing)[:10])
        warnings.warn(
            f"No installed font has the letters {shown!r}, so they become boxes in figures. Install a font that has "
            "them, such as Noto Sans CJK (on Debian and Ubuntu, the package fonts-noto-cjk).",
            UserWarning,
            stacklevel=stacklevel_of_user(),
        )
    return families


_MANY_SCRIPTS = re.compile("Noto Sans|CJK|Unicode|YaHei|Sim(Hei|Sun)|PingFang|Hiragino|WenQuanYi|Malgun|Gothic|Heiti")


@functools.lru_cache(maxsize=256)
def _letters_of(path: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font  # heavy

    try:
        return frozenset(get_font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
