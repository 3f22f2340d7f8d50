"""The user's line: errors that we raise show it and their message, without our layers in between. Warnings point to it.

`keywords.suggest_keywords` calls `shorten_traceback` at the public functions. An error that we do not raise ourselves
keeps all its frames, as they show where the fault is. `MINILEARNER_FULL_TRACEBACK=1` keeps all
frames, for work on minilearner itself.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import opcode
import os
import sys
from itertools import pairwise
from types import TracebackType
from typing import TypeVar

from minilearner.errors import MinilearnerError

__all__ = ["drop_frames", "is_our_error", "shorten_traceback", "stacklevel_of_user"]

_Error = TypeVar("_Error", bound=Exception)

_RAISE = opcode.opmap["RAISE_VARARGS"]

_PACKAGE = __name__.partition(".")[0]

_FOLDERS = (
    os.path.join(os.path.dirname(os.path.abspath(__file__)), ""),
    os.path.join(os.path.dirname(concurrent.futures.__file__), ""),
    contextlib.__file__,
)
"""The code between a user's line and an error: our own, and what Python runs for our `with` and our threads."""


def shorten_traceback(error: _Error) -> _Error:
    """Returns the error; if we raised it, without our own frames but the one that did. All other frames stay.

    A cause of the error becomes as short. If it is one of our errors too, it goes when its message is part of the
    error's message and its traceback shows no other code.
    """
    is_wanted = os.environ.get("MINILEARNER_FULL_TRACEBACK", "0") in ("", "0")
    if is_wanted and is_our_error(error):
        _shorten_chain(error)
    return error


def drop_frames(error: BaseException) -> None:
    """Lets go of the frames of an error that goes no further, and so of the models and files in them.

    Otherwise they wait for the garbage collector: from Python 3.13 on, a frame of `contextlib` and an error that ended
    inside its `with` block hold each other.
    """
    error.__traceback__ = None


def is_our_error(error: BaseException) -> bool:
    """Returns whether we raised this error on purpose, so its message says all that a user needs."""
    return isinstance(error, MinilearnerError) or _was_raised_by_us(error)


def stacklevel_of_user() -> int:
    """Returns the `stacklevel` with which `warnings.warn`, called by this function's caller, shows the user's line."""
    frame, level = sys._getframe(1), 1
    while frame.f_code.co_filename.startswith(_FOLDERS):
        if frame.f_back is None:  # a thread of ours
            return 1
        frame, level = frame.f_back, level + 1
    return level


def _was_raised_by_us(error: BaseException) -> bool:
    """Returns whether a `raise` in our code made this error, rather than a fault in an expression."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and _is_ours(last) and last.tb_frame.f_code.co_code[last.tb_lasti] == _RAISE


def _shorten_chain(error: BaseException) -> None:
    seen: set[int] = set()
    next_one: BaseException | None = error
    while next_one is not None and id(next_one) not in seen:
        seen.add(id(next_one))
        next_one.__traceback__ = _shorten(next_one.__traceback__)
        while (cause := next_one.__cause__) is not None and cause is not next_one and _adds_nothing(cause, next_one):
            next_one.__cause__ = cause.__cause__
        next_one = next_one.__cause__ or (None if next_one.__suppress_context__ else next_one.__context__)


def _shorten(first: TracebackType | None) -> TracebackType | None:
    frames = _frames(first)
    kept = [frame for frame in frames if not _is_ours(frame) or frame is frames[-1]]
    for frame, following in pairwise(kept):
        frame.tb_next = following
    return kept[0] if kept else None


def _adds_nothing(cause: BaseException, error: BaseException) -> bool:
    is_said = isinstance(cause, MinilearnerError) and str(cause).rstrip(".") in str(error)
    return is_said and all(map(_is_ours, _frames(cause.__traceback__)))


def _frames(first: TracebackType | None) -> list[TracebackType]:
    frames = []
    while first is not None:
        frames.append(first)
        first = first.tb_next
    return frames


def _is_ours(frame: TracebackType) -> bool:
    file = frame.tb_frame.f_code.co_filename
    if file == "<string>":  # what `dataclass` writes
        return str(frame.tb_frame.f_globals.get("__name__")).startswith(f"{_PACKAGE}.")
    return file.startswith(_FOLDERS)
