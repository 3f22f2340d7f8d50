"""Show a run as it goes: how far it is, and a table with one row per epoch.

`display` decides how progress appears in a terminal, a notebook or a log, and `callbacks.record` writes the rows that
the table shows. In a notebook, the table and a graph of the losses are one output, which grows.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from html import escape
from typing import Any

from minilearner import processes
from minilearner.checks import check_count
from minilearner.display import Bar, Live, in_notebook, iterate_with_bar, write_line
from minilearner.notebook import as_html, cell_number
from minilearner.plots.lines import plot_epochs
from minilearner.training.callback import Callback
from minilearner.training.run import Run

__all__ = ["Output", "Progress", "announce", "complain"]

_GRAPH_SHARE = 0.05  # of the time, at most: drawing a graph takes a tenth of a second


class Output:
    """Decides what a learner shows of its runs: a bar and a table. With several processes, only process 0 does."""

    def __init__(self) -> None:
        self.bar = self.table = processes.is_first()

    def progress(self, *, table: bool = True) -> Progress:
        """Returns the callback that shows a run; with ``table=False``, only its bar."""
        return Progress(bar=self.bar, table=self.table and table)

    def sweep_progress(self, n_updates: int) -> Progress:
        """Returns the callback that shows a sweep of so many updates."""
        return Progress(bar=self.bar, table=False, sweep=n_updates)

    def watch(self, what: str) -> Callable[[Any], Iterable[Any]]:
        """Returns a function that iterates over a loader, and shows a bar if bars are on."""
        return partial(iterate_with_bar, what=what) if self.bar else iter

    def take_progress(self, callbacks: Sequence[Callback]) -> list[Callback]:
        """Returns the callbacks without fastai's ProgressCallback, which shows bars and table again."""
        others = [callback for callback in callbacks if not isinstance(callback, Progress)]
        if len(others) < len(callbacks):
            self.bar = self.table = processes.is_first()
        return others

    def note(self, text: str) -> None:
        """Writes a line to standard error, unless the table is hidden."""
        if self.table:
            write_line(text, sys.stderr)

    def say(self, text: str) -> None:
        """Writes a line to standard output, where the table is, unless that is hidden."""
        if self.table:
            write_line(text, sys.stdout)

    @contextmanager
    def hide(self, *, bar: bool = False, table: bool = False) -> Iterator[None]:
        """Hides the bar or the table inside the `with` block; what is hidden already stays hidden."""
        before = self.bar, self.table
        self.bar, self.table = self.bar and not bar, self.table and not table
        try:
            yield
        finally:
            self.bar, self.table = before


class Progress(Callback):
    """Shows a bar over batches and a table of epochs.

    Args:
        bar: whether to show the bar.
        table: whether to show the table.
        sweep: the number of updates of a learning-rate sweep, which has one bar; None for a run with a bar per pass.
    """

    order = -48
    ignored_arguments = ("bar", "table", "sweep")

    def __init__(self, *, bar: bool = True, table: bool = True, sweep: int | None = None):
        if sweep is not None:
            check_count(sweep, "sweep", least=0)
        self.bar = bar
        self.table = table
        self.sweep = sweep
        self._bars: dict[str, Bar] = {}
        self._newest: Bar | None = None
        self._rows: _Table | _LiveTable | None = None

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty dict; bars belong to this process."""
        return {}

    def before_fit(self, run: Run) -> None:
        if self.table and run.record is not None:
            self._rows = _LiveTable() if in_notebook() else _Table(run.label_epoch(run.n_epochs - 1))
        if self.sweep is not None:
            self._open("sweep", "learning-rate sweep", self.sweep, may_stop=True)

    def before_train(self, run: Run) -> None:
        if self.sweep is None:
            self._open("train", f"epoch {run.label_epoch()}", run.n_batches)

    def after_train(self, run: Run) -> None:
        self._close("train")

    def before_validate(self, run: Run) -> None:
        self._open("validate", "validation", run.n_batches)

    def after_validate(self, run: Run) -> None:
        self._close("validate")
        if self._rows is not None and run.in_mid_epoch:
            values = ", ".join(f"{name} {_format_value(name, value)}" for name, value in run.metrics.items())
            write_line(f"epoch {run.label_epoch()}, step {run.global_step}: {values}", sys.stdout)

    def after_batch(self, run: Run) -> None:
        bar = self._newest
        if bar is not None and time.perf_counter() >= bar.due:
            loss = f"loss {float(run.loss.detach()):.4f}" if run.training and run.loss is not None else ""
            bar.show(run.iter + 1 if self.sweep is None else min(run.global_step, self.sweep), loss)

    def after_epoch(self, run: Run) -> None:
        if self.sweep is None:
            self._close_all()  # a cancelled epoch leaves its bar open
        if self._rows is not None and run.record is not None and run.record.epochs:
            self._rows.add({**run.record.epochs[-1], "epoch": run.label_epoch()})

    def after_fit(self, run: Run) -> None:
        self._close_all()
        if self._rows is not None:
            self._rows.close()
            if run.record is not None and isinstance(self._rows, _LiveTable):
                run.record.shown_in = cell_number()
            self._rows = None
        if self.table and run.record is not None and "ended" in run.record.settings:
            write_line(run.record.settings["ended"], sys.stdout)

    def _open(self, stretch: str, what: str, total: int, *, may_stop: bool = False) -> None:
        if self.bar:
            self._newest = self._bars[stretch] = Bar(what, total, may_stop=may_stop)

    def _close(self, stretch: str) -> None:
        if stretch in self._bars:  # a cancelled stretch may not have begun
            self._bars.pop(stretch).close()
            self._newest = next(reversed(self._bars.values()), None)

    def _close_all(self) -> None:
        for stretch in [*reversed(self._bars)]:
            self._close(stretch)


def announce(run: Run, text: str) -> None:
    """Writes a line to standard output, if the run's table is shown too."""
    if any(isinstance(callback, Progress) and callback.table for callback in run.callbacks):
        write_line(text, sys.stdout)


def complain(logger: Callback, error: Exception, what_now: str) -> None:
    """Writes a line to standard error, also if the run shows nothing: a logger has failed, and training goes on."""
    reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
    write_line(f"{type(logger).__name__} failed, and training goes on. {reason:.300}. {what_now}", sys.stderr)


class _Table:
    """Prints a row for each epoch, and a head whenever the columns change.

    Args:
        widest: the longest text in the column of epochs.
    """

    def __init__(self, widest: str) -> None:
        self._columns: list[str] = []
        self._widths = {"epoch": max(5, len(widest)), "time_seconds": 7}

    def add(self, row: Mapping[str, Any]) -> None:
        """Prints a row."""
        row = _select_columns(row)
        if list(row) != self._columns:
            self._columns = list(row)
            self._print({name: _format_title(name) for name in row})
        self._print({name: _format_value(name, value) for name, value in row.items()})

    def close(self) -> None:
        """Does nothing; all is printed."""

    def _print(self, cells: Mapping[str, str]) -> None:
        widths = {name: self._widths.get(name, max(len(name), 10)) for name in cells}
        write_line("  ".join(f"{cell:>{widths[name]}}" for name, cell in cells.items()), sys.stdout)


class _LiveTable:
    """A table and a graph of the losses in one output of a notebook, which grows with each epoch."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._graph, self._next_graph = "", 0.0
        self._live = Live.current = Live()
        self._live.refresh()

    def add(self, row: Mapping[str, Any]) -> None:
        """Shows one more row."""
        self._rows.append(_select_columns(row))
        self._refresh()

    def close(self) -> None:
        """Shows the outcome; what comes later gets outputs of its own."""
        Live.current = None
        self._next_graph = 0.0
        self._refresh()

    def _refresh(self) -> None:
        now = time.perf_counter()
        if len(self._rows) > 1 and now >= self._next_graph:  # one epoch makes no line
            self._graph = as_html(plot_epochs({"loss": self._losses()}))
            done = time.perf_counter()
            self._next_graph = done + (done - now) / _GRAPH_SHARE
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        cells = [[_format_title(name) for name in columns]]
        cells += [[_format_value(name, row.get(name, "")) for name in columns] for row in self._rows]
        lines = ["".join(f"<td>{escape(cell)}</td>" for cell in line) for line in cells]
        body = "".join(f"<tr>{line}</tr>" for line in lines if line)
        self._live.html = f"<table>{body}</table>{self._graph}"
        self._live.text = "\n".join("  ".join(f"{cell:>10}" for cell in line) for line in cells if line)
        self._live.refresh()

    def _losses(self) -> dict[str, list[float]]:
        names = {"training": "train_loss", "validation": "valid_loss"}
        return {label: [row.get(name, math.nan) for row in self._rows] for label, name in names.items()}


def _select_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("step", "smooth_loss")}


def _format_title(name: str) -> str:
    return "time" if name == "time_seconds" else name


def _format_value(name: str, value: Any) -> str:
    if name == "time_seconds":
        seconds = round(value or 0)
        hours, minutes = seconds // 3600, seconds // 60 % 60
        return f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
