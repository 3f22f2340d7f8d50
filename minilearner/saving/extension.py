"""Extends a run: what a finished run keeps for that, and whether a longer one would have gone the same way so far.

`Callback.plan_at` says what depends on the length of a run. The functions here compare it in two lengths.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from types import FunctionType
from typing import Any

import torch

from minilearner.errors import CheckpointError
from minilearner.packing import pack
from minilearner.saving.description import attribute_names
from minilearner.training.callback import Callback
from minilearner.training.run import Moment, Run
from minilearner.tree import map_tensors

__all__ = [
    "as_if_more_follow",
    "copy_state",
    "find_difference",
    "list_length_readers",
    "select_changes",
    "state_before_end",
]

_LENGTHS = frozenset({"n_epochs", "n_positions", "progress", "label_epoch", "n_epoch", "n_iter", "pct_train"})
"""Attributes that depend on the length of a run: those of `Run`, then fastai's."""


def as_if_more_follow(run: Run) -> ExitStack:
    """Returns a context in which callbacks undo what they did because the last epoch is over."""
    stack = ExitStack()
    for callback in run.callbacks:
        stack.enter_context(callback.undo_end(run))
    return stack


def copy_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a run's state, with its tensors in the CPU's memory."""
    return copy.deepcopy(map_tensors(lambda t: t.detach().cpu(), dict(state)))


def select_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those parts of the state `before` the end that are not the same `after` it."""
    return {name: part for name, part in before.items() if not _is_same(part, after.get(name))}


def state_before_end(state: Mapping[str, Any], n_epochs: int) -> dict[str, Any]:
    """Returns the state of a run of `n_epochs` epochs from which a longer one goes on.

    Raises:
        CheckpointError: the run is finished, and its state from before its end was not kept.
    """
    if not state["finished"]:
        return dict(state)
    if "before_end" not in state:
        raise CheckpointError(
            "an earlier version of minilearner saved it, which did not keep the state from before the end."
        )
    if state["before_end"] is None:
        raise CheckpointError(
            f"it was ended in epoch {state['epoch']} of {n_epochs}, by early stopping for instance, so a longer one "
            "would have ended there too."
        )
    if not isinstance(state["before_end"], dict):
        raise CheckpointError(f"what it kept for that is damaged: {state['before_end']!r:.60}.")
    return {**state, **state["before_end"]}


def find_difference(run: Run, state: Mapping[str, Any], n_epochs: int) -> str | None:
    """Returns where a run, which has become longer, would have gone another way first; None if nowhere.

    Args:
        run: the longer run.
        state: that of the shorter run. What comes after it makes no difference.
        n_epochs: the length of the shorter run.
    """
    planning = [callback for callback in run.callbacks if type(callback).plan_at is not Callback.plan_at]
    n_batches = len(run.dls.train)
    for epoch, batch in _moments_until(state, n_epochs, n_batches) if planning else ():
        before, now = (Moment(epoch, batch, length, n_batches) for length in (n_epochs, run.n_epochs))
        for callback in planning:
            was, would = callback.plan_at(before), callback.plan_at(now)
            if changed := [name for name in was if was[name] != would[name]]:
                name = changed[0]
                return (
                    f"{name} of {type(callback).__name__} was {_say(was[name])} in epoch {epoch + 1} at batch "
                    f"{batch + 1}, and would have been {_say(would[name])} in a run of {run.n_epochs}"
                )
    return None


def list_length_readers(callbacks: Iterable[Callback]) -> list[str]:
    """Returns the names of users' callbacks whose code reads how long the run is, and that do not define `plan_at`."""
    unplanned = [callback for callback in callbacks if type(callback).plan_at is Callback.plan_at]
    return [type(callback).__name__ for callback in unplanned if _names_read(callback) & _LENGTHS]


def _moments_until(state: Mapping[str, Any], n_epochs: int, n_batches: int) -> Iterator[tuple[int, int]]:
    n_seen = state["epoch"] * n_batches + state["batch"]
    return (divmod(i, n_batches) for i in range(min(n_seen, n_epochs * n_batches)))


def _names_read(callback: Callback) -> frozenset[str]:
    """Returns the attributes that the code of a callback names, without that of minilearner's own classes."""
    own = [cls for cls in type(callback).__mro__ if not cls.__module__.startswith("minilearner.")]
    methods = [method for cls in own for method in vars(cls).values()]
    given: list[Any] = list(getattr(callback, "constructor_arguments", {}).values())
    given += [part for one in given if isinstance(one, Mapping) for part in one.values()]
    code = [one.__code__ for one in (*methods, *given) if isinstance(one, FunctionType)]
    return frozenset().union(*map(attribute_names, code))


def _is_same(one: Any, other: Any) -> bool:
    own: dict[str, torch.Tensor] = {}
    others: dict[str, torch.Tensor] = {}
    if pack(one, own) != pack(other, others):
        return False
    return all(torch.equal(tensor, others[name]) for name, tensor in own.items())


def _say(value: Any) -> str:
    several = value if isinstance(value, list) else [value]
    return ", ".join(repr(one) if isinstance(one, (bool, str)) else f"{one:.9g}" for one in several)
