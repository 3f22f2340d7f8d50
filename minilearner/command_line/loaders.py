"""From settings to loaders: a folder of classes, labels in file names, or a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilearner.command_line.settings import Settings
from minilearner.data.batch_transforms import Transforms
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.group_splitter import GroupSplitter
from minilearner.data.items import get_image_files
from minilearner.data.labels import ColReader, RegexLabeller, apply_to_all, parent_label
from minilearner.data.splits import RandomSplitter, Splitter
from minilearner.data.table import read_csv
from minilearner.vision.augment import aug_transforms
from minilearner.vision.image_loaders import ImageDataLoaders
from minilearner.vision.resize import Resize

__all__ = ["list_labels", "make_loaders"]

_VALID_PCT = 0.2
_VALID_FOLDERS = ("valid", "validation", "val", "test")


def make_loaders(settings: Settings) -> DataLoaders:
    """Returns the loaders for a training.

    Raises:
        DataError, FileFormatError: the data are not what the settings say.
        ValueError: two settings contradict each other.
    """
    path = Path(settings.data).expanduser()
    how: dict[str, Any] = {"bs": settings.bs, "seed": settings.seed, "device": settings.device}
    how["item_tfms"], how["batch_tfms"] = Resize(settings.size), _augmentation(settings.augment)
    how["weights"] = None if settings.class_weights == "none" else settings.class_weights
    if _is_table(path):
        return _load_table(path, settings, how)
    _refuse(settings, "a folder has no columns", "file_col", "label_col", "label_delim", "valid_col")
    if settings.label_regex is not None:
        files = get_image_files(path)
        how["splitter"] = _splitter(settings, path)
        return ImageDataLoaders.from_name_re(path, files, settings.label_regex, **how)
    sets = _find_sets(path)
    if sets is None or settings.group_by is not None:
        return ImageDataLoaders.from_folder(path, splitter=_splitter(settings, path), **how)
    _refuse(settings, f"the folders {' and '.join(sets)} say what is for validation", "valid_pct")
    return ImageDataLoaders.from_folder(path, *sets, **how)


def list_labels(settings: Settings) -> tuple[Sequence[Any], list[Any]]:
    """Returns image files and their labels, for a model to be scored on.

    Raises:
        DataError, FileFormatError: the data are not what the settings say.
    """
    path = Path(settings.data).expanduser()
    if _is_table(path):
        table = read_csv(path)
        files = [path.parent / str(name) for name in table.column(settings.file_col or 0)]
        read = ColReader(settings.label_col or 1, label_delim=settings.label_delim)
        return files, apply_to_all(read, table, "label_col")
    _refuse(settings, "a folder has no columns", "file_col", "label_col", "label_delim")
    images = get_image_files(path)
    if settings.label_regex is None:
        return images, [parent_label(file) for file in images]
    names = [file.name for file in images]
    return images, apply_to_all(RegexLabeller(settings.label_regex), names, "label_regex", settings.label_regex)


def _load_table(path: Path, settings: Settings, how: dict[str, Any]) -> DataLoaders:
    _refuse(settings, "a table has a column of labels", "label_regex")
    split: dict[str, Any] = {"valid_col": settings.valid_col}
    if settings.valid_col is None:
        split = {"splitter": _splitter(settings, path.parent, column=settings.group_by)}
    else:
        _refuse(settings, "the column of `valid_col` says what is for validation", "valid_pct", "group_by")
    how |= {"fn_col": settings.file_col or 0, "label_delim": settings.label_delim, **split}
    return ImageDataLoaders.from_csv(path.parent, path.name, label_col=settings.label_col or 1, **how)


def _splitter(settings: Settings, root: Path, *, column: str | None = None) -> Splitter:
    share = _VALID_PCT if settings.valid_pct is None else settings.valid_pct
    if settings.group_by is None:
        return RandomSplitter(share, settings.seed)
    group = _GroupInPath(RegexLabeller(settings.group_by), root) if column is None else ColReader(column)
    return GroupSplitter(group, share, settings.seed)


@dataclass(frozen=True)
class _GroupInPath:
    """File -> its group, which a regular expression finds in its path below a folder."""

    pattern: RegexLabeller
    root: Path

    def __call__(self, file: Path) -> str:
        return self.pattern(Path(file).relative_to(self.root).as_posix())


def _augmentation(name: str) -> Transforms:
    return None if name == "none" else aug_transforms(mult=2.0 if name == "strong" else 1.0)


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".tsv") and not path.is_dir()


def _find_sets(path: Path) -> tuple[str, str] | None:
    """Returns the names of a folder's two sets, or None if it has classes."""
    valid = [name for name in _VALID_FOLDERS if (path / name).is_dir()]
    return ("train", valid[0]) if valid and (path / "train").is_dir() else None


def _refuse(settings: Settings, why: str, *names: str) -> None:
    """Raises if one of these settings is given: what somebody asks for is not ignored."""
    for name in names:
        if (value := getattr(settings, name)) is not None:
            raise ValueError(f"`{name}` does not go with {settings.data}: {why}. Received: {name}={value!r}.")
