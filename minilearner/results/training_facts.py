"""What is known about how a model was trained: its settings, its sets and its record. A learner knows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from minilearner.results.recorder import Recorder

__all__ = ["SetFacts", "TrainingFacts"]


@dataclass(frozen=True)
class SetFacts:
    """One of the sets of a learner."""

    name: str
    """"training" or "validation"."""
    size: str
    """In words, such as "2,000 items in 63 batches of 32"."""
    counts: Sequence[int] | None
    """How many items each class has; None if the items would have to be read for that."""


@dataclass(frozen=True)
class TrainingFacts:
    """What a report says about the learner besides its predictions."""

    model: str
    """The name of the model's class, and how many weights it has."""
    settings: Mapping[str, str]
    """How the learner trains, by names for people."""
    sets: Sequence[SetFacts]
    """The set for training, and the one for validation if there is one."""
    classes: Sequence[str]
    """The names of the classes; empty if there are none."""
    recorder: Recorder
    """The record of all runs."""
