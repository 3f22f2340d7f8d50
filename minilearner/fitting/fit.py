"""The runs that a learner makes, each with the callbacks that belong to it: a fit, written down, and a validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from minilearner.callbacks.checkpoint import Checkpoint
from minilearner.callbacks.progress import Progress
from minilearner.callbacks.record import Evaluate, Record
from minilearner.checks import check_count
from minilearner.data.loader import Loader
from minilearner.fitting.rates import RateFinder
from minilearner.metrics import Metric
from minilearner.results.recorder import Recorder, RunRecord
from minilearner.training.callback import Callback
from minilearner.training.loop import Loop
from minilearner.training.optimizers import Rate, hyperparameters_set
from minilearner.training.run import Run

__all__ = ["fit", "run_through", "undone_unless_trained", "validate"]


def fit(
    finder: RateFinder,
    kind: str,
    n_epoch: int,
    lr: Rate | None,
    plan: Callable[[list[float]], Callback] | None,
    recorder: Recorder,
    metrics: dict[str, Metric],
    checkpoint: Checkpoint | None = None,
    *,
    momentum: float | None = None,
) -> RunRecord:
    """Trains for `n_epoch` epochs, and returns what is written down, also into `recorder`.

    With a `checkpoint`, from where it stands. A record that nothing came to is dropped, also where an error passes
    through.

    Args:
        finder: settles the rates and makes the run.
        kind: what the record calls it: "fit_one_cycle", for instance.
        plan: makes the callback that schedules these rates; None leaves them constant.
        momentum: what a sweep for the rates is made with; see `RateFinder.rates`.
    """
    check_count(n_epoch, "n_epoch")
    rates, sweep = finder.settled(lr, checkpoint, momentum=momentum)
    callbacks = [*finder.callbacks, plan(rates)] if plan else finder.callbacks
    run = finder.new_run()
    run.n_epochs = n_epoch
    with hyperparameters_set(run.optimizer, run.model, rates, finder.wd, wd_bn_bias=finder.wd_bn_bias):
        found = {} if sweep is None else {"found": sweep.summary()}
        run.record = record = recorder.start_run(kind, n_epoch=n_epoch, **run.settings(callbacks), **found)
        record.sweep = sweep
        recording = Record(deepcopy(metrics) if recorder.train_metrics else {})
        own = [Evaluate(metrics), recording, finder.output.progress(), *([] if checkpoint is None else [checkpoint])]
        try:
            loop = Loop(run, [*callbacks, *own], train=run.dls.train, valid=run.dls.valid)
            run_through(loop, checkpoint, kind)
        finally:
            recorder.drop_empty()
    return record


def validate(
    run: Run, loader: Loader, callbacks: Iterable[Callback], metrics: dict[str, Metric], *, shown: Progress
) -> list[float]:
    """Returns the loss and the metrics over a loader, NaN what was not computed; `run.dls` stand afterwards as before.

    Of the callbacks only those take part that change what a step computes.
    """
    taking_part = [callback for callback in callbacks if callback.part_of_step]
    with run.dls.unmoved():
        Loop(run, [*taking_part, Evaluate(metrics), shown], valid=loader).validate()
    return [run.metrics.get(name, math.nan) for name in ("valid_loss", *metrics)]


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


def run_through(loop: Loop, checkpoint: Checkpoint | None, kind: str) -> None:
    """Trains a run to its end, from where its checkpoint stands if it has one; `kind` is the call that asked for it."""
    if checkpoint is None:
        loop.fit()
        return
    with checkpoint.holding(loop.run, kind):
        loop.fit()
        checkpoint.finish(loop.run)
