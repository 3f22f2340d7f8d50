"""From settings to a learner: its architecture, whether it starts with trained weights, its metrics."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlparse

from minilearner.command_line.settings import Settings
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.targets import ClassNumbers, MultiCategory
from minilearner.display import write_line
from minilearner.learner import Learner
from minilearner.metrics import accuracy, accuracy_multi
from minilearner.results.interpretation import ClassificationInterpretation
from minilearner.results.multi_label import MultiLabelInterpretation
from minilearner.results.regression import RegressionInterpretation
from minilearner.results.top_losses import Interpretation
from minilearner.scores.numbers import mae, rmse
from minilearner.vision.architectures import find_architecture, find_trained_weights
from minilearner.vision.vision_learner import vision_learner

__all__ = ["choose_metrics", "decide_weights", "interpret", "make_learner"]


def make_learner(settings: Settings, dls: DataLoaders, **options: Any) -> Learner:
    """Returns the learner of these settings.

    Args:
        settings: what to make. `pretrained` is decided.
        dls: the data.
        options: further arguments of `vision_learner`.
    """
    return vision_learner(
        dls,
        find_architecture(settings.arch),
        pretrained=bool(settings.pretrained),
        metrics=choose_metrics(dls),
        precision=settings.precision,
        device=settings.device,
        seed=settings.seed,
        **options,
    )


def decide_weights(settings: Settings) -> bool:
    """Returns whether to start with trained weights, and says so in a line: nothing is downloaded unasked."""
    weights = find_trained_weights(find_architecture(settings.arch))
    if settings.pretrained is not None or weights is None:
        wanted = bool(settings.pretrained)
        if wanted and weights is not None and weights.path is None:
            size = "" if weights.megabytes is None else f"{weights.megabytes:.0f} MB of "
            _tell(f"{settings.arch}: downloading {size}trained weights from {urlparse(weights.url).netloc}.")
        return wanted
    if weights.path is not None:
        _tell(f"{settings.arch} starts with trained weights, {weights.path}.")
        return True
    size = "" if weights.megabytes is None else f" ({weights.megabytes:.0f} MB)"
    _tell(
        f"{settings.arch} starts with random weights, since trained ones are not on this machine. `--pretrained` "
        f"downloads them from {urlparse(weights.url).netloc}{size}."
    )
    return False


def choose_metrics(dls: DataLoaders) -> list[Callable[..., Any]]:
    """Returns the metrics that fit the labels."""
    if isinstance(dls.target, ClassNumbers):
        return [accuracy]
    return [accuracy_multi] if isinstance(dls.target, MultiCategory) else [rmse, mae]


def interpret(learn: Learner) -> Interpretation:
    """Returns the interpretation of the validation set that fits the labels."""
    if isinstance(learn.dls.target, ClassNumbers):
        return ClassificationInterpretation.from_learner(learn)
    several = isinstance(learn.dls.target, MultiCategory)
    return (MultiLabelInterpretation if several else RegressionInterpretation).from_learner(learn)


def _tell(text: str) -> None:
    write_line(text, sys.stderr)
