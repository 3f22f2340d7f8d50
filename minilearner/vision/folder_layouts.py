"""Folders of images in the two layouts of `from_folder`: a folder for each set, or one for each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minilearner.data.items import PathLike, get_image_files, name_items
from minilearner.data.labels import parent_label
from minilearner.data.splits import GrandparentSplitter, Split
from minilearner.errors import DataError, plural, portion

__all__ = ["FolderSplitter", "find_class_images", "find_set_images"]


class FolderSplitter(GrandparentSplitter):
    """A `GrandparentSplitter` that raises if an image is in neither set because its folder is too high or too deep."""

    def __call__(self, items: Sequence[Any]) -> Split:
        """Returns the positions, ascending."""
        train, valid = super().__call__(items)
        held = set(train) | set(valid)
        if rest := [i for i in range(len(items)) if i not in held]:
            raise DataError(
                f"{portion(len(rest), len(items), 'image', 'is', 'are')} not in `{self.train_name}/<class>/` or "
                f"`{self.valid_name}/<class>/`: {name_items(items, rest)}. Move or remove them."
            )
        return train, valid


_TEST_NAMES = ("test", "tests", "testing", "test_set", "testset", "unlabeled", "unlabelled", "unsup")
_TRAIN_NAMES = ("train", "training", "train_set", "trainset")
_VALID_NAMES = ("valid", "validation", "val", "dev")


def find_set_images(path: PathLike, *, train: str, valid: str) -> Sequence[Path]:
    """Returns the images in the folders for training and for validation.

    Raises:
        DataError: one of them is missing.
    """
    try:
        return get_image_files(path, folders=[train, valid])
    except DataError as error:
        root = Path(path).expanduser()
        if not root.is_dir() or (root / train).is_dir():
            raise
        _check_classes(root, get_image_files(root))
        raise DataError(
            f"{error} If its folders are the classes, write from_folder(..., valid_pct=0.2), which draws a fifth of "
            "the images for validation."
        ) from None


def find_class_images(path: PathLike) -> Sequence[Path]:
    """Returns the images below a folder whose folders are classes.

    Raises:
        DataError: an image is in no class's folder. Names the folders.
    """
    files = get_image_files(path)
    root = Path(path).expanduser()
    _check_classes(root, files)
    labels = Counter(parent_label(file) for file in files)
    suspects = [name for name in labels if name.lower() in _TEST_NAMES]
    sets = [name for name in labels if name.lower() in (*_TRAIN_NAMES, *_VALID_NAMES)]
    if suspects or {name.lower() in _TRAIN_NAMES for name in sets} == {True, False}:
        named = ", ".join(f"{name!r} ({plural(labels[name], 'image')})" for name in (*suspects, *sets))
        raise DataError(
            f"these folders in '{root}' seem to be sets of images, not classes: {named}. With `valid_pct`, the folder "
            "of an image is its class. Move the others away, or name all classes in `vocab` if these are among them."
        )
    return files


def _check_classes(root: Path, files: Sequence[Path]) -> None:
    """Raises a DataError if an image lies directly in the folder, and so in no class's folder."""
    loose = [i for i, file in enumerate(files) if file.parent == root]
    if not loose:
        return
    raise DataError(
        f"{portion(len(loose), len(files), 'image', 'lies', 'lie')} directly in '{root}', in no class's folder: "
        f"{name_items(files, loose)}. Move them into one folder for each class. If their names hold the class, as in "
        "cat_1.jpg, use ImageDataLoaders.from_name_re."
    )
