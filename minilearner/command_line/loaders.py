"""From settings to loaders: a folder of classes, labels in file names, or a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from minilearner.command_line.settings import Settings, check_pattern, find_sets
from minilearner.data.batch_transforms import Transforms
from minilearner.data.blocks import CategoryBlock, MultiCategoryBlock
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.group_splitter import GroupSplitter
from minilearner.data.items import get_image_files
from minilearner.data.labels import ColReader, RegexLabeller, apply_to_all, is_missing, parent_label
from minilearner.data.splits import RandomSplitter, Split, Splitter, StratifiedSplitter
from minilearner.data.table import read_csv
from minilearner.data.targets import ClassNumbers
from minilearner.errors import DataError
from minilearner.vision.augment import aug_transforms
from minilearner.vision.image_loaders import ImageDataLoaders
from minilearner.vision.label_blocks import choose_block
from minilearner.vision.resize import Resize

__all__ = ["list_labels", "make_loaders"]

_VALID_PCT = 0.2
_OF_TABLES = ("file_col", "label_col", "label_delim", "encoding")


def make_loaders(settings: Settings) -> DataLoaders:
    """Returns the loaders for a training.

    Raises:
        DataError, FileFormatError: the data are not what the settings say, or have one class.
        ValueError: two settings contradict each other.
    """
    path = find_data(settings)
    how: dict[str, Any] = {"bs": settings.bs, "seed": settings.seed, "device": settings.device}
    how["item_tfms"], how["batch_tfms"] = Resize(settings.size), _augmentation(settings.augment)
    how["weights"] = None if settings.class_weights == "none" else settings.class_weights
    if settings.on_unreadable == "skip":  # a header alone does not show that a file is cut short
        how |= {"on_unreadable": "skip", "verify": "decode"}
    dls = (_load_table if _is_table(path) else _load_folder)(path, settings, how)
    if isinstance(dls.target, ClassNumbers) and len(dls.vocab or ()) == 1:
        raise DataError(f"{settings.data} has one class, {dls.vocab[0]!r}, and a training needs at least two.")
    return dls


def list_labels(settings: Settings) -> tuple[Sequence[Any], list[Any]]:
    """Returns image files and their labels, for a model to be scored on.

    Raises:
        DataError, FileFormatError: the data are not what the settings say.
    """
    path = find_data(settings)
    if _is_table(path):
        table = read_csv(path, encoding=settings.encoding)
        files = [path.parent / str(name) for name in table.column(settings.file_col or 0)]
        read = ColReader(settings.label_col or 1, label_delim=settings.label_delim)
        return files, apply_to_all(read, table, "label_col")
    _refuse(settings, "a folder has no columns", *_OF_TABLES)
    images = get_image_files(path)
    if settings.label_regex is None:
        return images, [parent_label(file) for file in images]
    names = [file.name for file in images]
    return images, apply_to_all(RegexLabeller(settings.label_regex), names, "label_regex", settings.label_regex)


def find_data(settings: Settings) -> Path:
    """Returns the folder or the table of the data.

    Raises:
        DataError: there is no such folder, and no such table.
    """
    path = Path(settings.data).expanduser()
    if not path.exists():
        where = "" if path.is_absolute() else f" in the working directory, {Path.cwd()}"
        raise DataError(f"there is no folder or table {settings.data!r}{where}.")
    if not path.is_dir() and not _is_table(path):
        raise DataError(f"the data must be a folder, or a table in a .csv or .tsv file. Received: {settings.data!r}.")
    return path


def _load_folder(path: Path, settings: Settings, how: dict[str, Any]) -> DataLoaders:
    _refuse(settings, "a folder has no columns", *_OF_TABLES, "valid_col")
    if settings.label_regex is not None:
        files = get_image_files(path)
        how["splitter"] = _splitter(settings, path)
        return ImageDataLoaders.from_name_re(path, files, settings.label_regex, **how)
    sets = find_sets(path)
    if sets is None or settings.group_by is not None:
        return ImageDataLoaders.from_folder(path, splitter=_splitter(settings, path), **how)
    _refuse(settings, f"the folders {' and '.join(sets)} say what is for validation", "valid_pct")
    return ImageDataLoaders.from_folder(path, *sets, **how)


def _load_table(path: Path, settings: Settings, how: dict[str, Any]) -> DataLoaders:
    _refuse(settings, "a table has a column of labels", "label_regex")
    split: dict[str, Any] = {"valid_col": settings.valid_col}
    if settings.valid_col is None:
        split = {"splitter": _splitter(settings, path.parent, column=settings.group_by)}
    else:
        _refuse(settings, "the column of `valid_col` says what is for validation", "valid_pct", "group_by")
    how |= {"fn_col": settings.file_col or 0, "label_delim": settings.label_delim, **split}
    how["encoding"] = settings.encoding
    return ImageDataLoaders.from_csv(path.parent, path.name, label_col=settings.label_col or 1, **how)


def _splitter(settings: Settings, root: Path, *, column: str | None = None) -> Splitter:
    share = _VALID_PCT if settings.valid_pct is None else settings.valid_pct
    if settings.group_by is None:
        return _EachClassAlike(share, settings.seed)
    if column is not None:
        return GroupSplitter(ColReader(column), share, settings.seed)
    check_pattern(settings.group_by, "group_by")
    return GroupSplitter(_GroupInPath(RegexLabeller(settings.group_by), root), share, settings.seed)


@dataclass(frozen=True)
class _EachClassAlike:
    """Splits every class alike, and all else at random. No class is in validation alone, however rare it is."""

    valid_pct: float
    seed: int
    needs_labels: ClassVar[bool] = True

    def __call__(self, items: Sequence[Any], labels: Sequence[Any]) -> Split:
        block = choose_block(labels)
        has_all = not any(map(is_missing, labels))  # if not, an error that names them comes later
        if isinstance(block, CategoryBlock) and has_all:
            return StratifiedSplitter(self.valid_pct, self.seed)(items, labels)
        train, valid = RandomSplitter(self.valid_pct, self.seed)(items)
        if isinstance(block, MultiCategoryBlock):
            known = {name for i in train for name in labels[i]}
            rare = [i for i in valid if not known.issuperset(labels[i])]
            train, valid = [*train, *rare], [i for i in valid if i not in rare]
        return train, valid


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


def _refuse(settings: Settings, why: str, *names: str) -> None:
    """Raises if one of these settings is given: what somebody asks for is not ignored."""
    for name in names:
        if (value := getattr(settings, name)) is not None:
            raise ValueError(f"`{name}` does not go with {settings.data}: {why}. Received: {name}={value!r}.")
