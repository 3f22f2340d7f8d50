"""`Settings`: all that decides a training, as options and as a file in TOML."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from minilearner.errors import FileFormatError, closest

__all__ = ["Settings", "read_toml"]


@dataclass(frozen=True)
class Settings:
    """The data, the model and the training. Each field is an option, and a key of a configuration file."""

    data: str
    label_regex: str | None = None
    file_col: str | None = None
    label_col: str | None = None
    label_delim: str | None = None
    valid_col: str | None = None
    valid_pct: float | None = None
    group_by: str | None = None
    class_weights: str = "none"
    size: int = 224
    augment: str = "standard"
    bs: int = 32
    arch: str = "resnet18"
    pretrained: bool | None = None
    precision: str = "auto"
    device: str | None = None
    epochs: int = 5
    lr: float | Literal["auto"] | None = None
    seed: int = 42

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Settings:
        """Returns the settings among the options of a command."""
        return cls(**{field.name: options[field.name] for field in fields(cls) if field.name in options})

    @classmethod
    def names(cls) -> list[str]:
        """Returns the names of all settings."""
        return [field.name for field in fields(cls)]

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Reads the settings of a run.

        Raises:
            FileNotFoundError, FileFormatError: there is no such file, or it is not what `to_toml` writes.
        """
        content = read_toml(path)
        check_keys(content, cls.names(), path)
        try:
            return cls(**content)
        except TypeError as error:
            raise FileFormatError(f"{path}: {error}.") from error

    def settle(self, *, pretrained: bool) -> Settings:
        """Returns what repeats a training from any folder, and whatever weights are on the machine by then."""
        return replace(self, data=os.path.abspath(os.path.expanduser(self.data)), pretrained=pretrained)

    def to_dict(self) -> dict[str, Any]:
        """Returns all settings by name."""
        return asdict(self)

    def to_toml(self) -> str:
        """Returns the settings as TOML, without those that are not set."""
        import tomli_w

        return tomli_w.dumps({name: value for name, value in self.to_dict().items() if value is not None})


def read_toml(path: Path) -> dict[str, Any]:
    """Returns what a file in TOML holds, with "_" for "-" in its keys.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is no TOML, or holds more than text, numbers and truth values. Names the file.
    """
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is not TOML: {error}.") from error
    for name, value in content.items():
        if not isinstance(value, (str, int, float, bool)):
            raise FileFormatError(f"{path}: `{name}` must be text, a number, true or false. Received: {value!r:.80}.")
    return {name.replace("-", "_"): value for name, value in content.items()}


def check_keys(content: Mapping[str, Any], known: list[str], path: Path) -> None:
    """Checks that a file has no unknown key.

    Raises:
        FileFormatError: it has one. Offers the nearest.
    """
    for name in content:
        if name not in known:
            raise FileFormatError(f"{path}: there is no setting {name!r}.{closest(name, known)}")
