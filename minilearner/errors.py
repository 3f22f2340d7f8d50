"""The exceptions that minilearner raises itself.

    MinilearnerError
    ├── DataError           an item, a batch or a loader is not what training needs
    │   └── FileFormatError a file is truncated, swapped or foreign; names the file
    ├── CheckpointError     a checkpoint cannot be written, read, or belongs to another run
    ├── DownloadError       a download failed, was forbidden, or its content is not what it should be
    └── NoSuggestion        a learning-rate curve gives no ground for a suggestion

Wrong arguments are `ValueError` and `TypeError`, as everywhere in Python. Our own classes are for what only a run or a
file can show. `closest` finds the name that a user most likely meant, and `refuse_unknown` offers it.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = [
    "CheckpointError",
    "DataError",
    "DownloadError",
    "FileFormatError",
    "MinilearnerError",
    "NoSuggestion",
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


class DownloadError(MinilearnerError, OSError):
    """A download failed, was forbidden, or brought something else than what was asked for."""


class NoSuggestion(MinilearnerError, ValueError):  # noqa: N818 - an answer ("there is none, because"), not a failure
    """A learning-rate curve gives no ground for a suggestion. The message says why."""


def closest(name: str, choices: Iterable[str]) -> str:
    """Returns a hint such as ``" Did you mean 'after_batch'?"``, or an empty string when nothing is near."""
    near = difflib.get_close_matches(name, list(choices), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def refuse_unknown(given: Mapping[str, Any], *functions: Callable[..., Any]) -> None:
    """Raises where some of the keyword arguments that were caught are named by none of these functions.

    Raises:
        TypeError: as said. Offers the nearest of the functions' arguments, and lists them.
    """
    apart = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    signatures = [inspect.signature(function).parameters.values() for function in functions]
    known = dict.fromkeys(p.name for one in signatures for p in one if p.kind not in apart and p.name != "self")
    for name in given:
        if name not in known:
            hint = closest(name, known) or (" Did you mean 'bs'?" if closest(name, ["batch_size"]) else "")
            raise TypeError(f"there is no argument `{name}`.{hint} Arguments: {', '.join(known)}.")
