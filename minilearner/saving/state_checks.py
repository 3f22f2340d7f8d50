"""Whether the state in a checkpoint can be a run's: looked at as a whole, before any of it is put in.

A digest says that a file is as it was written, not who wrote it. What is checked here are kinds, names, shapes and
ranges; what callbacks, optimizers and loaders of the user's own make of their state is for them to say.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minilearner.errors import CheckpointError
from minilearner.models.tensors import unwrap_names
from minilearner.runtime import rng_state
from minilearner.saving.optimizer_state import check_optimizer_state
from minilearner.training.run import Run

__all__ = ["check_of_each", "check_state", "check_whose", "model_tensors"]

_KEYS = (
    "epoch", "batch", "global_step", "position", "metrics", "model", "learns", "optimizer", "loss", "step", "callbacks",
    "record", "loaders", "rng", "identity", "finished", "pass", "of_each",
)  # fmt: skip


def check_whose(state: Mapping[str, Any]) -> None:
    """Looks at what says whose state it is.

    Raises:
        CheckpointError: this is no state of a run. Says where.
    """
    _check_keys(state, _KEYS, "the state")
    if not isinstance(state["identity"], dict) or not isinstance(state["finished"], bool):
        raise _misfit("identity or finished", state["identity"])


def check_of_each(state: Mapping[str, Any], n_processes: int) -> None:
    """Looks at what a state holds of each process beside what all share: nothing where there is one.

    Raises:
        CheckpointError: this is not of so many processes. Says where.
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
    """Compares a state with the run that it is to be put into; changes nothing.

    Raises:
        CheckpointError: the state cannot be of such a run. Says where.
        FileFormatError: of its optimizer's part.
    """
    _check_position(run, state)
    _check_keys(state["metrics"], None, "metrics")
    _check_model(run.model, state)
    check_optimizer_state(state["optimizer"], run.optimizer)
    loss = run.step.loss_func
    _check_alike(state["loss"], loss.state_dict() if isinstance(loss, nn.Module) else {}, "loss")
    _check_alike(state["step"], run.step.state_dict(), "step")
    _check_callbacks(run, state["callbacks"])
    if run.record is not None:
        _check_record(state["record"], run.record.state_dict())
    _check_standing(run, state, "")
    if state["batch"]:
        _check_keys(state["pass"], ("loaders", "rng"), "pass")
        _check_standing(run, state["pass"], "pass ")


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and all buffers, also those that a `state_dict` leaves out."""
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
    _check_alike(
        learns, {name: p.requires_grad for name, p in unwrap_names(model.named_parameters()).items()}, "learns"
    )


def _check_callbacks(run: Run, saved: Any) -> None:
    names = [type(callback).__name__ for callback in run.callbacks]
    pairs = isinstance(saved, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in saved)
    if not pairs or [name for name, _ in saved] != names:
        raise CheckpointError(f"the callbacks are others: saved {str(saved)[:200]}, now {names}.")
    for name, state in saved:
        _check_keys(state, None, f"callbacks {name}")


def _check_record(saved: Any, now: Mapping[str, Any]) -> None:
    _check_keys(saved, now, "record")
    _check_alike(saved["epoch"], 0, "record epoch")
    _check_alike(saved["smooth"], now["smooth"], "record smooth")
    rows, positions, steps, smoothed = (saved[name] for name in ("epochs", "row_positions", "steps", "smoothed"))
    if not isinstance(rows, list) or not isinstance(positions, list) or len(rows) != len(positions):
        raise _misfit("record epochs", rows, "as many rows as row_positions")
    for row, position in zip(rows, positions, strict=True):
        _check_keys(row, None, "record epochs")
        _check_alike(position, 0, "record row_positions")
    n = len(steps) if isinstance(steps, Tensor) and steps.ndim == 2 else 0
    _check_tensor(steps, torch.empty(n, now["steps"].shape[1], dtype=torch.float64), "record steps")
    _check_tensor(smoothed, torch.empty(n, dtype=torch.float64), "record smoothed")


def _check_standing(run: Run, state: Mapping[str, Any], where: str) -> None:
    """Where the loaders and the random generators stand."""
    loaders = (run.dls.train, run.dls.valid)
    if not isinstance(state["loaders"], list) or len(state["loaders"]) != len(loaders):
        raise _misfit(f"{where}loaders", state["loaders"])
    for saved, loader in zip(state["loaders"], loaders, strict=True):
        now = None if loader is None else loader.state_dict()
        if isinstance(now, dict) and "source" in now:  # a foreign loader's own, of whatever form
            _check_keys(saved, now, f"{where}loaders")
            saved, now = ({name: part for name, part in one.items() if name != "source"} for one in (saved, now))
        _check_alike(saved, now, f"{where}loaders")
    now = rng_state()
    _check_keys(state["rng"], now, f"{where}rng")
    for name in ("python", "numpy", "torch"):
        _check_alike(state["rng"][name], now[name], f"{where}rng {name}")
    cuda = state["rng"]["cuda"]
    states = isinstance(cuda, list) and all(isinstance(t, Tensor) and t.dtype == torch.uint8 for t in cuda)
    if cuda is not None and not states:
        raise _misfit(f"{where}rng cuda", cuda)


def _check_alike(saved: Any, now: Any, where: str) -> None:
    """Whether two states are of one form: the same keys, lengths, kinds, and shapes of tensors."""
    number = (int, float, type(None))
    if isinstance(now, Mapping):
        _check_keys(saved, now, where)
        for name, part in now.items():
            _check_alike(saved[name], part, f"{where} {name}")
    elif isinstance(now, (tuple, list)):
        if not isinstance(saved, type(now)) or len(saved) != len(now):
            raise _misfit(where, saved, f"{len(now)} parts")
        for one, part in zip(saved, now, strict=True):
            _check_alike(one, part, where)
    elif isinstance(now, (Tensor, np.ndarray)):
        _check_tensor(saved, now, where)
    elif isinstance(now, number) and type(now) is not bool:
        if not isinstance(saved, number) or (isinstance(now, int) and saved != saved):
            raise _misfit(where, saved, "a number")
    elif type(saved) is not type(now):
        raise _misfit(where, saved, f"of the kind of {now!r:.40}")


def _check_tensor(saved: Any, now: Any, where: str) -> None:
    kind = Tensor if isinstance(now, Tensor) else np.ndarray
    if not isinstance(saved, kind) or saved.dtype != now.dtype or saved.shape != now.shape:
        raise _misfit(where, saved, f"of type {now.dtype} and shape {tuple(now.shape)}")


def _check_keys(saved: Any, keys: Collection[Any] | None, where: str) -> None:
    """Whether it is a dictionary with these keys; with None, whether its keys are text."""
    if not isinstance(saved, dict):
        raise _misfit(where, saved, "a dictionary")
    odd = set(saved) ^ set(keys) if keys is not None else {key for key in saved if not isinstance(key, str)}
    if odd:
        names = ", ".join(sorted(str(key)[:40] for key in odd)[:3])
        raise CheckpointError(f"the checkpoint does not fit this run: {where} lacks, or has too much: {names}.")


def _misfit(where: str, saved: Any, wanted: str = "of another form") -> CheckpointError:
    is_array = isinstance(saved, (Tensor, np.ndarray))
    what = f"{saved.dtype} of shape {tuple(saved.shape)}" if is_array else f"{type(saved).__name__} {str(saved)[:60]}"
    return CheckpointError(f"the checkpoint does not fit this run: {where} must be {wanted}. Saved: {what}.")
