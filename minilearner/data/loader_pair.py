"""`LoaderPair`: a loader for training and one for validation, and what is done with both."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from typing_extensions import Self

from minilearner.checks import check_count
from minilearner.data.batch_transforms import BatchTransform, Pipeline, TensorFunction
from minilearner.data.item_transforms import ItemPipeline
from minilearner.data.loader import Loader
from minilearner.data.loader_state import restore_loaders
from minilearner.data.targets import ClassNumbers, Target
from minilearner.data.transform import Transform
from minilearner.data.turns import Turns
from minilearner.data.vocabulary import Vocab
from minilearner.errors import DataError
from minilearner.glance import AtAGlance, Glance, enumerate_names
from minilearner.keywords import suggest_keywords
from minilearner.runtime import resolve_device
from minilearner.threads import is_trained_on_elsewhere
from minilearner.tree import Tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LoaderPair"]


@suggest_keywords
class LoaderPair(AtAGlance):
    """A training loader and, optionally, a validation loader, whose labels mean the same."""

    train: Loader
    """The training loader."""
    valid: Loader | Any
    """The validation loader; None without one, which type checkers do not ask about."""
    device: torch.device
    seed: int
    split_items: tuple[Any, Any] | None
    """What the items of each set are made from, such as rows, if that is known."""
    _target: Target | None
    _extra_tfms: tuple[BatchTransform, ...]  # those that `with_batch_tfms` added
    _turns: Turns | None = None  # loaders without training data have none

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

    def with_batch_tfms(self, *transforms: BatchTransform | TensorFunction) -> Self:
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

    def with_tfms_of(self, other: LoaderPair) -> Self:
        """Returns loaders that also run what `with_batch_tfms` added to others, without kinds that they have."""
        own = set(map(_kind_of, self.train.batch_tfms.transforms))
        missing = [transform for transform in other._extra_tfms if _kind_of(transform) not in own]
        return self.with_batch_tfms(*missing) if missing else self

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

    def over(self, train: Loader, valid: Loader | None) -> Self:
        """Returns a `DataLoaders` of other loaders, whose labels mean the same as here."""
        other = copy.copy(self)
        other.train, other.valid, other._turns = train, valid, Turns()
        other.split_items = None
        for loader in other.loaders:
            loader.target = other._target
        return other

    def with_target(self, target: Target) -> Self:
        """Returns loaders of the same data whose labels mean `target`; these stay as they are."""
        other = copy.copy(self)
        other._target = target
        other.train, other.valid = copy.copy(self.train), copy.copy(self.valid)
        for loader in other.loaders:
            loader.target = target
        return other

    def to(self, device: torch.device | str) -> Self:
        """Returns loaders whose batches arrive on `device`; itself when they already do."""
        device = resolve_device(device)
        if device == self.device:
            return self
        moved = copy.copy(self)
        moved.device = device
        moved.train = self.train.to(device)
        moved.valid = None if self.valid is None else self.valid.to(device)
        return moved

    def cpu(self) -> Self:
        """Returns loaders whose batches arrive on the CPU."""
        return self.to("cpu")

    def cuda(self) -> Self:
        """Returns loaders whose batches arrive on the GPU."""
        return self.to("cuda")

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


def _kind_of(transform: Any) -> str:
    """Returns the name of a transform's class, or of the function that it wraps."""
    return type(getattr(transform, "f", transform)).__name__
