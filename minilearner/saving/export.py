"""A trained model in one file with everything that prediction needs: `learn.export`, and what `load_learner` reads.

By registered names and plain arguments, the file says how to build the model, how to read and transform inputs, and
what the outputs mean. Weights are tensors. Nothing that the file names is imported, and nothing in it is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minilearner.data.dataloaders import DataLoaders
from minilearner.errors import DataError, FileFormatError
from minilearner.models.tensors import collect_state, is_channels_last, read_extra_state, to_channels_last, unwrap
from minilearner.registry import build, describe, is_class_of
from minilearner.runtime import isolate_rng
from minilearner.saving.export_data import NoTrainingData, describe_data
from minilearner.saving.weights_file import (
    BESIDE,
    copy_weights,
    extra_content,
    load_extra_state_or_nothing,
    mismatches,
    pack_extra_state,
)
from minilearner.tensor_file import TensorFile, name_file, write_tensor_file
from minilearner.training.precision import PRECISIONS
from minilearner.training.step import LossFunction

__all__ = ["Loaded", "read_export", "write_export"]

_BESIDE = BESIDE[1]


def write_export(path: Path, dls: DataLoaders, model: nn.Module, loss_func: LossFunction, *, precision: str) -> Path:
    """Writes the file; see `Learner.export`.

    Raises:
        TypeError: a transform, block, target or vocabulary cannot be described by a name and plain arguments.
        OSError: the file cannot be written. What was there before stays as it was.
    """
    model = unwrap(model)
    extra = read_extra_state(model)
    weights = collect_state(model) | {name: value for name, value in extra.items() if isinstance(value, Tensor)}
    data = describe_data(dls)
    try:
        NoTrainingData(data, path)
    except FileFormatError as error:
        raise TypeError(f"the loaders cannot be exported, since they could not be loaded again: {error}") from error
    architecture, why_not = _describe_model(model)
    content = {
        "versions": {name: _version(name) for name in ("minilearner", "torch", "torchvision")},
        "class": type(model).__name__,
        "architecture": architecture,
        "without": why_not,
        "data": data,
        "loss": _describe_loss(loss_func, dls),
        "precision": precision,
        "channels_last": is_channels_last(model),
        **pack_extra_state(extra),
    }
    return write_tensor_file(path, "export", content, weights, prefix=_BESIDE)


@dataclass(frozen=True)
class Loaded:
    """The content of an export, ready for a `Learner`."""

    dls: NoTrainingData
    model: nn.Module
    loss_func: LossFunction
    precision: str


def read_export(path: Path, model: nn.Module | None, device: torch.device | str | None) -> Loaded:
    """Reads what `write_export` wrote.

    Args:
        model: receives the weights. If None, the model is built as the file says.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: the file is damaged, foreign, or newer than this version reads; it needs something that is not
            registered here; it does not fit the model; or it does not say how to build one and `model` is None. Names
            the file.
    """
    file = TensorFile(path, ("export",))
    content = file.content(_BESIDE)
    with name_file(path):
        data, precision = content.get("data"), str(content.get("precision"))
        if not isinstance(data, dict) or precision not in PRECISIONS:
            raise FileFormatError("its description of data or precision is not what minilearner writes.")
        dls = NoTrainingData(data, path, device)
        loss_func = _build_loss(content.get("loss"), dls)
        make = _find_builder(content, path) if model is None else lambda: model
        _check_fits(make, file)
    with name_file(path), isolate_rng():
        tensors = file.tensors()
        ready = make()
        if content.get("channels_last") is True:
            to_channels_last(ready)
        names = read_extra_state(ready).keys()
        extra = extra_content(content) | {name: t for name, t in tensors.items() if name in names}
        if missing := [name for name in names if name not in extra]:
            raise FileFormatError(f"the extra state {missing[0]!r} of its model is missing.")
        with load_extra_state_or_nothing(ready, extra):
            pass
        weights = {name: t for name, t in tensors.items() if not name.startswith(BESIDE) and name not in names}
        copy_weights(collect_state(ready), weights)
    return Loaded(dls, ready, loss_func, precision)


def _describe_model(model: nn.Module) -> tuple[dict[str, Any] | None, str]:
    """Returns how to build a model, or None and the reason why that cannot be described."""
    try:
        architecture = describe(model, "the model")
        with _Unallocated():
            rebuilt = build(architecture, is_class_of(nn.Module), "the model")
    except (TypeError, FileFormatError) as error:
        return None, str(error)[:500]
    if any(t.shape != own.shape for t, own in _pair_tensors(collect_state(rebuilt), collect_state(model))):
        return None, f"its weights are not those that {type(model).__name__} builds from its arguments"
    if repr(rebuilt) != repr(model):
        return None, f"its layers are not those that {type(model).__name__} builds from its arguments"
    return architecture, ""


def _pair_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    nothing = torch.empty(0, 0)
    for name in dict.fromkeys((*first, *second)):
        yield first.get(name, nothing), second.get(name, nothing)


def _find_builder(content: Mapping[str, Any], path: Path) -> Callable[[], nn.Module]:
    architecture = content.get("architecture")
    if architecture is None:
        name, why = str(content.get("class"))[:80], str(content.get("without"))[:500].rstrip(".")
        raise FileFormatError(
            f"{path} does not say how to build its model: {why}. Build it yourself, with any weights: "
            f"load_learner(path, model={name}(...)). Or register its class and export again."
        )
    if len(str(architecture)) > 1 << 16:
        raise FileFormatError("the arguments of its model are longer than any that minilearner writes.")
    return lambda: build(architecture, is_class_of(nn.Module), "the model")


def _check_fits(make: Callable[[], nn.Module], file: TensorFile) -> None:
    """Compares names and shapes before the model or any weight takes memory."""
    with _Unallocated(), isolate_rng():
        made = make()
        own, extra = collect_state(made), read_extra_state(made)
    in_file = {
        name: layout for name, layout in file.layouts.items() if not name.startswith(BESIDE) and name not in extra
    }
    if mismatch := mismatches(own, in_file):
        raise FileFormatError(f"its weights do not fit its model: {mismatch}.")


class _Unallocated(TorchFunctionMode):
    """Gives no memory to tensors that are made from a size alone; what is computed from numbers is computed."""

    _BY_SIZE = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.randint)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **{**(kwargs or {}), **({"device": "meta"} if func in self._BY_SIZE else {})})


def _describe_loss(loss_func: LossFunction, dls: DataLoaders) -> dict[str, Any] | str | None:
    """Returns None if the loss is the target's own, and a word if it cannot be described."""
    if dls.target is not None and loss_func is dls.target.loss_func:
        return None
    try:
        return describe(loss_func, "the loss")
    except TypeError:  # prediction does not need it
        return "unknown"


def _build_loss(description: Any, dls: NoTrainingData) -> LossFunction:
    if description is None and dls.target is not None:
        return dls.target.loss_func
    if description is None or isinstance(description, str):
        return _raise_no_loss
    loss: LossFunction = build(description, is_class_of(nn.Module, or_function=True), "the loss")
    return loss


def _raise_no_loss(pred: Any, target: Any) -> Tensor:
    raise DataError(
        "this learner was loaded from a file that does not describe its loss, which was not registered. Set "
        "`learn.loss_func`, or register the loss and export again."
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
