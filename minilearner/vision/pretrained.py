"""Trained weights for a body: which ones, where they lie, and loading them with a word about every mismatch.

torchvision's files are shared with torch hub: one that is in its folder is used as it is, whatever its hash. Nothing is
ever unpickled but tensors.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights

from minilearner.errors import FileFormatError, closest
from minilearner.saving.tensor_file import read_tensors
from minilearner.sources.download import download

__all__ = ["StateDict", "Weights", "choose_weights", "load_body", "local_file", "names_of_tensors", "read_state_dict"]

StateDict: TypeAlias = Mapping[str, Tensor]

Weights: TypeAlias = "WeightsEnum | str | Path"
"""A member of a torchvision weights enum, its name ("IMAGENET1K_V1"), or the path of a file of weights."""

_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")


def choose_weights(arch: Callable[..., Any], weights: Weights | None) -> WeightsEnum | Path | None:
    """Returns the torchvision weights or the file that are meant; torchvision's best for None, or None without any.

    Raises:
        ValueError: the name is none of this model's weights, or belongs to another model; or torchvision has the model
            for another task.
        FileNotFoundError: there is no such file.
    """
    members = _members(arch)
    _check_task(members)
    if weights is None:
        return members.get("DEFAULT")
    if isinstance(weights, WeightsEnum):
        if weights not in members.values():
            raise ValueError(f"`weights` belong to another model. Received: {weights!r}.{_choices(members)}")
        return weights
    if not isinstance(weights, (str, os.PathLike)):
        raise TypeError(f"`weights` must be torchvision's, a name of those, or a path. Received: {weights!r}.")
    by_name = members | {f"{type(member).__name__}.{name}": member for name, member in members.items()}
    if isinstance(weights, str) and weights in by_name:
        return by_name[weights]
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.suffix not in _SUFFIXES and len(path.parts) == 1:
        raise ValueError(
            f"`weights` is no file, and no name of weights.{closest(str(weights), members)} "
            f"Received: weights={weights!r}.{_choices(members)}"
        )
    raise FileNotFoundError(f"`weights`: there is no file {path}.")


def hub_path(url: str) -> Path:
    """Returns where torch hub keeps, or would keep, what it has downloaded from a URL."""
    return Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(urlparse(url).path)


def local_file(weights: WeightsEnum) -> Path:
    """Returns torch hub's file of these weights, downloaded where it is not there yet.

    A file that is there is taken as it is, as torch hub does; a new one must have the hash that its name ends in.

    Raises:
        DownloadError: it is not there, and the network is forbidden or does not deliver. Says what to put where.
    """
    path = hub_path(weights.url)
    if path.is_file():
        return path
    way_out = (
        f"To go on without the network, bring {weights.url} to {path}, or give a file by `weights=path`, or begin "
        "without trained weights by `pretrained=False`."
    )
    return download([weights.url], path, check=partial(_check_hash, name=path.name), way_out=way_out)


def read_state_dict(path: Path) -> StateDict:
    """Returns the tensors by name of a file by `torch.save`, or a .safetensors file, read without running any code.

    A dictionary that holds them under "state_dict" or "model", as training scripts write it, will do.

    Raises:
        FileFormatError: the file is damaged, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            state: Any = read_tensors(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0] or "it ends too soon"
        raise FileFormatError(
            f"{path} is damaged, or holds more than tensors by name: {reason} Delete it and bring it again, as written "
            "by `torch.save(model.state_dict(), path)` or by safetensors. torchvision's weights are downloaded where "
            "they are not there."
        ) from error
    if isinstance(state, dict):
        state = next((state[key] for key in ("state_dict", "model") if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise FileFormatError(f"{path} must hold tensors by name. Received: {_kind(state)}.")
    return {_OLD_DENSENET.sub(r"\1", str(name)): value for name, value in state.items()}


def names_of_tensors(model: nn.Module) -> dict[int, str]:
    """Returns the name of every parameter and buffer by its id, so that they are known after the model is cut."""
    return {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}


def load_body(
    body: nn.Module, state: StateDict, whole: Mapping[int, str], *, source: str, unused: Sequence[str] = ()
) -> None:
    """Copies the tensors of `state` into `body`: all of them or, on any mismatch, none.

    Args:
        state: names as in the whole model that the body was cut from (what was cut off may be missing or of any shape),
            or as in the body, or as in a learner's model, ``Sequential(body, head)``.
        whole: `names_of_tensors` of the model before the cut.
        source: what an error calls the weights.
        unused: beginnings of names in `state` that belong to other parts, such as auxiliary classifiers.

    Raises:
        FileFormatError: names are missing, or unknown, or tensors have other shapes.
    """
    own = {name: t for name, t in body.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    namings = [
        ({name: whole.get(id(t), name) for name, t in own.items()}, {*whole.values()}, tuple(unused)),
        ({name: name for name in own}, set(own), ()),
        ({name: f"0.{name}" for name in own}, {f"0.{name}" for name in own}, ("1.",)),
    ]
    names, known, others = max(namings, key=lambda naming: len(state.keys() & set(naming[0].values())))
    missing = [n for n in names.values() if n not in state and not n.endswith("num_batches_tracked")]
    unknown = [n for n in state if n not in known and not n.startswith(others or ("\0",))]
    found = {name: state[n] for name, n in names.items() if n in state}
    reshaped = [
        f"{names[name]} {tuple(t.shape)} instead of {tuple(own[name].shape)}"
        for name, t in found.items()
        if t.shape != own[name].shape
    ]
    problems = {"missing": missing, "unknown": unknown, "of another shape": reshaped}
    if any(problems.values()):
        told = "; ".join(f"{len(names)} {what}: {', '.join(names[:3])}" for what, names in problems.items() if names)
        raise FileFormatError(f"{source} does not fit this model: {told}.")
    with torch.no_grad():
        for name, tensor in found.items():
            own[name].copy_(tensor)


def _members(arch: Callable[..., Any]) -> dict[str, WeightsEnum]:
    try:
        return dict(get_model_weights(arch).__members__)
    except (TypeError, ValueError):  # no constructor of torchvision's
        return {}


def _check_task(members: Mapping[str, WeightsEnum]) -> None:
    """Other constructors of torchvision's fetch weights of their backbones without being asked to."""
    for member in members.values():
        package = type(member).__module__.removeprefix("torchvision.models.").rpartition(".")[0]
        if package and type(member).__module__.startswith("torchvision.models."):
            raise ValueError(
                f"`arch` must be one of torchvision's classifiers, such as resnet34. Received: one for {package}."
            )


def _choices(members: Mapping[str, Any]) -> str:
    return f" This model has: {', '.join(members)}." if members else " This model has none by name: give a path."


def _check_hash(path: Path, name: str) -> None:
    """Checks the beginning of the SHA-256 that torchvision puts into the names of its files."""
    expected = re.search(r"-([0-9a-f]{8,})\.", name)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if expected and not digest.hexdigest().startswith(expected[1]):
        raise FileFormatError(f"its SHA-256 begins with {digest.hexdigest()[:8]}, not {expected[1]}.")


def _kind(state: Any) -> str:
    if isinstance(state, dict):
        return f"a dictionary with {', '.join(map(repr, list(state)[:3]))}" if state else "an empty dictionary"
    return type(state).__name__
