"""What an exported file says about itself, without building its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minilearner.errors import FileFormatError
from minilearner.glance import AtAGlance, Glance, enumerate_names
from minilearner.saving.learner_files import check_is_export
from minilearner.saving.weights_file import BESIDE
from minilearner.tensor_file import TensorFile, name_file

__all__ = ["ExportInfo", "describe_export"]


@dataclass(frozen=True, repr=False)
class ExportInfo(AtAGlance):
    """What `describe_export` found. It shows itself as a few lines.

    Attributes:
        path: the file.
        n_bytes: its size.
        architecture: the class of the model, with the name and the arguments that build it, if the file says them.
        classes: the labels in the order of their numbers. Empty if there are none.
        item_tfms, batch_tfms: the transforms of an input, in order.
        precision: how it predicts.
        n_weights: numbers in its weights and buffers.
        versions: library -> version that wrote the file.
    """

    path: str
    n_bytes: int
    architecture: str
    classes: tuple[str, ...]
    item_tfms: tuple[str, ...]
    batch_tfms: tuple[str, ...]
    precision: str
    n_weights: int
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as data that JSON can hold."""
        return asdict(self)

    def glance(self) -> Glance:
        """Returns a line for each fact."""
        facts = {
            "architecture": self.architecture,
            "weights": f"{self.n_weights:,} in {self.n_bytes / 1e6:.1f} MB",
            "classes": f"{len(self.classes)}: {enumerate_names(self.classes)}" if self.classes else "none",
            "item transforms": ", ".join(self.item_tfms) or "none",
            "batch transforms": ", ".join(name.partition("(")[0] for name in self.batch_tfms) or "none",
            "precision": self.precision,
            "written by": ", ".join(f"{name} {version}" for name, version in self.versions.items()),
        }
        return Glance(self.path, facts)


def describe_export(path: Path) -> ExportInfo:
    """Returns what a file of `learn.export` says about itself. Nothing is built, and nothing in the file is run.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file. The message names the one that was probably meant.
        FileFormatError: it is damaged or no such file.
    """
    check_is_export(path)
    file = TensorFile(path, ("export",))
    content = file.content(BESIDE[1])
    weights = [layout for name, layout in file.layouts.items() if not name.startswith(BESIDE)]
    with name_file(path):
        try:
            data = content["data"]
            return ExportInfo(
                path=str(path),
                n_bytes=path.stat().st_size,
                architecture=_name_architecture(content),
                classes=tuple(map(str, (data["target"] or {}).get("arguments", {}).get("vocab", ()))),
                item_tfms=tuple(map(_as_call, data["inputs"].get("item_tfms", ()))),
                batch_tfms=tuple(map(_as_call, data["batch_tfms"])),
                precision=str(content["precision"]),
                n_weights=sum(_count(layout.shape) for layout in weights),
                versions={str(name): str(version) for name, version in content["versions"].items()},
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise FileFormatError(f"what it says about itself is incomplete: {error!r:.100}.") from error


def _name_architecture(content: Mapping[str, Any]) -> str:
    description = content["architecture"]
    if description is None:
        return f"{content['class']}, which the file cannot build: {content['without']}"
    arguments = description["arguments"]
    if {"source", "arch"} <= set(arguments):
        return f"{arguments['arch']} of {arguments['source']}"
    return _as_call(description)


def _as_call(description: Mapping[str, Any]) -> str:
    """Returns a name with its short arguments, as one would write it in Python."""
    arguments = (f"{name}={value!r}" for name, value in description["arguments"].items())
    shown = [text for text in arguments if len(text) <= 80 and "tensor" not in text]
    return f"{description['name']}({', '.join(shown)})"


def _count(shape: Any) -> int:
    n = 1
    for side in shape:
        n *= side
    return n
