"""Describes a learner for a report: its settings and its sets, in words and counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from minilearner.data.dataloaders import DataLoaders
from minilearner.data.known_labels import find_labels
from minilearner.data.loader import Loader
from minilearner.data.targets import MultiCategory
from minilearner.errors import plural
from minilearner.results.recorder import Recorder
from minilearner.results.training_facts import SetFacts, TrainingFacts
from minilearner.training.run import Run

__all__ = ["describe_training"]

_NAMES = {"bs": "batch size", "auto_precision": "choice of precision"}
"""Settings whose name in the code would not be clear to readers."""


def describe_training(run: Run, recorder: Recorder, callbacks: Iterable[Any]) -> TrainingFacts:
    """Returns the settings of a run that would begin now, its sets, and the record of the runs before.

    Args:
        run: with the model, the optimizer and the loaders.
        recorder: the record of all runs.
        callbacks: those of the learner.
    """
    settings = run.settings(callbacks)
    del settings["lr"]  # each run of the record has its own
    device = next(run.model.parameters()).device
    if device.type == "cuda":
        settings["device"] = f"{device} ({torch.cuda.get_device_name(device)})"
    known = {_NAMES.get(name, name): _as_text(value) for name, value in {**settings, "seed": run.dls.seed}.items()}
    model = f"{type(run.model).__name__}, {plural(sum(w.numel() for w in run.model.parameters()), 'weight')}"
    named = zip(("training", "validation"), run.dls.loaders, strict=False)  # there may be no validation set
    classes = [str(label) for label in run.dls.vocab or ()]
    sets = [_describe_set(name, loader, run.dls) for name, loader in named]
    return TrainingFacts(model, {name: text for name, text in known.items() if text}, sets, classes, recorder)


def _describe_set(name: str, loader: Loader, dls: DataLoaders) -> SetFacts:
    return SetFacts(name, loader.describe(), _count_classes(find_labels(loader), dls))


def _count_classes(y: Tensor | None, dls: DataLoaders) -> list[int] | None:
    """Returns how many items each class has, or each of several labels. None for numbers, and if nothing is known."""
    if y is None or dls.vocab is None:
        return None
    if isinstance(dls.target, MultiCategory) and y.ndim == 2:
        return [int(n) for n in (y > 0.5).sum(0)]
    if y.ndim != 1 or y.is_floating_point():
        return None
    return torch.bincount(y[y >= 0], minlength=len(dls.vocab)).tolist()


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
