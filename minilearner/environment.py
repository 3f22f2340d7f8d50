"""What minilearner finds on this machine: versions, device, precision and folders, for a report of a bug."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

import minilearner
from minilearner.errors import plural
from minilearner.glance import AtAGlance, Glance
from minilearner.keywords import suggest_keywords
from minilearner.runtime import available_memory, read_device
from minilearner.sources.download import data_home, is_offline
from minilearner.training.auto_precision import choose_precision

__all__ = ["Environment", "describe_environment"]

_LIBRARIES = (
    *("torchvision", "numpy", "pillow", "matplotlib", "scikit-learn", "safetensors"),
    *("timm", "onnx", "onnxscript", "onnxruntime"),
)


@dataclass(frozen=True, repr=False)
class Environment(AtAGlance):
    """What `describe_environment` found. It shows itself as a few lines.

    Attributes:
        versions: library -> version. None if it is not installed.
        python, system, processor: where this runs.
        n_threads: how many threads torch computes with.
        device: where a learner trains by default, with the name of the GPU.
        free_gigabytes: the memory that is free on the device.
        precision: what `precision="auto"` chooses here for a convolutional network.
        why: the reason of that choice.
        folders: where data and trained weights are kept.
        is_offline: whether MINILEARNER_OFFLINE forbids downloads.
    """

    versions: Mapping[str, str | None]
    python: str
    system: str
    processor: str
    n_threads: int
    device: str
    free_gigabytes: float
    precision: str
    why: str
    folders: Mapping[str, str]
    is_offline: bool

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as data that JSON can hold."""
        return asdict(self)

    def glance(self) -> Glance:
        """Returns a line for each fact."""
        facts = {"python": f"{self.python}, {self.system}"}
        facts |= {name: version or "not installed" for name, version in self.versions.items()}
        facts["processor"] = f"{self.processor}, {plural(self.n_threads, 'thread')}"
        facts["device"] = f"{self.device}, {self.free_gigabytes:.1f} GB free"
        facts["precision"] = f"auto chooses {self.precision}: {self.why}"
        facts |= self.folders
        facts["downloads"] = "forbidden by MINILEARNER_OFFLINE" if self.is_offline else "allowed"
        return Glance(type(self).__name__, facts)


@suggest_keywords
def describe_environment(device: str | torch.device | None = None) -> Environment:
    """Returns versions, the device, and the precision that "auto" chooses there. It takes a tenth of a second.

    Args:
        device: the device to describe. The GPU by default if there is one.
    """
    where = read_device(device)
    choice = choose_precision(nn.Conv2d(1, 1, 1), where)
    name = f" ({torch.cuda.get_device_name(where)})" if where.type == "cuda" else ""
    return Environment(
        versions={
            "minilearner": minilearner.__version__,
            "torch": torch.__version__,  # with its build, such as "+cpu"
            **{library: _version(library) for library in _LIBRARIES},
        },
        python=platform.python_version(),
        system=platform.platform(),
        processor=f"{platform.processor() or platform.machine()}, {plural(os.cpu_count() or 1, 'core')}",
        n_threads=torch.get_num_threads(),
        device=f"{where}{name}",
        free_gigabytes=round(available_memory(where) / 1e9, 1),
        precision=f"{choice.precision}{', channels_last' * choice.channels_last}",
        why=choice.why,
        folders={"data": str(data_home()), "trained weights": torch.hub.get_dir()},
        is_offline=is_offline(),
    )


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
