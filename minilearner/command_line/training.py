"""A training from its settings to everything in its folder, from the start or from where it was interrupted."""

from __future__ import annotations

import math
import shlex
import time
from pathlib import Path
from typing import Any

from minilearner.callbacks.checkpoint import Checkpoint
from minilearner.callbacks.row_loggers import CSVLogger, JSONLinesLogger
from minilearner.command_line.learners import decide_weights, interpret, make_learner
from minilearner.command_line.loaders import make_loaders
from minilearner.command_line.run_folder import RunFolder, find_model
from minilearner.command_line.settings import Settings
from minilearner.errors import DataError, plural
from minilearner.learner import Learner
from minilearner.results.interpretation import ClassificationInterpretation

__all__ = ["Outcome", "resume", "start", "write_report"]

Outcome = tuple[dict[str, Any], str]
"""What a training led to, as data and as text."""


def start(settings: Settings, run: RunFolder) -> Outcome:
    """Trains in a new folder. If that fails before anything is saved, the folder goes again.

    Raises:
        DataError: the folder exists, or would lie among the images.
    """
    run.check_new(settings)
    dls = make_loaders(settings)
    settings = settings.settle(pretrained=decide_weights(settings))
    learn = make_learner(settings, dls, path=run.path)
    run.create(settings)
    try:
        return _train(learn, settings, run)
    except BaseException:
        run.remove_without_checkpoint()
        raise


def resume(run: RunFolder, settings: Settings) -> Outcome:
    """Continues a training, to the bits that it would have had without the interruption."""
    return _train(_make_again(settings, run), settings, run)


def write_report(run: RunFolder, settings: Settings) -> Path:
    """Writes the report of a training again, and returns its path.

    Raises:
        DataError: the training has not ended, or had no validation set.
    """
    find_model(run.path)
    learn = _make_again(settings, run)
    if learn.dls.valid is None:
        raise DataError(f"{run.path} has nothing to report, since its training had no validation set.")
    _fit(learn, settings, run)
    return interpret(learn).report(run.report)


def _make_again(settings: Settings, run: RunFolder) -> Learner:
    decide_weights(settings)  # it says so if they are no longer on this machine, and must be downloaded
    return make_learner(settings, make_loaders(settings), path=run.path)


def _train(learn: Learner, settings: Settings, run: RunFolder) -> Outcome:
    began = time.monotonic()
    _fit(learn, settings, run)
    learn.export(run.model.absolute())
    _draw(learn, run)
    return _sum_up(learn, run, time.monotonic() - began)


def _fit(learn: Learner, settings: Settings, run: RunFolder) -> None:
    """Trains what is left to train."""
    # By `fname`, which is below the learner's folder: a run that was moved is still the same run.
    loggers = [CSVLogger(fname=run.metrics_csv.name), JSONLinesLogger(fname=run.metrics_jsonl.name)]
    checkpoint = Checkpoint(run.checkpoint, to_resume=f"Continue by `{run.resume_command}`.")
    how: dict[str, Any] = {"loggers": loggers, "checkpoint": checkpoint}
    if settings.pretrained:
        how |= {} if settings.lr is None else {"base_lr": settings.lr}
        learn.fine_tune(settings.epochs, **how)
    else:
        learn.fit_one_cycle(settings.epochs, settings.lr, **how)


def _draw(learn: Learner, run: RunFolder) -> None:
    """Writes the figures and the report."""
    run.figures.mkdir(exist_ok=True)
    learn.recorder.plot_loss(save=run.figures / "loss.png")
    learn.recorder.plot_metrics(save=run.figures / "metrics.png")
    if learn.dls.valid is None:
        return
    learn.show_results(save=run.figures / "results.png")
    interp = interpret(learn)
    if isinstance(interp, ClassificationInterpretation):
        interp.plot_confusion_matrix(save=run.figures / "confusion.png")
        interp.plot_top_losses(min(9, len(interp)), save=run.figures / "top_losses.png")
    interp.report(run.report)


def _sum_up(learn: Learner, run: RunFolder, seconds: float) -> Outcome:
    last = learn.recorder.epochs[-1]
    scores = {name: value for name, value in last.items() if name.startswith("valid_") or name in _metrics(learn)}
    data = {
        "run": str(run.path),
        "model": str(run.model),
        "report": str(run.report) if run.report.exists() else None,
        "epochs": len(learn.recorder.epochs),
        "train_loss": last.get("train_loss"),
        **scores,
        "classes": None if learn.dls.vocab is None else list(learn.dls.vocab),
        "n_train": learn.dls.train.n_items,
        "n_valid": 0 if learn.dls.valid is None else learn.dls.valid.n_items,
        "seconds": round(seconds, 1),
    }
    shown = ", ".join(f"{name} {_format(value)}" for name, value in scores.items()) or "not validated"
    lines = [f"{plural(data['epochs'], 'epoch')}: {shown}", *map(str, run.contents())]
    lines.append(f"Next: minilearner predict IMAGE --model {shlex.quote(str(run.path))}")
    return data, "\n".join(lines)


def _metrics(learn: Learner) -> set[str]:
    return set(learn.recorder.metric_names[1:-1])


def _format(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) and math.isfinite(value) else str(value)
