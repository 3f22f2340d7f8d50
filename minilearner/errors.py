"""The exceptions that minilearner raises itself.

    MinilearnerError
    ├── DataError           an item, a batch or a loader is not what training needs
    │   └── FileFormatError a file is truncated, swapped or foreign; names the file
    ├── CheckpointError     a checkpoint cannot be written, read, or belongs to another run
    ├── NonFiniteError      a loss or a gradient is NaN or infinite
    ├── DownloadError       a download failed, was forbidden, or its content is not what it should be
    └── NoSuggestion        a learning-rate curve gives no ground for a suggestion

Wrong arguments are `ValueError` and `TypeError`, as everywhere in Python. Our own classes are for what only a run or a
file can show. `closest` finds the name that a user most likely meant, and `refuse_unknown` offers it.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "CheckpointError",
    "DataError",
    "DownloadError",
    "FileFormatError",
    "MinilearnerError",
    "NoSuggestion",
    "NonFiniteError",
    "add_note",
    "closest",
    "refuse_unknown",
]


class MinilearnerError(Exception):
    """The root of everything that minilearner raises itself."""


class DataError(MinilearnerError, ValueError):
    """An item, a batch or a loader is not what training needs."""


class FileFormatError(DataError):
    """A file is truncated, swapped or foreign. The message names the file and what was wrong with it."""


class CheckpointError(MinilearnerError, OSError):
    """A checkpoint cannot be written or read, or belongs to another run. The message says which, and why."""


class NonFiniteError(MinilearnerError, FloatingPointError):
    """A loss or a gradient is NaN or infinite. The message names the batch and its items.

    Attributes:
        positions: where the items stand in the training set; empty where the loader does not tell.
    """

    def __init__(self, message: str, positions: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.positions = list(positions)


class DownloadError(MinilearnerError, OSError):
    """A download failed, was forbidden, or brought something else than what was asked for."""


class NoSuggestion(MinilearnerError, ValueError):  # noqa: N818 - an answer ("there is none, because"), not a failure
    """A learning-rate curve gives no ground for a suggestion. The message says why."""


def closest(name: str, choices: Iterable[str]) -> str:
    """Returns a hint such as ``" Did you mean 'after_batch'?"``, or an empty string when nothing is near."""
    near = difflib.get_close_matches(name, list(choices), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


_SYNONYMS = {
    "batch_size": ("bs",),
    "batchsize": ("bs",),
    "val_batch_size": ("val_bs",),
    "workers": ("num_workers",),
    "n_workers": ("num_workers",),
    "shuffle_train": ("shuffle",),
    "random_state": ("seed",),
    "transform": ("item_tfms", "batch_tfms"),
    "transforms": ("item_tfms", "batch_tfms"),
    "tfms": ("item_tfms", "batch_tfms"),
    "validation_split": ("valid_pct",),
    "val_pct": ("valid_pct",),
    "pattern": ("pat",),
    "regex": ("pat",),
}
"""What other libraries call arguments, and what fastai and we do; spelling alone would lead elsewhere."""


def refuse_unknown(
    given: Mapping[str, Any], *functions: Callable[..., Any], apart_from: Collection[str] = ("self",)
) -> None:
    """Raises where some of the keyword arguments that were caught are named by none of these functions.

    apart_from: their arguments that cannot be given here.

    Raises:
        TypeError: as said. Offers the nearest of the functions' arguments, and lists them.
    """
    apart = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    signatures = [inspect.signature(function).parameters.values() for function in functions]
    known = dict.fromkeys(p.name for one in signatures for p in one if p.kind not in apart and p.name not in apart_from)
    for name in given:
        if name not in known:
            hint = _meant(name, known) or closest(name, known)
            raise TypeError(f"there is no argument `{name}`.{hint} Arguments: {', '.join(known)}.")


def _meant(name: str, known: Iterable[str]) -> str:
    spelt = closest(name, _SYNONYMS)
    found = [ours for ours in _SYNONYMS[spelt.split("'")[1]] if ours in known] if spelt else []
    return f" Did you mean {' or '.join(map(repr, found))}?" if found else ""


def add_note(error: BaseException, note: str) -> None:
    """Adds a line to what an error says when it is shown."""
    if sys.version_info >= (3, 11):  # earlier Pythons show no notes
        error.add_note(note)
