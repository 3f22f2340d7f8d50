"""The runs that a learner makes, each with the callbacks that belong to it: a fit, written down, and a validation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from minilearner.callbacks.checkpoint import Checkpoint, run_through
from minilearner.callbacks.progress import Progress
from minilearner.callbacks.record import Evaluate, Record
from minilearner.data.loaders import Loader
from minilearner.metrics import Metric
from minilearner.results.lr_sweep import LRSweep
from minilearner.results.recorder import Recorder, RunRecord
from minilearner.training.callback import Callback
from minilearner.training.loop import Loop
from minilearner.training.run import Run

__all__ = ["fit", "undone_unless_trained", "validate"]


def fit(
    run: Run,
    kind: str,
    recorder: Recorder,
    callbacks: Sequence[Callback],
    metrics: dict[str, Metric],
    *,
    shown: Progress,
    checkpoint: Checkpoint | None = None,
    sweep: LRSweep | None = None,
) -> RunRecord:
    """Trains on `run.dls` for `run.n_epochs` epochs, and returns what is written down, also into `recorder`.

    With a `checkpoint`, from where it stands. A record that nothing came to is dropped, also where an error passes
    through. kind: what the record calls this run: "fit_one_cycle", for instance. sweep: where its rates were found, for
    the record.
    """
    found = {} if sweep is None else {"found": sweep.summary()}
    run.record = record = recorder.start_run(kind, n_epoch=run.n_epochs, **run.settings(callbacks), **found)
    record.sweep = sweep
    recording = Record(deepcopy(metrics) if recorder.train_metrics else {})
    several = [*callbacks, Evaluate(metrics), recording, shown, *([] if checkpoint is None else [checkpoint])]
    try:
        run_through(Loop(run, several, train=run.dls.train, valid=run.dls.valid), checkpoint, kind)
    finally:
        recorder.drop_empty()
    return record


def validate(
    run: Run, loader: Loader, callbacks: Iterable[Callback], metrics: dict[str, Metric], *, shown: Progress
) -> None:
    """Computes the loss and the metrics over a loader into `run.metrics`; `run.dls` stand afterwards as before.

    Of the callbacks only those take part that change what a step computes.
    """
    taking_part = [callback for callback in callbacks if callback.part_of_step]
    with run.dls.unmoved():
        Loop(run, [*taking_part, Evaluate(metrics), shown], valid=loader).validate()


@contextmanager
def undone_unless_trained(learner: Any) -> Iterator[None]:
    """Puts a learner's frozen layers and its optimizer back where an error comes before the first training step."""
    optimizer, n_runs = learner.optimizer, len(learner.recorder.runs)
    learns = [(parameter, parameter.requires_grad) for parameter in learner.model.parameters()]
    try:
        yield
    except BaseException:
        if len(learner.recorder.runs) == n_runs:  # a run without a step is dropped from the recorder
            learner.optimizer = optimizer
            for parameter, learn in learns:
                parameter.requires_grad_(learn)
        raise
