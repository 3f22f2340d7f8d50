"""Loggers: write a run's results somewhere else while it trains.

A logger reads its rows from `run.record`. `callbacks.record` writes them there, and `results.recorder` keeps them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minilearner import processes
from minilearner.callbacks.progress import announce
from minilearner.files import check_writable, csv_text
from minilearner.results.recorder import RunRecord, csv_columns
from minilearner.training.callback import Callback
from minilearner.training.run import Run

__all__ = ["CSVLogger"]


class CSVLogger(Callback):
    """Writes the recorder's rows to a CSV file: one row for each epoch, and one for each validation in mid-epoch.

    The columns are those of `recorder.to_csv`; "run" is the number of the run in this session. Each row is on disk
    before training goes on. If several runs use the same logger, as in `fine_tune`, their rows follow each other.
    `validate` and `lr_find` write nothing. When a run ends, also by an error or an interrupt, the file has every row
    of the recorder.

    Args:
        path: the file; "history.csv" by default.
        append: append to the file, which must have the same columns. Otherwise the first row of a new logger
            overwrites the file.
        fname: fastai's name for `path`. It is in the learner's folder then, `learn.path`, unless it begins at the root.

    Raises:
        TypeError: both `path` and `fname` are given.
        ValueError: when a run begins: `path` cannot be written or has other columns. Later: a row has a value that
            `run.columns` did not announce.
    """

    order = 66  # after the recorder, and after callbacks that add columns in `before_fit`
    ignored_arguments = ()

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        append: bool = False,
        *,
        fname: str | os.PathLike[str] | None = None,
    ):
        if path is not None and fname is not None:
            raise TypeError("give `path` or `fname`, not both: each names the file.")
        self.path = Path(path or fname or "history.csv")
        self.fname = None if fname is None else Path(fname)
        self.append = append
        self._size = 0  # how many bytes of the file to keep; the next row overwrites the rest
        self._header: list[str] = []
        self._n_written = 0  # how many of the run's rows are in the file
        self._record: RunRecord | None = None

    def before_fit(self, run: Run) -> None:
        if self.fname is not None:
            self.path = Path(run.dls.path if run.path is None else run.path) / self.fname
        if not processes.is_first():
            return
        check_writable(self.path)
        self._record, self._n_written = run.record, 0
        # In a row, the values of training batches come first.
        self._header = csv_columns(sorted(run.columns, key=lambda name: not name.startswith("train_")))
        if (self.append or self._size) and self.path.exists():
            self._size = self.path.stat().st_size
            self._check_header()
        else:
            self._size = 0

    def read_log(self) -> Any:
        """Returns the file as a pandas table."""
        import pandas as pd  # not needed otherwise

        return pd.read_csv(self.path)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from the saved state. Earlier versions did not count the rows, but had written all of them."""
        super().load_state_dict({"_n_written": len(self._record.epochs) if self._record else 0, **state})

    def after_validate(self, run: Run) -> None:
        if run.in_mid_epoch:
            self._write_newest_row(run.record)

    def after_epoch(self, run: Run) -> None:
        self._write_newest_row(run.record)

    def after_fit(self, run: Run) -> None:
        if run.record is not None and processes.is_first():
            for row in run.record.epochs[self._n_written :]:
                self._write_row(run.record, row)
            if not run.interrupted and self.path.exists():
                announce(run, f"CSVLogger wrote {self.path.resolve()}")

    def _write_newest_row(self, record: RunRecord | None) -> None:
        if not processes.is_first():
            return
        if record is None:
            raise RuntimeError("`CSVLogger` needs a run with a record to read from.")
        self._write_row(record, record.epochs[-1])

    def _write_row(self, record: RunRecord, newest: dict[str, Any]) -> None:
        row = {"run": record.number, "kind": record.kind, **newest}
        if unknown := [name for name in row if name not in self._header]:
            self._n_written = len(record.epochs)
            raise ValueError(f"`CSVLogger` has no column {unknown[0]!r}. Add it to `run.columns` in `before_fit`.")
        # A resumed run writes the rows after its checkpoint again, and all of them if the file is gone.
        self._size = min(self._size, self.path.stat().st_size if self.path.exists() else 0)
        text = csv_text([] if self._size else self._header, [[row.get(name) for name in self._header]])
        self._write(text.lstrip("\n"))
        self._n_written = len(record.epochs)

    def _write(self, text: str) -> None:
        with open(self.path, "r+b" if self.path.exists() else "xb") as file:
            file.truncate(self._size)
            file.seek(self._size)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
            self._size = file.tell()

    def _check_header(self) -> None:
        wanted = csv_text(self._header, []).strip()
        with open(self.path, encoding="utf-8") as file:
            found = file.readline().strip()
        if self._size and found != wanted:
            raise ValueError(
                f"`path` must have the columns of this run: {wanted!r}. "
                f"Received: path={os.fspath(self.path)!r} with {found!r}. Give another file."
            )

    def __repr__(self) -> str:
        return f"CSVLogger({os.fspath(self.path)!r})"
