"""Train and validate: one run, its record, and the callbacks that every run has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from minilearner.callbacks.checkpoint import Checkpoint
from minilearner.callbacks.progress import Progress
from minilearner.callbacks.record import Evaluate, Record
from minilearner.copies import copy_apart
from minilearner.data.loader import Loader
from minilearner.data.loader_state import parts_of
from minilearner.fitting.context import FitContext
from minilearner.fitting.kept_precision import keep_auto_precision
from minilearner.fitting.rates import settle_rates
from minilearner.lr_finder.result import LRSweep
from minilearner.metrics import Metric
from minilearner.results.run_record import RunRecord
from minilearner.threads import alone_with
from minilearner.training.callback import Callback, select_for_step
from minilearner.training.loop import Loop
from minilearner.training.optimizer_view import list_hypers
from minilearner.training.optimizers import Rate
from minilearner.training.run import Phase, Run

__all__ = ["fit", "undo_on_early_error", "validate"]


def fit(
    context: FitContext,
    kind: str,
    n_epoch: int,
    lr: Rate | None,
    plan: Callable[[list[float]], Callback] | None = None,
    checkpoint: Checkpoint | None = None,
    *,
    ratios: Rate | None = None,
    momentum: float | None = None,
    frozen_rate: float | None = None,
    phase: Phase | None = None,
    start_epoch: int = 0,
) -> RunRecord:
    """Trains for `n_epoch` epochs and returns the run's record, which is also in the context's recorder.

    With a `checkpoint`, training goes on from what is saved there. A record without a single step is dropped, even if
    an error ends the run.

    Args:
        kind: the call's name for the record, such as "fit_one_cycle".
        lr: the rate of this call; see `settle_rates`, also for `ratios`, `momentum` and `frozen_rate`.
        plan: makes the callback that schedules the rates. None keeps them constant.
        phase: which part of a longer call this is.
        start_epoch: the number of the first epoch, unless a checkpoint has another.
    """
    with nullcontext() if checkpoint is None else checkpoint.hold(), keep_auto_precision(context, checkpoint):
        rates, sweep = settle_rates(
            context,
            lr,
            checkpoint,
            ratios=ratios,
            momentum=momentum,
            frozen_rate=frozen_rate,
            n_epochs=n_epoch - start_epoch,
        )
        return _fit(context, kind, n_epoch, rates, sweep, plan, checkpoint, phase, start_epoch)


def _fit(
    context: FitContext,
    kind: str,
    n_epoch: int,
    rates: list[float],
    sweep: LRSweep | None,
    plan: Callable[[list[float]], Callback] | None,
    checkpoint: Checkpoint | None,
    phase: Phase | None,
    start_epoch: int,
) -> RunRecord:
    callbacks = [*context.callbacks, *([plan(rates)] if plan else [])]
    run, recorder = context.new_run(), context.recorder
    run.n_epochs, run.phase, run.epoch = n_epoch, phase, start_epoch
    with context.set_hyperparameters(run, rates):
        if phase is not None:
            context.output.say(_describe_phase(run, phase.name))
        found = {} if sweep is None else {"found": sweep.summary()}
        run.record = record = recorder.start_run(kind, n_epoch=n_epoch, **run.settings(callbacks), **found)
        record.sweep, record.phase = sweep, "" if phase is None else phase.name.rpartition(", ")[2]
        measured = context.metrics if recorder.train_metrics else {}
        train_metrics = {name: copy_apart(metric) for name, metric in measured.items()}
        own = [Evaluate(context.metrics), Record(train_metrics), context.output.progress()]
        try:
            everything = [*callbacks, *own, *([] if checkpoint is None else [checkpoint])]
            loop = Loop(run, everything, train=run.dls.train, valid=run.dls.valid)
            with nullcontext() if checkpoint is None else checkpoint.holding(run, kind):
                loop.fit()
                if checkpoint is not None:
                    checkpoint.finish(run)
        finally:
            record.hypers = list_hypers(run.optimizer)
            recorder.drop_empty()
    return record


def validate(
    run: Run,
    loader: Loader,
    callbacks: Iterable[Callback],
    metrics: dict[str, Metric],
    *,
    given: Sequence[Callback] = (),
    shown: Progress,
) -> list[float]:
    """Returns the loss and the metrics over a loader, NaN for what was not computed. Leaves `run.dls` as it was.

    Of the `callbacks`, those take part that act in each pass; those `given` for this call all do.
    """
    taking_part = [*select_for_step(callbacks), *given]
    with alone_with([*taking_part, *metrics.values(), *parts_of(loader)]), run.dls.unmoved():
        Loop(run, [*taking_part, Evaluate(metrics), shown], valid=loader).validate()
    return [run.metrics.get(name, math.nan) for name in ("valid_loss", *metrics)]


@contextmanager
def undo_on_early_error(learner: Any) -> Iterator[None]:
    """Puts the learner's frozen layers and optimizer back if an error comes before the first training step."""
    optimizer, n_runs = learner.optimizer, len(learner.recorder.runs)
    before = [(parameter, parameter.requires_grad) for parameter in learner.model.parameters()]
    try:
        yield
    except BaseException:
        if len(learner.recorder.runs) == n_runs:  # a run without a step is dropped from the recorder
            learner.optimizer = optimizer
            for parameter, requires_grad in before:
                parameter.requires_grad_(requires_grad)
        raise


def _describe_phase(run: Run, name: str) -> str:
    """Returns a line such as "fine_tune, frozen: epoch 1/3, peak learning rate 2.00e-03"."""
    first, last = run.label_epoch(0), run.label_epoch(run.n_epochs - 1)
    epochs = f"epoch {first}" if first == last else f"epochs {first} to {last}"
    groups = run.optimizer.param_groups
    learning = [group["lr"] for group in groups if any(parameter.requires_grad for parameter in group["params"])]
    rates = dict.fromkeys(f"{rate:.2e}" for rate in (min(learning), max(learning)))
    return f"{name}: {epochs}, peak learning rate {' to '.join(rates)}"
