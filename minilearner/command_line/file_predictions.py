"""Predictions of many files, shown as they come. Files that cannot be read do not stop the others."""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minilearner.command_line.session import Session, clean
from minilearner.data.items import get_image_files
from minilearner.display import Bar
from minilearner.errors import DataError, plural
from minilearner.learner import Learner
from minilearner.loading import load_learner
from minilearner.serving.answers import predict_items

__all__ = ["predict_files"]

_BATCHES = 4  # in a row: results come soon, and a loader is not made for each batch


def predict_files(session: Session, names: Sequence[str], model: Path) -> int:
    """Shows a prediction for each file, and names those that cannot be read. Returns the exit code.

    Args:
        names: files, folders, patterns, and "-" for names on standard input.
        model: the model file.
    """
    learn = load_learner(model)
    writer = _Writer(session)
    files = list(_find_files(names, writer))
    with learn.no_bar(), Bar("predicting", len(files)) as bar:
        for start in range(0, len(files), _BATCHES * learn.dls.bs):
            part = files[start : start + _BATCHES * learn.dls.bs]
            for result in _predict_part(learn, part, writer):
                writer.write(result)
            bar.show(start + len(part))
    writer.close()
    if writer.n_failed:
        session.tell(f"{writer.n_failed:,} of {plural(writer.n_seen, 'file')} cannot be predicted.")
    return int(writer.n_failed > 0)


class _Writer:
    """Writes a result at a time: a line of text, or an element of a JSON list."""

    def __init__(self, session: Session) -> None:
        self.session, self.n_failed, self._n = session, 0, 0

    @property
    def n_seen(self) -> int:
        """How many files and names were predicted or failed."""
        return self._n

    def write(self, result: dict[str, Any]) -> None:
        if self.session.json:
            self.session.write(f"{',' if self._n else '['} {json.dumps(result, ensure_ascii=False)}")
        else:
            self.session.write(_as_line(result))
        self._n += 1

    def fail(self, name: str, reason: str) -> None:
        """Says that a file cannot be predicted."""
        self.n_failed += 1
        self.session.tell(f"{clean(name)}: {reason}")
        if self.session.json:
            self.write({"file": name, "error": reason})
        else:
            self._n += 1

    def close(self) -> None:
        if self.session.json:
            self.session.write("]" if self._n else "[]")


def _find_files(names: Sequence[str], writer: _Writer) -> Iterator[str]:
    """Yields the files that names on the command line stand for."""
    for name in names:
        if name == "-":
            yield from filter(None, (line.rstrip("\r\n") for line in sys.stdin))
        elif os.path.isdir(name):
            try:
                yield from map(str, get_image_files(name))
            except DataError as error:
                writer.fail(name, str(error))
        elif not os.path.lexists(name) and glob.has_magic(name):
            found = sorted(glob.glob(name, recursive=True))
            if not found:
                writer.fail(name, "no file has such a name.")
            yield from found
        else:
            yield name


def _predict_part(learn: Learner, files: list[str], writer: _Writer) -> list[dict[str, Any]]:
    """Returns the predictions for these files, but for those that cannot be read."""
    try:
        return _predict_all(learn, files)
    except (DataError, OSError):
        good = [file for file in files if _is_readable(learn, file, writer)]
        if len(good) == len(files):
            raise
        return _predict_all(learn, good) if good else []


def _is_readable(learn: Learner, file: str, writer: _Writer) -> bool:
    try:
        learn.dls.test_dl([Path(file)]).one_batch()
    except (DataError, OSError) as error:
        writer.fail(file, str(error).removeprefix(f"{Path(file)}: "))
        return False
    return True


def _predict_all(learn: Learner, files: list[str]) -> list[dict[str, Any]]:
    answers = predict_items(learn, list(map(Path, files)))
    return [{"file": file, **answer} for file, answer in zip(files, answers, strict=True)]


def _as_line(result: dict[str, Any]) -> str:
    file = clean(result["file"])
    if "label" in result:
        return f"{file}\t{result['label']}\t{result['probability']:.4f}"
    if "labels" in result:
        return f"{file}\t{', '.join(map(str, result['labels']))}"
    values = result["value"] if isinstance(result["value"], list) else [result["value"]]
    return "\t".join([file, *(f"{value:.6g}" for value in values)])
