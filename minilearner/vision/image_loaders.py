"""`ImageDataLoaders`: image loaders in one call, for the layouts in which image data sets come.

Each method builds a `DataBlock`, which does the work.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from typing_extensions import TypeVar, Unpack

from minilearner.data.batch_transforms import Transforms
from minilearner.data.blocks import CategoryBlock
from minilearner.data.data_block import DataBlock
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.item_transforms import ItemPipeline, ItemTransforms
from minilearner.data.items import PathLike, get_image_files
from minilearner.data.labels import (
    ColReader,
    RegexLabeller,
    apply_to_all,
    is_missing,
    parent_label,
    using_attr,
)
from minilearner.data.splits import ColSplitter, IndexSplitter, RandomSplitter, Splitter
from minilearner.data.table import Table, as_table, read_csv
from minilearner.errors import DataError
from minilearner.keywords import check_unknown, suggest_keywords
from minilearner.runtime import draw_seed
from minilearner.vision.folder_layouts import FolderSplitter, find_class_images, find_set_images
from minilearner.vision.huggingface import as_rows, class_names, split_dataset
from minilearner.vision.image_block import ImageBlock, PILImage
from minilearner.vision.label_blocks import block_of, choose_block
from minilearner.vision.loader_options import FileOptions, LoaderOptions, TableOptions
from minilearner.vision.streams import StreamReader, find_classes

__all__ = ["ImageDataLoaders"]

_Name = TypeVar("_Name", default=Any)


@suggest_keywords
class ImageDataLoaders:
    """Makes `DataLoaders` of images. Each method builds a `DataBlock` that you could also write yourself.

    All methods also accept these arguments, and those of `DataBlock.dataloaders`, such as `bs`:

        valid_pct: the share of items for validation, drawn at random, in [0, 1).
        seed: decides the split, the shuffling and the random transforms.
        item_tfms, batch_tfms, img_cls: as in `DataBlock` and `ImageBlock`.
        splitter: splits the items in place of `valid_pct`, such as a `GroupSplitter`.

    They raise the errors of `DataBlock.dataloaders`.
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
        *,
        splitter: Splitter | None = None,
        **options: Unpack[LoaderOptions],
    ) -> DataLoaders[str]:
        """Returns loaders of images in one folder per class: ``train/cat/1.jpg`` and ``valid/cat/2.jpg``.

        With `valid_pct`, the layout is ``cat/1.jpg``, or anything deeper, and the split is random. Images without a
        class are refused: those directly in `path`, and those in a folder that holds a set, such as ``test/3.jpg``.
        If ``test`` is a class of yours, name all classes in `vocab`.

        Args:
            path: the folder of the data set.
            train: the name of the folder for training.
            valid: the name of the folder for validation.
            valid_pct: see above.
            seed: see above.
            vocab: the classes, in order. By default the sorted labels.
            item_tfms: see above.
            batch_tfms: see above.
            img_cls: see above.
            splitter: see above.
            options: see above.
        """
        _check_options(options, cls.from_folder)
        get_items: Callable[[Any], Sequence[Any]] = get_image_files if vocab is not None else find_class_images
        _check_one_split(splitter, valid_pct=valid_pct)
        if splitter is None and valid_pct is None:
            get_items = partial(find_set_images, train=train, valid=valid)
        if splitter is None:
            splitter = FolderSplitter(train, valid) if valid_pct is None else RandomSplitter(valid_pct, seed)
        block = DataBlock(
            (ImageBlock(img_cls), CategoryBlock(vocab)),
            get_items=get_items,
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
        label_func: Callable[[Any], _Name],
        valid_pct: float = 0.2,
        seed: int | None = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: Transforms = None,
        img_cls: type[PILImage] | str = PILImage,
        *,
        splitter: Splitter | None = None,
        **options: Unpack[LoaderOptions],
    ) -> DataLoaders[_Name]:
        """Returns loaders of the files `fnames`, labelled by a function of the path.

        Args:
            path: the folder of the data set.
            fnames: the files.
            label_func: path -> label.
            valid_pct: see above.
            seed: see above.
            item_tfms: see above.
            batch_tfms: see above.
            img_cls: see above.
            splitter: see above.
            options: see above.
        """
        _check_options(options, cls.from_path_func)
        how: dict[str, Any] = {"item_tfms": item_tfms, "batch_tfms": batch_tfms, "img_cls": img_cls}
        how["splitter"] = splitter
        return _load_files(path, fnames, label_func, valid_pct, seed, **how, **options)

    @classmethod
    def from_name_func(
        cls,
        path: PathLike,
        fnames: Sequence[PathLike],
        label_func: Callable[[str], _Name],
        *args: Any,
        **options: Unpack[FileOptions],
    ) -> DataLoaders[_Name]:
        """Returns loaders of the files `fnames`, labelled by a function of the file's name.

        Args:
            path: the folder of the data set.
            fnames: the files.
            label_func: file name -> label.
            args: as for `from_path_func`.
            options: see above.
        """
        _check_options(options, cls.from_name_func, cls.from_path_func)
        return _load_files(path, fnames, using_attr(label_func, "name"), *args, **options)

    @classmethod
    def from_path_re(
        cls,
        path: PathLike,
        fnames: Sequence[PathLike],
        pat: str,
        *args: Any,
        **options: Unpack[FileOptions],
    ) -> DataLoaders[str]:
        """Returns loaders of the files `fnames`, labelled by a regular expression searched in the path.

        Args:
            path: the folder of the data set.
            fnames: the files.
            pat: the regular expression, whose first group is the label.
            args: as for `from_path_func`.
            options: see above.
        """
        _check_options(options, cls.from_path_re, cls.from_path_func, apart_from=("label_func",))
        return _load_files(path, fnames, RegexLabeller(pat), *args, pat=pat, **options)

    @classmethod
    def from_name_re(
        cls,
        path: PathLike,
        fnames: Sequence[PathLike],
        pat: str,
        *args: Any,
        **options: Unpack[FileOptions],
    ) -> DataLoaders[str]:
        """Returns loaders of the files `fnames`, labelled by a regular expression searched in the file's name.

        Args:
            path: the folder of the data set.
            fnames: the files.
            pat: the regular expression, whose first group is the label.
            args: as for `from_path_func`.
            options: see above.
        """
        _check_options(options, cls.from_name_re, cls.from_path_func, apart_from=("label_func",))
        return _load_files(path, fnames, using_attr(RegexLabeller(pat), "name"), *args, pat=pat, **options)

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
        *,
        splitter: Splitter | None = None,
        **options: Unpack[LoaderOptions],
    ) -> DataLoaders:
        """Returns loaders of the rows of a table: any mapping of columns, or a pandas or polars frame.

        Args:
            df: the table.
            path: the folder that file names are relative to.
            valid_pct: see above. Not used with `valid_col`.
            seed: see above.
            fn_col: the column of file names.
            folder: a folder below `path` to put before every file name.
            suff: a suffix to put after every file name, such as ".jpg".
            label_col: the column of labels, or a list of columns for several labels per image.
            label_delim: the separator of several labels in one cell.
            y_block: what labels mean. By default, several labels make a `MultiCategoryBlock`, floats a
                `RegressionBlock`, and everything else a `CategoryBlock`. Several columns of zeros and ones are classes
                with the names of the columns.
            valid_col: a column that is true for validation items.
            item_tfms: see above.
            batch_tfms: see above.
            img_cls: see above.
            splitter: see above.
            options: see above.
        """
        _check_options(options, cls.from_df)
        _check_one_split(splitter, valid_col=valid_col)
        table = as_table(df)
        if not isinstance(label_col, (str, int)) and len(label_col) == 1:
            label_col = label_col[0]
        folder = Path(path) if folder is None else Path(path) / folder
        get_y = ColReader(label_col, label_delim=label_delim)
        names = None if isinstance(label_col, (str, int)) else [table.column_name(col) for col in label_col]
        block = DataBlock(
            (ImageBlock(img_cls), y_block or choose_block(apply_to_all(get_y, table, "label_col"), names)),
            get_x=_FileName(fn_col, folder, suff),
            get_y=get_y,
            splitter=splitter or (RandomSplitter(valid_pct, seed) if valid_col is None else ColSplitter(valid_col)),
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
        encoding: str | None = None,
        **options: Unpack[TableOptions],
    ) -> DataLoaders:
        """Returns loaders of the rows of a CSV file, read without pandas.

        A column of labels, or `valid_col`, is read as numbers or truth values if all its cells look like that; see
        `read_csv`.

        Args:
            path: the folder of the data set.
            csv_fname: the CSV file in `path`.
            header: "infer" or 0 if the first line holds the column names. None if columns have no names.
            delimiter: the separator of cells; by default what the first line shows, as `read_csv` says.
            quoting: a constant of the module `csv`.
            label_col: as for `from_df`.
            valid_col: as for `from_df`.
            encoding: such as "cp1252". None is UTF-8, or UTF-16 if the file begins with its byte-order mark.
            options: as for `from_df`.
        """
        _check_options(options, cls.from_csv, cls.from_df, apart_from=("df",))
        labels = [label_col] if isinstance(label_col, (str, int)) else list(label_col)
        typed = labels if options.get("label_delim") is None else []
        typed = typed if valid_col is None else [*typed, valid_col]
        table = read_csv(Path(path) / csv_fname, header, delimiter, quoting, typed=typed, encoding=encoding)
        return cls.from_df(table, path, label_col=label_col, valid_col=valid_col, **options)

    @classmethod
    def from_lists(
        cls,
        path: PathLike,
        fnames: Sequence[PathLike],
        labels: Sequence[_Name],
        valid_pct: float = 0.2,
        seed: int | None = None,
        y_block: Any = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: Transforms = None,
        img_cls: type[PILImage] | str = PILImage,
        *,
        splitter: Splitter | None = None,
        **options: Unpack[LoaderOptions],
    ) -> DataLoaders[_Name]:
        """Returns loaders of files and their labels, given as two lists.

        Args:
            path: the folder that file names are relative to.
            fnames: the files.
            labels: one label per file.
            valid_pct: see above.
            seed: see above.
            y_block: as for `from_df`.
            item_tfms: see above.
            batch_tfms: see above.
            img_cls: see above.
            splitter: see above.
            options: see above.
        """
        _check_options(options, cls.from_lists)
        table = as_table({"fnames": fnames, "labels": labels})
        block = DataBlock(
            (ImageBlock(img_cls), y_block or choose_block(table.column("labels"))),
            getters=[ColReader("fnames"), ColReader("labels")],
            splitter=splitter or RandomSplitter(valid_pct, seed),
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
        )
        return block.dataloaders(table, path, seed=seed, **options)

    @classmethod
    def from_huggingface(
        cls,
        dataset: Any,
        image_col: str = "image",
        label_col: str = "label",
        valid: Any = None,
        valid_pct: float = 0.2,
        seed: int | None = None,
        y_block: Any = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: Transforms = None,
        img_cls: type[PILImage] | str = PILImage,
        path: PathLike = ".",
        *,
        splitter: Splitter | None = None,
        **options: Unpack[LoaderOptions],
    ) -> DataLoaders:
        """Returns loaders of a dataset of Hugging Face's library `datasets`, whose class names it takes.

        >>> dls = ImageDataLoaders.from_huggingface(load_dataset("beans"), item_tfms=Resize(224))  # doctest: +SKIP

        An image is decoded when its batch is read. Transforms and formats of the dataset itself are left aside.

        Args:
            dataset: a `datasets.Dataset`, or a `DatasetDict` with a split "train". For a streamed one, see
                `from_stream`.
            image_col: the column of images.
            label_col: the column of labels.
            valid: the validation set: a dataset, or the name of a split. None takes the split "validation" if there is
                one, or else draws a share of the training set.
            valid_pct: see above. Not used if there is a validation set.
            seed: see above.
            y_block: as for `from_df`.
            item_tfms: see above.
            batch_tfms: see above.
            img_cls: see above.
            path: where a learner of these loaders puts its files.
            splitter: see above. It splits the rows of the training set, and sees all columns but images.
            options: see above.
        """
        _check_options(options, cls.from_huggingface)
        _check_one_split(splitter, valid=valid)
        train, held = split_dataset(dataset, valid)
        held = held if splitter is None else None
        tables = [as_rows(one, image_col, label_col) for one in (train, held) if one is not None]
        table = Table({name: [cell for one in tables for cell in one.column(name)] for name in tables[0].columns})
        if splitter is None:
            is_drawn = held is None
            splitter = RandomSplitter(valid_pct, seed) if is_drawn else IndexSplitter(range(len(train), len(table)))
        block = DataBlock(
            (ImageBlock(img_cls), y_block or block_of(table.column(label_col), class_names(train, label_col))),
            getters=[ColReader(image_col), ColReader(label_col)],
            splitter=splitter,
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
        )
        return block.dataloaders(table, path, seed=seed, **options)

    @classmethod
    def from_stream(
        cls,
        train: Iterable[Any],
        n_train: int,
        valid: Iterable[Any] | None = None,
        n_valid: int | None = None,
        get_x: Any = "image",
        get_y: Any = "label",
        vocab: Sequence[Any] | None = None,
        seed: int | None = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: Transforms = None,
        img_cls: type[PILImage] | str = PILImage,
        path: PathLike = ".",
        *,
        bs: int = 64,
        num_workers: int = 0,
        device: Any = None,
    ) -> DataLoaders:
        """Returns loaders of streams: iterables of items that have no length and no positions.

        Streamed datasets of Hugging Face and WebDataset's tar files are such iterables::

            train = load_dataset("imagenet-1k", split="train", streaming=True).shuffle(buffer_size=10_000)
            dls = ImageDataLoaders.from_stream(train, 1_281_167, item_tfms=Resize(224))

            train = wds.WebDataset("train-{000..099}.tar", shardshuffle=100).shuffle(1000).decode("pil")
            dls = ImageDataLoaders.from_stream(train, 50_000, get_x="jpg", get_y="cls", item_tfms=Resize(224))

        The order is the stream's own: let it shuffle for training, not for validation. Each epoch begins the stream
        anew, and a `set_epoch` of it is called.

        Args:
            train: the stream for training. It can be iterated again and again.
            n_train: how many of its items an epoch has; of a stream that ends, all of them.
            valid: the stream for validation.
            n_valid: the number of its items.
            get_x: where an item has its image: a key, a position, or a function of the item.
            get_y: the same for its label: a class, its number, or a number to regress.
            vocab: the names of the classes. None takes those that a dataset of Hugging Face knows.
            seed: decides the random transforms.
            item_tfms: see above.
            batch_tfms: see above.
            img_cls: see above.
            path: where a learner of these loaders puts its files.
            bs: items per batch.
            num_workers: processes that read ahead.
            device: where batches arrive.

        Raises:
            TypeError: a stream cannot be iterated again.
            ValueError: `valid` and `n_valid` do not come together.
            DataError: (when a batch is read) an item has no such part, or a stream ends too early.
        """
        if (valid is None) != (n_valid is None):
            raise ValueError(f"Give `valid` and `n_valid`, or neither. Received: n_valid={n_valid}.")
        vocab = find_classes(train, get_y) if vocab is None else vocab
        seed = draw_seed() if seed is None else seed
        how = StreamReader(ImageBlock(img_cls), get_x, get_y, tuple(vocab or ()), ItemPipeline(item_tfms), seed)
        options: dict[str, Any] = {"bs": bs, "num_workers": num_workers, "batch_tfms": batch_tfms, "device": device}
        loaders = [how.load(train, n_train, "train", **options)]
        if valid is not None and n_valid is not None:
            loaders.append(how.load(valid, n_valid, "valid", **options))
        return DataLoaders(*loaders, bs=bs, seed=seed, vocab=vocab, device=device, path=path)

    @classmethod
    def from_dblock(cls, dblock: DataBlock, source: Any, path: PathLike = ".", **options: Any) -> DataLoaders:
        """Returns `dblock.dataloaders(source, path, **options)`.

        Args:
            dblock: what the data are.
            source: what its `get_items` takes, or the items themselves.
            path: where a learner of these loaders puts its files.
            options: as for `DataBlock.dataloaders`.
        """
        return dblock.dataloaders(source, path, **options)


def _check_options(options: Mapping[str, Any], *factories: Callable[..., Any], apart_from: Sequence[str] = ()) -> None:
    check_unknown(options, *factories, DataBlock.dataloaders, apart_from=("self", "source", *apart_from))


def _check_one_split(splitter: Splitter | None, **other: Any) -> None:
    """Raises if a splitter is given, and so is another argument that says how to split."""
    for name, value in other.items():
        if splitter is not None and value is not None:
            raise ValueError(
                f"Give `splitter` or `{name}`, not both. Received: {name}={value!r}, splitter={splitter!r:.80}."
            )


def _load_files(
    path: PathLike,
    fnames: Sequence[PathLike],
    get_y: Callable[[Any], Any],
    valid_pct: float = 0.2,
    seed: int | None = None,
    item_tfms: ItemTransforms = None,
    batch_tfms: Transforms = None,
    img_cls: type[PILImage] | str = PILImage,
    *,
    splitter: Splitter | None = None,
    pat: str | None = None,
    **options: Any,
) -> DataLoaders:
    """Returns loaders of files labelled by `get_y`. Errors show `pat`, the regular expression it was made from."""
    fnames = [Path(name) for name in fnames]
    labels = apply_to_all(get_y, fnames, "label_func" if pat is None else "pat", pat)
    block = DataBlock(
        (ImageBlock(img_cls), choose_block(labels)),
        splitter=splitter or RandomSplitter(valid_pct, seed),
        get_y=get_y,
        item_tfms=item_tfms,
        batch_tfms=batch_tfms,
    )
    return block.dataloaders(fnames, path, seed=seed, **options)


@dataclass(frozen=True)
class _FileName:
    """Row -> path of its file. An absolute file name stays as it is."""

    col: str | int
    folder: Path
    suff: str

    def __call__(self, row: Any) -> Path:
        name = row[self.col]
        if is_missing(name):
            raise DataError(f"the cell in column {self.col!r}, which names the file, is empty")
        return self.folder / f"{name}{self.suff}"
