"""`Checkpoint`: save a run as it goes, and resume it exactly when the script runs again.

This module decides when to save, handles signals, and resumes. `saving.run_state` decides what is saved,
`saving.checkpoint_folder` writes and reads it, and `saving.identity` says whether a folder holds the same run.
"""

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
from minilearner.callbacks.progress import announce
from minilearner.checks import check_count, check_positive
from minilearner.display import write_line
from minilearner.errors import CheckpointError, plural
from minilearner.glance import enumerate_names
from minilearner.results.run_record import RunRecord
from minilearner.runtime import rng_state
from minilearner.saving.checkpoint_folder import CheckpointFolder, Packed, Saved, pack_state
from minilearner.saving.extension import (
    as_if_more_follow,
    copy_state,
    find_difference,
    list_length_readers,
    select_changes,
    state_before_end,
)
from minilearner.saving.identity import compare, identity
from minilearner.saving.run_state import check_extra_state, loader_states, restore, run_state
from minilearner.saving.state_checks import check_owner, check_process_parts
from minilearner.training.callback import Callback
from minilearner.training.run import ResumePoint, Run
from minilearner.tree import map_tensors

__all__ = ["Checkpoint", "Checkpointing", "as_checkpoint"]

_ONE_SIGNAL_SECONDS = 5.0  # with several processes
_REPEATED_SECONDS = 1.0  # `timeout` signals its command, and then the whole group that the command is in
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT") if hasattr(signal, name))


class Checkpoint(Callback):
    """Saves a run as it goes. Run the script again after a crash, and it ends with the bits of an uninterrupted run.

    Pass it to any `fit` method: ``checkpoint="runs/pets"`` or ``checkpoint=Checkpoint("runs/pets", every_steps=500)``.
    If the folder is empty, training starts. If it holds a part of this run, training resumes at that epoch and batch.
    If it holds the whole run, the call returns without training. The folder of another run is refused with a list of
    all differences: in the call, the data, the model, or the arguments of the loss, the metrics and the callbacks. See
    `Callback.ignored_arguments` for your own callbacks.

    With ``extend=True``, a `fit` method goes on with a run of fewer epochs, finished or not, and ends with the bits of
    a run that had all of these epochs from the start. That can be done if nothing up to there depends on the length of
    the run: constant rates, schedules by steps or epochs, `CyclicLR`. Otherwise the call is refused, and names the
    first batch at which the longer run would have differed. See `Callback.plan_at` for your own callbacks. If the
    learner itself trained the shorter run, the record of the longer one, which has all its rows, takes its place.

    A checkpoint holds the weights, the buffers, what is frozen, the optimizer, the loss scale, the state of the
    callbacks and the loaders, the record, and the four random generators. The folder also keeps what `precision="auto"`
    chose. Our loaders resume in mid-epoch without reading the earlier batches; a foreign loader reads them again. A
    foreign `DataLoader` cannot resume exactly if it has persistent workers and its dataset draws random numbers: the
    generators of its workers are out of reach.

    On SIGTERM or SIGINT (Ctrl-C), the run finishes its step, saves, lets callbacks undo temporary changes, and exits
    with the usual code (143 or 130). It makes no difference whether the signal reaches this process alone or its loader
    workers too, which wait for this process. Another signal, a second later or more, ends it at once. A signal during a
    validation saves the state from before the validation.

    With several processes, process 0 writes, in a folder that all of them can read. Only the same number of processes
    can resume the run. After a signal, they finish a validation before they exit. A signal that follows another within
    5 seconds is ignored: Slurm and systemd send a signal to all processes, and torchrun sends it to each once more.

    Args:
        folder: the folder for the checkpoints of this run alone.
        every_steps: save after this many optimizer updates.
        every_seconds: save at the first update that ends this many seconds after the last save.
        every_epochs: save after this many epochs. Without any of the three: after each epoch, and every 300 seconds.
        keep: how many checkpoints to keep.
        to_resume: what the message after a signal says to do.

    Raises:
        ValueError: an interval or `keep` is not positive.
        CheckpointError: when the run begins: the folder cannot be written, is in use, is damaged, or holds another run.
            Later: a checkpoint cannot be written. Earlier checkpoints stay.
    """

    order = 100  # last, so that it saves what all other callbacks have done
    ignored_arguments = ("folder", "every_steps", "every_seconds", "every_epochs", "keep", "to_resume")

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        every_epochs: int | None = None,
        keep: int = 1,
        to_resume: str = "Run the same script again to resume.",
    ) -> None:
        check_count(keep, "keep")
        for name, count in (("every_steps", every_steps), ("every_epochs", every_epochs)):
            if count is not None:
                check_count(count, name)
        if every_seconds is not None:
            check_positive(every_seconds, "every_seconds")
        if every_steps is every_seconds is every_epochs is None:
            every_epochs, every_seconds = 1, 300.0
        self.folder, self.keep, self.to_resume = _check_folder(folder), keep, to_resume
        self.every_steps, self.every_seconds, self.every_epochs = every_steps, every_seconds, every_epochs
        self._cleanup = ExitStack()
        self._is_held = False
        self._signal: int | None = None
        self._before_validation: tuple[int, Packed] | None = None
        self._before_end: dict[str, Any] | None = None
        self._extended: RunRecord | None = None  # the shorter run, if this learner trained it
        self.extend = False

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Makes and locks the folder, so that no other process writes there, and sweeps what a killed one left there.

        Raises:
            CheckpointError: the folder cannot be written, or is in use.
        """
        if self._is_held:
            yield
            return
        self._store = CheckpointFolder(self.folder, keep=self.keep)
        with self._store.hold() if processes.is_first() else nullcontext():
            self._is_held = True
            try:
                yield
            finally:
                self._is_held = False

    @property
    def has_saved(self) -> bool:
        """Whether the folder that `hold` has locked holds a checkpoint."""
        return self._store.is_used

    @contextmanager
    def holding(self, run: Run, kind: str) -> Iterator[None]:
        """Locks the folder during the run, and finds the checkpoint to resume from.

        Raises:
            CheckpointError: see the class.
        """
        with self.hold():
            self._find(run, kind)
            yield

    def _find(self, run: Run, kind: str) -> None:
        self._identity, self._found = identity(run, kind), self._store.newest()
        if run.step.n_processes > 1:
            self._check_processes_agree()
        if self._found is not None:
            check_owner(self._found.state)
            n_before = self._check_is_this_run(self._found, run.n_epochs)
            is_longer = n_before < run.n_epochs
            if is_longer:
                self._found = self._found._replace(state=self._plan_extension(run, self._found.state, n_before))
            check_process_parts(self._found.state, run.step.n_processes)
            self._extended = self._find_own_record(run, is_longer=is_longer)
            if of_each := self._found.state.get("of_each"):
                _insert_own_state(self._found.state, of_each[processes.rank()])

    def finish(self, run: Run) -> None:
        """Saves the outcome, after all callbacks have undone their temporary changes.

        If the run was finished before, this restores its outcome once more: `before_fit` and `after_fit` have run
        again, and what they did must not count twice.
        """
        if self._found is not None and self._found.state["finished"]:
            restore(run, self._found.state)
        else:
            self._save(run, epoch=run.epoch + 1, batch=0, finished=True)
        self._before_end = None
        if run.record is not None:
            run.record.saved_in = self.folder.resolve()

    def _check_is_this_run(self, saved: Saved, n_epochs: int) -> int:
        """Checks that a checkpoint holds this run. Returns how many epochs that has: fewer, if it may be extended."""
        was = saved.state["identity"]
        n_before = was.get("n_epochs")
        is_shorter = type(n_before) is int and 0 < n_before < n_epochs
        now = {**self._identity, "n_epochs": n_before} if self.extend and is_shorter else self._identity
        try:
            found = compare(was, now)
        except Exception as error:  # what it says may be of any form
            raise CheckpointError(f"{saved.path} does not say which run it holds: {error!r:.200}.") from error
        unknown = [f"{what} could not be compared" for what in found.unknown]
        if found.changed:
            hint = ""
            if is_shorter and not self.extend:
                hint = f" To train that run on to {n_epochs} epochs, give `extend=True` and the same other arguments."
            elif self.extend and type(n_before) is int and n_before > n_epochs:
                hint = " `extend` only makes a run longer."
            raise CheckpointError(
                f"{self.folder} holds another run:\n  "
                + "\n  ".join([*found.changed, *unknown])
                + "\nPut the arguments back to go on with that run, or use another folder for a new one."
                + hint
            )
        if unknown and processes.is_first():
            warnings.warn(
                f"{self.folder} holds this run, as far as can be seen: {'; '.join(unknown)}. If it changed, use "
                "another folder.",
                stacklevel=2,
            )
        self._allowed = found.allowed
        return int(now["n_epochs"])

    def _plan_extension(self, run: Run, state: dict[str, Any], n_before: int) -> dict[str, Any]:
        """Returns the state from which a run of `n_before` epochs is extended to this one.

        Raises:
            CheckpointError: that cannot be done. Says why, and what to do instead.
        """
        try:
            state = state_before_end(state, n_before)
            why = find_difference(run, state, n_before)
        except CheckpointError as error:
            why = str(error)
        if why is not None:
            raise CheckpointError(
                f"{self.folder} holds a run of {plural(n_before, 'epoch')} that cannot be extended to {run.n_epochs}: "
                f"{why.rstrip('.')}. To train on, give the old number of epochs again, which brings that run back "
                "without training, and then call a `fit` method with another folder for the further epochs."
            )
        if (readers := list_length_readers(run.callbacks)) and processes.is_first():
            warnings.warn(
                f"the code of {enumerate_names(readers)} reads how long the run is. If it acts upon that, the extended "
                "run is not the same as one of this length from the start. Define `plan_at` to have that checked.",
                stacklevel=2,
            )
        self._allowed = [f"extending the run from {n_before} to {plural(run.n_epochs, 'epoch')}", *self._allowed]
        return state

    def _find_own_record(self, run: Run, *, is_longer: bool) -> RunRecord | None:
        """Returns the record of the saved run, if this learner trained it and it may be extended.

        Raises:
            CheckpointError: this call would reset the learner to the end of that run.
        """
        runs = [] if run.recorder is None else [record for record in run.recorder.runs if record is not run.record]
        own = [record for record in runs if record.saved_in == self.folder.resolve()]
        if not own:
            return None
        if is_longer and own == runs[-1:]:
            return own[0]
        loss = "drop what the learner has learnt since" if is_longer else "train nothing"
        raise CheckpointError(
            f"{self.folder} holds a run that this learner has already finished. This call would reset the learner "
            f"to the end of that run and {loss}. Give each call its own folder."
        )

    def _check_processes_agree(self) -> None:
        seen = processes.gather(None if self._found is None else self._found.number)
        if odd := [process for process, number in enumerate(seen) if number != seen[0]]:
            raise CheckpointError(
                f"process {odd[0]} sees another checkpoint in {self.folder} than process 0. On several machines, give "
                "a folder that all of them share."
            )

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty dict; everything is already on disk."""
        return {}

    def before_fit(self, run: Run) -> None:
        check_extra_state(run)
        self._at_step, self._at_time = run.global_step, time.monotonic()
        self._cleanup.enter_context(_handle_signals(self._note_signal))
        if self._found is not None:
            state = self._found.state
            restore(run, state, is_ending=state["finished"])
            if self._extended is not None:
                _replace_record(run, self._extended)
            self._announce(run, state)
            if state["finished"]:
                run.epoch = run.n_epochs

    def before_train(self, run: Run) -> None:
        if self._found is not None and run.resume is not None:
            # Restore again: `before_epoch` and `before_train` have run again, and what they did must not count twice.
            self._pass: dict[str, Any] = self._found.state["pass"]
            restore(run, {**self._found.state, **self._pass})
            # Reading begins as in the pass's first batch, and goes on with the generators of the resumed one.
            run.resume = ResumePoint(self._found.state["batch"], self._found.state["rng"])
        else:
            self._pass = {"loaders": loader_states(run), "rng": rng_state()}

    def after_batch(self, run: Run) -> None:
        if run.training and not run.step.is_pending:
            self._after_training_batch(run)
        elif run.step.n_processes > 1:
            return  # all processes exit together, after the validation
        elif not run.in_mid_epoch and self._signal is not None:  # in a validation, or if no update was made
            if self._before_validation is not None:
                self._store.save(*self._before_validation)
            self._exit_after_signal(run)

    def _after_training_batch(self, run: Run) -> None:
        if self._is_due_anywhere(run, self._is_due(run)):
            self._save(run, epoch=run.epoch, batch=run.iter + 1)
            self._exit_after_signal(run)
        if run.iter + 1 == run.n_batches and run.dls.valid is not None and run.step.n_processes == 1:
            number, state = self._collect_state(run, epoch=run.epoch, batch=run.n_batches)
            self._before_validation = (
                number,
                pack_state(state),
            )  # in memory; written if a signal comes in the validation

    def after_epoch(self, run: Run) -> None:
        if run.ending:  # a run that resumed here would train on; `finish` saves the end
            return
        due = self.every_epochs is not None and (run.epoch + 1) % self.every_epochs == 0
        if self._is_due_anywhere(run, due):
            self._save(run, epoch=run.epoch + 1, batch=0)
        self._exit_after_signal(run)
        if run.epoch + 1 == run.n_epochs:
            with as_if_more_follow(run):
                self._before_end = copy_state(self._collect_state(run, epoch=run.n_epochs, batch=0)[1])

    def after_fit(self, run: Run) -> None:
        self._cleanup.close()

    def _announce(self, run: Run, state: dict[str, Any]) -> None:
        """Prints where the run resumes, if its table of epochs is shown too."""
        where = f"resuming in epoch {run.label_epoch()} at batch {state['batch'] + 1}/{len(run.dls.train)}"
        for line in ("finished before, so not trained again" if state["finished"] else where, *self._allowed):
            announce(run, f"{self.folder}: {line}")

    def _is_due(self, run: Run) -> bool:
        if run.global_step == self._at_step:
            return False
        if self.every_steps is not None and run.global_step % self.every_steps == 0:
            return True
        return self.every_seconds is not None and time.monotonic() - self._at_time >= self.every_seconds

    def _is_due_anywhere(self, run: Run, due: bool) -> bool:
        """Returns whether to save now, the same in all processes, and shares a signal that any of them received."""
        if run.step.n_processes > 1:
            noted = [float(self._signal == number) for number in _SIGNALS]
            *signals, n_due = processes.add_up([*noted, float(due and processes.is_first())])
            self._signal = next((number for number, n in zip(_SIGNALS, signals, strict=True) if n), None)
            due = n_due > 0
        return due or self._signal is not None

    def _collect_state(self, run: Run, *, epoch: int, batch: int, finished: bool = False) -> tuple[int, dict[str, Any]]:
        """Returns the state of the run and its number; numbers increase as the run advances."""
        state = map_tensors(processes.whole, run_state(run, epoch=epoch, batch=batch))
        state.update(identity=self._identity, finished=finished)
        state["pass"] = self._pass if batch else None
        state["of_each"] = processes.gather(_select_own_state(run, state)) if run.step.n_processes > 1 else None
        if finished:
            is_whole = self._before_end is not None and not run.ending
            state["before_end"] = select_changes(self._before_end or {}, state) if is_whole else None
        number = 2 * (epoch * (len(run.dls.train) + 1) + batch) + finished
        return number, state

    def _save(self, run: Run, *, epoch: int, batch: int, finished: bool = False) -> None:
        number, state = self._collect_state(run, epoch=epoch, batch=batch, finished=finished)
        if processes.is_first():
            self._store.save(number, state)
        self._at_step, self._at_time = run.global_step, time.monotonic()

    def _note_signal(self, number: int) -> None:
        self._signal = number

    def _exit_after_signal(self, run: Run) -> None:
        if self._signal is not None:
            if run.step.n_processes > 1:
                processes.wait()  # until process 0 has written: torchrun stops all processes when one exits
            message = f"saved in {self.folder}. {self.to_resume}"
            if self._signal == signal.SIGINT:
                raise KeyboardInterrupt(message)
            if processes.is_first():
                write_line(f"{signal.Signals(self._signal).name}: {message}", sys.stderr)
            raise SystemExit(128 + self._signal)

    def __repr__(self) -> str:
        return "Checkpoint()"  # another folder or interval does not make another run


def _replace_record(run: Run, shorter: RunRecord) -> None:
    """Removes the record of the run that is extended: this run's own has all its rows, and takes its number."""
    if run.recorder is not None and run.record is not None:
        run.recorder.runs.remove(shorter)
        run.record.number = shorter.number


def _select_own_state(run: Run, state: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of a state that belongs to this process alone."""
    pairs = zip(run.callbacks, state["callbacks"], strict=True)
    callbacks = [saved if callback.differs_by_process else None for callback, saved in pairs]
    own = {name: state[name] for name in ("pass", "rng", "loaders")}
    return {**own, "callbacks": map_tensors(lambda t: t.cpu(), callbacks)}


def _insert_own_state(state: dict[str, Any], own: dict[str, Any]) -> None:
    """Puts a process's own part into the state of process 0."""
    callbacks = [mine or saved for mine, saved in zip(own["callbacks"], state["callbacks"], strict=True)]
    state.update({**own, "callbacks": callbacks})


@contextmanager
def _handle_signals(note: Callable[[int], None]) -> Iterator[None]:
    """Notes the first SIGTERM or SIGINT and lets a later one act at once. Puts the handlers back on exit.

    A signal right after the first is the same one, sent twice; see `Checkpoint`.

    Only the main thread receives signals. In any other thread, this changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def first(number: int, frame: Any) -> None:
        wait = _REPEATED_SECONDS if processes.count() == 1 else _ONE_SIGNAL_SECONDS
        for each in _SIGNALS:
            signal.signal(each, partial(_act_if_late, time.monotonic() + wait))
        note(number)

    for number in _SIGNALS:
        signal.signal(number, first)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _act_if_late(late: float, number: int, frame: Any) -> None:
    if time.monotonic() >= late:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def _check_folder(folder: Any) -> Path:
    if not isinstance(folder, (str, os.PathLike)) or not isinstance(os.fspath(folder), str):
        hint = " Name a folder for this run: checkpoint='runs/1'." if isinstance(folder, bool) else ""
        raise TypeError(f"`checkpoint` must be a folder or a Checkpoint. Received: checkpoint={folder!r:.80}.{hint}")
    text = os.fspath(folder)
    if not text.strip() or "\0" in text:
        raise ValueError(
            f"`checkpoint` must name a folder for this run alone. Received: checkpoint={text!r:.80}. For the folder of "
            'the script, write checkpoint=".".'
        )
    return Path(folder)


Checkpointing: TypeAlias = "str | os.PathLike[str] | Checkpoint | None"
"""What users pass as `checkpoint`: a folder, a `Checkpoint` with its intervals, or None."""


def as_checkpoint(checkpoint: Checkpointing, *, phase: str = "", extend: bool = False) -> Checkpoint | None:
    """Returns a fresh `Checkpoint`, or None; `phase` is the subfolder for one phase of a call that has several.

    Raises:
        ValueError: there is nothing to `extend`.
        TypeError: `extend` is not True or False.
    """
    if not isinstance(extend, bool):
        raise TypeError(f"`extend` must be True or False. Received: extend={extend!r:.80}.")
    if checkpoint is None:
        if extend:
            raise ValueError("`extend` needs `checkpoint`, the folder of the run to extend. Received: checkpoint=None.")
        return None
    given = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
    fresh = Checkpoint(
        given.folder / phase,
        every_steps=given.every_steps,
        every_seconds=given.every_seconds,
        every_epochs=given.every_epochs,
        keep=given.keep,
        to_resume=given.to_resume,
    )
    fresh.extend = extend or given.extend
    return fresh
