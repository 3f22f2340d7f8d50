"""Which run is this? Compares what a checkpoint says about its run with the run that is to go on from it.

An identity is plain data. Its "parts" describe the loss, the metrics and the callbacks by class and arguments. Folders
written before parts were compared have none; for them, texts stand in, such as the `repr` of each callback.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from minilearner import processes
from minilearner.copies import copy_apart
from minilearner.metrics import Metric
from minilearner.models.tensors import unwrap_names
from minilearner.runtime import DrawnSeed
from minilearner.saving.description import Known, describe, is_same, list_changes
from minilearner.training.callback import Callback
from minilearner.training.run import Run
from minilearner.tree import ADDRESS

__all__ = ["Comparison", "compare", "identity"]

_MOST_LINES = 20  # for one table, such as the shapes of all parameters
_MAY_CHANGE = ("device", "compiled", "auto_precision")  # the last says why, with times; "precision" is compared
_ADDED_LATER = ("training class", "validation class", "start_epoch")  # earlier versions did not save them
_EVERY_RUNS = ("Evaluate", "Record", "Progress", "Checkpoint")  # callbacks
_OWN_ARGUMENTS = "callbacks with arguments of their own choice"


@dataclass
class Comparison:
    """What differs between two identities, one line each.

    Attributes:
        changed: what makes it another run.
        unknown: what could not be compared.
        allowed: arguments of users' callbacks that changed, and that may.
    """

    changed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)


def identity(run: Run, kind: str) -> dict[str, Any]:
    """Returns what makes a run this one and no other: call, model, data, and each part's class and arguments."""
    settings = {name: value for name, value in run.settings(run.callbacks).items() if name not in _MAY_CHANGE}
    return {
        "call": kind,
        "n_epochs": run.n_epochs,
        "start_epoch": run.epoch,
        "model": type(getattr(run.model, "_orig_mod", run.model)).__name__,
        "parameters": {name: list(t.shape) for name, t in unwrap_names(run.model.named_parameters()).items()},
        "buffers": {name: list(t.shape) for name, t in unwrap_names(run.model.named_buffers()).items()},
        "layer": _layers(run.model),
        "learns": {name: p.requires_grad for name, p in unwrap_names(run.model.named_parameters()).items()},
        "training batches": len(run.dls.train),
        "training items": run.dls.train.n_items,
        "validation items": None if run.dls.valid is None else run.dls.valid.n_items,
        "training class": _count_classes(run.dls, 0),
        "validation class": None if run.dls.valid is None else _count_classes(run.dls, 1),
        "training": _drop_addresses(run.dls.train.fingerprint()),
        "validation": None if run.dls.valid is None else _drop_addresses(run.dls.valid.fingerprint()),
        "seed": None if isinstance(run.dls.seed, DrawnSeed) else run.dls.seed,
        "seed of the learner": run.seed if run.step.n_processes == 1 else processes.take_from_first(run.seed),
        "metrics": [name for metrics in _tables(run, "metrics") for name in metrics],
        "optimizer settings": _optimizer_settings(run.optimizer),
        "schedules": [_sample_schedules(schedules) for schedules in _tables(run, "schedules")],
        **{name: _drop_addresses(value) for name, value in settings.items()},
        "parts": _describe_parts(run),
    }


def compare(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Comparison:
    """Compares the identity in a checkpoint with that of the run that is to go on from it."""
    found = Comparison()
    saved, now = _drop_consequences(saved, now)
    parts = saved.get("parts"), now.get("parts")
    if isinstance(parts[0], Mapping) and isinstance(parts[1], Mapping):
        _compare_parts(parts[0], parts[1], found)
        left_out = {"parts", "loss", "callbacks"}
        by_argument = _names_in_both(parts[0].get("callbacks"), parts[1].get("callbacks"))
        found.changed += _compare_callbacks(saved.get("callbacks"), now.get("callbacks"), by_argument)
    else:
        left_out = {"parts"}
    for name in dict.fromkeys((*saved, *now)):
        if name not in left_out:
            found.changed += _compare_setting(name, saved.get(name), now.get(name))
    return found


def _drop_consequences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the identities without what differs only because something else does, which has a line of its own."""

    def differs(name: str) -> bool:
        return not is_same(saved.get(name), now.get(name))

    left_out = {name for name in _ADDED_LATER if name not in saved}
    if differs("optimizer"):
        left_out.add("optimizer settings")
    if differs("call"):
        left_out.add("schedules")
    if differs("training items") or differs("bs"):
        left_out.add("training batches")
    both = [{name: part for name, part in one.items() if name not in left_out} for one in (saved, now)]
    if differs("call"):  # each method of a learner adds its own schedule
        for one in both:
            if isinstance(one.get("callbacks"), list):
                one["callbacks"] = [text for text in one["callbacks"] if _class_name(str(text)) != "ParamScheduler"]
    layers = _find_changes(*(one.get("layer") for one in both))
    names = _find_changes(*(dict.fromkeys(one.get("parameters") or ()) for one in both))
    for one in both:
        for table in ("parameters", "buffers", "learns"):
            _drop_keys(one, table, lambda name: name.rpartition(".")[0] in layers)
        _drop_keys(one, "learns", lambda name: name in names)
        if layers or names:
            _drop_keys(one, "optimizer settings", lambda name: name.startswith("params of group"))
    for table in ("training", "validation"):
        if all(isinstance(one.get(table), Mapping) and "files" in one[table] for one in both):
            for one in both:
                _drop_keys(one, table, lambda name: name == "data")
        else:
            for one in both:
                _drop_keys(one, table, lambda name: name in ("files", "labels"))
    return both[0], both[1]


def _find_changes(saved: Any, now: Any) -> set[str]:
    if not isinstance(saved, Mapping) or not isinstance(now, Mapping):
        return set()
    return {key for key in (*saved, *now) if key not in saved or key not in now or not is_same(saved[key], now[key])}


def _drop_keys(of: dict[str, Any], table: str, is_dropped: Callable[[str], bool]) -> None:
    if isinstance(of.get(table), Mapping):
        of[table] = {key: value for key, value in of[table].items() if not is_dropped(key)}


def _describe_parts(run: Run) -> dict[str, Any]:
    known = _name_parts(run)
    ours: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for owner, callback in _by_owner(run.callbacks):
        ignored = callback.ignored_arguments
        arguments = {
            name: describe(_argument(callback, name, value), known)
            for name, value in getattr(callback, "constructor_arguments", {}).items()
            if name not in (ignored or ())
        }
        (own if ignored is None else ours)[owner] = arguments
    return {
        "loss": describe(run.step.loss_func, known),
        "metrics": [
            {name: _describe_metric(metric, known) for name, metric in metrics.items()}
            for which in ("metrics", "train_metrics")
            for metrics in _tables(run, which)
            if all(isinstance(metric, Metric) for metric in metrics.values())
        ],
        "training metrics": [name for metrics in _tables(run, "train_metrics") for name in metrics],
        "callbacks": ours,
        _OWN_ARGUMENTS: own,
    }


def _argument(callback: Callback, name: str, value: Any) -> Any:
    """Returns the argument, or the value that replaced a used-up iterator or "auto"."""
    is_replaced = isinstance(value, Iterator) or (isinstance(value, str) and value == "auto")
    return vars(callback).get(name, value) if is_replaced else value


def _name_parts(run: Run) -> Known:
    """Returns the names of what the run itself holds. All of it is compared elsewhere, or changes in training."""
    model = getattr(run.model, "_orig_mod", run.model)
    modules = {id(module): f"the layer {name!r} of the model" for name, module in model.named_modules()}
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {
        **{id(tensor): f"the tensor {name!r} of the model" for name, tensor in tensors},
        **modules,
        id(run.model): "the model",
        id(model): "the model",
        id(run.dls): "the loaders",
        id(run.optimizer): "the optimizer",
        **{id(callback): f"the callback {owner}" for owner, callback in _by_owner(run.callbacks)},
    }


def _by_owner(callbacks: Any) -> Iterator[tuple[str, Callback]]:
    """Gives each callback with its class's name, numbered from the second of a class on."""
    seen: Counter[str] = Counter()
    for callback in callbacks:
        name = type(callback).__name__
        seen[name] += 1
        yield (name if seen[name] == 1 else f"{name} ({seen[name]})"), callback


def _describe_metric(metric: Any, known: Known) -> Any:
    """Describes a metric as one that has gathered nothing: what it gathered in an earlier run is no argument of it."""
    try:
        metric = copy_apart(metric)
        metric.reset()
    except Exception as error:  # whatever a user's own raises
        return {"is": type(metric).__qualname__, "unknown": f"{type(error).__name__} when it was reset"}
    return describe(metric, known)


def _compare_parts(saved: Mapping[str, Any], now: Mapping[str, Any], found: Comparison) -> None:
    pairs = [("loss", saved.get("loss"), now.get("loss"))]
    was_measured, is_measured = saved.get("metrics"), now.get("metrics")
    if isinstance(was_measured, list) and isinstance(is_measured, list):
        for was, received in zip(was_measured, is_measured, strict=False):
            pairs += [(f"metric {name}", was[name], received[name]) for name in _names_in_both(was, received)]
    for owner in _names_in_both(saved.get("callbacks"), now.get("callbacks")):
        was, received = saved["callbacks"][owner], now["callbacks"][owner]
        pairs += [(f"{owner}.{name}", was[name], received[name]) for name in _names_in_both(was, received)]
    for where, was, received in pairs:
        changes = list_changes(was, received, where)
        found.changed += changes.lines
        found.unknown += changes.unknown
    found.changed += _compare_setting("training metrics", saved.get("training metrics"), now.get("training metrics"))
    for owner in _names_in_both(saved.get(_OWN_ARGUMENTS), now.get(_OWN_ARGUMENTS)):
        was, received = saved[_OWN_ARGUMENTS][owner], now[_OWN_ARGUMENTS][owner]
        for name in _names_in_both(was, received):
            found.allowed += list_changes(was[name], received[name], f"{owner}.{name}").lines


def _names_in_both(saved: Any, now: Any) -> list[str]:
    """Returns the names in both tables. A name in one of them alone is another part, which other lines report."""
    return [name for name in saved if name in now] if isinstance(saved, Mapping) and isinstance(now, Mapping) else []


def _compare_callbacks(saved: Any, now: Any, by_argument: list[str]) -> list[str]:
    """Compares which callbacks there are, and by their texts those whose arguments are not compared."""
    if not isinstance(saved, list) or not isinstance(now, list):
        return _compare_setting("callbacks", saved, now)
    if _class_names(saved) != _class_names(now):
        chosen = [[text for text in map(str, texts) if _class_name(text) not in _EVERY_RUNS] for texts in (saved, now)]
        return [_compare_names("callbacks", chosen[0], chosen[1], _class_name)]
    return [
        f"callback: saved {was!s:.500}, now {received!s:.500}"
        for name, was, received in zip(_class_names(now), saved, now, strict=True)
        if name not in by_argument and not is_same(was, received)
    ]


def _class_names(callbacks: list[Any]) -> list[str]:
    return [_class_name(str(text)) for text in callbacks]


def _class_name(text: str) -> str:
    return text.partition("(")[0]


def _compare_setting(name: str, was: Any, received: Any) -> list[str]:
    if is_same(was, received):
        return []
    if isinstance(was, list) and isinstance(received, list) and all(isinstance(one, str) for one in (*was, *received)):
        return [_compare_names(name, was, received)]
    if not isinstance(was, Mapping) or not isinstance(received, Mapping):
        return [f"{name}: saved {was!r:.500}, now {received!r:.500}"]
    keys = [key for key in dict.fromkeys((*was, *received)) if not is_same(was.get(key), received.get(key))]
    lines = [f"{name} {key}: saved {_say(was, key)}, now {_say(received, key)}" for key in keys]
    more = [f"{name}: {len(lines) - _MOST_LINES} more differ"] if len(lines) > _MOST_LINES else []
    return lines[:_MOST_LINES] + more


def _compare_names(what: str, saved: list[str], now: list[str], name_of: Callable[[str], str] = str) -> str:
    """Returns the texts whose name only one of two lists has, or all texts if the names are the same ones."""
    names = [{*map(name_of, texts)} for texts in (saved, now)]
    removed = [text for text in saved if name_of(text) not in names[1]]
    added = [text for text in now if name_of(text) not in names[0]]
    if not removed and not added:  # another order, or another number of the same ones
        removed, added = saved, now
    return f"{what}: saved {', '.join(removed) or 'nothing':.500}, now {', '.join(added) or 'nothing':.500}"


def _say(table: Mapping[str, Any], key: str) -> str:
    return f"{table[key]!s:.500}" if key in table else "nothing"


def _count_classes(dls: Any, ds_idx: int) -> dict[str, int] | None:
    """Returns how many items of a set have each class; None if only reading the items would say."""
    y, vocab = getattr(dls.loaders[ds_idx], "y", None), dls.vocab
    if vocab is None or not isinstance(y, torch.Tensor) or not len(vocab):
        return None
    is_of_one = y.ndim == 1 and not y.is_floating_point()
    if not is_of_one and not (y.ndim == 2 and y.shape[1] == len(vocab)):
        return None
    counts = torch.bincount(y.cpu().clamp(min=0), minlength=len(vocab)) if is_of_one else y.cpu().sum(0).long()
    return {str(label): int(n) for label, n in zip(vocab, counts, strict=False)}


def _layers(model: nn.Module) -> dict[str, str]:
    """Describes each innermost module, such as an activation or a dropout, which has no weights to compare."""
    leaves = [(f"{name}.", module) for name, module in model.named_modules() if not any(module.children())]
    layers = {name: f"{type(module).__name__}({module.extra_repr()})" for name, module in unwrap_names(leaves).items()}
    return {name.rstrip("."): _drop_addresses(layer) for name, layer in layers.items()}


def _optimizer_settings(optimizer: Optimizer) -> dict[str, str]:
    """Returns all settings except the learning rate, which is already in the run's settings."""
    apart = ("lr", "initial_lr")
    return {
        f"{name} of group {i}": str(len(value) if name == "params" else value)
        for i, group in enumerate(optimizer.param_groups)
        for name, value in sorted(group.items())
        if name not in apart
    }


def _tables(run: Run, name: str) -> list[Mapping[str, Any]]:
    """Returns the callbacks' attributes of this name that are dictionaries."""
    values = [vars(callback).get(name) for callback in run.callbacks]
    return [table for table in values if isinstance(table, Mapping)]


def _sample_schedules(schedules: Mapping[str, Any]) -> dict[str, list[float]]:
    """Returns the values of schedules at some points of a run."""
    several = {name: f if isinstance(f, (list, tuple)) else [f] for name, f in schedules.items()}
    return {name: [round(float(f(p / 8)), 12) for f in fs for p in range(8)] for name, fs in several.items()}


def _drop_addresses(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _drop_addresses(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_drop_addresses(item) for item in value]
    return ADDRESS.sub("", value) if isinstance(value, str) else value
