"""Show a run as it goes: a bar over the batches, and a table with one row per epoch.

The bar appears in a terminal and in a notebook. A log file gets only the table, without control characters. `notebook`
chooses the bar's class, and `callbacks.record` writes the rows that the table shows.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from minilearner import processes
from minilearner.notebook import bar_class
from minilearner.training.callback import Callback
from minilearner.training.run import Run

__all__ = ["Output", "Progress", "iterate_with_bar"]

_TICK_SECONDS = 0.2  # not for each batch: reading the loss waits for the device, and drawing takes a millisecond


class Output:
    """Decides what a learner shows of its runs: a bar and a table. With several processes, only process 0 does."""

    def __init__(self) -> None:
        self.bar = self.table = processes.is_first()

    def progress(self, *, table: bool = True) -> Progress:
        """Returns the callback that shows a run; with ``table=False``, only its bar."""
        return Progress(bar=self.bar, table=self.table and table)

    def watch(self, what: str) -> Callable[[Any], Iterable[Any]]:
        """Returns a function that iterates over a loader, and shows a bar if bars are on."""
        return partial(iterate_with_bar, what=what) if self.bar else iter

    def note(self, text: str) -> None:
        """Writes a line to standard error, unless the table is hidden."""
        if self.table:
            sys.stderr.write(f"{text}\n")

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
        bar: whether to show the bar, if the output can show one.
        table: whether to print the table.
    """

    order = -48
    ignored_arguments = ("bar", "table")

    def __init__(self, *, bar: bool = True, table: bool = True):
        self.bar = bar
        self.table = table
        self._bars: list[_Bar] = []
        self._columns: list[str] = []
        self._next_tick = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty dict; bars belong to this process."""
        return {}

    def before_train(self, run: Run) -> None:
        self._open(run, "train", f"epoch {run.epoch + 1}/{run.n_epochs}")

    def after_train(self, run: Run) -> None:
        self._close("train")

    def before_validate(self, run: Run) -> None:
        self._open(run, "validate", "validation")

    def after_validate(self, run: Run) -> None:
        self._close("validate")
        if self.table and run.in_mid_epoch:
            values = ", ".join(f"{name} {_format_value(name, value)}" for name, value in run.metrics.items())
            _print_line(f"{'':7}step {run.global_step}: {values}")

    def after_batch(self, run: Run) -> None:
        if self._bars and time.perf_counter() >= self._next_tick:
            self._tick(run)

    def after_epoch(self, run: Run) -> None:
        self._close_all()  # a cancelled epoch leaves its bar open
        if self.table and run.record is not None and run.record.epochs:
            self._print_row(run.record.epochs[-1])

    def after_fit(self, run: Run) -> None:
        self._close_all()
        if self.table and run.record is not None and "ended" in run.record.settings:
            _print_line(run.record.settings["ended"])

    def _open(self, run: Run, stretch: str, what: str) -> None:
        if self.bar:
            self._bars.append(_Bar(stretch, what, total=run.n_batches))
            self._next_tick = time.perf_counter() + _TICK_SECONDS

    def _tick(self, run: Run) -> None:
        self._bars[-1].show(run)
        self._next_tick = time.perf_counter() + _TICK_SECONDS

    def _close(self, stretch: str) -> None:
        if self._bars and self._bars[-1].stretch == stretch:  # a cancelled stretch may not have begun
            self._bars.pop().close()

    def _close_all(self) -> None:
        while self._bars:
            self._bars.pop().close()

    def _print_row(self, row: dict[str, Any]) -> None:
        row = {name: value for name, value in row.items() if name not in ("step", "smooth_loss")}
        columns = list(row)
        if columns != self._columns:
            self._columns = columns
            _print_line("  ".join(f"{_format_title(name):>{_column_width(name)}}" for name in columns))
        _print_line("  ".join(f"{_format_value(name, value):>{_column_width(name)}}" for name, value in row.items()))


def iterate_with_bar(loader: Any, what: str) -> Iterator[Any]:
    """Yields the batches of a loader, and shows a bar if the output can show one."""
    bar = _Bar("loader", what, total=len(loader))
    try:
        for batch in loader:
            yield batch
            bar.advance()
    finally:
        bar.close()


class _Bar:
    """A tqdm bar over one pass, in a terminal or in a notebook; a file shows nothing at all."""

    def __init__(self, stretch: str, what: str, *, total: int):
        tqdm = bar_class()
        in_notebook = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
        self.stretch = stretch
        disable = False if in_notebook else None  # None disables it if the output is not a terminal
        self._bar = tqdm(desc=what, total=total, leave=False, disable=disable, dynamic_ncols=True)

    def show(self, run: Run) -> None:
        if self._bar.disable:
            return
        if run.training and run.loss is not None:
            self._bar.set_postfix_str(f"loss {float(run.loss.detach()):.4f}", refresh=False)
        self._bar.update(run.iter + 1 - self._bar.n)

    def advance(self) -> None:
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


def _print_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _format_title(name: str) -> str:
    return "time" if name == "time_seconds" else name


def _column_width(name: str) -> int:
    return {"epoch": 5, "time_seconds": 7}.get(name, max(len(name), 10))


def _format_value(name: str, value: Any) -> str:
    if name == "time_seconds":
        seconds = round(value)
        hours, minutes = seconds // 3600, seconds // 60 % 60
        return f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
