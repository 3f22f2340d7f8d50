"""A learner's files: what `learn.save`, `learn.load` and `learn.export` do with the parts of a learner."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from minilearner import processes
from minilearner.checks import check_choice
from minilearner.data.dataloaders import DataLoaders
from minilearner.errors import FileFormatError, closest
from minilearner.files import make_parent
from minilearner.saving.export import write_export
from minilearner.saving.weights_file import load_weights, save_weights, weights_path
from minilearner.threads import hold
from minilearner.training.meaning import choose_activation
from minilearner.training.step import LossFunction, Step

__all__ = ["check_is_export", "choose_format", "export", "load", "save"]

_written: dict[str, Path] = {}
"""Where the exports of this process went, by name."""
_FASTAIS = ".pkl"
"""How fastai's exports end. A file may have such a name, and is in safetensors' format all the same."""
_FORMATS = {"safetensors": ".safetensors", "onnx": ".onnx", "torch_export": ".pt2"}
_DEFAULT = "safetensors"


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
) -> bool:
    """Loads what `save` wrote; see `Learner.load`. Returns whether the file has an optimizer's state.

    With several processes, all must load: they wait for the writer.

    Raises:
        FileNotFoundError: there is no such file. The message names the one that was probably meant.
    """
    processes.wait()
    return load_weights(_find_weights(folder, file), model, optimizer, loss_func, strict=strict)


def export(
    folder: Path,
    file: str | os.PathLike[str] | None,
    dls: DataLoaders,
    step: Step,
    *,
    precision: str,
    format: str | None,
) -> Path:
    """Writes a model for prediction; see `Learner.export`. With several processes, only the first writes.

    Raises:
        ValueError: `format` or the suffix is unknown, the suffix belongs to another format, or the model is sharded.
    """
    if format is not None:
        check_choice(format, "format", _FORMATS)
    path = folder / (f"export{_FORMATS[format or _DEFAULT]}" if file is None else file)
    format = choose_format(path, format)
    if step.strategy.passes_together:
        raise ValueError(
            '`strategy="fsdp"` cannot export, since no process has the whole model. Save it (learn.save), load the '
            "file in a single process (learn.load), and export there."
        )
    if not processes.is_first():
        return path
    make_parent(path, "file")
    _written[path.name] = path.resolve()
    if format == "safetensors":
        with hold(step.model):
            return write_export(path, dls, step.model, step.loss_func, precision=precision)
    from minilearner.saving.graph import write_onnx, write_torch_export  # few need it, and never at the start

    activate = choose_activation(dls.target, step.loss_func)
    if format == "onnx":
        return write_onnx(path, dls, step.model, activate, step.loss_func)
    return write_torch_export(path, dls, step.model, activate)


def choose_format(path: Path, format: str | None) -> str:
    """Returns the format of a file by its suffix, which must agree with the format that is asked for, if any.

    Raises:
        ValueError: no format has such a suffix, or another one has it.
    """
    by_suffix = {suffix: name for name, suffix in _FORMATS.items()} | {_FASTAIS: _DEFAULT}
    found = by_suffix.get(path.suffix.lower())
    if format is None and found is None:
        known = ", ".join(f"{suffix} (format {name!r})" for name, suffix in _FORMATS.items())
        raise ValueError(
            f"`path` must end in one of {known}, which decides the format of the file. Received: {os.fspath(path)!r}."
        )
    if format not in (None, found):
        raise ValueError(f"a file of format {format!r} must end in {_FORMATS[format]}. Received: {os.fspath(path)!r}.")
    return format or str(found)


def _find_weights(folder: Path, file: str | os.PathLike[str]) -> Path:
    """Returns the file of that name in the folder, or the file itself, whose path `save` may have returned."""
    inside, given = weights_path(folder, file), weights_path(Path(), file)
    if inside.exists():
        return inside
    if given.exists():
        return given
    names = (one.stem for one in inside.parent.glob("*.safetensors"))
    raise FileNotFoundError(f"`file`: there is no file {inside}.{closest(inside.stem, names)}")


def check_is_export(path: Path) -> None:
    """Checks, before a file is read, that it is there and is not a pickle.

    Raises:
        FileNotFoundError: there is no such file. The message names the one that was probably meant.
        FileFormatError: it is a pickle, such as an export of fastai's.
    """
    if not path.exists():
        raise FileNotFoundError(f"`path`: there is no file {path}.{_guess_file(path)}")
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(9)
        is_own = start[8:] == b"{"  # after eight bytes of length, which may look like anything
        if not is_own and (start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] <= b"\x05")):
            raise FileFormatError(
                f"{path}: it is a pickle, as fastai and torch write them. Loading one can run any code in it, so it is "
                "never done here. Load it where it was made, and take the weights over: "
                "safetensors.torch.save_file(learn.model.state_dict(), 'weights.safetensors'), then "
                "learn.load('weights') of a learner with the same model."
            )


def _guess_file(path: Path) -> str:
    """Returns a hint at the export that somebody may have meant."""
    if path.name in _written and _written[path.name].exists():
        return f" `learn.export` wrote {_written[path.name]}."
    there = sorted(one.name for one in path.parent.glob("*.safetensors")) if path.parent.is_dir() else []
    twin = path.with_suffix(".safetensors").name
    hint = f" Did you mean {twin!r}?" if twin in there else closest(path.name, there)
    return hint or (
        " `learn.export` returns the path of its file. It writes one that is named without a folder to `learn.path`, "
        "the folder of the data."
    )
