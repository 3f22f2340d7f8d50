"""`ImageDataLoaders`: loaders of pictures in one call, for the ways in which data sets of pictures come."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from minilearner.data.batch_transforms import Transforms
from minilearner.data.blocks import CategoryBlock, MultiCategoryBlock, RegressionBlock
from minilearner.data.data_block import DataBlock
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.item_transforms import ItemTransforms
from minilearner.data.items import PathLike, get_image_files, name_items
from minilearner.data.labels import ColReader, RegexLabeller, apply_to_all, is_missing, parent_label, using_attr
from minilearner.data.splits import ColSplitter, GrandparentSplitter, RandomSplitter, Split, Splitter
from minilearner.data.table import as_table, read_csv
from minilearner.errors import DataError, refuse_unknown
from minilearner.vision.image_block import ImageBlock, PILImage

__all__ = ["ImageDataLoaders"]


class ImageDataLoaders:
    """Makes `DataLoaders` of pictures; every way is a `DataBlock` that one could write oneself.

    All of them take these too, beside what they name (and what `DataBlock.dataloaders` takes, such as `bs`):

        valid_pct: the share of items for validation, drawn at random, in [0, 1).
        seed: decides the split, the shuffles and the transforms.
        item_tfms, batch_tfms, img_cls: as in `DataBlock` and `ImageBlock`.

    Errors are those of `DataBlock.dataloaders`.
    """

    @classmethod
    def from_folder(
        cls,
        path: PathLike,
        train: str = "train",
        valid: str = "valid",
        valid_pct: float | None = None,
        seed: int | None = None,
        vocab: Sequence[Any] | None = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: Transforms = None,
        img_cls: type[PILImage] | str = PILImage,
        **options: Any,
    ) -> DataLoaders:
        """Returns loaders of pictures in one folder a class: ``train/cat/1.jpg`` and ``valid/cat/2.jpg``.

        With `valid_pct` it is ``cat/1.jpg`` instead, or anything deeper, and the split is drawn.
        """
        _check_options(options, cls.from_folder)
        folders = None if valid_pct is not None else [train, valid]
        splitter: Splitter
        splitter = _FolderSplitter(train, valid) if valid_pct is None else RandomSplitter(valid_pct, seed)
        block = DataBlock(
            (ImageBlock(img_cls), CategoryBlock(vocab)),
            get_items=partial(get_image_files, folders=folders),
            splitter=splitter,
            get_y=parent_label,
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
        )
        return block.dataloaders(path, path, seed=seed, **options)

    @classmethod
    def from_path_func(
        cls,
        path: PathLike,
        fnames: Sequence[PathLike],
        label_func: Callable[[Any], Any],
        valid_pct: float = 0.2,
        seed: int | None = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: Transforms = None,
        img_cls: type[PILImage] | str = PILImage,
        **options: Any,
    ) -> DataLoaders:
        """Returns loaders of these files, labelled by a function of the path."""
        _check_options(options, cls.from_path_func)
        how: dict[str, Any] = {"item_tfms": item_tfms, "batch_tfms": batch_tfms, "img_cls": img_cls}
        return _of_files(path, fnames, label_func, valid_pct, seed, **how, **options)

    @classmethod
    def from_name_func(
        cls, path: PathLike, fnames: Sequence[PathLike], label_func: Callable[[str], Any], *args: Any, **options: Any
    ) -> DataLoaders:
        """Returns loaders of these files, labelled by a function of the file's name; the rest as `from_path_func`."""
        _check_options(options, cls.from_name_func, cls.from_path_func)
        return _of_files(path, fnames, using_attr(label_func, "name"), *args, **options)

    @classmethod
    def from_path_re(
        cls, path: PathLike, fnames: Sequence[PathLike], pat: str, *args: Any, **options: Any
    ) -> DataLoaders:
        """Returns loaders of these files, labelled by the first group of `pat`, searched in the path."""
        _check_options(options, cls.from_path_re, cls.from_path_func, apart_from=("label_func",))
        return _of_files(path, fnames, RegexLabeller(pat), *args, pat=pat, **options)

    @classmethod
    def from_name_re(
        cls, path: PathLike, fnames: Sequence[PathLike], pat: str, *args: Any, **options: Any
    ) -> DataLoaders:
        """Returns loaders of these files, labelled by the first group of `pat`, searched in the file's name."""
        _check_options(options, cls.from_name_re, cls.from_path_func, apart_from=("label_func",))
        return _of_files(path, fnames, using_attr(RegexLabeller(pat), "name"), *args, pat=pat, **options)

    @classmethod
    def from_df(
        cls,
        df: Any,
        path: PathLike = ".",
        valid_pct: float = 0.2,
        seed: int | None = None,
        fn_col: str | int = 0,
        folder: PathLike | None = None,
        suff: str = "",
        label_col: str | int | Sequence[str | int] = 1,
        label_delim: str | None = None,
        y_block: Any = None,
        valid_col: str | int | None = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: Transforms = None,
        img_cls: type[PILImage] | str = PILImage,
        **options: Any,
    ) -> DataLoaders:
        """Returns loaders of the rows of a table: any mapping of columns, or a frame of pandas or polars.

        Args:
            df: the table.
            path: file names are relative to it.
            valid_pct: see above.
            seed: see above.
            fn_col: the column of file names.
            folder: below `path`, put before every file name.
            suff: put after every file name, such as ".jpg".
            label_col: the column of labels, or a list of several, each then a label.
            label_delim: what separates several labels in a cell.
            y_block: what labels mean; by default several are a `MultiCategoryBlock`, numbers with floats among them a
                `RegressionBlock`, all others a `CategoryBlock`.
            valid_col: a column that is true for validation; `valid_pct` is then not used.
            item_tfms: see above.
            batch_tfms: see above.
            img_cls: see above.
            options: see above.
        """
        _check_options(options, cls.from_df)
        table = as_table(df)
        if not isinstance(label_col, (str, int)) and len(label_col) == 1:
            label_col = label_col[0]
        folder = Path(path) if folder is None else Path(path) / folder
        get_y = ColReader(label_col, label_delim=label_delim)
        block = DataBlock(
            (ImageBlock(img_cls), y_block or _block_for(apply_to_all(get_y, table, "label_col"))),
            get_x=_FileName(fn_col, folder, suff),
            get_y=get_y,
            splitter=RandomSplitter(valid_pct, seed) if valid_col is None else ColSplitter(valid_col),
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
        )
        return block.dataloaders(table, path, seed=seed, **options)

    @classmethod
    def from_csv(
        cls,
        path: PathLike,
        csv_fname: PathLike = "labels.csv",
        header: int | str | None = "infer",
        delimiter: str | None = None,
        quoting: int = csv.QUOTE_MINIMAL,
        *,
        label_col: str | int | Sequence[str | int] = 1,
        valid_col: str | int | None = None,
        **options: Any,
    ) -> DataLoaders:
        """Returns loaders of the rows of a CSV file in `path`, without pandas; `options` as in `from_df`.

        Labels and `valid_col` are read as numbers or truth values where all of a column are written so; see `read_csv`.
        """
        _check_options(options, cls.from_csv, cls.from_df, apart_from=("df",))
        labels = [label_col] if isinstance(label_col, (str, int)) else list(label_col)
        typed = labels if options.get("label_delim") is None else []
        typed = typed if valid_col is None else [*typed, valid_col]
        table = read_csv(Path(path) / csv_fname, header, delimiter, quoting, typed=typed)
        return cls.from_df(table, path, label_col=label_col, valid_col=valid_col, **options)

    @classmethod
    def from_lists(
        cls,
        path: PathLike,
        fnames: Sequence[PathLike],
        labels: Sequence[Any],
        valid_pct: float = 0.2,
        seed: int | None = None,
        y_block: Any = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: Transforms = None,
        img_cls: type[PILImage] | str = PILImage,
        **options: Any,
    ) -> DataLoaders:
        """Returns loaders of files and their labels, in two lists; `y_block` as in `from_df`."""
        _check_options(options, cls.from_lists)
        table = as_table({"fnames": fnames, "labels": labels})
        block = DataBlock(
            (ImageBlock(img_cls), y_block or _block_for(table.column("labels"))),
            getters=[ColReader("fnames"), ColReader("labels")],
            splitter=RandomSplitter(valid_pct, seed),
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
        )
        return block.dataloaders(table, path, seed=seed, **options)


def _check_options(options: dict[str, Any], *factories: Callable[..., Any], apart_from: Sequence[str] = ()) -> None:
    refuse_unknown(options, *factories, DataBlock.dataloaders, apart_from=("self", "source", *apart_from))


def _of_files(
    path: PathLike,
    fnames: Sequence[PathLike],
    get_y: Callable[[Any], Any],
    valid_pct: float = 0.2,
    seed: int | None = None,
    item_tfms: ItemTransforms = None,
    batch_tfms: Transforms = None,
    img_cls: type[PILImage] | str = PILImage,
    *,
    pat: str | None = None,
    **options: Any,
) -> DataLoaders:
    """Returns loaders of files labelled by a function, which was made of `pat` where that is given."""
    fnames = [Path(name) for name in fnames]
    labels = apply_to_all(get_y, fnames, "label_func" if pat is None else "pat", pat)
    block = DataBlock(
        (ImageBlock(img_cls), _block_for(labels)),
        splitter=RandomSplitter(valid_pct, seed),
        get_y=get_y,
        item_tfms=item_tfms,
        batch_tfms=batch_tfms,
    )
    return block.dataloaders(fnames, path, seed=seed, **options)


@dataclass(frozen=True)
class _FileName:
    """Row -> path of its file; one that is absolute stays so."""

    col: str | int
    folder: Path
    suff: str

    def __call__(self, row: Any) -> Path:
        return self.folder / f"{row[self.col]}{self.suff}"


class _FolderSplitter(GrandparentSplitter):
    """As its base, but a picture that is in neither set is an error: it lies too high or too deep."""

    def __call__(self, items: Sequence[Any]) -> Split:
        train, valid = super().__call__(items)
        held = set(train) | set(valid)
        if rest := [i for i in range(len(items)) if i not in held]:
            raise DataError(
                f"{len(rest)} of {len(items)} pictures do not lie in `{self.train_name}/<class>/` or "
                f"`{self.valid_name}/<class>/`: {name_items(items, rest)}. Move or remove them."
            )
        return train, valid


def _block_for(labels: Sequence[Any]) -> Any:
    """Returns the block that suits these labels."""
    several = [label for label in labels if isinstance(label, (list, tuple)) or getattr(label, "ndim", 0) == 1]
    if several:
        measured = all(map(len, several)) and _are_measured([value for label in several for value in label])
        return RegressionBlock() if measured else MultiCategoryBlock()
    return RegressionBlock() if _are_measured([v for v in labels if not is_missing(v)]) else CategoryBlock()


def _are_measured(values: Sequence[Any]) -> bool:
    """Whether these are numbers, with floats among them: whole numbers alone are classes."""
    plain = [value.item() if getattr(value, "ndim", None) == 0 else value for value in values]  # NumPy's and torch's
    kinds = set(map(type, plain))
    return float in kinds and kinds <= {float, int}
