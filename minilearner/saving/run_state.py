"""The state of a run at one moment, as data: what a checkpoint keeps, and how it is put back.

A state is taken between two batches with no gradient waiting, or between two epochs. After it is put back into a fresh
run of the same script, training ends with bit-identical results.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from minilearner import processes
from minilearner.errors import CheckpointError, FileFormatError
from minilearner.models.tensors import copy_extra_state, load_extra_state, read_extra_state, unwrap_names
from minilearner.packing import Growing, pack
from minilearner.results.run_record import RunRecord
from minilearner.runtime import rng_state, set_rng_state
from minilearner.saving.optimizer_state import load_optimizer
from minilearner.saving.state_checks import check_state, model_tensors
from minilearner.training.attributes import data_attributes
from minilearner.training.callback import Callback
from minilearner.training.run import ResumePoint, Run
from minilearner.tree import map_tensors

__all__ = ["check_extra_state", "loader_states", "restore", "run_state"]


def run_state(run: Run, *, epoch: int, batch: int) -> dict[str, Any]:
    """Returns everything that decides how the run goes on from batch `batch` of epoch `epoch`, and its record."""
    state = _state_without_callbacks(run, epoch, batch)
    if run.record is not None:
        state["record"] = _mark_what_grows(run.record, state["record"])
    callbacks = [[type(one).__name__, _mark_what_grows(one, one.state_dict())] for one in run.callbacks]
    return {**state, "callbacks": callbacks}


def _mark_what_grows(part: Callback | RunRecord, state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the state of a callback or of the record, with marks on what only grows."""
    names = type(part).growing
    if not isinstance(names, (tuple, list)):
        raise TypeError(f"{type(part).__name__}.growing must be a tuple of names. Received: growing={names!r}.")
    if strange := [name for name in names if not isinstance(state.get(name), (list, np.ndarray))]:
        raise TypeError(
            f"{type(part).__name__}.growing must name lists or NumPy arrays in its `state_dict`. "
            f"Received: {strange[0]!r}, a {type(state.get(strange[0])).__name__}."
        )
    return {**state, **{name: Growing(state[name]) for name in names}}


def _state_without_callbacks(run: Run, epoch: int, batch: int) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "batch": batch,
        "global_step": run.global_step,
        "position": run.position,
        "metrics": dict(run.metrics),
        "model": model_tensors(run.model),
        **({"extra": extra} if (extra := read_extra_state(run.model)) else {}),
        "learns": {name: p.requires_grad for name, p in unwrap_names(run.model.named_parameters()).items()},
        "optimizer": run.optimizer.state_dict(),
        "loss": loss_state(run),
        "step": run.step.state_dict(),
        "record": None if run.record is None else run.record.state_dict(),
        "loaders": loader_states(run),
        "rng": rng_state(),
    }


def restore(run: Run, state: Mapping[str, Any], *, is_ending: bool = False) -> None:
    """Puts a state back into a run of the same script: all of it or, if it does not fit, nothing.

    Needs memory for a copy of the weights, no more than the gradients, which are not there yet, will take.

    Args:
        is_ending: the state is that of a finished run, and the `after_fit` of this run is still to come. What callbacks
            set up in `before_fit` and undo in `after_fit` then stays: the loss in place of the learner's, and each
            attribute that was None when the state was saved and is a live object now.

    Raises:
        CheckpointError: the state does not fit the run's model, optimizer, callbacks or loaders. Says where.
    """
    if is_ending:
        state = {**state, "loss": loss_state(run)}
    try:
        check_state(run, state)
    except FileFormatError as error:
        raise CheckpointError(f"the checkpoint does not fit this run: {error}") from error
    except CheckpointError:
        raise
    except Exception as error:  # a state that lies may have any form
        raise CheckpointError(f"the checkpoint does not fit this run: {error!r:.200}.") from error
    if is_ending:
        state = {**state, "callbacks": _leave_live(run, state["callbacks"])}
    # What is put back goes on changing, and the state may be put back once more. Weights are copied in any case.
    state = {name: part if name == "model" else copy.deepcopy(part) for name, part in state.items()}
    if "extra" not in state and read_extra_state(run.model):
        warnings.warn(
            "the checkpoint has no extra state of the model's modules (`get_extra_state`), since an earlier version of "
            "minilearner wrote it. They keep what they have now.",
            stacklevel=2,
        )
    before, resume = _remember(run), run.resume
    attributes = [
        (callback, dict(vars(callback)), _copy_tensors(data_attributes(callback))) for callback in run.callbacks
    ]
    try:
        _put_back(run, state)
        _load_callbacks(run, state["callbacks"])
        if state["batch"] and (beginning := state.get("pass")):  # what comes later must fit now, too
            load_loaders(run, copy.deepcopy(beginning["loaders"]))
            set_rng_state(beginning["rng"])
            load_loaders(run, copy.deepcopy(state["loaders"]))
        set_rng_state(state["rng"])
    except BaseException as error:
        _put_back(run, before)
        run.resume = resume
        for callback, own, data in attributes:
            vars(callback).clear()
            vars(callback).update({**own, **data})
        set_rng_state(before["rng"])
        if isinstance(error, CheckpointError) or not isinstance(error, Exception):
            raise
        raise CheckpointError(f"the checkpoint cannot be put back: {error!r:.300}.") from error


def _remember(run: Run) -> dict[str, Any]:
    """Returns the run as it stands, to go back to. The optimizer's tensors need no copy: loading puts in new ones."""
    kept = _state_without_callbacks(run, run.epoch, 0 if run.resume is None else run.resume.batch)
    optimizer, extra = kept.pop("optimizer"), copy_extra_state(run.model)
    return {**_copy_tensors(kept), "optimizer": optimizer, "extra": extra}


def _leave_live(run: Run, saved: list[Any]) -> list[Any]:
    """Returns the states of callbacks without what would take the place of a live object, such as an open file."""
    left = []
    for callback, (name, state) in zip(run.callbacks, saved, strict=True):
        live = vars(callback).keys() - data_attributes(callback).keys()
        is_by_attribute = type(callback).load_state_dict is Callback.load_state_dict
        dropped = {key for key, value in state.items() if is_by_attribute and value is None and key in live}
        left.append([name, {key: value for key, value in state.items() if key not in dropped}])
    return left


def _copy_tensors(tree: Any) -> Any:
    return map_tensors(lambda t: t.detach().clone(), tree)


def _put_back(run: Run, state: Mapping[str, Any]) -> None:
    run.epoch = state["epoch"]
    run.resume = ResumePoint(state["batch"], state["rng"]) if state["batch"] else None
    run.global_step, run.position = state["global_step"], state["position"]
    run.metrics = dict(state["metrics"])
    with torch.no_grad():
        for name, tensor in model_tensors(run.model).items():
            tensor.copy_(processes.distribute_like(state["model"][name], tensor))
    load_extra_state(run.model, state.get("extra", {}))
    for name, parameter in unwrap_names(run.model.named_parameters()).items():
        parameter.requires_grad_(state["learns"][name])
    load_optimizer(run.optimizer, state["optimizer"])
    if isinstance(run.step.loss_func, nn.Module):
        run.step.loss_func.load_state_dict(state["loss"])
    run.step.load_state_dict(state["step"])
    if run.record is not None and state["record"] is not None:
        run.record.load_state_dict(state["record"])
    load_loaders(run, state["loaders"])


def check_extra_state(run: Run) -> None:
    """Checks that what `get_extra_state` returns, of model and loss, can be kept in a checkpoint.

    Raises:
        TypeError: it is not data. Says where.
    """
    loss = run.step.loss_func
    for owner, what in ((run.model, "model"), (loss, "loss")):
        if not isinstance(owner, nn.Module):
            continue
        for name, value in read_extra_state(owner).items():
            try:
                pack(value, {})
            except TypeError as error:
                raise TypeError(
                    f"the extra state of the {what}, {name!r}, cannot be kept in a checkpoint: {error} "
                    "`get_extra_state` must return numbers, text, tensors, or lists and dictionaries of them."
                ) from error


def loss_state(run: Run) -> dict[str, Any]:
    """Returns the state of the loss as it is now; a callback may have put its own in place of the learner's."""
    loss = run.step.loss_func
    return dict(loss.state_dict()) if isinstance(loss, nn.Module) else {}


def loader_states(run: Run) -> list[Any]:
    """Returns where the loaders of a run stand. What a foreign loader gives may go on changing, so it is copied."""
    return [None if loader is None else copy.deepcopy(loader.state_dict()) for loader in (run.dls.train, run.dls.valid)]


def load_loaders(run: Run, states: list[Any]) -> None:
    """Puts the loaders back to where `loader_states` found them."""
    for loader, state in zip((run.dls.train, run.dls.valid), states, strict=True):
        if loader is not None and state is not None:
            loader.load_state_dict(state)


def _load_callbacks(run: Run, saved: list[Any]) -> None:
    for callback, (name, state) in zip(run.callbacks, saved, strict=True):
        try:
            callback.load_state_dict(state)
        except Exception as error:
            raise CheckpointError(f"the saved state of the callback {name} cannot be put back: {error!r}.") from error
