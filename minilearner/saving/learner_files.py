"""A learner's files: `learn.save`, `learn.load` and `learn.export`, from the parts that a learner holds."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from minilearner import processes
from minilearner.data.dataloaders import DataLoaders
from minilearner.errors import closest
from minilearner.saving.export import write_export
from minilearner.saving.graph import write_onnx, write_torch_export
from minilearner.saving.weights_file import load_weights, save_weights, weights_path
from minilearner.training.step import Step

__all__ = ["export", "load", "save"]

_FORMATS = {"safetensors": ".safetensors", "onnx": ".onnx", "torch_export": ".pt2"}


def save(folder: Path, file: str | os.PathLike[str], model: nn.Module, optimizer: Optimizer | None) -> Path:
    """Writes weights and an optimizer's state; see `Learner.save`."""
    return save_weights(weights_path(folder, file), model, optimizer)


def load(
    folder: Path, file: str | os.PathLike[str], model: nn.Module, optimizer: Optimizer | None, *, strict: bool
) -> None:
    """Puts back what `save` wrote; see `Learner.load`. Of several processes all must load: they wait for the writer."""
    processes.wait()
    load_weights(weights_path(folder, file), model, optimizer, strict=strict)


def export(
    folder: Path, file: str | os.PathLike[str] | None, dls: DataLoaders, step: Step, *, precision: str, format: str
) -> Path:
    """Writes a model for predicting; see `Learner.export`. Of several processes the first writes.

    Raises:
        ValueError: an unknown `format`, a suffix that belongs to another, or the model is sharded.
    """
    if format not in _FORMATS:
        listed = ", ".join(map(repr, _FORMATS))
        raise ValueError(f"`format` must be one of {listed}.{closest(str(format), _FORMATS)} Received: {format!r}.")
    path = folder / (f"export{_FORMATS[format]}" if file is None else file)
    if path.suffix != _FORMATS[format]:
        raise ValueError(f"a file of format {format!r} ends in {_FORMATS[format]}. Received: {os.fspath(path)!r}.")
    if step.strategy.passes_together:
        raise ValueError(
            '`strategy="fsdp"` cannot export, for no process has the whole model. Save it (learn.save), load that in a '
            "process alone (learn.load), and export there."
        )
    if not processes.is_first():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    if format == "safetensors":
        return write_export(path, dls, step.model, step.loss_func, precision=precision)
    return (write_onnx if format == "onnx" else write_torch_export)(path, dls, step.model)
