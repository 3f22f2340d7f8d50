"""A learner's files: what `learn.save`, `learn.load` and `learn.export` do with the parts of a learner."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from minilearner import processes
from minilearner.checks import check_choice
from minilearner.data.dataloaders import DataLoaders
from minilearner.files import make_parent
from minilearner.saving.export import write_export
from minilearner.saving.graph import write_onnx, write_torch_export
from minilearner.saving.weights_file import load_weights, save_weights, weights_path
from minilearner.training.step import LossFunction, Step

__all__ = ["export", "load", "save"]

_FORMATS = {"safetensors": ".safetensors", "onnx": ".onnx", "torch_export": ".pt2"}


def save(
    folder: Path, file: str | os.PathLike[str], model: nn.Module, optimizer: Optimizer | None, loss_func: LossFunction
) -> Path:
    """Writes the weights, the optimizer's state and the parameters of the loss; see `Learner.save`."""
    return save_weights(weights_path(folder, file), model, optimizer, loss_func)


def load(
    folder: Path,
    file: str | os.PathLike[str],
    model: nn.Module,
    optimizer: Optimizer | None,
    loss_func: LossFunction,
    *,
    strict: bool,
) -> None:
    """Loads what `save` wrote; see `Learner.load`. With several processes, all must load: they wait for the writer."""
    processes.wait()
    load_weights(weights_path(folder, file), model, optimizer, loss_func, strict=strict)


def export(
    folder: Path, file: str | os.PathLike[str] | None, dls: DataLoaders, step: Step, *, precision: str, format: str
) -> Path:
    """Writes a model for prediction; see `Learner.export`. With several processes, only the first writes.

    Raises:
        ValueError: `format` is unknown, the suffix belongs to another format, or the model is sharded.
    """
    check_choice(format, "format", _FORMATS)
    path = folder / (f"export{_FORMATS[format]}" if file is None else file)
    if path.suffix != _FORMATS[format]:
        raise ValueError(f"a file of format {format!r} must end in {_FORMATS[format]}. Received: {os.fspath(path)!r}.")
    if step.strategy.passes_together:
        raise ValueError(
            '`strategy="fsdp"` cannot export, since no process has the whole model. Save it (learn.save), load the '
            "file in a single process (learn.load), and export there."
        )
    if not processes.is_first():
        return path
    make_parent(path, "file")
    if format == "safetensors":
        return write_export(path, dls, step.model, step.loss_func, precision=precision)
    return (write_onnx if format == "onnx" else write_torch_export)(path, dls, step.model)
