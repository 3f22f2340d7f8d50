"""Which run is this? Compares what a checkpoint says about its run with the run that resumes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from minilearner import processes
from minilearner.models.tensors import unwrap_names
from minilearner.runtime import DrawnSeed
from minilearner.training.run import Run
from minilearner.tree import ADDRESS

__all__ = ["differences", "identity"]


def identity(run: Run, kind: str) -> dict[str, Any]:
    """Returns what makes a run this one and no other, in numbers and words: call, model, data and arguments."""
    how = ("device", "compiled")  # may be others when it goes on
    settings = {name: value for name, value in run.settings(run.callbacks).items() if name not in how}
    return {
        "call": kind,
        "n_epochs": run.n_epochs,
        "model": type(getattr(run.model, "_orig_mod", run.model)).__name__,
        "parameters": {name: list(t.shape) for name, t in unwrap_names(run.model.named_parameters()).items()},
        "buffers": {name: list(t.shape) for name, t in unwrap_names(run.model.named_buffers()).items()},
        "layer": _layers(run.model),
        "learns": {name: p.requires_grad for name, p in unwrap_names(run.model.named_parameters()).items()},
        "training batches": len(run.dls.train),
        "training items": run.dls.train.n_items,
        "validation items": None if run.dls.valid is None else run.dls.valid.n_items,
        "training": _without_addresses(run.dls.train.fingerprint()),
        "validation": None if run.dls.valid is None else _without_addresses(run.dls.valid.fingerprint()),
        "seed": None if isinstance(run.dls.seed, DrawnSeed) else run.dls.seed,
        "seed of the learner": run.seed if run.step.n_processes == 1 else processes.agreed(run.seed),
        "metrics": [name for metrics in _held(run, "metrics") for name in metrics],
        "optimizer settings": _optimizer_settings(run.optimizer),
        "schedules": [_points(schedules) for schedules in _held(run, "schedules")],
        **{name: _without_addresses(value) for name, value in settings.items()},
    }


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns what differs between two identities, one line each; empty where they are the same run."""
    lines = []
    for name in dict.fromkeys((*saved, *now)):
        was, received = saved.get(name), now.get(name)
        if isinstance(was, Mapping) and isinstance(received, Mapping):
            keys = dict.fromkeys((*was, *received))
            changed = [key for key in keys if not _is_same(was.get(key), received.get(key))]
            lines += [
                f"{name} {key}: saved {was.get(key)!s:.500}, now {received.get(key)!s:.500}" for key in changed[:3]
            ]
            lines += [f"{name}: {len(changed) - 3} more differ"] if len(changed) > 3 else []
        elif not _is_same(was, received):
            lines.append(f"{name}: saved {was!r:.500}, now {received!r:.500}")
    return lines


def _is_same(was: Any, received: Any) -> bool:
    try:
        return bool(was == received)
    except (ValueError, RuntimeError):  # tensors and arrays, which no identity of ours holds
        return False


def _layers(model: nn.Module) -> dict[str, str]:
    """What each innermost module is, such as an activation or a dropout, which no weight tells."""
    leaves = [(f"{name}.", module) for name, module in model.named_modules() if not any(module.children())]
    layers = {name: f"{type(module).__name__}({module.extra_repr()})" for name, module in unwrap_names(leaves).items()}
    return {name.rstrip("."): _without_addresses(layer) for name, layer in layers.items()}


def _optimizer_settings(optimizer: Optimizer) -> dict[str, str]:
    """All but the rate, which stands among the run's settings."""
    apart = ("lr", "initial_lr")
    return {
        f"{name} of group {i}": str(len(value) if name == "params" else value)
        for i, group in enumerate(optimizer.param_groups)
        for name, value in sorted(group.items())
        if name not in apart
    }


def _held(run: Run, name: str) -> list[Mapping[str, Any]]:
    """What the callbacks hold under this name, where it is a table."""
    held = [getattr(callback, name, None) for callback in run.callbacks]
    return [table for table in held if isinstance(table, Mapping)]


def _points(schedules: Mapping[str, Any]) -> dict[str, list[float]]:
    """What schedules say at some points of a run: two that agree there are the same."""
    several = {name: f if isinstance(f, (list, tuple)) else [f] for name, f in schedules.items()}
    return {name: [round(float(f(p / 8)), 12) for f in fs for p in range(8)] for name, fs in several.items()}


def _without_addresses(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_addresses(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_addresses(item) for item in value]
    return ADDRESS.sub("", value) if isinstance(value, str) else value
