"""Trained weights for a body: choosing them, finding or downloading their file, and loading them with clear errors.

torchvision's files are shared with torch hub. A file that is already in its folder is used as it is, whatever its hash.
Only tensors are ever unpickled. `backbones` decides which body gets which weights.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from minilearner.errors import FileFormatError, closest
from minilearner.files import check_is_file
from minilearner.sources.download import download
from minilearner.tensor_file import read_tensors
from minilearner.vision.torchvision_models import WeightsEnum, get_model_weights

__all__ = [
    "StateDict",
    "Weights",
    "choose_weights",
    "hub_path",
    "load_body",
    "local_file",
    "names_of_tensors",
    "read_state_dict",
]

StateDict: TypeAlias = Mapping[str, Tensor]

Weights: TypeAlias = "WeightsEnum | str | Path"
"""A member of a torchvision weights enum, its name ("IMAGENET1K_V1"), or the path of a weights file."""

_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")


def choose_weights(arch: Callable[..., Any], weights: Weights | None) -> WeightsEnum | Path | None:
    """Returns the torchvision weights or the file that `weights` means.

    Args:
        arch: the constructor of the model.
        weights: see `Weights`. None means torchvision's best, or no weights if it has none.

    Raises:
        ValueError: the name does not belong to this model's weights, or torchvision has the model for another task.
        TypeError: `weights` is neither torchvision's, nor a name, nor a path.
        FileNotFoundError: there is no such file.
    """
    members = _members(arch)
    _check_task(members)
    if weights is None:
        return members.get("DEFAULT")
    if isinstance(weights, WeightsEnum):
        if weights not in members.values():
            raise ValueError(f"`weights` belongs to another model. Received: {weights!r}.{_choices(members)}")
        return weights
    if not isinstance(weights, (str, os.PathLike)):
        raise TypeError(f"`weights` must be torchvision weights, their name, or a path. Received: {weights!r}.")
    by_name = members | {f"{type(member).__name__}.{name}": member for name, member in members.items()}
    if isinstance(weights, str) and weights in by_name:
        return by_name[weights]
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.suffix not in _SUFFIXES and len(path.parts) == 1:
        raise ValueError(
            f"`weights` is neither a file nor the name of weights.{closest(str(weights), members)} "
            f"Received: weights={weights!r}.{_choices(members)}"
        )
    raise FileNotFoundError(f"`weights`: there is no file {path}.")


def hub_path(url: str) -> Path:
    """Returns where torch hub keeps, or would keep, the file of a URL."""
    return Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(urlparse(url).path)


def local_file(weights: WeightsEnum) -> Path:
    """Returns torch hub's file of these weights, and downloads it if it is missing.

    An existing file is used as it is, as torch hub does. A new one must have the hash at the end of its name.

    Raises:
        DownloadError: the file is missing, and the network is forbidden or does not deliver it. Says what to put where.
    """
    path = hub_path(weights.url)
    if path.is_file():
        return path
    way_out = (
        f"To go on without the network, put {weights.url} at {path}, or pass a file as `weights=path`, or start "
        "without trained weights by `pretrained=False`."
    )
    check = partial(_check_hash, name=path.name)
    return download([weights.url], path, check=check, way_out=way_out, home="TORCH_HOME")


def read_state_dict(path: Path) -> StateDict:
    """Returns the tensors by name in a file of `torch.save` or a .safetensors file, without running any code.

    A dictionary that holds them under "state_dict" or "model", as training scripts write it, is also accepted.

    Raises:
        FileFormatError: the file is damaged, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            state: Any = read_tensors(path)
        else:
            check_is_file(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # a file that lies makes torch raise errors of a dozen kinds
        reason = str(error).partition("\n")[0].rstrip(".") or "it ends too early"
        raise FileFormatError(
            f"{path} is damaged, or holds more than tensors by name: {reason}. Delete it. Then save it again "
            "with `torch.save(model.state_dict(), path)` or safetensors. Missing torchvision weights are downloaded "
            "again."
        ) from error
    if isinstance(state, dict):
        state = next((state[key] for key in ("state_dict", "model") if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise FileFormatError(f"{path} must hold tensors by name. Received: {_kind(state)}.")
    if odd := next((name for name, value in state.items() if not _is_plain(value)), None):
        raise FileFormatError(f"{path} holds a tensor {str(odd)[:80]!r} that is sparse, quantized, or has no values.")
    return {_OLD_DENSENET.sub(r"\1", str(name)): value for name, value in state.items()}


def names_of_tensors(model: nn.Module) -> dict[int, str]:
    """Returns the name of each parameter and buffer by its id, so that names are still known after a cut."""
    return {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}


def load_body(
    body: nn.Module,
    state: StateDict,
    whole: Mapping[int, str],
    *,
    source: str,
    unused: Sequence[str] = (),
) -> None:
    """Copies the tensors of `state` into `body`: all of them, or none if anything does not match.

    Args:
        body: the body to load into.
        state: tensors by name. Names are those of the whole model before the cut, of the body, or of a learner's model,
            ``Sequential(body, head)``. Parts that were cut off may be missing or have any shape.
        whole: the `names_of_tensors` of the model before the cut.
        source: what an error calls the weights.
        unused: prefixes of names in `state` that belong to other parts, such as auxiliary classifiers.

    Raises:
        FileFormatError: names are missing or unknown, or tensors have other shapes.
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
        listed = "; ".join(f"{len(names)} {what}: {', '.join(names[:3])}" for what, names in problems.items() if names)
        raise FileFormatError(f"{source} does not fit this model: {listed}.")
    with torch.no_grad():
        for name, tensor in found.items():
            own[name].copy_(tensor)


def _members(arch: Callable[..., Any]) -> dict[str, WeightsEnum]:
    try:
        return dict(get_model_weights(arch).__members__)
    except (TypeError, ValueError):  # not a constructor of torchvision
        return {}


def _check_task(members: Mapping[str, WeightsEnum]) -> None:
    """Raises for models of other tasks, whose constructors download backbone weights without being asked."""
    for member in members.values():
        package = type(member).__module__.removeprefix("torchvision.models.").rpartition(".")[0]
        if package and type(member).__module__.startswith("torchvision.models."):
            raise ValueError(
                f"`arch` must be a torchvision classifier, such as resnet34. Received: a model for {package}."
            )


def _choices(members: Mapping[str, Any]) -> str:
    return f" This model has: {', '.join(members)}." if members else " This model has no named weights: pass a path."


def _check_hash(path: Path, name: str) -> None:
    """Checks the first digits of the SHA-256, which torchvision puts into the names of its files."""
    expected = re.search(r"-([0-9a-f]{8,})\.", name)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if expected and not digest.hexdigest().startswith(expected[1]):
        raise FileFormatError(f"its SHA-256 begins with {digest.hexdigest()[:8]}, not {expected[1]}.")


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


def _kind(state: Any) -> str:
    if isinstance(state, dict):
        return f"a dictionary with {', '.join(map(repr, list(state)[:3]))}" if state else "an empty dictionary"
    return type(state).__name__
