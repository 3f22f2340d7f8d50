"""All that a run is at one moment, as data: what a checkpoint keeps, how it is put back, and whose it is.

A state is taken between two batches, with no gradient waiting, or between two epochs. Put back into a fresh run of the
same script, training goes on to the same bits.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from minilearner import processes
from minilearner.errors import CheckpointError, FileFormatError
from minilearner.models.tensors import named
from minilearner.runtime import rng_state, set_rng_state
from minilearner.saving.optimizer_state import load_optimizer
from minilearner.saving.state_checks import check_state, model_tensors
from minilearner.training.attributes import data_attributes
from minilearner.training.run import ResumePoint, Run
from minilearner.tree import map_tensors

__all__ = ["loader_states", "restore", "run_state"]


def run_state(run: Run, *, epoch: int, batch: int) -> dict[str, Any]:
    """Returns everything that decides how the run goes on from batch `batch` of epoch `epoch`, and its record."""
    callbacks = [[type(callback).__name__, callback.state_dict()] for callback in run.callbacks]
    return {**_apart_from_callbacks(run, epoch, batch), "callbacks": callbacks}


def _apart_from_callbacks(run: Run, epoch: int, batch: int) -> dict[str, Any]:
    loss = run.step.loss_func
    return {
        "epoch": epoch,
        "batch": batch,
        "global_step": run.global_step,
        "position": run.position,
        "metrics": dict(run.metrics),
        "model": model_tensors(run.model),
        "learns": {name: p.requires_grad for name, p in named(run.model.named_parameters()).items()},
        "optimizer": run.optimizer.state_dict(),
        "loss": loss.state_dict() if isinstance(loss, nn.Module) else {},
        "step": run.step.state_dict(),
        "record": None if run.record is None else run.record.state_dict(),
        "loaders": loader_states(run),
        "rng": rng_state(),
    }


def restore(run: Run, state: Mapping[str, Any]) -> None:
    """Puts a state back into a run of the same script: all of it or, where it does not fit, nothing.

    Costs a copy of the weights, no more than the gradients that are not there yet.

    Raises:
        CheckpointError: the state does not fit the run's model, optimizer, callbacks or loaders. Says where.
    """
    try:
        check_state(run, state)
    except FileFormatError as error:
        raise CheckpointError(f"the checkpoint does not fit this run: {error}") from error
    before, resume = _kept(run), run.resume
    attributes = [(callback, dict(vars(callback)), _copied(data_attributes(callback))) for callback in run.callbacks]
    try:
        _put(run, state)
        _load_callbacks(run, state["callbacks"])
        set_rng_state(state["rng"])
    except BaseException as error:
        _put(run, before)
        run.resume = resume
        for callback, own, data in attributes:
            vars(callback).clear()
            vars(callback).update({**own, **data})
        set_rng_state(before["rng"])
        if isinstance(error, CheckpointError) or not isinstance(error, Exception):
            raise
        raise CheckpointError(f"the checkpoint cannot be put back: {error!r:.300}.") from error


def _kept(run: Run) -> dict[str, Any]:
    """The run as it stands, to go back to. An optimizer is given new tensors, and keeps its old ones as they are."""
    kept = _apart_from_callbacks(run, run.epoch, 0 if run.resume is None else run.resume.batch)
    optimizer = kept.pop("optimizer")
    loaders = copy.deepcopy(kept.pop("loaders"))
    return {**_copied(kept), "optimizer": optimizer, "loaders": loaders}


def _copied(tree: Any) -> Any:
    return map_tensors(lambda t: t.detach().clone(), tree)


def _put(run: Run, state: Mapping[str, Any]) -> None:
    run.epoch = state["epoch"]
    run.resume = ResumePoint(state["batch"], state["rng"]) if state["batch"] else None
    run.global_step, run.position = state["global_step"], state["position"]
    run.metrics = dict(state["metrics"])
    with torch.no_grad():
        for name, tensor in model_tensors(run.model).items():
            tensor.copy_(processes.laid_out(state["model"][name], tensor))
    for name, parameter in named(run.model.named_parameters()).items():
        parameter.requires_grad_(state["learns"][name])
    load_optimizer(run.optimizer, state["optimizer"])
    if isinstance(run.step.loss_func, nn.Module):
        run.step.loss_func.load_state_dict(state["loss"])
    run.step.load_state_dict(state["step"])
    if run.record is not None and state["record"] is not None:
        run.record.load_state_dict(state["record"])
    load_loaders(run, state["loaders"])


def loader_states(run: Run) -> list[Any]:
    """Returns where the loaders of a run stand."""
    return [None if loader is None else loader.state_dict() for loader in (run.dls.train, run.dls.valid)]


def load_loaders(run: Run, states: list[Any]) -> None:
    """Puts the loaders to where `loader_states` found them."""
    for loader, state in zip((run.dls.train, run.dls.valid), states, strict=True):
        if loader is not None and state is not None:
            loader.load_state_dict(state)


def _load_callbacks(run: Run, saved: list[Any]) -> None:
    for callback, (name, state) in zip(run.callbacks, saved, strict=True):
        try:
            callback.load_state_dict(state)
        except Exception as error:
            raise CheckpointError(f"the saved state of the callback {name} cannot be put back: {error!r}.") from error
