"""The exceptions that minilearner defines.

    MinilearnerError
    ├── DataError           an item, a batch or a loader is not what training needs
    │   └── FileFormatError a file is truncated, swapped or foreign; names the file
    ├── CheckpointError     a checkpoint cannot be written or read, or belongs to another run
    ├── NonFiniteError      a loss or a gradient is NaN or infinite
    ├── DownloadError       a download failed, is not allowed, or brought the wrong content
    └── NoSuggestion        a learning-rate curve gives no reason for a suggestion

Wrong arguments raise `ValueError` and `TypeError`, as everywhere in Python; see `checks`. The classes here are for what
only a run or a file can show. `closest` finds the name that a user most likely meant.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Sequence

__all__ = [
    "CheckpointError",
    "DataError",
    "DownloadError",
    "FileFormatError",
    "MinilearnerError",
    "NoSuggestion",
    "NonFiniteError",
    "add_note",
    "agree",
    "closest",
    "plural",
    "portion",
]


class MinilearnerError(Exception):
    """The base class of all exceptions here."""


class DataError(MinilearnerError, ValueError):
    """An item, a batch or a loader is not what training needs."""


class FileFormatError(DataError):
    """A file is truncated, swapped or foreign. The message names the file and says what is wrong with it."""


class CheckpointError(MinilearnerError, OSError):
    """A checkpoint cannot be written or read, or belongs to another run. The message says which, and why."""


class NonFiniteError(MinilearnerError, FloatingPointError):
    """A loss or a gradient is NaN or infinite. The message names the batch and its items.

    Attributes:
        positions: the items' positions in the training set; empty if the loader does not know them.
    """

    def __init__(self, message: str, positions: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.positions = list(positions)


class DownloadError(MinilearnerError, OSError):
    """A download failed, is not allowed, or brought the wrong content."""


class NoSuggestion(MinilearnerError, ValueError):  # noqa: N818 - an answer ("there is none, because"), not a failure
    """A learning-rate curve gives no reason for a suggestion. The message says why."""


def closest(name: str, choices: Iterable[str]) -> str:
    """Returns a hint such as ``" Did you mean 'after_batch'?"``, or an empty string if no choice is close."""
    near = difflib.get_close_matches(name, list(choices), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def plural(n: int, noun: str) -> str:
    """Returns the number with its noun: "1 image", "2 images", "10,000 batches", "3 epochs", "4 entries"."""
    if n == 1:
        return f"{n:,} {noun}"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{n:,} {noun[:-1]}ies"
    is_hissing = noun.endswith(("s", "x", "ch", "sh")) and not noun.endswith("epoch")
    return f"{n:,} {noun}{'es' if is_hissing else 's'}"


def agree(n: int, singular: str, several: str) -> str:
    """Returns the form of a verb, or of anything else, that goes with the number: "is" with 1, "are" with 2."""
    return singular if n == 1 else several


def portion(n: int, total: int, noun: str, singular: str, several: str) -> str:
    """Returns the subject and the verb for a part of some things: "1 of 5 labels is", "2 of 5 labels are"."""
    return f"{n:,} of {plural(total, noun)} {agree(n or total, singular, several)}"


def add_note(error: BaseException, note: str) -> None:
    """Adds a line to an error's message. Python before 3.11 has no such notes, so there it does nothing."""
    if sys.version_info >= (3, 11):
        error.add_note(note)
