"""The worker processes of any torch `DataLoader`: how they start, what signals do to them, and how they end.

A signal that reaches every process of a group (from systemd, Slurm, `timeout` or a terminal) is meant for the training:
it saves and stops, and needs its workers until then. So workers ignore SIGTERM and SIGINT. They end when the training
process ends, however that happens, and one that dies is named with the items that it had.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.queues import Queue
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data._utils import fetch, signal_handling

from minilearner.errors import DataError

__all__ = ["Death", "find_deaths", "read_under_watch", "start_workers"]

_SIGNALS = {getattr(signal, name) for name in ("SIGTERM", "SIGINT") if hasattr(signal, name)}
_LOOK_SECONDS = 1.0
_SEND_SECONDS = 1.0
_MOST_NOTED = 256  # items of one batch

_started: weakref.WeakSet[Any] = weakref.WeakSet()
_starting = threading.Lock()  # `warnings.catch_warnings` is for one thread at a time


class Death:
    """A worker that died, and what it had.

    Attributes:
        number: the worker's number.
        code: its exit code; negative if a signal killed it.
        positions: the positions in the dataset of the batch that it had; empty if that is unknown.
    """

    def __init__(self, number: int, pid: int, code: int | None, positions: list[int]) -> None:
        self.number, self.pid, self.code, self.positions = number, pid, code, positions

    def describe(self, what: str) -> str:
        """Returns a sentence that says how the worker ended and, in the words of `what`, at which items."""
        if self.code is not None and self.code >= 0:
            hint = "Read it with num_workers=0 to see why."
            return f"a worker (pid {self.pid}) left with exit code {self.code} {what}. {hint}"
        name = "" if self.code is None else f" by {signal.Signals(-self.code).name}"
        hint = " It has most likely run out of memory: try fewer `num_workers`." if self.code == -signal.SIGKILL else ""
        return f"a worker (pid {self.pid}) was killed{name} {what}.{hint}"


def start_workers(source: DataLoader[Any]) -> Any:
    """Returns ``iter(source)``, whose workers ignore signals to the whole group and end with this process."""
    users, kept = source.worker_init_fn, source._iterator
    noted = torch.zeros(source.num_workers, _MOST_NOTED + 1, dtype=torch.int64)
    noted.share_memory_()  # type: ignore[no-untyped-call]
    source.worker_init_fn = _Begin(users, noted)
    try:
        with _starting, warnings.catch_warnings(), _no_signals():
            # Python 3.12 and later: forking beside other threads. Workers touch none of their locks.
            warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
            iterator: Any = iter(source)
    finally:
        source.worker_init_fn = users
    if iterator is not kept:  # persistent workers serve again
        _take_over(iterator, noted)
    return iterator


def read_under_watch(source: DataLoader[Any]) -> Iterator[Any]:
    """Starts a pass, and returns its batches.

    Raises:
        DataError: a worker died. Says how, and which items it had.
    """
    if not source.num_workers:
        return iter(source)
    _raise_if_dead(source._iterator, None)  # persistent workers
    return _Watched(start_workers(source))


def find_deaths(iterator: Any, *, is_ending: bool = True) -> list[Death]:
    """Returns which workers of a pass have died; waits a moment for those that may be ending, if `is_ending`."""
    deaths: list[Death] = []
    workers = getattr(iterator, "_workers", ())
    if not is_ending and all(worker.is_alive() for worker in workers):
        return deaths
    noted = getattr(iterator, "_minilearner_noted", None)
    for number, worker in enumerate(workers):
        worker.join(0.1)  # a worker that is ending has already closed its queue
        if not worker.is_alive():
            row = [0] if noted is None else noted[number].tolist()
            deaths.append(Death(number, worker.pid, worker.exitcode, row[1 : 1 + row[0]]))
    return deaths


class _Watched:
    """The batches of a pass, with our own error if a worker dies."""

    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self.iterator)
        except (RuntimeError, EOFError, OSError) as error:  # the last two: a worker died while it sent a batch
            _raise_if_dead(self.iterator, error)
            raise


def _raise_if_dead(iterator: Any, error: Exception | None) -> None:
    if deaths := find_deaths(iterator, is_ending=error is not None):
        items = [f"with items {', '.join(map(str, d.positions))}" if d.positions else "" for d in deaths]
        said = (death.describe(what or "before it had any item") for death, what in zip(deaths, items, strict=True))
        raise DataError(" ".join(said)) from error


def _take_over(iterator: Any, noted: Tensor) -> None:
    """Changes how torch watches and ends the workers of a pass."""
    iterator._minilearner_noted = noted
    for worker in iterator._workers:
        worker._popen.terminate = worker._popen.kill  # they ignore SIGTERM, with which torch and Python end them
    if iterator._worker_pids_set and hasattr(signal, "SIGCHLD"):
        # torch would raise an error wherever the program is when a worker dies. `next` finds out, and can name items.
        signal_handling._remove_worker_pids(id(iterator))  # type: ignore[attr-defined]
        iterator._worker_pids_set = False
    _started.add(iterator)


@contextmanager
def _no_signals() -> Iterator[None]:
    """Blocks signals in this thread, and in the workers that it starts, until they can handle them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Begin:
    """What a worker does first."""

    def __init__(self, users: Callable[[int], None] | None, noted: Tensor) -> None:
        self.users, self.noted = users, noted
        self.parent = os.getpid()

    def __call__(self, number: int) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        threading.Thread(target=_end_with_parent, args=(self.parent,), daemon=True).start()
        atexit.register(_let_sender_end)  # Python runs it in workers that were spawned; forked ones do not need it
        _note_items(self.noted[number])
        if self.users is not None:
            self.users(number)


def _end_with_parent(pid: int) -> None:
    """Ends this process when its parent has died. torch's own watch sleeps while a batch is read or sent."""
    parent, first = multiprocessing.parent_process(), os.getppid()
    while (parent is None or parent.is_alive()) and os.getppid() == first and (first == pid or parent is not None):
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


def _let_sender_end() -> None:
    """Lets the thread that sends batches end: if Python ended while it is inside torch, this process would abort."""
    for queue in multiprocessing.current_process()._args:  # type: ignore[attr-defined]
        if isinstance(queue, Queue) and (thread := queue._thread) is not None:  # type: ignore[attr-defined]
            unsent = queue._buffer  # type: ignore[attr-defined]
            with suppress(IndexError):
                while len(unsent) > 1:  # nobody will read these; the last one says that the queue is closed
                    unsent.popleft()
            thread.join(_SEND_SECONDS)  # in vain if it waits for a training that does not read, which is harmless


def _note_items(row: Tensor) -> None:
    """Makes this worker note the items of each batch before it reads them, where the parent finds them."""
    original = fetch._MapDatasetFetcher.fetch
    numbers = row.numpy()

    def note_and_fetch(self: Any, indices: Any) -> Any:
        with suppress(TypeError, ValueError, OverflowError):  # keys of another kind
            several = indices if isinstance(indices, list) else [indices]
            first = [key[0] if isinstance(key, tuple) else key for key in several[:_MOST_NOTED]]
            numbers[1 : 1 + len(first)] = first
            numbers[0] = len(first)
        return original(self, indices)  # type: ignore[no-untyped-call]

    fetch._MapDatasetFetcher.fetch = note_and_fetch  # type: ignore[method-assign]


def _disown() -> None:
    """In a process that was just forked: its copies of passes must not wait for workers that are not its children."""
    for iterator in list(_started):
        iterator._shutdown = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown)
