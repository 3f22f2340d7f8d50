"""`CSVLogger` and `JSONLinesLogger`: each of the recorder's rows in a file, as soon as there is one.

A logger reads its rows from `run.record`. `callbacks.record` writes them there, and `results.recorder` keeps them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar

from minilearner import processes
from minilearner.callbacks.progress import announce, complain
from minilearner.files import check_writable, csv_text, json_line, make_parent
from minilearner.results.epoch_rows import csv_columns
from minilearner.results.run_record import RunRecord
from minilearner.training.callback import Callback
from minilearner.training.run import Run

__all__ = ["CSVLogger", "JSONLinesLogger"]

_TIME = "finished_at"


class _RowLogger(Callback):
    """Writes rows to the end of a file. A subclass says how a row looks.

    A resumed run cuts off what was written after its checkpoint, so no row is lost or doubled.
    """

    order = 66  # after the recorder, and after callbacks that add columns in `before_fit`
    ignored_arguments = ()
    _default_name: ClassVar[str]

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        append: bool = False,
        *,
        fname: str | os.PathLike[str] | None = None,
    ):
        if path is not None and fname is not None:
            raise TypeError("give `path` or `fname`, not both: each names the file.")
        self.path = Path(path or fname or self._default_name)
        self.fname = None if fname is None else Path(fname)
        self.append = append
        self._size = 0  # how many bytes of the file to keep; the next row overwrites the rest
        self._start = 0  # how many bytes the file had before this run
        self._n_written = 0  # how many of the run's rows are in the file
        self._times: list[str] = []  # when each of the run's rows came
        self._header: list[str] = []
        self._record: RunRecord | None = None
        self._has_failed = False

    def before_fit(self, run: Run) -> None:
        if self.fname is not None:
            self.path = Path(run.dls.path if run.path is None else run.path) / self.fname
        if not processes.is_first():
            return
        if run.record is None:
            raise RuntimeError(f"`{type(self).__name__}` needs a run with a record to read from.")
        if self.fname is None:
            check_writable(self.path)
        else:  # the learner's own folder, which `learn.save` makes as well
            make_parent(self.path, "fname")
        self._record, self._n_written, self._times, self._has_failed = run.record, 0, [], False
        # In a row, the values of training batches come first.
        columns = csv_columns(sorted(run.columns, key=lambda name: not name.startswith("train_")))
        self._header = [*columns, _TIME]
        goes_on = (self.append or self._size) and self.path.exists()
        self._start = self._size = self.path.stat().st_size if goes_on else 0
        if self._size:
            self._check_header()

    def read_log(self) -> Any:
        """Returns the file as a pandas table."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Returns how much of the file belongs to the rows so far, and when they came."""
        names = ("_size", "_start", "_n_written", "_times", "_header")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from the saved state. Earlier versions did not count the rows, but had written all of them."""
        n = len(self._record.epochs) if self._record else 0
        super().load_state_dict({"_n_written": n, "_times": [""] * n, "_start": 0, **state})

    def after_validate(self, run: Run) -> None:
        if run.in_mid_epoch:
            self._write_new_rows()

    def after_epoch(self, run: Run) -> None:
        self._write_new_rows()

    def after_fit(self, run: Run) -> None:
        if self._record is not None and processes.is_first():
            self._write_new_rows()
            if not run.interrupted and self.path.exists():
                announce(run, f"{type(self).__name__} wrote {self.path.resolve()}")
        self._record = None

    def _write_new_rows(self) -> None:
        """Writes the rows that are not in the file yet. If that fails, the next call tries it again."""
        record = self._record
        if record is None:
            return
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._times += [now] * (len(record.epochs) - len(self._times))
        try:
            size = self.path.stat().st_size if self.path.exists() else 0
            if size < self._size:  # somebody has removed the file
                self._size, self._n_written = min(size, self._start), 0
            new = zip(record.epochs[self._n_written :], self._times[self._n_written :], strict=True)
            rows = [{"run": record.number, "kind": record.kind, **row, _TIME: time} for row, time in new]
            if rows:
                self._write(self._format(rows))
                self._n_written = len(record.epochs)
        except OSError as error:
            if not self._has_failed:
                complain(self, error, "The next row tries it again, and writes what is missing.")
            self._has_failed = True

    def _write(self, text: str) -> None:
        with open(self.path, "r+b" if self.path.exists() else "xb") as file:
            file.truncate(self._size)
            file.seek(self._size)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
            self._size = file.tell()

    def _check_header(self) -> None:
        """Checks that rows of this run may follow those in the file."""

    def _format(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Returns the text of these rows, which are written at `_size`."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({os.fspath(self.path)!r})"


class CSVLogger(_RowLogger):
    """Writes the recorder's rows to a CSV file: one row for each epoch, and one for each validation in mid-epoch.

    The columns are those of `recorder.to_csv`, and "finished_at", the time in UTC; "run" is the number of the run in
    this session. Each row is on disk before training goes on. If several runs use the same logger, as in `fine_tune`,
    their rows follow each other. `validate` and `lr_find` write nothing. When a run ends, also by an error or an
    interrupt, the file has every row of the recorder. If writing fails, as on a full disk, a line says so, training
    goes on, and the next row tries it again. A value that `run.columns` did not announce is left out; a line says so.

    Args:
        path: the file; "history.csv" by default.
        append: append to the file, which must have the same columns. Otherwise the first row of a new logger
            overwrites the file.
        fname: fastai's name for `path`. It is in the learner's folder then, `learn.path`, unless it begins at the root.

    Raises:
        TypeError: both `path` and `fname` are given.
        ValueError: when a run begins: `path` cannot be written or has other columns.
    """

    _default_name = "history.csv"

    def read_log(self) -> Any:
        """Returns the file as a pandas table."""
        import pandas as pd  # not needed otherwise

        return pd.read_csv(self.path)

    def _format(self, rows: Sequence[Mapping[str, Any]]) -> str:
        if (unknown := [name for row in rows for name in row if name not in self._header]) and not self._has_failed:
            error = ValueError(f"the file has no column {unknown[0]!r}, so its values are left out")
            complain(self, error, "Add the name to `run.columns` in `before_fit`.")
            self._has_failed = True
        text = csv_text([] if self._size else self._header, [[row.get(name) for name in self._header] for row in rows])
        return text.lstrip("\n")

    def _check_header(self) -> None:
        wanted = csv_text(self._header, []).strip()
        with open(self.path, encoding="utf-8") as file:
            found = file.readline().strip()
        if found != wanted:
            raise ValueError(
                f"`path` must have the columns of this run: {wanted!r}. "
                f"Received: path={os.fspath(self.path)!r} with {found!r}. Give another file."
            )


class JSONLinesLogger(_RowLogger):
    """Writes the recorder's rows to a file with one JSON object a line, as `CSVLogger` writes its rows.

    A row has only the values that it has: a validation in mid-epoch has "step" and no "train_loss". NaN and infinity
    are the strings "nan", "inf" and "-inf", which `float` reads.

    Args:
        path: the file; "history.jsonl" by default.
        append: append to the file. Otherwise the first row of a new logger overwrites it.
        fname: the file in the learner's folder, `learn.path`.

    Raises:
        TypeError: both `path` and `fname` are given.
        ValueError: when a run begins: `path` cannot be written.
    """

    _default_name = "history.jsonl"

    def read_log(self) -> Any:
        """Returns the file as a pandas table."""
        import pandas as pd  # not needed otherwise

        return pd.read_json(self.path, lines=True)

    def _format(self, rows: Sequence[Mapping[str, Any]]) -> str:
        return "".join(map(json_line, rows))
