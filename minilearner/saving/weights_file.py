"""The weights of a model and the state of its optimizer in one file: `learn.save` and `learn.load`.

Weights are stored under their own names, so any reader of safetensors finds them. Names are the same whether a model is
compiled, wrapped for several GPUs, or neither.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minilearner import processes
from minilearner.errors import FileFormatError
from minilearner.files import make_parent
from minilearner.models.tensors import (
    collect_state,
    copy_extra_state,
    load_extra_state,
    read_extra_state,
    unwrap_names,
)
from minilearner.saving.optimizer_state import check_optimizer_state, load_optimizer
from minilearner.tensor_file import EXTRA_PREFIX, Layout, TensorFile, name_file, write_tensor_file
from minilearner.tree import map_tensors

__all__ = ["load_weights", "save_weights", "weights_path"]

_BESIDE = "optimizer/"

_OF_LOSS = "loss/"
_OF_EXPORT = "data/"

BESIDE = (_BESIDE, _OF_LOSS, _OF_EXPORT, EXTRA_PREFIX)
"""How the names of tensors begin that are not weights: the optimizer's, the loss's, and an export's arguments."""

_PICKLES = (".pth", ".pt", ".pkl", ".bin", ".ckpt")
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def weights_path(folder: Path, file: str | os.PathLike[str]) -> Path:
    """Returns the path of a file in a folder, with the suffix .safetensors added unless it has it.

    Raises:
        ValueError: the suffix is one of pickle files.
    """
    path = folder / file
    if path.suffix in _PICKLES:
        raise ValueError(
            f"`file` is in safetensors' format, never a pickle. Received: file={os.fspath(file)!r}. Leave out the "
            f"suffix {path.suffix}."
        )
    return path if path.suffix == ".safetensors" else path.with_name(f"{path.name}.safetensors")


def save_weights(path: Path, model: nn.Module, optimizer: Optimizer | None, loss_func: Any = None) -> Path:
    """Writes weights, persistent buffers, extra state, and the optimizer's state if one is given; returns the path.

    A loss that is a module with parameters is written too.

    With several processes, only the first writes, but all must call this: they gather a sharded model for it.

    Raises:
        TypeError: a state holds something that is not data.
        OSError: the file cannot be written. What was there before stays as it was.
    """
    weights = {name: processes.whole(t) for name, t in collect_state(model).items()}
    weights |= {name: t.detach() for name, t in _loss_tensors(loss_func).items()}
    extra = read_extra_state(model)
    weights |= {name: value for name, value in extra.items() if isinstance(value, Tensor)}
    state = None if optimizer is None else map_tensors(processes.whole, _optimizer_content(optimizer, model, loss_func))
    content = {"optimizer": state, **pack_extra_state(extra)}
    if not processes.is_first():
        return path
    make_parent(path, "file")
    return write_tensor_file(path, "weights", content, weights, prefix=_BESIDE)


def load_weights(
    path: Path, model: nn.Module, optimizer: Optimizer | None, loss_func: Any = None, *, strict: bool = True
) -> bool:
    """Loads what `save_weights` wrote: all of it or, on any mismatch, nothing. Returns whether it has an optimizer.

    An export and a safetensors file by any other writer are accepted too, but have no optimizer's state.

    Args:
        optimizer: if given, its state is loaded from the file too, if there is one.
        loss_func: if it is a module with parameters and the file has those of a loss, they are loaded too.
        strict: False loads only what has the name and shape of a weight in the model, and warns of the rest.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: the file is damaged, or does not fit the model or the optimizer. Says where.
    """
    file = TensorFile(path, ("weights", "export", None))
    if file.kind != "weights":
        optimizer = None
    own, own_extra = collect_state(model), read_extra_state(model)
    in_file = {name: one for name, one in file.layouts.items() if not name.startswith(BESIDE)}
    names = unwrap_names((name, name) for name in in_file)
    limit = 16 * sum(t.numel() * 8 for t in own.values()) + (1 << 20)
    content = {}
    if optimizer is not None or not own_extra.keys() <= names.keys():
        content = read_extra_content(file, _BESIDE, limit)
    extra = {name: names.pop(name) for name in own_extra if name in names}
    others = extra_content(content)
    mismatch = mismatches(
        own,
        {neutral: in_file[name] for neutral, name in names.items()},
        [name for name in own_extra if name not in extra and name not in others],
    )
    if mismatch and strict:
        raise FileFormatError(f"{path} does not fit this model: {mismatch}.")
    of_loss = _loss_tensors(loss_func)
    in_file_of_loss = {name: one for name, one in file.layouts.items() if name.startswith(_OF_LOSS)}
    odd = mismatches(of_loss, in_file_of_loss) if of_loss and in_file_of_loss else ""
    if odd and strict:
        raise FileFormatError(f"{path} does not fit this loss: {odd}.")
    fitting = [neutral for neutral, name in names.items() if neutral in own and in_file[name] == layout(own[neutral])]
    if not fitting:
        raise FileFormatError(f"{path} has no weight of this model: {mismatch}.")
    tensors = file.tensors()
    extra_state = {**others, **{neutral: tensors[name] for neutral, name in extra.items()}}
    with name_file(path), load_extra_state_or_nothing(model, extra_state):
        state = content.get("optimizer")
        if optimizer is not None and state is not None:
            _load_optimizer(state, optimizer, model, loss_func)
    copy_weights(own, {neutral: tensors[names[neutral]] for neutral in fitting})
    copy_weights(
        of_loss, {name: tensors[name] for name in of_loss if in_file_of_loss.get(name) == layout(of_loss[name])}
    )
    mismatch = "; ".join(filter(None, (mismatch, odd)))
    if mismatch:
        warnings.warn(f"{path} was loaded in part: {mismatch}. These stay as they were.", stacklevel=3)
    return optimizer is not None and state is not None


def pack_extra_state(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a file's content that holds the extra state, without tensors; empty if there is none.

    Tensors are stored under their own names, so that other readers find what torch's `load_state_dict` wants.
    """
    others = {name: value for name, value in extra.items() if not isinstance(value, Tensor)}
    return {"extra": others} if others else {}


def extra_content(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the extra state in a file's content, by name."""
    found = content.get("extra", {})
    if not isinstance(found, dict) or not all(type(name) is str for name in found):
        raise FileFormatError("its extra state is not what minilearner writes.")
    return found


def read_extra_content(file: TensorFile, prefix: str, most_bytes: int) -> dict[str, Any]:
    """Returns a file's content. If `SaveBest` wrote it, it has only extra state, and other programs' files nothing."""
    if file.kind is None:
        return {"extra": file.beside()}
    return file.content(prefix if file.kind == "weights" else _OF_EXPORT, most_bytes)


@contextmanager
def load_extra_state_or_nothing(model: nn.Module, extra: Mapping[str, Any]) -> Iterator[None]:
    """Loads the extra state of a model's modules. If that or the body fails, puts the one from before back.

    Raises:
        FileFormatError: a module does not accept its extra state.
    """
    before = copy_extra_state(model)
    try:
        try:
            load_extra_state(model, extra)
        except Exception as error:  # whatever a user's own `set_extra_state` raises
            raise FileFormatError(f"a module does not accept its extra state: {error!r:.200}") from error
        yield
    except BaseException:
        load_extra_state(model, before)
        raise


def layout(tensor: Tensor) -> Layout:
    """Returns the layout that a tensor of a model has in a file."""
    return Layout(_DTYPES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))


def mismatches(own: Mapping[str, Tensor], in_file: Mapping[str, Layout], missing: Sequence[str] = ()) -> str:
    """Returns how a model's tensors and a file's differ, with three examples each; empty text if they fit.

    Args:
        missing: names of further parts of the model that the file does not have.
    """
    now = {name: layout(tensor) for name, tensor in own.items()}
    other = [
        f"{name} {in_file[name].dtype} {in_file[name].shape} instead of {one.dtype} {one.shape}"
        for name, one in now.items()
        if name in in_file and in_file[name] != one
    ]
    problems = {
        "missing in the file": [*(name for name in own if name not in in_file), *missing],
        "unknown to the model": [name for name in in_file if name not in own],
        "of another shape or type": other,
    }
    return "; ".join(f"{len(names)} {what}: {', '.join(names[:3])}" for what, names in problems.items() if names)


def copy_weights(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copies tensors into a model's tensors of the same names."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(processes.distribute_like(tensor, own[name]))


def _loss_tensors(loss_func: Any) -> dict[str, Tensor]:
    """Returns the tensors of a loss that learns, by their names in a file; of any other none."""
    if not isinstance(loss_func, nn.Module) or not any(True for _ in loss_func.parameters()):
        return {}
    state = loss_func.state_dict(keep_vars=True)
    return {f"{_OF_LOSS}{name}": value for name, value in state.items() if isinstance(value, Tensor)}


def _optimizer_content(optimizer: Optimizer, model: nn.Module, loss_func: Any) -> dict[str, Any]:
    return {
        "class": type(optimizer).__name__,
        "groups": _names_in_groups(optimizer, model, loss_func),
        "state": optimizer.state_dict(),
    }


def _names_in_groups(optimizer: Optimizer, model: nn.Module, loss_func: Any) -> list[list[str]]:
    named = {**_loss_tensors(loss_func), **unwrap_names(model.named_parameters())}
    names = {id(parameter): name for name, parameter in named.items()}
    return [[names.get(id(p), "?") for p in group["params"]] for group in optimizer.param_groups]


def _load_optimizer(content: Any, optimizer: Optimizer, model: nn.Module, loss_func: Any) -> None:
    if not isinstance(content, dict) or set(content) != {"class", "groups", "state"}:
        raise FileFormatError("its optimizer's state is not what minilearner writes.")
    saved, groups = content["groups"], _names_in_groups(optimizer, model, loss_func)
    if type(content["class"]) is not str or not isinstance(saved, list) or not all(map(_is_names, saved)):
        raise FileFormatError("its optimizer's groups are not what minilearner writes.")
    _check_same("optimizer", content["class"], type(optimizer).__name__)
    sizes = [len(names) for names in saved]
    _check_same("number of parameters in each group of the optimizer", sizes, [len(names) for names in groups])
    for was, now in zip(saved, groups, strict=True):
        odd = [f"{a} instead of {b}" for a, b in zip(was, now, strict=True) if a != b]
        _check_same("parameters of a group of the optimizer", ", ".join(odd[:3]), "")
    check_optimizer_state(content["state"], optimizer)
    load_optimizer(optimizer, content["state"])


def _check_same(what: str, saved: Any, now: Any) -> None:
    if saved != now:
        raise FileFormatError(
            f"it was saved with another {what}: {str(saved)[:200]}"
            + (f", and now it is {str(now)[:200]}" if now else "")
            + ". Make the same optimizer (opt_func, splitter, wd), or load the weights alone: with_opt=False."
        )


def _is_names(names: Any) -> bool:
    return isinstance(names, list) and all(type(name) is str for name in names)
