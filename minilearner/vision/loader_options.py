"""The keyword arguments that `ImageDataLoaders` hands on, for type checkers to know their names."""

from __future__ import annotations

from typing import Any

import torch
from typing_extensions import TypedDict

from minilearner.data.batch_transforms import Transforms
from minilearner.data.data_block import OnUnreadable, Verify
from minilearner.data.item_transforms import ItemTransforms
from minilearner.data.items import PathLike
from minilearner.data.splits import Splitter
from minilearner.vision.image_block import PILImage

__all__ = ["FileOptions", "LoaderOptions", "TableOptions"]


class LoaderOptions(TypedDict, total=False):
    """What `DataBlock.dataloaders` takes."""

    bs: int
    val_bs: int | None
    shuffle: bool
    drop_last: bool | None
    num_workers: int | None
    device: torch.device | str | None
    verify: Verify
    on_unreadable: OnUnreadable
    cache: bool | PathLike | None
    weights: Any
    relabel: PathLike | None


class FileOptions(LoaderOptions, total=False):
    """What `ImageDataLoaders.from_path_func` takes too."""

    valid_pct: float
    seed: int | None
    item_tfms: ItemTransforms
    batch_tfms: Transforms
    img_cls: type[PILImage] | str
    splitter: Splitter | None


class TableOptions(FileOptions, total=False):
    """What `ImageDataLoaders.from_df` takes too."""

    fn_col: str | int
    folder: PathLike | None
    suff: str
    label_delim: str | None
    y_block: Any
