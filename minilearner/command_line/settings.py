"""`Settings`: all that decides a training, as options and as a file in TOML."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from minilearner.checks import check_choice, check_count, check_fraction, is_auto, is_number
from minilearner.errors import FileFormatError, closest

__all__ = ["CHOICES", "Settings", "check_keys", "check_pattern", "check_setting", "find_sets", "read_toml"]

CHOICES = {
    "augment": ("none", "standard", "strong"),
    "class_weights": ("none", "balanced"),
    "on_unreadable": ("raise", "skip"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
}
"""What the settings that are words may be."""


_VALID_FOLDERS = ("valid", "validation", "val", "test")


@dataclass(frozen=True)
class Settings:
    """The data, the model and the training. Each field is an option, and a key of a configuration file.

    Raises:
        TypeError, ValueError: a value is of the wrong kind, or out of range.
    """

    data: str
    label_regex: str | None = None
    file_col: str | None = None
    label_col: str | None = None
    label_delim: str | None = None
    encoding: str | None = None
    on_unreadable: str = "raise"
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

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) is not None or field.default is not None:
                check_setting(field.name, getattr(self, field.name))

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
        missing = [field.name for field in fields(cls) if field.default is MISSING and field.name not in content]
        if missing:
            raise FileFormatError(f"{path}: the setting {missing[0]!r} is missing.")
        try:
            return cls(**content)
        except (TypeError, ValueError) as error:
            raise FileFormatError(f"{path}: {error}") from error

    def settle(self, *, pretrained: bool) -> Settings:
        """Returns what repeats a training from any folder, and whatever weights are on the machine by then."""
        lr = self.default_lr(pretrained=pretrained) if self.lr is None else self.lr
        data = os.path.abspath(os.path.expanduser(self.data))
        return replace(self, data=data, pretrained=pretrained, lr=lr)

    def image_folders(self) -> list[Path]:
        """Returns the folders of which every image is trained or validated on. A table has none."""
        path = Path(self.data).expanduser()
        if not path.is_dir():
            return []
        sets = None if self.label_regex or self.group_by else find_sets(path)
        return [path] if sets is None else [path / name for name in sets]

    @staticmethod
    def default_lr(*, pretrained: bool) -> float | Literal["auto"]:
        """Returns the rate of a training that none is given for.

        fastai's rate suits trained weights. There is no such rate for random ones: on 49 tasks of the learning-rate
        bank, 0.001 loses 9 error points on average, and a found rate less than 1.
        """
        return 0.002 if pretrained else "auto"

    def to_dict(self) -> dict[str, Any]:
        """Returns all settings by name."""
        return asdict(self)

    def to_toml(self) -> str:
        """Returns the settings as TOML, without those that are not set."""
        import tomli_w

        return tomli_w.dumps({name: value for name, value in self.to_dict().items() if value is not None})


def find_sets(path: Path) -> tuple[str, str] | None:
    """Returns the names of a folder's sets for training and validation, or None if it has classes."""
    valid = [name for name in _VALID_FOLDERS if (path / name).is_dir()]
    return ("train", valid[0]) if valid and (path / "train").is_dir() else None


def read_toml(path: Path) -> dict[str, Any]:
    """Returns what a file in TOML holds, with "_" for "-" in its keys.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is no TOML, holds more than text, numbers and truth values, or names a setting twice, with
            "-" and with "_". Names the file.
    """
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is not TOML: {error}.") from error
    for name, value in content.items():
        if not isinstance(value, (str, int, float, bool)):
            raise FileFormatError(f"{path}: `{name}` must be text, a number, true or false. Received: {value!r:.80}.")
    by_key = {name.replace("-", "_"): value for name, value in content.items()}
    if len(by_key) < len(content):
        twice = next(name for name in content if "-" in name and name.replace("-", "_") in content)
        raise FileFormatError(f"{path}: {twice!r} and {twice.replace('-', '_')!r} are one setting. Remove one of them.")
    return by_key


def check_keys(content: Mapping[str, Any], known: list[str], path: Path) -> None:
    """Checks that a file has no unknown key.

    Raises:
        FileFormatError: it has one. Offers the nearest.
    """
    for name in content:
        if name not in known:
            raise FileFormatError(f"{path}: there is no setting {name!r}.{closest(name, known)}")


def check_setting(name: str, value: Any, shown: str | None = None) -> None:
    """Checks the value of one setting.

    Args:
        name: the setting.
        value: what it is.
        shown: what an error calls it, its name by default.

    Raises:
        TypeError, ValueError: it is of the wrong kind, or out of range.
    """
    _CHECKS.get(name, _check_text)(value, shown or name)


def check_pattern(value: Any, name: str) -> None:
    """Checks for a regular expression with a group.

    Raises:
        TypeError, ValueError: it is none.
    """
    _check_text(value, name)
    try:
        n_groups = re.compile(value).groups
    except re.error as error:
        raise ValueError(f"`{name}` must be a regular expression. Received: {name}={value!r}: {error}.") from error
    if not n_groups:
        raise ValueError(
            f"`{name}` must have a group, in parentheses, around what it shall find. Received: {name}={value!r}."
        )


def _check_text(value: Any, name: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be text. Received: {name}={value!r}.")


def _check_truth(value: Any, name: str) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be true or false. Received: {name}={value!r}.")


def _check_rate(value: Any, name: str) -> None:
    if not is_auto(value) and not (is_number(value) and 0 < value < float("inf")):
        raise ValueError(f'`{name}` must be a number above 0, or "auto". Received: {name}={value!r}.')


def _check_seed(value: Any, name: str) -> None:
    check_count(value, name, least=0)
    if value >= 2**32:
        raise ValueError(f"`{name}` must be below 2**32. Received: {name}={value}.")


_CHECKS: dict[str, Callable[[Any, str], None]] = {
    **dict.fromkeys(("bs", "epochs", "size"), check_count),
    "label_regex": check_pattern,
    "lr": _check_rate,
    "pretrained": _check_truth,
    "seed": _check_seed,
    "valid_pct": partial(check_fraction, closed="left"),
    **{name: partial(check_choice, choices=choices) for name, choices in CHOICES.items()},
}
"""Setting -> its check. All others are text."""
