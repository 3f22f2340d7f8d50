"""Show how far a long stretch is: a bar in a terminal, a live output in a notebook, lines in a log.

This module alone decides which of the three it is, and what Ctrl-C leaves on the screen. Everything that takes long,
from a download to an epoch, opens a `Bar`. All of it goes to standard error, so standard output holds only results.

In a log, a line comes at most every 30 seconds, the first one after 3 seconds. The environment variable
`MINILEARNER_LOG_SECONDS` sets another interval.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from types import TracebackType
from typing import Any, Protocol, TextIO

from tqdm.std import tqdm

__all__ = ["Bar", "Live", "in_notebook", "iterate_with_bar", "shorten_interrupt", "shorten_interrupts", "write_line"]

_LOG_SECONDS = 30.0
_FIRST_SECONDS = 3.0  # a stretch that takes less says nothing in a log
_SCREEN_SECONDS = 0.2  # not for each batch: reading the loss waits for the device
_INTERRUPT_COLUMNS = 3  # a terminal echoes "^C" where the bar ends, and must not wrap the line


class Bar:
    """Shows how far one stretch is, until it is closed. Only the bar opened last is on the screen.

    Args:
        what: what takes long, such as "validation".
        total: how many steps it has; None if that is unknown.
        done: how many are done already.
        unit: what the steps are: "B" for bytes, "" for batches and updates.
        may_stop: whether it may stop before its last step, so that the time left is "at most" so long.

    Attributes:
        due: the time, by `time.perf_counter`, from which on `show` is worth a call.
    """

    def __init__(self, what: str, total: int | None, *, done: int = 0, unit: str = "", may_stop: bool = False):
        self.what, self.total, self.done, self.unit, self.may_stop = what, total, done, unit, may_stop
        self.note = ""
        self._first, self._began = done, time.perf_counter()
        self._surface: _Surface = _choose_surface()
        with _lock:
            _hide()
            _open.append(self)
            self.due = self._surface.open(self)

    def show(self, done: int, note: str = "") -> None:
        """Shows that so many steps are done, with a note such as "loss 0.52"."""
        with _lock:
            self.done, self.note = done, note
            self.due = self._surface.draw(self) if _open[-1:] == [self] else time.perf_counter() + _SCREEN_SECONDS

    def close(self) -> None:
        """Takes the bar off the screen, and shows the one under it again."""
        with _lock:
            if self in _open:
                _hide()
                _open.remove(self)
                _redraw()

    def redraw(self) -> None:
        """Draws the bar again after something else stood in its place."""
        self._surface.redraw(self)

    def hide(self) -> None:
        """Makes room on the screen for something else."""
        self._surface.hide()

    def line(self, columns: int | None = None) -> str:
        """Returns the bar as one line, `columns` wide at most; None returns only the words and numbers."""
        return str(
            tqdm.format_meter(
                self.done,
                self.total,
                time.perf_counter() - self._began,
                ncols=columns,
                prefix=self.what,
                ascii=not (getattr(sys.stderr, "encoding", None) or "").lower().startswith("utf"),
                unit=self.unit,
                unit_scale=self.unit == "B",
                initial=self._first,
                bar_format="{desc}: " + ", ".join(self._parts(with_bar=columns is not None)),
            )
        )

    def _parts(self, *, with_bar: bool) -> Iterator[str]:
        if not self.total:
            yield from ("{n_fmt}{unit}", "{elapsed}")
        elif with_bar:
            yield "{percentage:3.0f} % |{bar}| {n_fmt}/{total_fmt}{unit}"
        else:
            yield from ("{n_fmt}/{total_fmt}{unit}", "{percentage:.0f} %")
        if self.note:
            yield self.note
        if self.total and self.done > self._first:
            yield "at most {remaining} left" if self.may_stop else "{remaining} left"

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.close()


def iterate_with_bar(loader: Any, what: str) -> Iterator[Any]:
    """Yields the batches of a loader, and shows how far it is."""
    with Bar(what, len(loader)) as bar:
        for done, batch in enumerate(loader, 1):
            yield batch
            if time.perf_counter() >= bar.due:
                bar.show(done)


def write_line(text: str, stream: TextIO) -> None:
    """Writes a line at once. A bar on the screen makes room for it."""
    global _written
    with _lock:
        _hide()
        stream.write(f"{text}\n")
        stream.flush()
        _written = time.perf_counter()
        _redraw()


def in_notebook() -> bool:
    """Whether the output goes to the cells of a notebook."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


class Live:
    """One output of a notebook's cell, which changes in place. It needs no widgets.

    Attributes:
        html, text: what stands in it, for notebooks and for plain text.
        bar: a line below it, for as long as something takes.
    """

    current: Live | None = None  # the one that bars belong to

    def __init__(self) -> None:
        self.html = self.text = self.bar = ""
        self._id, self._is_shown = uuid.uuid4().hex, False

    def refresh(self) -> None:
        """Shows what has changed."""
        from IPython import display as ipython

        display: Any = ipython.update_display if self._is_shown else ipython.display
        line = f"<pre>{escape(self.bar)}</pre>" if self.bar else ""
        text = "\n".join(part for part in (self.text, self.bar) if part)
        display({"text/html": self.html + line, "text/plain": text}, raw=True, display_id=self._id)
        self._is_shown = True

    @property
    def is_shown(self) -> bool:
        """Whether the cell has this output."""
        return self._is_shown


def shorten_interrupt(error: KeyboardInterrupt, where: str) -> None:
    """Lets Ctrl-C end a script with one line, which says where it came, instead of a traceback.

    A program that catches the error sees no difference. Neither does one that has set a `sys.excepthook` of its own.

    Args:
        where: when it came, such as "in epoch 2/3".
    """
    if not hasattr(error, "_render_traceback_"):  # otherwise an inner part has said more precisely where
        error.args = (f"Interrupted {where}{f', {error}' if error.args else '.'}",)
        error._render_traceback_ = lambda: [str(error)]  # type: ignore[attr-defined]  # IPython calls it
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _end_with_one_line


@contextmanager
def shorten_interrupts(where: str) -> Iterator[None]:
    """Calls `shorten_interrupt` if Ctrl-C comes inside the `with` block."""
    try:
        yield
    except KeyboardInterrupt as error:
        shorten_interrupt(error, where)
        raise


def _end_with_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    # A subclass of KeyboardInterrupt would not do: with it, Python exits with 1, and a shell goes on with its loop.
    if isinstance(error, KeyboardInterrupt) and hasattr(error, "_render_traceback_"):
        while _open:
            _open[-1].close()
        write_line(str(error), sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


class _Surface(Protocol):
    """Where bars are drawn. `open` and `draw` return when the next `draw` is due."""

    def open(self, bar: Bar) -> float: ...

    def draw(self, bar: Bar) -> float: ...

    def redraw(self, bar: Bar) -> None: ...

    def hide(self) -> None: ...


class _Terminal:
    """Draws on the last line of standard error, without control codes other than the carriage return."""

    def __init__(self) -> None:
        self._width = 0

    def open(self, bar: Bar) -> float:
        return self.draw(bar)

    def draw(self, bar: Bar) -> float:
        self.redraw(bar)
        return time.perf_counter() + _SCREEN_SECONDS

    def redraw(self, bar: Bar) -> None:
        columns = _terminal_columns()
        line = bar.line(columns - 1 - _INTERRUPT_COLUMNS)
        self._write("\r" + line + " " * (min(self._width, columns - 1) - len(line)))
        self._width = len(line)

    def hide(self) -> None:
        if self._width:
            self._write("\r" + " " * min(self._width + _INTERRUPT_COLUMNS, _terminal_columns() - 1) + "\r")
            self._width = 0

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


class _Notebook:
    """Draws in the current live output, or in one of its own if there is none."""

    def __init__(self) -> None:
        self._live = Live.current or Live()

    def open(self, bar: Bar) -> float:
        if self._live.is_shown:
            self.redraw(bar)
        return time.perf_counter() + _SCREEN_SECONDS

    def draw(self, bar: Bar) -> float:
        self.redraw(bar)
        return time.perf_counter() + _SCREEN_SECONDS

    def redraw(self, bar: Bar) -> None:
        self._live.bar = bar.line()
        self._live.refresh()

    def hide(self) -> None:
        if self._live.bar:
            self._live.bar = ""
            self._live.refresh()


class _Log:
    """Writes a line now and then."""

    def __init__(self) -> None:
        self._seconds = _log_seconds()

    def open(self, bar: Bar) -> float:
        return max(time.perf_counter() + min(self._seconds, _FIRST_SECONDS), _written + self._seconds)

    def draw(self, bar: Bar) -> float:
        global _written
        now = time.perf_counter()
        if now >= _written + self._seconds:  # another line may have come since the bar was opened
            sys.stderr.write(bar.line() + "\n")
            sys.stderr.flush()
            _written = now
        return _written + self._seconds

    def redraw(self, bar: Bar) -> None:
        """A line stays where it is."""

    def hide(self) -> None:
        """Likewise."""


_lock = threading.RLock()
_open: list[Bar] = []
_written = -float("inf")  # when the newest line was written


def _hide() -> None:
    if _open:
        _open[-1].hide()


def _redraw() -> None:
    if _open:
        _open[-1].redraw()


def _choose_surface() -> _Surface:
    if in_notebook():
        return _Notebook()
    if sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return _Terminal()
    return _Log()


def _terminal_columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):  # standard error was replaced by something that only says it is a terminal
        return 80


def _log_seconds() -> float:
    given = os.environ.get("MINILEARNER_LOG_SECONDS", "")
    try:
        seconds = float(given or _LOG_SECONDS)
    except ValueError:
        seconds = -1.0
    if not seconds > 0:
        raise ValueError(
            f"MINILEARNER_LOG_SECONDS must be a number above 0. Received: MINILEARNER_LOG_SECONDS={given!r}."
        )
    return seconds
