"""Whose turn it is: several learners may train on the same loaders, and each goes on where it left them."""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary, ref

from minilearner.threads import is_trained_on_elsewhere

__all__ = ["Turns", "take_turn"]


class Turns:
    """Where each learner that trains on the same loaders stands in them. Copies of the loaders share it."""

    def __init__(self) -> None:
        self.start: Any = None  # the position at which the first learner began
        self.positions: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self.last: tuple[ref[Any], ref[Any]] | None = None  # who trained last, and on which copy

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Turns, ()  # who trains on a deep copy goes on from where the copy stands


def take_turn(dls: Any, learner: object) -> None:
    """Puts loaders where a learner left them, or for a new learner where the first one began.

    So two learners on the same loaders see the same shuffles and augmentations, whoever trained before.

    Raises:
        RuntimeError: another thread trains on these loaders, which one training at a time moves.
    """
    if is_trained_on_elsewhere(dls.train):
        raise RuntimeError(
            "another thread trains on these loaders, and two trainings at once would mix up their order. Give each "
            "learner its own loaders: copy.deepcopy(dls)."
        )
    turns = dls._turns
    if turns is None:
        return
    who, whose = (None, None) if turns.last is None else (one() for one in turns.last)
    if who is not learner or whose is not dls:
        if turns.start is None:
            turns.start = _positions(dls)
        else:
            if who is not None and whose is not None:
                turns.positions[who] = _positions(whose)
            _move_to(dls, turns.positions.get(learner, turns.start))
    turns.last = ref(learner), ref(dls)


def _positions(dls: Any) -> list[Any]:
    return [None if one is None else copy.deepcopy(one.state_dict()) for one in (dls.train, dls.valid)]


def _move_to(dls: Any, positions: list[Any]) -> None:
    for loader, position in zip((dls.train, dls.valid), positions, strict=True):
        if loader is not None and position is not None:
            loader.load_state_dict(copy.deepcopy(position))
