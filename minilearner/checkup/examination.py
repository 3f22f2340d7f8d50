"""`examine`: makes all checks of `learn.check()`, one after the other, and leaves no trace."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from minilearner.checkup.class_balance import find_label_problems
from minilearner.checkup.findings import Checkup, Finding, NotCheckedError
from minilearner.checkup.metric_means import find_metrics_without_mean
from minilearner.checkup.rate_range import find_rate_problems
from minilearner.checkup.served_batches import find_left_out, find_order, find_small_batches
from minilearner.checkup.trial import (
    Trial,
    find_gradient_problems,
    find_input_problems,
    find_loss_problems,
    find_overfit,
)
from minilearner.checkup.twins import find_twins
from minilearner.data.dataloaders import DataLoaders
from minilearner.errors import DataError
from minilearner.lr_finder.result import LRSweep
from minilearner.metrics import Metric
from minilearner.runtime import is_out_of_memory, isolate_rng
from minilearner.training.callback import Callback
from minilearner.training.fastai_style import may_change_batches
from minilearner.training.optimizers import Rate
from minilearner.training.preflight import Preflight
from minilearner.training.step import Step

__all__ = ["examine"]

_Check = Callable[[], Iterable[Finding]]


def examine(
    make_step: Callable[[], Step],
    dls: DataLoaders,
    metrics: Mapping[str, Metric],
    callbacks: Sequence[Callback] = (),
    *,
    rate: Rate,
    sweep: LRSweep | None = None,
) -> Checkup:
    """Makes all checks, and puts back to the bit what they change.

    Args:
        make_step: returns a new step without an optimizer.
        dls: the loaders.
        metrics: by their names.
        callbacks: those that are part of the step take part.
        rate: the learning rate to judge.
        sweep: the latest sweep.
    """
    began = time.perf_counter()
    findings: list[Finding] = []
    made: list[str] = []
    not_checked: dict[str, str] = {}

    def make(name: str, check: _Check) -> None:
        try:
            findings.extend(check())
            made.append(name)
        except NotCheckedError as reason:
            not_checked[name] = str(reason)

    with isolate_rng(), dls.unmoved():
        make("first batch", partial(_try_first_batch, make_step(), dls, metrics, callbacks))
        make("shuffle", partial(find_order, dls))
        make("items left out", partial(find_left_out, dls))
        make("labels", partial(find_label_problems, dls))
        make("duplicates", partial(find_twins, dls))
        make("batch norm", partial(find_small_batches, make_step().model, dls))
        make("learning rate", partial(find_rate_problems, rate, sweep))
        is_hopeless = any(finding.severity == "error" for finding in findings)
        if not is_hopeless and not may_change_batches(callbacks):  # which only a run would call
            make("metrics", partial(find_metrics_without_mean, make_step(), dls, metrics))
        for name, check in _checks_of_trial(make_step, dls, callbacks, is_hopeless=is_hopeless):
            make(name, check)
    passed = tuple(name for name in made if all(name != finding.check for finding in findings))
    return Checkup(tuple(findings), passed, not_checked, time.perf_counter() - began)


def _try_first_batch(
    step: Step, dls: DataLoaders, metrics: Mapping[str, Metric], callbacks: Sequence[Callback]
) -> Iterator[Finding]:
    """Makes the checks of the start of a run, whose errors and warnings become findings."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            Preflight().check(step, dls, metrics, callbacks, may_change=may_change_batches(callbacks))
        except (DataError, TypeError, ValueError) as error:
            advice = "Mend this first: training raises the same error before it begins."
            yield Finding("first batch", "error", str(error), advice, {"error": type(error).__name__})
    for warning in heard:
        advice = "Training gives the same warning when it begins."
        yield Finding("first batch", "warning", str(warning.message), advice)


def _checks_of_trial(
    make_step: Callable[[], Step],
    dls: DataLoaders,
    callbacks: Sequence[Callback],
    *,
    is_hopeless: bool,
) -> Iterator[tuple[str, _Check]]:
    checks: dict[str, Callable[[Trial], Iterable[Finding]]] = {
        "inputs": find_input_problems,
        "initial loss": find_loss_problems,
        "gradients": find_gradient_problems,
        "one batch": find_overfit,
    }
    trial: Trial | None = None
    reason = "training does not begin"
    if not is_hopeless:
        try:
            trial = Trial(make_step, dls, callbacks)
        except Exception as error:
            reason = "a training step fails"
            yield "training step", partial(_report_failure, error, dls)
    for name, check in checks.items():
        yield name, partial(check, trial) if trial is not None else partial(_refuse, reason)


def _report_failure(error: Exception, dls: DataLoaders) -> Iterator[Finding]:
    values = {"error": type(error).__name__, "bs": dls.bs}
    if is_out_of_memory(error):
        advice = "Give a smaller `bs`, or `cbs=[SplitOnOOM()]`; `largest_batch_size` finds what fits."
        yield Finding("training step", "error", "A training batch does not fit in memory.", advice, values)
    else:
        text = f"A step of training raises {type(error).__name__}: {error}"
        advice = "Mend this first: training raises the same error. `learn.fit(1)` shows where."
        yield Finding("training step", "error", text, advice, values)


def _refuse(reason: str) -> Iterator[Finding]:
    raise NotCheckedError(reason)
