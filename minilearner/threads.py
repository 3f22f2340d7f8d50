"""What the threads of this process do with models and loaders: who trains, who predicts, and who waits.

Several threads may predict with one model at once. Each module then stays in evaluation mode until the last thread has
finished, and one thread at a time calls the model. While a thread trains a model, other threads may not predict with
it: they would change its batch norm, and would see weights of an unfinished update.

After a fork, the child knows only what its one thread was doing.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

__all__ = [
    "alone_with",
    "evaluate",
    "hold",
    "is_trained_on_elsewhere",
    "one_reader",
    "refuse_if_trained_elsewhere",
    "train",
    "trainings_elsewhere",
    "trains",
    "turn_of",
]

_BUSY = (
    "this model is being trained in another thread, so this thread cannot use it until that training has ended: batch "
    "norm would count its items, and the weights change all the time. Predict from a callback of the training, or with "
    "a copy that was made before it."
)


class _Evaluation:
    """One thread's use of a model, mostly in evaluation mode, and the flags that its modules get back."""

    def __init__(self, model: Any, *, switches: bool = True) -> None:
        self.model, self.switches = model, switches

    def __enter__(self) -> None:
        self.thread = threading.get_ident()
        with _known.lock:
            self.flags = {module: module.training for module in self.model.modules()}
            is_training = True in self.flags.values()
            if _known.evaluations or _known.trainings:
                _refuse(self.flags, self.thread)
                self._take_first_flags()
            if is_training and self.switches:
                self.model.eval()
            _known.evaluations.append(self)

    def __exit__(self, *error: object) -> None:
        with _known.lock:
            if self in _known.evaluations:
                _known.evaluations.remove(self)
            others = {module for one in _known.evaluations if one.thread != self.thread for module in one.flags}
            for module, flag in self.flags.items():
                if module.training is not flag and module not in others:
                    module.training = flag
            if _known.trainings:
                _known.changed.notify_all()

    def _take_first_flags(self) -> None:
        """Takes the flags from before the first of the other threads, for this one may be the last to finish."""
        own = {module for one in _known.evaluations if one.thread == self.thread for module in one.flags}
        for one in reversed(_known.evaluations):
            if one.thread != self.thread:
                self.flags.update((m, flag) for m, flag in one.flags.items() if m in self.flags and m not in own)


class _Training:
    """One thread's training: the models' modules, and what it reads from."""

    def __init__(self, thread: int, modules: list[Any], sources: list[Any]) -> None:
        self.thread, self.sources = thread, sources
        self.modules = {id(module): module for module in modules}


class _Known:
    """All that is going on in this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.evaluations: list[_Evaluation] = []
        self.trainings: list[_Training] = []
        self.n_trainings: dict[int, int] = {}
        self.held: dict[int, list[int]] = {}  # id of a thing -> the thread that has it, and how often it took it
        self.turns: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self.reader = threading.RLock()

    def keep_only(self, thread: int) -> None:
        self.evaluations = [one for one in self.evaluations if one.thread == thread]
        self.trainings = [one for one in self.trainings if one.thread == thread]
        self.held = {thing: holder for thing, holder in self.held.items() if holder[0] == thread}
        self.lock, self.reader, self.turns = threading.RLock(), threading.RLock(), weakref.WeakKeyDictionary()
        self.changed = threading.Condition(self.lock)


_known = _Known()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _known.keep_only(threading.get_ident()))


def evaluate(model: Any) -> AbstractContextManager[None]:
    """Puts a model into evaluation mode. At its end, each module has its own flag again, also after an error.

    If other threads still predict with a module, it gets its flag back when the last of them has finished.

    Raises:
        RuntimeError: another thread trains the model, or a part of it.
    """
    return _Evaluation(model)


@contextmanager
def hold(model: Any) -> Iterator[None]:
    """Keeps a model as it is, for whoever copies it, writes it or changes its weights: other threads wait to call it.

    Raises:
        RuntimeError: another thread trains the model, or a part of it.
    """
    with _Evaluation(model, switches=False), turn_of(model):
        yield


@contextmanager
def train(model: Any, sources: Iterable[Any] = ()) -> Iterator[None]:
    """Keeps other threads from predicting with a model. First waits until they have finished what they have begun.

    Args:
        model: the model to train.
        sources: the loaders that the training reads, and their parts.

    Raises:
        RuntimeError: another thread trains the model, or a part of it.
    """
    one = _Training(threading.get_ident(), list(model.modules()), list(sources))
    with _known.lock:
        _refuse(one.modules.values(), one.thread, also_inside=False)
        _known.trainings.append(one)  # from now on, no other thread begins
        _known.n_trainings[one.thread] = _known.n_trainings.get(one.thread, 0) + 1
    try:
        with _known.lock:
            _known.changed.wait_for(lambda: not _is_evaluated_elsewhere(one))
        yield
    finally:
        with _known.lock:
            if one in _known.trainings:
                _known.trainings.remove(one)


def _is_evaluated_elsewhere(training: _Training) -> bool:
    others = [one.flags for one in _known.evaluations if one.thread != training.thread]
    return any(module in flags for flags in others for module in training.modules.values())


def refuse_if_trained_elsewhere(model: Any) -> None:
    """Raises a RuntimeError if another thread trains this model."""
    if _known.trainings:
        with _known.lock:
            _refuse([model], threading.get_ident())


def _refuse(modules: Iterable[Any], thread: int, *, also_inside: bool = True) -> None:
    others = [one.modules for one in _known.trainings if one.thread != thread]
    if not others or (also_inside and any(one.thread == thread for one in _known.evaluations)):
        return  # the training of others waits until this thread has finished
    if any(id(module) in trained for module in modules for trained in others):
        raise RuntimeError(_BUSY)


def is_trained_on_elsewhere(source: Any) -> bool:
    """Returns whether another thread trains on this loader."""
    thread = threading.get_ident()
    return any(part is source for one in list(_known.trainings) if one.thread != thread for part in one.sources)


def trains(thread: int) -> bool:
    """Returns whether this thread is training."""
    return any(one.thread == thread for one in list(_known.trainings))


def trainings_elsewhere(thread: int) -> tuple[int, int]:
    """Returns how many trainings other threads have begun so far, and how many of these go on."""
    if not _known.n_trainings:
        return 0, 0
    with _known.lock:
        begun = sum(n for other, n in _known.n_trainings.items() if other != thread)
        return begun, sum(one.thread != thread for one in _known.trainings)


def turn_of(model: Any) -> Any:
    """Returns the lock that a thread holds while it calls a model, for a model may keep things while it computes."""
    turn = _known.turns.get(model)
    if turn is None:
        with _known.lock:
            turn = _known.turns.setdefault(model, threading.RLock())
    return turn


def one_reader() -> Any:
    """Returns the lock for code that must not run in two threads at once: readers, and seeded global generators."""
    return _known.reader


@contextmanager
def alone_with(things: Iterable[Any]) -> Iterator[None]:
    """Waits until no other thread has any of these things, and then keeps others out.

    It takes all at once, so two threads never wait for each other here.
    """
    held, thread = list(things), threading.get_ident()
    ids = {id(thing) for thing in held}
    with _known.lock:
        _known.changed.wait_for(lambda: all(_known.held.get(i, (thread,))[0] == thread for i in ids))
        for i in ids:
            _known.held.setdefault(i, [thread, 0])[1] += 1
    try:
        yield
    finally:
        with _known.lock:
            for i in ids & _known.held.keys():
                _known.held[i][1] -= 1
                if not _known.held[i][1]:
                    del _known.held[i]
            _known.changed.notify_all()
