"""Checks whether the state in a checkpoint fits a run, before any of it is put back.

A digest says that a file is as it was written, not who wrote it. This module checks types, names, shapes and ranges.
Users' own callbacks, optimizers and loaders check what their state means.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minilearner.errors import CheckpointError
from minilearner.models.tensors import read_extra_state, unwrap_names
from minilearner.runtime import rng_state
from minilearner.saving.optimizer_state import check_optimizer_state
from minilearner.training.run import Run

__all__ = ["check_owner", "check_process_parts", "check_state", "model_tensors"]

_KEYS = (
    *("epoch", "batch", "global_step", "position", "metrics"),
    *("model", "learns", "optimizer", "loss", "step", "callbacks", "record", "loaders", "rng"),
    *("identity", "finished", "pass", "of_each"),
)
_OPTIONAL = ("extra", "before_end")


def check_owner(state: Mapping[str, Any]) -> None:
    """Checks the part of a state that identifies its run.

    "extra" is there only if modules have an extra state; "before_end" only if the run is finished, and was saved by a
    version that can extend it.

    Raises:
        CheckpointError: this is not the state of a run. Says where.
    """
    _check_keys({name: part for name, part in state.items() if name not in _OPTIONAL}, _KEYS, "the state")
    if not isinstance(state["identity"], dict) or not isinstance(state["finished"], bool):
        raise _misfit("identity or finished", state["identity"])


def check_process_parts(state: Mapping[str, Any], n_processes: int) -> None:
    """Checks the part of a state that each process has for itself. One process alone has none.

    Raises:
        CheckpointError: the state belongs to another number of processes. Says where.
    """
    each, callbacks = state["of_each"], state["callbacks"]
    if n_processes == 1 and each is None:
        return
    if not isinstance(each, list) or not isinstance(callbacks, list) or len(each) != n_processes:
        raise _misfit("of_each", each)
    for own in each:
        _check_keys(own, ("pass", "rng", "loaders", "callbacks"), "of_each")
        if not isinstance(own["callbacks"], list) or len(own["callbacks"]) != len(callbacks):
            raise _misfit("of_each callbacks", own["callbacks"], "as many as there are callbacks")


def check_state(run: Run, state: Mapping[str, Any]) -> None:
    """Compares the form of a state with the run that is to go on from it; changes nothing.

    Raises:
        CheckpointError: the state cannot belong to such a run. Says where.
        FileFormatError: the optimizer's state cannot belong to the run's optimizer.
    """
    _check_position(run, state)
    _check_keys(state["metrics"], None, "metrics")
    _check_model(run.model, state)
    check_optimizer_state(state["optimizer"], run.optimizer)
    loss = run.step.loss_func
    own = loss.state_dict() if isinstance(loss, nn.Module) else {}
    _check_keys(state["loss"], own, "loss")
    for name in own:
        if not name.endswith("_extra_state"):  # which may have any form, also another one than before
            _check_form(state["loss"][name], own[name], f"loss {name}")
    if "extra" in state:
        _check_keys(state["extra"], read_extra_state(run.model), "extra")
    _check_form(state["step"], run.step.state_dict(), "step")
    _check_callbacks(run, state["callbacks"])
    if run.record is not None:
        _check_record(state["record"], run.record.state_dict())
    _check_position_of_loaders(run, state, "")
    if state["batch"]:
        _check_keys(state["pass"], ("loaders", "rng"), "pass")
        _check_position_of_loaders(run, state["pass"], "pass ")


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters and all buffers, also those that a `state_dict` leaves out."""
    return {**unwrap_names(model.named_parameters()), **unwrap_names(model.named_buffers())}


def _check_position(run: Run, state: Mapping[str, Any]) -> None:
    n_batches = len(run.dls.train)
    n_updates = run.n_epochs * -(-n_batches // run.step.n_accumulate)
    ends = {"epoch": run.n_epochs, "batch": n_batches, "global_step": n_updates, "position": n_updates}
    for name, end in ends.items():
        if type(state[name]) is not int or not 0 <= state[name] <= end:
            raise _misfit(name, state[name], f"a number from 0 to {end}")


def _check_model(model: nn.Module, state: Mapping[str, Any]) -> None:
    own, learns = model_tensors(model), state["learns"]
    _check_keys(state["model"], own, "model")
    for name, now in own.items():
        _check_tensor(state["model"][name], now, f"model {name}")
    _check_form(learns, {name: p.requires_grad for name, p in unwrap_names(model.named_parameters()).items()}, "learns")


def _check_callbacks(run: Run, saved: Any) -> None:
    names = [type(callback).__name__ for callback in run.callbacks]
    pairs = isinstance(saved, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in saved)
    if not pairs or [name for name, _ in saved] != names:
        raise CheckpointError(f"the callbacks changed: saved {str(saved)[:200]}, now {names}.")
    for name, state in saved:
        _check_keys(state, None, f"callbacks {name}")


def _check_record(saved: Any, now: Mapping[str, Any]) -> None:
    _check_keys(saved, now, "record")
    _check_form(saved["epoch"], 0, "record epoch")
    _check_form(saved["smooth"], now["smooth"], "record smooth")
    rows, positions, steps, smoothed = (saved[name] for name in ("epochs", "row_positions", "steps", "smoothed"))
    if not isinstance(rows, list) or not isinstance(positions, list) or len(rows) != len(positions):
        raise _misfit("record epochs", rows, "as many rows as row_positions")
    for row, position in zip(rows, positions, strict=True):
        _check_keys(row, None, "record epochs")
        _check_form(position, 0, "record row_positions")
    steps, smoothed = (torch.from_numpy(one) if isinstance(one, np.ndarray) else one for one in (steps, smoothed))
    n = len(steps) if isinstance(steps, Tensor) and steps.ndim == 2 else 0
    _check_tensor(steps, torch.empty(n, now["steps"].shape[1], dtype=torch.float64), "record steps")
    _check_tensor(smoothed, torch.empty(n, dtype=torch.float64), "record smoothed")


def _check_position_of_loaders(run: Run, state: Mapping[str, Any], where: str) -> None:
    """Checks the states of the loaders and of the random generators."""
    loaders = (run.dls.train, run.dls.valid)
    if not isinstance(state["loaders"], list) or len(state["loaders"]) != len(loaders):
        raise _misfit(f"{where}loaders", state["loaders"])
    for saved, loader in zip(state["loaders"], loaders, strict=True):
        now = None if loader is None else loader.state_dict()
        if isinstance(now, dict) and "source" in now:  # a foreign loader's own state may have any form
            _check_keys(saved, now, f"{where}loaders")
            saved, now = ({name: part for name, part in one.items() if name != "source"} for one in (saved, now))
        _check_form(saved, now, f"{where}loaders")
    now = rng_state()
    _check_keys(state["rng"], now, f"{where}rng")
    for name in ("python", "numpy", "torch"):
        _check_form(state["rng"][name], now[name], f"{where}rng {name}")
    cuda = state["rng"]["cuda"]
    states = isinstance(cuda, list) and all(isinstance(t, Tensor) and t.dtype == torch.uint8 for t in cuda)
    if cuda is not None and not states:
        raise _misfit(f"{where}rng cuda", cuda)


def _check_form(saved: Any, now: Any, where: str) -> None:
    """Checks that two states have one form: the same keys, lengths and types, and tensors of the same shapes."""
    number = (int, float, type(None))
    if isinstance(now, Mapping):
        _check_keys(saved, now, where)
        for name, part in now.items():
            _check_form(saved[name], part, f"{where} {name}")
    elif isinstance(now, (tuple, list)):
        if not isinstance(saved, type(now)) or len(saved) != len(now):
            raise _misfit(where, saved, f"{len(now)} parts")
        for one, part in zip(saved, now, strict=True):
            _check_form(one, part, where)
    elif isinstance(now, (Tensor, np.ndarray)):
        _check_tensor(saved, now, where)
    elif isinstance(now, number) and type(now) is not bool:
        if not isinstance(saved, number) or (isinstance(now, int) and saved != saved):
            raise _misfit(where, saved, "a number")
    elif type(saved) is not type(now):
        raise _misfit(where, saved, f"of the same type as {now!r:.40}")


def _check_tensor(saved: Any, now: Any, where: str) -> None:
    kind = Tensor if isinstance(now, Tensor) else np.ndarray
    if not isinstance(saved, kind) or saved.dtype != now.dtype or saved.shape != now.shape:
        raise _misfit(where, saved, f"of type {now.dtype} and shape {tuple(now.shape)}")


def _check_keys(saved: Any, keys: Collection[Any] | None, where: str) -> None:
    """Checks that it is a dictionary with these keys; with None, that its keys are text."""
    if not isinstance(saved, dict):
        raise _misfit(where, saved, "a dictionary")
    odd = set(saved) ^ set(keys) if keys is not None else {key for key in saved if not isinstance(key, str)}
    if odd:
        names = ", ".join(sorted(str(key)[:40] for key in odd)[:3])
        raise CheckpointError(
            f"the checkpoint does not fit this run: {where} must have the same keys. Missing or unexpected: {names}."
        )


def _misfit(where: str, saved: Any, wanted: str = "of the form that a run has") -> CheckpointError:
    is_array = isinstance(saved, (Tensor, np.ndarray))
    what = f"{saved.dtype} of shape {tuple(saved.shape)}" if is_array else f"{type(saved).__name__} {str(saved)[:60]}"
    return CheckpointError(f"the checkpoint does not fit this run: {where} must be {wanted}. Saved: {what}.")
