"""Exact resume: a run that saves itself as it goes, and goes on where it was when the script is run again."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from minilearner import processes
from minilearner.callbacks.progress import Progress
from minilearner.errors import CheckpointError
from minilearner.runtime import rng_state, set_rng_state
from minilearner.saving.checkpoint_folder import CheckpointFolder, Packed, Saved, pack_state
from minilearner.saving.identity import compare, identity
from minilearner.saving.run_state import loader_states, restore, run_state
from minilearner.saving.state_checks import check_owner, check_process_parts
from minilearner.training.callback import Callback
from minilearner.training.run import Run
from minilearner.tree import map_tensors

__all__ = ["Checkpoint", "Checkpointing", "as_checkpoint"]

_ONE_SIGNAL_SECONDS = 5.0
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT") if hasattr(signal, name))


class Checkpoint(Callback):
    """Saves a run as it goes; the same script, run again after a crash, ends on the bits of an uninterrupted run.

    Given to a `fit` as ``checkpoint="runs/pets"`` or ``checkpoint=Checkpoint("runs/pets", every_steps=500)``. The call
    starts if the folder is empty, goes on at the saved epoch and batch if it holds a part of this run, and returns
    without training if it holds all of it. If it holds another run, the call raises an error that lists every
    difference: in the call, the data, the model, or the arguments of the loss, the metrics and the callbacks. See
    `Callback.ignored_arguments` for your own callbacks.

    A checkpoint holds weights, buffers, what is frozen, the optimizer, the loss scale, the state of callbacks and
    loaders, the record, and the four random generators. With our loaders, the training pass goes on without reading
    what was trained on before; from a foreign loader the earlier batches are read again. A foreign `DataLoader` with
    persistent workers whose dataset draws random numbers cannot be resumed exactly: its workers' generators are out of
    reach.

    SIGTERM and SIGINT (Ctrl-C) finish the step, save, undo what callbacks changed for a while, and leave with the exit
    code that is due (143; 130); a second one leaves at once. In a validation, what was trained before it is saved.

    With several processes, only the first writes, to a folder that all can read, and as many processes must go on as
    there were. They finish a validation before they leave for a signal. A signal that comes again within 5 seconds is
    not a second one: Slurm and systemd send it to all processes, and torchrun then passes it on to each once more.

    Args:
        folder: a folder for this run alone.
        every_steps: save after every so many optimizer updates.
        every_seconds: save at the next update after so many seconds since the last save.
        every_epochs: save after every so many epochs. Without any of the three: every epoch, and every 300 seconds.
        keep: how many checkpoints stay.

    Raises:
        ValueError: an interval or `keep` is not positive.
        CheckpointError: when the run begins: the folder cannot be written, is in use, is damaged, or another run's;
            in the run: a checkpoint cannot be written. What was saved before stays.
    """

    order = 100  # last: what it saves is what all others have done
    ignored_arguments = ("folder", "every_steps", "every_seconds", "every_epochs", "keep")

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        every_epochs: int | None = None,
        keep: int = 1,
    ) -> None:
        intervals = {
            "every_steps": every_steps,
            "every_seconds": every_seconds,
            "every_epochs": every_epochs,
            "keep": keep,
        }
        for name, value in intervals.items():
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be above 0. Received: {name}={value}.")
        if every_steps is every_seconds is every_epochs is None:
            every_epochs, every_seconds = 1, 300.0
        self.folder, self.keep = Path(folder), keep
        self.every_steps, self.every_seconds, self.every_epochs = every_steps, every_seconds, every_epochs
        self._left = ExitStack()
        self._signal: int | None = None
        self._before_validation: tuple[int, Packed] | None = None

    @contextmanager
    def holding(self, run: Run, kind: str) -> Iterator[None]:
        """Holds the folder for the time of a run, which goes on from what it finds there.

        Raises:
            CheckpointError: see the class.
        """
        store = CheckpointFolder(self.folder, keep=self.keep)
        with store.hold() if processes.is_first() else nullcontext():
            self._store, self._identity, self._found = store, identity(run, kind), store.newest()
            if run.step.n_processes > 1:
                self._check_all_see_the_same()
            if self._found is not None:
                check_owner(self._found.state)
                self._check_is_this_run(self._found)
                check_process_parts(self._found.state, run.step.n_processes)
                self._check_is_new_to_recorder(run)
                if of_each := self._found.state.get("of_each"):
                    _take_own(self._found.state, of_each[processes.rank()])
            yield

    def finish(self, run: Run) -> None:
        """Saves the outcome after all callbacks have undone their temporary changes.

        A run that was finished before trains no epoch. Its outcome is put back once more after `after_fit`, so that
        nothing that callbacks did in this call counts twice.
        """
        if self._found is not None and self._found.state["finished"]:
            restore(run, self._found.state)
        else:
            self._save(run, epoch=run.epoch + 1, batch=0, finished=True)
        if run.record is not None:
            run.record.saved_in = self.folder.resolve()

    def _check_is_this_run(self, saved: Saved) -> None:
        found = compare(saved.state["identity"], self._identity)
        unknown = [f"{what} could not be compared" for what in found.unknown]
        if found.changed:
            raise CheckpointError(
                f"{self.folder} holds another run:\n  "
                + "\n  ".join([*found.changed, *unknown])
                + "\nPut the arguments back to go on with that run, or use another folder for a new one."
            )
        if unknown and processes.is_first():
            warnings.warn(
                f"{self.folder} holds this run, as far as can be seen: {'; '.join(unknown)}. If it changed, use "
                "another folder.",
                stacklevel=2,
            )
        self._allowed = found.allowed

    def _check_is_new_to_recorder(self, run: Run) -> None:
        if any(record.saved_in == self.folder.resolve() for record in (run.recorder.runs if run.recorder else ())):
            raise CheckpointError(
                f"{self.folder} holds a run that this learner has finished; this call would take it back to the end of "
                "that one and train nothing. Give each call a folder of its own."
            )

    def _check_all_see_the_same(self) -> None:
        seen = processes.gather(None if self._found is None else self._found.number)
        if odd := [rank for rank, number in enumerate(seen) if number != seen[0]]:
            raise CheckpointError(
                f"process {odd[0]} does not see in {self.folder} what the first process sees. With several machines, "
                "give a folder that all of them share."
            )

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty dict; everything is already on disk."""
        return {}

    def before_fit(self, run: Run) -> None:
        self._at_step, self._at_time = run.global_step, time.monotonic()
        self._left.enter_context(_note_signals(self._note))
        if self._found is not None:
            state = self._found.state
            restore(run, state, is_ending=state["finished"])
            self._say_where(run, state)
            if state["finished"]:
                run.epoch = run.n_epochs

    def before_train(self, run: Run) -> None:
        resumed = self._found if run.start_batch else None
        if resumed is not None:
            # Once more: `before_epoch` and `before_train` came again, and what they did must not count twice.
            self._pass: dict[str, Any] = resumed.state["pass"]
            restore(run, {**resumed.state, **self._pass})
            run.at_start = partial(self._start_reading, run, resumed.state)
        else:
            self._pass = {"loaders": loader_states(run), "rng": rng_state()}

    def after_batch(self, run: Run) -> None:
        if run.training and not run.step.is_pending:
            self._after_training_batch(run)
        elif run.step.n_processes > 1:
            return  # processes leave together after the validation
        elif not run.in_mid_epoch and self._signal is not None:  # validating, or a window was never closed
            if self._before_validation is not None:
                self._store.save(*self._before_validation)
            self._leave_on_signal(run)

    def _after_training_batch(self, run: Run) -> None:
        if self._is_due_anywhere(run, self._is_due(run)):
            self._save(run, epoch=run.epoch, batch=run.iter + 1)
            self._leave_on_signal(run)
        if run.iter + 1 == run.n_batches and run.dls.valid is not None and run.step.n_processes == 1:
            number, state = self._state(run, epoch=run.epoch, batch=run.n_batches)
            self._before_validation = number, pack_state(state)  # in memory: written if a signal comes while validating

    def after_epoch(self, run: Run) -> None:
        due = self.every_epochs is not None and (run.epoch + 1) % self.every_epochs == 0
        if self._is_due_anywhere(run, due):
            self._save(run, epoch=run.epoch + 1, batch=0)
        self._leave_on_signal(run)

    def after_fit(self, run: Run) -> None:
        self._left.close()

    def _say_where(self, run: Run, state: dict[str, Any]) -> None:
        """Prints where the run stands, if its table of epochs is printed too."""
        if not any(isinstance(callback, Progress) and callback.table for callback in run.callbacks):
            return
        where = f"going on in epoch {run.epoch} at batch {state['batch']}"
        sys.stdout.write(f"{self.folder}: {'finished before, not trained again' if state['finished'] else where}\n")
        for line in self._allowed:
            sys.stdout.write(f"{self.folder}: {line}\n")

    def _start_reading(self, run: Run, state: dict[str, Any]) -> None:
        """Puts the random generators back when the resumed pass stands at its batch."""
        run.at_start = None
        set_rng_state(state["rng"])

    def _is_due(self, run: Run) -> bool:
        if run.global_step == self._at_step:
            return False
        if self.every_steps is not None and run.global_step % self.every_steps == 0:
            return True
        return self.every_seconds is not None and time.monotonic() - self._at_time >= self.every_seconds

    def _is_due_anywhere(self, run: Run, due: bool) -> bool:
        """Returns whether to save now. All processes do or none does, and all learn of a signal that one received."""
        if run.step.n_processes > 1:
            noted = [float(self._signal == number) for number in _SIGNALS]
            *signals, n_due = processes.add_up([*noted, float(due and processes.is_first())])
            self._signal = next((number for number, n in zip(_SIGNALS, signals, strict=True) if n), None)
            due = n_due > 0
        return due or self._signal is not None

    def _state(self, run: Run, *, epoch: int, batch: int, finished: bool = False) -> tuple[int, dict[str, Any]]:
        """Returns the state of the run with its number, which orders states by where the run stands."""
        state = map_tensors(processes.whole, run_state(run, epoch=epoch, batch=batch))
        state.update(identity=self._identity, finished=finished)
        state["pass"] = self._pass if batch else None
        state["of_each"] = processes.gather(_own(run, state)) if run.step.n_processes > 1 else None
        number = epoch * (len(run.dls.train) + 1) + batch + finished
        return number, state

    def _save(self, run: Run, *, epoch: int, batch: int, finished: bool = False) -> None:
        number, state = self._state(run, epoch=epoch, batch=batch, finished=finished)
        if processes.is_first():
            self._store.save(number, state)
        self._at_step, self._at_time = run.global_step, time.monotonic()

    def _note(self, number: int) -> None:
        self._signal = number

    def _leave_on_signal(self, run: Run) -> None:
        if self._signal is not None:
            if run.step.n_processes > 1:
                processes.wait()  # until the first has written: torchrun ends all when one leaves
            message = f"saved in {self.folder}; run the same script again to go on."
            if self._signal == signal.SIGINT:
                raise KeyboardInterrupt(message)
            if processes.is_first():
                sys.stderr.write(f"{signal.Signals(self._signal).name}: {message}\n")
            raise SystemExit(128 + self._signal)

    def __repr__(self) -> str:
        return "Checkpoint()"  # where and how often does not make another run


def _own(run: Run, state: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of a state that belongs to this process alone."""
    pairs = zip(run.callbacks, state["callbacks"], strict=True)
    callbacks = [saved if callback.differs_by_process else None for callback, saved in pairs]
    own = {name: state[name] for name in ("pass", "rng", "loaders")}
    return {**own, "callbacks": map_tensors(lambda t: t.cpu(), callbacks)}


def _take_own(state: dict[str, Any], own: dict[str, Any]) -> None:
    """Replaces the first process's own part of a state with that of another process."""
    callbacks = [mine or saved for mine, saved in zip(own["callbacks"], state["callbacks"], strict=True)]
    state.update({**own, "callbacks": callbacks})


@contextmanager
def _note_signals(note: Callable[[int], None]) -> Iterator[None]:
    """Notes the first SIGTERM or SIGINT and lets a second act at once; puts the handlers back at the end.

    With several processes, a second signal counts only some seconds after the first: see `Checkpoint`. Signals reach
    the main thread alone; in any other thread, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def first(number: int, frame: Any) -> None:
        again = signal.SIG_DFL if processes.count() == 1 else partial(_act_if_late, time.monotonic())
        for each in _SIGNALS:
            signal.signal(each, again)
        note(number)

    for number in _SIGNALS:
        signal.signal(number, first)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _act_if_late(first_at: float, number: int, frame: Any) -> None:
    if time.monotonic() - first_at >= _ONE_SIGNAL_SECONDS:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


Checkpointing: TypeAlias = "str | os.PathLike[str] | Checkpoint | None"
"""What users pass as `checkpoint`: a folder, a `Checkpoint` with its intervals, or None."""


def as_checkpoint(checkpoint: Checkpointing, *, phase: str = "") -> Checkpoint | None:
    """Returns a fresh `Checkpoint`; `phase` names a folder inside, for a call that trains in several."""
    if checkpoint is None:
        return None
    given = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
    return Checkpoint(
        given.folder / phase,
        every_steps=given.every_steps,
        every_seconds=given.every_seconds,
        every_epochs=given.every_epochs,
        keep=given.keep,
    )
