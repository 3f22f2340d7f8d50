"""Scores of a model file on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilearner.command_line.learners import choose_metrics
from minilearner.command_line.loaders import list_labels
from minilearner.command_line.settings import Settings
from minilearner.data.targets import ClassNumbers
from minilearner.loading import load_learner
from minilearner.results.interpretation import ClassificationInterpretation

__all__ = ["score"]


def score(model: Path, settings: Settings) -> tuple[dict[str, Any], str]:
    """Returns the scores as data and as text.

    Args:
        model: the file.
        settings: where the images and their labels are.
    """
    learn = load_learner(model)
    files, labels = list_labels(settings)
    dl = learn.dls.test_dl(files, labels=labels)
    if isinstance(learn.dls.target, ClassNumbers):
        interp = ClassificationInterpretation.from_learner(learn, dl=dl)
        report = interp.classification_report()
        loss = float(interp.losses.mean())
        data = {"n": len(files), "loss": loss, "accuracy": report.accuracy, "report": report.to_dict()}
        return data, f"{len(files):,} images: loss {loss:.4f}, accuracy {report.accuracy:.4f}\n\n{report}"
    learn.metrics = metrics = choose_metrics(learn.dls)
    values = dict(zip(["loss", *(metric.__name__ for metric in metrics)], learn.validate(dl=dl), strict=True))
    shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    return {"n": len(files), **values}, f"{len(files):,} images: {shown}"
