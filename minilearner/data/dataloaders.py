"""The loaders of a training run: one for training, one for validation, checked when they are built.

`memory_loader`, `item_loader` and `foreign_loader` make the batches; `targets` says what labels mean.
`loader_pair` has what is done with both loaders, and `new_item_loaders` how a model gets new items.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Generic

import torch
from torch.utils.data import DataLoader, Dataset
from typing_extensions import TypeVar

from minilearner.checks import check_count
from minilearner.data.arrays import as_pair, check_alike
from minilearner.data.batch_transforms import Pipeline, Transforms, check_unit_range
from minilearner.data.data_plan import NewItems
from minilearner.data.foreign_loader import ForeignLoader
from minilearner.data.given_loader import ListedItems, as_loader, is_dataset, length_of
from minilearner.data.item_loader import ItemLoader
from minilearner.data.item_views import view_part
from minilearner.data.loader import DerivedLoader, Loader
from minilearner.data.memory_loader import MemoryLoader
from minilearner.data.new_item_loaders import NewItemLoaders
from minilearner.data.share import choose_drop_last, drops_last
from minilearner.data.targets import Category, Target, encode_labels, infer_target
from minilearner.data.tensor_types import TensorBase
from minilearner.data.turns import Turns
from minilearner.keywords import check_unknown, suggest_keywords
from minilearner.runtime import draw_seed, isolate_rng, keep_freed_memory, resolve_device
from minilearner.sources.paths import DataPath

__all__ = ["DataLoaders"]

_Label = TypeVar("_Label", default=Any)
_Name = TypeVar("_Name", default=Any)


@suggest_keywords
class DataLoaders(NewItemLoaders, Generic[_Label]):
    """A training loader and, optionally, a validation loader, with what their labels mean.

    >>> dls = DataLoaders(train_dataset, valid_dataset, bs=64)        # torch datasets
    >>> dls = DataLoaders(train_loader, valid_loader)                 # torch DataLoaders, or any re-iterable of (x, y)
    >>> dls = DataLoaders.from_arrays((x, y), (vx, vy), bs=64)        # NumPy arrays or tensors

    Args:
        train: a loader, a map-style torch dataset, or a re-iterable with a length that yields batches ``(x, y)``.
            Datasets are shuffled by (seed, epoch). Their short last batch is dropped, unless it has more than a tenth
            of the items.
        valid: the same for validation, in order and complete; None for no validation.
        bs: items per batch of a dataset. A loader has its own; `.bs` has what holds for the training loader.
        seed: decides every shuffle and augmentation of ours. None draws one number from torch's generator, and leaves
            that as it was if nothing here depends on the seed; `.seed` has the number.
        target: what labels mean. None: `vocab`, a training loader of ours, or the dataset's `.classes` says it; else it
            is unknown.
        vocab: names of the classes, in the order of their numbers.
        device: where batches arrive; the default device when None.
        path: where a learner of these loaders puts its files.
        new_items: how `test_dl` turns new items into inputs and labels, if loaders read items one by one.

    Raises:
        TypeError: a source cannot be iterated twice, or has no length.
        ValueError: `bs` is less than 1, or both `target` and `vocab` are given.
        DataError: a source has no batches.
    """

    def __init__(
        self,
        train: Any,
        valid: Any = None,
        *,
        bs: int = 64,
        seed: int | None = None,
        target: Target | None = None,
        vocab: Sequence[_Label] | None = None,
        device: torch.device | str | None = None,
        path: str | os.PathLike[str] = ".",
        new_items: NewItems | None = None,
    ) -> None:
        check_count(bs, "bs")
        _check_one_meaning(target, vocab)
        self.seed = _seed(seed, is_used=any(is_dataset(source) for source in (train, valid)))
        self.device = resolve_device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.path = DataPath(path)
        self.skipped: tuple[tuple[Any, str], ...] = ()
        """Items that were left out because they cannot be read, each with the reason."""
        self.new_items = new_items
        self.split_items, self._extra_tfms, self._turns = None, (), Turns()
        self.train = as_loader(train, "train", bs=bs, seed=self.seed, device=self.device)
        self.bs = _batch_size(self.train) or bs
        self.valid = None if valid is None else as_loader(valid, "valid", bs=bs, seed=self.seed, device=self.device)
        if isinstance(train, DataLoader) and drops_last(train) and (n := length_of(train.dataset)) and train.batch_size:
            choose_drop_last(n, train.batch_size, is_asked_for=True)  # says what torch's loader leaves out
        if target is None and vocab is None:
            target, vocab = _target_of(train), _classes(train)
        self._target = target if target is not None or vocab is None else Category(vocab)
        for loader in self.loaders:
            loader.target = self._target
        self._set_up_transforms()

    @classmethod
    def from_arrays(
        cls,
        train: tuple[Any, Any],
        valid: tuple[Any, Any] | None = None,
        *,
        bs: int = 64,
        vocab: Sequence[_Name] | None = None,
        target: Target | None = None,
        item_tfms: Transforms = None,
        batch_tfms: Transforms = None,
        seed: int | None = None,
        drop_last: bool = True,
        device: torch.device | str | None = None,
    ) -> DataLoaders[_Name]:
        """Returns loaders of arrays ``(x, y)`` in memory, NumPy's or tensors.

        Inputs x are (items, ...), images (items, channels, height, width). uint8 is stored as it is, and arrives as
        float32 in [0, 1]. In labels y, (items, ...), text and integers are classes, and floats are numbers to regress.
        `vocab`, or the sorted labels of `train`, give text its numbers; integers are class numbers already, from 0 to
        the largest in `train`.

        Args:
            train: ``(x, y)``.
            valid: ``(x, y)`` of the same kind, or None.
            bs: items per batch.
            vocab: names of the classes.
            target: what labels mean, if `vocab` and the labels do not say it.
            item_tfms: functions of all the inputs of a split, applied once, here.
            batch_tfms: transforms of each batch; see `batch_transforms.Pipeline`.
            seed: as for `DataLoaders`.
            drop_last: leave out the short last batch of training, unless it has more than a tenth of the items: then it
                is kept, and a line says so.
            device: where the arrays are kept; the default device when None.

        Raises:
            TypeError: `train` or `valid` is not a pair.
            DataError: the arrays do not match, or hold values that cannot be trained on; the message says where.
        """
        _check_one_meaning(target, vocab)
        seed = _seed(seed, is_used=True)
        x, raw = as_pair(train, "train")
        target = target if target is not None else infer_target(raw, vocab)
        pipeline = Pipeline(batch_tfms)
        how = {"item_tfms": item_tfms, "batch_tfms": pipeline}
        options: dict[str, Any] = {"bs": bs, "seed": seed, "device": device, **how}
        y = encode_labels(target, raw, split="train")
        check_count(bs, "bs")
        does_drop = drop_last and choose_drop_last(len(x), bs)
        loader = MemoryLoader(x, y, shuffle=True, drop_last=does_drop, training=True, **options)
        loader.keeps_large_rest = True
        check_unit_range(loader.x, pipeline, "`x` of train")
        valid_loader = None
        if valid is not None:
            vx, raw = as_pair(valid, "valid")
            check_alike(x, vx)
            valid_loader = MemoryLoader(vx, encode_labels(target, raw, split="valid"), **options)
        loaders: DataLoaders[Any] = cls(loader, valid_loader, bs=bs, seed=seed, target=target, device=device)
        return loaders

    @property
    def n_inp(self) -> int:
        """How many inputs an item has."""
        return len(self.one_batch()) - 1 if self.new_items is None else len(self.new_items.plan.inputs)

    @property
    def train_ds(self) -> Any:
        """The training set, in order, without transforms; see `ItemView`. Of a foreign loader, its own dataset."""
        return self._view(0)

    @property
    def valid_ds(self) -> Any:
        """The validation set, as `train_ds`."""
        return self._view(1)

    def _view(self, ds_idx: int) -> Any:
        loader = self.loader(ds_idx)
        if isinstance(loader, ItemLoader):
            sources = loader.dataset.items
            read = loader.dataset.read if self.new_items is None else self.new_items.read
            items = sources if self.split_items is None else self.split_items[ds_idx]
            return view_part(items, lambda i: read(sources[i]), loader.y, self._target, self.n_inp)
        if isinstance(loader, MemoryLoader):
            x = loader.x
            return view_part(range(len(x)), lambda i: TensorBase(x[i].cpu()), loader.y, self._target)
        return getattr(loader.source, "dataset", loader.source) if isinstance(loader, ForeignLoader) else loader

    @classmethod
    def from_dsets(cls, train: Any, valid: Any = None, *, bs: int = 64, **options: Any) -> DataLoaders:
        """Returns loaders of datasets, or of lists of pairs ``(x, y)``.

        Args:
            train: the items for training: anything with a length and items by position.
            valid: the same for validation.
            bs: items per batch.
            options: as for `DataLoaders`.
        """
        check_unknown(options, cls, apart_from=("self", "train", "valid"))
        sets = [one if one is None or isinstance(one, Dataset) else ListedItems(one) for one in (train, valid)]
        return cls(*sets, bs=bs, **options)

    @classmethod
    def from_dblock(cls, dblock: Any, source: Any, path: str | os.PathLike[str] = ".", **options: Any) -> DataLoaders:
        """Returns `dblock.dataloaders(source, path, **options)`."""
        loaders: DataLoaders = dblock.dataloaders(source, path, **options)
        return loaders

    def new(self, **changes: Any) -> Loader:
        """Returns a training loader of the same items with other arguments; see `DerivedLoader.new`.

        Raises:
            TypeError: an argument is unknown, or the training loader is not ours.
        """
        if not isinstance(self.train, DerivedLoader):
            raise TypeError(
                f"only loaders of ours can be made anew. Received: {self.train}. Make one with DataLoaders."
            )
        return self.train.new(**changes)


def _seed(seed: int | None, *, is_used: bool) -> int:
    if seed is not None:
        check_count(seed, "seed", least=None)
        return seed if isinstance(seed, int) else int(seed)  # a drawn seed must stay one
    if is_used:
        return draw_seed()
    with isolate_rng():  # a plain loop over the same foreign loaders would draw nothing here
        return draw_seed()


def _check_one_meaning(target: Target | None, vocab: Sequence[Any] | None) -> None:
    if target is not None and vocab is not None:
        raise ValueError("Give `target` or `vocab`, not both: a Category target holds its own vocabulary.")


def _batch_size(loader: Loader) -> int | None:
    """Returns how many items a batch of this loader has; None if it does not say."""
    source = getattr(loader, "source", None)
    sampler = getattr(source, "batch_sampler", None)
    sizes = getattr(loader, "bs", None), getattr(source, "batch_size", None), getattr(sampler, "batch_size", None)
    return next((size for size in sizes if isinstance(size, int) and size > 0), None)


def _target_of(source: Any) -> Target | None:
    """Returns what labels mean to a loader of ours that was made for other loaders, such as one of `new`."""
    return source.target if isinstance(source, Loader) else None


def _classes(source: Any) -> Sequence[Any] | None:
    """Returns the class names of the dataset under a loader, through any number of torch's `Subset`s."""
    for _ in range(8):
        names = getattr(source, "classes", None)
        if isinstance(names, (list, tuple)):
            return names
        source = getattr(source, "dataset", None) or getattr(source, "source", None)
    return None
