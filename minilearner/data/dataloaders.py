"""The loaders of a training run: one for training, one for validation, checked when they are built.

`memory_loader`, `item_loader` and `foreign_loader` make the batches; `targets` says what labels mean.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from typing_extensions import TypeVar

from minilearner.checks import check_count
from minilearner.data.arrays import as_inputs, as_pair, check_alike
from minilearner.data.batch_transforms import BatchTransform, Pipeline, TensorFunction, Transforms, check_unit_range
from minilearner.data.data_plan import NewItems
from minilearner.data.foreign_loader import ForeignLoader
from minilearner.data.given_loader import ListedItems, as_loader, is_dataset, length_of
from minilearner.data.image_modes import as_byte_image
from minilearner.data.item_dataset import as_tensor
from minilearner.data.item_loader import ItemLoader
from minilearner.data.item_transforms import ItemPipeline
from minilearner.data.item_views import view_part
from minilearner.data.loader import DerivedLoader, Loader
from minilearner.data.loader_state import restore_loaders
from minilearner.data.memory_loader import MemoryLoader
from minilearner.data.share import choose_drop_last, drops_last
from minilearner.data.stream_loader import StreamLoader
from minilearner.data.targets import Category, ClassNumbers, Target, as_labels, encode_labels, infer_target
from minilearner.data.tensor_types import TensorBase
from minilearner.data.transform import Transform
from minilearner.data.turns import Turns
from minilearner.data.vocabulary import Vocab
from minilearner.errors import DataError, plural
from minilearner.glance import AtAGlance, Glance, enumerate_names
from minilearner.keywords import check_unknown, suggest_keywords
from minilearner.runtime import draw_seed, isolate_rng, keep_freed_memory, resolve_device
from minilearner.sources.paths import DataPath
from minilearner.threads import is_trained_on_elsewhere
from minilearner.tree import Tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DataLoaders"]

_Label = TypeVar("_Label", default=Any)
_Name = TypeVar("_Name", default=Any)


@suggest_keywords
class DataLoaders(AtAGlance, Generic[_Label]):
    """A training loader and, optionally, a validation loader, with what their labels mean.

    >>> dls = DataLoaders(train_dataset, valid_dataset, bs=64)        # torch datasets
    >>> dls = DataLoaders(train_loader, valid_loader)                 # torch DataLoaders, or any re-iterable of (x, y)
    >>> dls = DataLoaders.from_arrays((x, y), (vx, vy), bs=64)        # NumPy arrays or tensors

    Args:
        train: a loader, a map-style torch dataset, or a re-iterable with a length that yields batches ``(x, y)``.
            Datasets are shuffled by (seed, epoch). Their short last batch is dropped, unless it has more than a tenth
            of the items.
        valid: the same for validation, in order and complete; None for no validation.
        bs: items per batch, for datasets only.
        seed: decides every shuffle and augmentation of ours. None draws one number from torch's generator, and leaves
            that as it was if nothing here depends on the seed; `.seed` has the number.
        target: what labels mean. None: `vocab`, or the dataset's `.classes`, gives a `Category`; else it is unknown.
        vocab: names of the classes, in the order of their numbers.
        device: where batches arrive; the default device when None.
        path: where a learner of these loaders puts its files.
        new_items: how `test_dl` turns new items into inputs and labels, if loaders read items one by one.

    Raises:
        TypeError: a source cannot be iterated twice, or has no length.
        ValueError: `bs` is less than 1, or both `target` and `vocab` are given.
        DataError: a source has no batches.
    """

    train: Loader
    """The training loader."""
    valid: Loader | Any
    """The validation loader; None without one, which type checkers do not ask about."""
    _turns: Turns | None = None  # loaders without training data have none

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
        self.bs = bs
        self.path = DataPath(path)
        self.skipped: tuple[tuple[Any, str], ...] = ()
        """Items that were left out because they cannot be read, each with the reason."""
        self.new_items = new_items
        self.split_items: tuple[Any, Any] | None = None
        """What the items of each set are made from, such as rows, if that is known."""
        self._extra_tfms: tuple[BatchTransform, ...] = ()
        self._turns = Turns()
        self.train = as_loader(train, "train", bs=bs, seed=self.seed, device=self.device)
        self.valid = None if valid is None else as_loader(valid, "valid", bs=bs, seed=self.seed, device=self.device)
        if isinstance(train, DataLoader) and drops_last(train) and (n := length_of(train.dataset)) and train.batch_size:
            choose_drop_last(n, train.batch_size, is_asked_for=True)  # says what torch's loader leaves out
        vocab = vocab if vocab is not None else _classes(train)
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
    def target(self) -> Target | None:
        """What labels mean. If it was not given, integers in the first batch are class numbers; else None."""
        if self._target is None:
            _, y = self.loader(0).first_batch()
            if isinstance(y, Tensor) and y.ndim == 1 and not (y.is_floating_point() or y.is_complex()):
                self._target = ClassNumbers()
        return self._target

    @property
    def vocab(self) -> Vocab | Any:
        """The classes in the order of their numbers; None if there are none or they are unknown."""
        names = getattr(self.target, "vocab", None)
        return None if names is None else Vocab(names)

    @property
    def c(self) -> int:
        """How many outputs a model needs: classes, or numbers to regress.

        Raises:
            DataError: it is unknown, as for foreign loaders that were given neither `vocab` nor `target`.
        """
        n = None if self.target is None else self.target.n_out
        if n is None:
            raise DataError(
                "`dls.c` is unknown, since nothing says how many outputs the targets need. Give `vocab` or `target` to "
                "DataLoaders, or write the number yourself."
            )
        return n

    def loader(self, ds_idx: int) -> Loader:
        """Returns the training loader for 0, the validation loader for 1.

        Raises:
            ValueError: `ds_idx` is another number, or 1 without a validation set.
        """
        check_count(ds_idx, "ds_idx", least=None)
        if ds_idx not in (0, 1):
            raise ValueError(f"`ds_idx` must be 0 (training) or 1 (validation). Received: ds_idx={ds_idx}.")
        chosen = self.valid if ds_idx else self.train
        if chosen is None:
            raise ValueError("There is no validation set. Give `valid` to DataLoaders, or use ds_idx=0.")
        return chosen

    def in_order(self, ds_idx: int) -> Loader:
        """Returns every item of a split in dataset order, without augmentation."""
        return self.loader(ds_idx).in_order()

    def one_batch(self, ds_idx: int = 0) -> tuple[Tree, ...]:
        """Returns the first batch of the next pass (training, or validation for 1), and changes nothing.

        It is ``(x, y)``; of several inputs, each is a part of its own: ``(a, b, y)``.

        Raises:
            ValueError: as `loader`.
        """
        return self.loader(ds_idx).one_batch()

    def sample_input(self) -> Tree:
        """Returns a batch of inputs as a model gets them, to try a model on: the first of training, not augmented."""
        return self.in_order(0).first_batch()[0]

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

    @property
    def loaders(self) -> list[Loader]:
        """The loader for training, and the one for validation if there is one."""
        return [self.train] if self.valid is None else [self.train, self.valid]

    def __getitem__(self, ds_idx: int) -> Loader:
        """Returns the training loader for 0, the validation loader for 1."""
        return self.loaders[ds_idx]

    def __iter__(self) -> Iterator[Loader]:
        """Gives the loaders for training and validation: ``train, valid = dls``."""
        return iter(self.loaders)

    def show_batch(
        self,
        b: tuple[Tree, ...] | None = None,
        max_n: int = 9,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
        unique: bool = False,
        ds_idx: int = 0,
        *,
        ax: Axes | None = None,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws images as they reach the model: `show_batch` of one of the loaders.

        Args:
            b, max_n, nrows, ncols, figsize, unique, ax, save: as for `Loader.show_batch`.
            ds_idx: 0 for training, 1 for validation.

        Raises:
            ValueError: `max_n` is below 1, the grid is too small, or `unique` finds no augmentation of ours.
            DataError: the inputs are not images.
        """
        return self.loader(ds_idx).show_batch(b, max_n, nrows, ncols, figsize, unique, ax=ax, save=save)

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

    def test_dl(
        self,
        items: Any,
        with_labels: bool = False,
        *,
        labels: Sequence[Any] | None = None,
        bs: int | None = None,
        num_workers: int | None = None,
    ) -> Loader:
        """Returns a loader over new inputs, in order and complete, with validation transforms.

        Args:
            items: inputs alone (then batches are ``(x, None)``; for models of several inputs a list of tuples or
                dictionaries, one for each item), a pair ``(x, y)``, a torch dataset or a loader. For a
                `DataBlock`'s loaders also a list of items like those it was built from, or of paths, PIL images, arrays
                or tensors. For loaders of arrays also one array, or a list of arrays, tensors or PIL images.
            with_labels: label a `DataBlock`'s items as the training items were.
            labels: one label for each item that is read from a file, for loaders that cannot read labels themselves, as
                those of `load_learner`.
            bs: items per batch; None is that of training.
            num_workers: for items that are read from files; None chooses.

        Raises:
            ValueError: `with_labels` is given, but the loaders have no `DataBlock`; `labels` are given for items that
                are not read from files, or with `with_labels`; or `bs` is below 1.
            TypeError, DataError: `items` holds no items, or `labels` do not fit them.
        """
        loader = self._test_loader(items, with_labels) if labels is None else self._label(items, labels, with_labels)
        loader.target = self._target
        given = {"bs": bs, "num_workers": num_workers if isinstance(loader, ItemLoader) else None}
        changes = {name: value for name, value in given.items() if value is not None}
        return loader.new(**changes) if changes and isinstance(loader, DerivedLoader) else loader

    def _label(self, items: Any, labels: Sequence[Any], with_labels: bool) -> Loader:
        """Returns a loader of items with the labels that were given for them."""
        unlabelled = self._test_loader(items, False)
        if with_labels or not isinstance(unlabelled, ItemLoader) or self.target is None:
            raise ValueError(
                "`labels` are for items that are read from files, and go without `with_labels`. For arrays, give a "
                "pair (x, y)."
            )
        sources = unlabelled.dataset.items
        if len(labels) != len(sources):
            raise DataError(
                f"`labels` must have one label for each of {plural(len(sources), 'item')}. Received: {len(labels)}."
            )
        how: dict[str, Any] = {"split": "test", "name_item": unlabelled.name_item}
        raw: Any = list(labels) if hasattr(self.target, "encode") else as_labels(labels, **how)
        return unlabelled.over(sources, encode_labels(self.target, raw, **how))

    def _test_loader(self, items: Any, with_labels: bool) -> Loader:
        of_training = self.train.like_items if isinstance(self.train, StreamLoader) else self.train
        like_items = of_training if isinstance(of_training, ItemLoader) and not _brings_batches(items) else None
        if like_items is not None and self.new_items is not None:
            y = self.new_items.targets(items) if with_labels else None
            return like_items.over(self.new_items.sources(items), y)
        if with_labels:
            raise ValueError("`with_labels` needs the loaders of a DataBlock. Give a pair (x, y), or a loader.")
        if like_items is not None:
            return like_items.over(items)
        if _are_several_inputs(items) and self._takes_several_inputs():
            return self.from_other(_collate(items, self.bs))
        if isinstance(items, tuple) and len(items) == 2:
            x, raw = as_pair(items, "test")
            y = encode_labels(self.target or infer_target(raw), raw, split="test")
        elif is_dataset(items) or not isinstance(items, (Tensor, np.ndarray, list)):
            like_training = self._extra_tfms if isinstance(items, Loader) else self.train.batch_tfms.transforms
            return _add_missing_transforms(self._as_own_loader(items), like_training).in_order()
        else:
            given = [as_tensor(as_byte_image(item)) for item in items] if _are_images(items) else items
            x, y = as_inputs(given, "test"), None
        like = self.train if isinstance(self.train, MemoryLoader) else None
        return MemoryLoader(
            x,
            y,
            bs=self.bs,
            seed=self.seed,
            item_tfms=None if like is None else like.item_tfms,
            batch_tfms=self.train.batch_tfms,
            device=self.device,
        )

    def _takes_several_inputs(self) -> bool:
        return not isinstance(self.loader(0).first_batch()[0], Tensor)

    def from_other(self, source: Any) -> Loader:
        """Returns a loader of a dataset, or of another loader, whose batches arrive where these do.

        It runs the transforms that `with_batch_tfms` added here, such as a learner's `Normalize`, unless it runs them
        already. So loaders that were made before give what the model needs, and so do datasets and foreign loaders.
        """
        return _add_missing_transforms(self._as_own_loader(source), self._extra_tfms)

    def _as_own_loader(self, source: Any) -> Loader:
        return as_loader(source, "test", bs=self.bs, seed=self.seed, device=self.device)

    def with_batch_tfms(self, *transforms: BatchTransform | TensorFunction) -> DataLoaders:
        """Returns loaders of the same data that run further batch transforms after their own; these stay as they are.

        In foreign loaders no transform may be random, because they count no epochs to derive random numbers from.
        """
        added = Pipeline(transforms).transforms
        longer = copy.copy(self)
        longer._extra_tfms = (*self._extra_tfms, *added)
        longer.train = self.train.with_batch_tfms(*added)
        longer.valid = None if self.valid is None else self.valid.with_batch_tfms(*added)
        longer._set_up_transforms()
        return longer

    def over(self, train: Loader, valid: Loader | None) -> DataLoaders:
        """Returns a `DataLoaders` of other loaders, whose labels mean the same as here."""
        other = copy.copy(self)
        other.train, other.valid, other._turns = train, valid, Turns()
        other.split_items = None
        for loader in other.loaders:
            loader.target = other._target
        return other

    def with_target(self, target: Target) -> DataLoaders:
        """Returns loaders of the same data whose labels mean `target`; these stay as they are."""
        other = copy.copy(self)
        other._target = target
        other.train, other.valid = copy.copy(self.train), copy.copy(self.valid)
        for loader in other.loaders:
            loader.target = target
        return other

    def _set_up_transforms(self) -> None:
        """Lets transforms learn from the training set what they need, such as `Normalize()` its statistics."""
        for transform in getattr(getattr(self.train, "dataset", None), "item_tfms", ItemPipeline()).transforms:
            if isinstance(transform, Transform):
                transform.setup(self.train)
        before = self.train.batch_tfms.transforms
        done = self.train.batch_tfms.set_up(self.train).transforms
        made = {id(old): new for old, new in zip(before, done, strict=True) if old is not new}
        if not made:
            return
        self._extra_tfms = tuple(made.get(id(one), one) for one in self._extra_tfms)

        def replace(loader: Loader) -> Loader:
            transforms = [made.get(id(one), one) for one in loader.batch_tfms.transforms]
            return loader._copy_with(batch_tfms=Pipeline(transforms))

        self.train = replace(self.train)
        self.valid = None if self.valid is None else replace(self.valid)

    def with_tfms_of(self, other: DataLoaders) -> DataLoaders:
        """Returns loaders that also run what `with_batch_tfms` added to others, without kinds that they have."""
        own = set(map(_kind_of, self.train.batch_tfms.transforms))
        missing = [transform for transform in other._extra_tfms if _kind_of(transform) not in own]
        return self.with_batch_tfms(*missing) if missing else self

    def cpu(self) -> DataLoaders:
        """Returns loaders whose batches arrive on the CPU."""
        return self.to("cpu")

    def cuda(self) -> DataLoaders:
        """Returns loaders whose batches arrive on the GPU."""
        return self.to("cuda")

    def to(self, device: torch.device | str) -> DataLoaders:
        """Returns loaders whose batches arrive on `device`; itself when they already do."""
        device = resolve_device(device)
        if device == self.device:
            return self
        moved = copy.copy(self)
        moved.device = device
        moved.train = self.train.to(device)
        moved.valid = None if self.valid is None else self.valid.to(device)
        return moved

    def unmoved(self) -> AbstractContextManager[None]:
        """Restores the loaders' positions and generators on exit; see `loader_state.restore_loaders`.

        A loader on which another thread trains goes on as that training moves it.
        """
        return restore_loaders(*(one for one in (self.train, self.valid) if not is_trained_on_elsewhere(one)))

    def glance(self) -> Glance:
        """Returns the sets and the classes, without reading a batch."""
        vocab = getattr(self._target, "vocab", None)
        facts = {
            "train": self.train.describe(),
            "valid": "none" if self.valid is None else self.valid.describe(),
            "classes": enumerate_names(vocab or ()),
            "target": "" if vocab or self._target is None else repr(self._target),
            "device": str(self.device),
            "seed": str(self.seed),
        }
        return Glance(type(self).__name__, {name: fact for name, fact in facts.items() if fact})


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


def _brings_batches(source: Any) -> bool:
    return is_dataset(source) or isinstance(source, (DataLoader, Loader))


def _add_missing_transforms(loader: Loader, transforms: Iterable[BatchTransform]) -> Loader:
    """Returns the loader with those of the transforms, known by their identity, that it does not run yet."""
    present = {id(transform) for transform in loader.batch_tfms.transforms}
    missing = [transform for transform in transforms if id(transform) not in present]
    return loader.with_batch_tfms(*missing) if missing else loader


def _kind_of(transform: Any) -> str:
    """Returns the name of a transform's class, or of the function that it wraps."""
    return type(getattr(transform, "f", transform)).__name__


def _are_images(items: Any) -> bool:
    return isinstance(items, list) and bool(items) and all(hasattr(item, "getbands") for item in items)


def _are_several_inputs(items: Any) -> bool:
    return isinstance(items, list) and bool(items) and all(map(_is_several_inputs, items))


def _is_several_inputs(item: Any) -> bool:
    """Whether an item holds several inputs. A list of numbers, or of rows of numbers, is one input."""
    if isinstance(item, list):
        return bool(item) and all(getattr(part, "ndim", 0) > 0 for part in item)
    return isinstance(item, (tuple, Mapping))


def _collate(items: list[Any], bs: int) -> list[tuple[Tree, None]]:
    """Returns the batches of items with several inputs each."""
    return [(default_collate(items[i : i + bs]), None) for i in range(0, len(items), bs)]


def _classes(source: Any) -> Sequence[Any] | None:
    """Returns the class names of the dataset under a loader, through any number of torch's `Subset`s."""
    for _ in range(8):
        names = getattr(source, "classes", None)
        if isinstance(names, (list, tuple)):
            return names
        source = getattr(source, "dataset", None) or getattr(source, "source", None)
    return None
