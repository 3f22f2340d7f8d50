"""What every loader promises (`Loader`), and loaders whose passes follow from (seed, epoch) alone (`DerivedLoader`)."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from minilearner.checks import check_count
from minilearner.data.batch_transforms import BatchTransform, Pipeline, TensorFunction, Transforms
from minilearner.data.loader_state import restore_loaders
from minilearner.data.share import WHOLE, Share
from minilearner.data.show import show_images, titles_of
from minilearner.data.targets import Target
from minilearner.errors import plural
from minilearner.plots.image_grid import limit_to_grid
from minilearner.runtime import derive_generator, isolate_rng, resolve_device
from minilearner.tree import Tree, map_tensors, n_items

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from typing_extensions import Self

__all__ = ["DerivedLoader", "Loader"]


class Loader(ABC):
    """Serves batches ``(x, y)`` on a device, pass after pass.

    The training loop uses a loader only through these members. An object that has all of these methods counts as a
    `Loader` without being derived from it.

    A loader keeps three promises:

    - ``iterate(k)`` gives what a whole pass gives from batch k on;
    - methods that return a loader leave this one as it is, and share its data with the new one;
    - ``load_state_dict(state)`` continues where `state_dict` was called.

    Args:
        device: where batches arrive; the default device when None.
        batch_tfms: transforms that run on the inputs of every batch.
    """

    tensors_on_device: ClassVar[tuple[str, ...]] = ()
    """Names of the attributes whose tensors `to` moves along."""

    batch_tfms: Pipeline
    """The transforms that run on the inputs of every batch."""

    device: torch.device
    """Where batches arrive."""

    share: Share
    """The part of each pass that this process reads."""

    dataset: Any
    """What a loader that reads items one by one reads them from. Other loaders do not have it."""

    target: Target | None = None
    """What labels mean, for those who look at a batch. `DataLoaders` set it."""

    def __init__(self, device: torch.device | str | None, batch_tfms: Transforms | Pipeline) -> None:
        self.device = resolve_device(device)
        self.batch_tfms = batch_tfms if isinstance(batch_tfms, Pipeline) else Pipeline(batch_tfms)
        self.share = WHOLE

    # Passes.

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of batches in a pass."""

    def __iter__(self) -> Iterator[tuple[Tree, Tree]]:
        """Starts a pass; batches ``(x, y)`` arrive on the device."""
        return self.iterate()

    @abstractmethod
    def iterate(self, start_batch: int = 0) -> Iterator[tuple[Tree, Tree]]:
        """Starts a pass at a batch, as a resumed run needs."""

    def first_batch(self) -> tuple[Tree, Tree]:
        """Returns the first batch of the next pass, and changes nothing: the next pass still begins with it.

        With several processes, all get the same batch.
        """
        whole = self.take_share(WHOLE)
        with restore_loaders(self), isolate_rng():
            return next(whole.iterate())

    def one_batch(self) -> tuple[Tree, ...]:
        """Returns `first_batch` as fastai does: of several inputs, each is a part of its own, ``(a, b, y)``."""
        x, y = self.first_batch()
        return (*x, y) if self._lists_inputs(x) else (x, y)

    def _lists_inputs(self, x: Tree) -> bool:
        """Whether `one_batch` lists these inputs one by one."""
        return type(x) is tuple

    def show_batch(
        self,
        b: tuple[Tree, ...] | None = None,
        max_n: int = 9,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
        unique: bool = False,
        *,
        ax: Axes | None = None,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws images as they reach the model, augmented but in their real colours, below their labels.

        It changes nothing, so it shows the batch that the next pass begins with.

        Args:
            b: a batch `(x, y)` to show; by default the first of the next pass.
            max_n: how many images at most.
            nrows, ncols: the grid; about square by default. Both together limit the number of images.
            figsize: width and height in inches; by default, what images and labels need.
            unique: show `max_n` augmentations of one image, the first of the split.
            ax: axes whose place the grid takes. None makes a new figure.
            save: a file to write the figure to, such as "batch.png".

        Raises:
            ValueError: `max_n` is below 1, the grid is too small, or `unique` finds no augmentation of ours.
            DataError: the inputs are not images.
        """
        max_n = limit_to_grid(max_n, nrows, ncols)
        *inputs, y = (self.pick([0] * max_n).augment() if unique else self).first_batch() if b is None else b
        x = inputs[0] if len(inputs) == 1 else tuple(inputs)
        titles = titles_of(self.target, y, max_n)
        layout: dict[str, Any] = {"nrows": nrows, "ncols": ncols, "figsize": figsize, "ax": ax, "save": save}
        return show_images(self.decode(x), titles, max_n=max_n, **layout)

    # Items.

    @property
    @abstractmethod
    def n_items(self) -> int | Any:
        """The number of items that `in_order` gives; None if it is unknown."""

    @property
    def n(self) -> int | None:
        """`n_items`: fastai's name for it."""
        return self.n_items

    @abstractmethod
    def items(self, indices: Sequence[int]) -> tuple[Tree, Tree]:
        """Returns the items at these positions of `in_order` as one batch on the device, before batch transforms."""

    @abstractmethod
    def positions_of(self, batch: int) -> list[int] | None:
        """Returns the positions in `in_order` of a batch's items, in the latest pass; None if they are unknown."""

    def name_item(self, position: int) -> str:
        """Returns how an error names an item: "item 7", or "item 7 ('cats/7.jpg')" if it comes from a file."""
        return f"item {position}"

    def describe(self) -> str:
        """Returns how large it is, in words: "2,000 items in 63 batches of 32"."""
        n, bs = self.n_items, getattr(self, "bs", None)
        items = "" if n is None else f"{plural(n, 'item')} in "
        return f"{items}{plural(len(self), 'batch')}{'' if bs is None else f' of {bs}'}"

    def data_in_memory(self) -> Iterator[tuple[Tree, Tree]]:
        """Yields all data in pieces, for a check before training, if nothing must be read for it; else nothing.

        Data that were checked when the loader was built are not given again.
        """
        return iter(())

    # Other loaders of the same data.

    @abstractmethod
    def in_order(self) -> Loader:
        """Returns a loader of every item, in dataset order, without augmentation, for one process."""

    @abstractmethod
    def take_share(self, share: Share) -> Loader:
        """Returns a loader at the same pass, for the part that one process reads when several train together."""

    @abstractmethod
    def pick(self, indices: Sequence[int]) -> Loader:
        """Returns a loader of the items at these positions of `in_order`, as one batch, transformed as in validation.

        A position may be given more than once.
        """

    def sample(self, n: int, seed: int | None) -> Loader:
        """Returns a loader of `n` items in one batch, or of all if there are fewer.

        If the number of items is unknown, they come from the first batch.

        Args:
            n: how many, at least 1.
            seed: decides which items; None takes the first ones.

        Raises:
            ValueError: `n` is less than 1.
        """
        check_count(n, "max_n")
        total = self.n_items if self.n_items is not None else n_items(self.first_batch()[0])
        if seed is None:
            return self.pick(range(min(n, total)))
        order = torch.randperm(total, generator=derive_generator(seed, "sample"))
        return self.pick(order[:n].tolist())

    @abstractmethod
    def augment(self, number: int = 0, *, item_tfms: Any = None, batch_tfms: Any = None) -> Loader:
        """Returns a loader of every item, in dataset order, with the transforms of training.

        Args:
            number: each number gives other augmentations; those of one number are the same in every pass.
            item_tfms: replace the loader's item transforms.
            batch_tfms: replace the batch transforms that only training runs.

        Raises:
            ValueError: there is no augmentation.
        """

    def with_batch_tfms(self, *transforms: BatchTransform | TensorFunction) -> Self:
        """Returns a loader that runs further batch transforms after its own."""
        return self._copy_with(batch_tfms=Pipeline((*self.batch_tfms.transforms, *transforms)))

    def to(self, device: torch.device | str) -> Self:
        """Returns a loader whose batches arrive on `device`, at the same pass; itself if they already do."""
        device = resolve_device(device)
        if device == self.device:
            return self
        tensors = {name: getattr(self, name) for name in self.tensors_on_device}
        moved = {name: None if tensor is None else tensor.to(device) for name, tensor in tensors.items()}
        return self._copy_with(device=device, **moved)

    def _copy_with(self, **changes: object) -> Self:
        other = copy.copy(self)
        other.__dict__.update(changes)
        return other

    # The way back, and what a checkpoint keeps.

    def decode(self, x: Tree) -> Tree:
        """Undoes the batch transforms of validation, to show inputs as people know them."""
        return map_tensors(self.batch_tfms.decode, x)

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Returns numbers and words that differ if items, labels or transforms differ."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Returns the position of the loader, for a checkpoint."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was called."""

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        if cls is not Loader:
            return NotImplemented  # type: ignore[no-any-return]
        names = {name for base in other.__mro__ for name in vars(base)}
        return True if names >= _METHODS else NotImplemented


_FOR_PEOPLE = ("one_batch", "show_batch")  # training does without them
_METHODS = {
    name
    for name, member in vars(Loader).items()
    if callable(member) and (name in ("__len__", "__iter__") or not name.startswith("_")) and name not in _FOR_PEOPLE
}


class DerivedLoader(Loader):
    """A loader that draws nothing from global generators: (seed, epoch) decide each pass.

    So a pass repeats whatever else a program draws, and a resumed run starts in the middle of one. A subclass writes
    `_batches` and what depends on where its data lie.

    Args:
        bs: items per batch.
        shuffle: a new order for every pass; without it, the order of the data.
        drop_last: leave out the last batch of a pass if it is short.
        seed: decides the order of every pass, together with the pass number.
        training: whether augmentation runs.
        device: where batches arrive; the default device when None.
        batch_tfms: transforms that run on the inputs of every batch.
        weights: (items,) float64, at least 0. A pass then draws as many items as there are, each with a chance in
            proportion to its weight, so some come several times and others not at all. None takes each item once.

    Raises:
        ValueError: `bs` is less than 1, or there are weights without `shuffle`.
        DataError: there is not one weight for each item, or they are not finite, negative or all 0.
    """

    epoch: int
    """The number of the next pass, from 0; it goes up when a pass starts."""

    _more_changes: ClassVar[dict[str, str]] = {}
    """Further arguments of `new`, each with the attribute that keeps it."""

    keeps_large_rest: bool = False
    """Whether several processes keep a short last step that has more than a tenth of the items, despite `drop_last`."""

    def __init__(
        self,
        *,
        bs: int,
        shuffle: bool,
        drop_last: bool,
        seed: int,
        training: bool,
        device: torch.device | str | None,
        batch_tfms: Transforms | Pipeline,
        weights: Tensor | None = None,
    ) -> None:
        check_count(bs, "bs")
        super().__init__(device, batch_tfms)
        if weights is not None and not shuffle:
            raise ValueError("`weights` need shuffle=True, because they decide what is drawn. Received: shuffle=False.")
        self.bs, self.shuffle, self.drop_last = bs, shuffle, drop_last
        self.seed, self.training, self.weights = seed, training, weights
        self.epoch = 0

    @property
    @abstractmethod
    def n_items(self) -> int:
        """The number of items, including those of a short batch that is dropped."""

    @abstractmethod
    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Tree, Tensor | None]]:
        """Yields the batches of a pass, of this process's share, from batch number `start` on."""

    def __len__(self) -> int:
        return self.share.n_batches(self.n_items, self.bs, drop_last=self.drop_last)

    def iterate(self, start_batch: int = 0) -> Iterator[tuple[Tree, Tensor | None]]:
        """Starts pass number `self.epoch` at a batch; earlier batches are not read.

        Raises:
            ValueError: `start_batch` is negative, or greater than the number of batches.
        """
        if not 0 <= start_batch <= len(self):
            raise ValueError(f"`start_batch` must be between 0 and {len(self)}. Received: start_batch={start_batch}.")
        epoch, self.epoch = self.epoch, self.epoch + 1
        return self._batches(epoch, start_batch)

    def new(self, **changes: Any) -> Self:
        """Returns a loader of the same items at its first pass, with other `bs`, `shuffle`, `drop_last` or workers.

        Args:
            changes: `bs`, `shuffle`, `drop_last`, `seed` and, for items that are read from files, `num_workers`.

        Raises:
            TypeError: an argument is unknown.
            ValueError: one is out of range, or weights need `shuffle`.
        """
        names = {"bs": "bs", "shuffle": "shuffle", "drop_last": "drop_last", "seed": "seed", **self._more_changes}
        if unknown := [name for name in changes if name not in names]:
            raise TypeError(f"there is no argument `{unknown[0]}`. Arguments: {', '.join(names)}.")
        for name, least in (("bs", 1), ("num_workers", 0)):
            if changes.get(name) is not None:
                check_count(changes[name], name, least=least)
        if self.weights is not None and not changes.get("shuffle", True):
            raise ValueError("`weights` need shuffle=True, because they decide what is drawn. Received: shuffle=False.")
        return self._copy_with(epoch=0, **{names[name]: value for name, value in changes.items()})

    def indices(self, epoch: int) -> Tensor:
        """Returns the order of a pass: int64 positions (items,), on the CPU."""
        if not self.shuffle:
            return torch.arange(self.n_items)
        if self.weights is not None:
            return _draw(self.weights, derive_generator(self.seed, "weighted", epoch))
        return torch.randperm(self.n_items, generator=derive_generator(self.seed, "shuffle", epoch))

    def positions_of(self, batch: int) -> list[int]:
        """Returns the positions of a batch's items, in the latest pass."""
        _, first, stop = self.share.piece(batch, self.n_items, self.bs, drop_last=self.drop_last)
        return self.indices(self.epoch - 1)[first:stop].tolist()

    def in_order(self) -> Self:
        """Returns a loader of every item, in the order of the data, with validation transforms, for one process."""
        return self._copy_with(shuffle=False, drop_last=False, training=False, epoch=0, share=WHOLE, weights=None)

    def take_share(self, share: Share) -> Self:
        """Returns a loader of the same items, at the same pass, that reads this share of the batches."""
        is_large = share.is_even and 10 * (self.n_items % (self.bs * share.count)) > self.n_items
        return self._copy_with(share=share, drop_last=self.drop_last and not (self.keeps_large_rest and is_large))

    def state_dict(self) -> dict[str, int]:
        """Returns the seed and the number of the next pass."""
        return {"seed": self.seed, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues where `state_dict` was called."""
        self.seed, self.epoch = int(state["seed"]), int(state["epoch"])

    def _augment_with(self, number: int, pipeline: Pipeline, **changes: object) -> Self:
        # A negative pass number: no epoch of training has it.
        return self.in_order()._copy_with(training=True, batch_tfms=pipeline, epoch=-1 - number, **changes)

    def _generator(self, epoch: int, batch: int) -> torch.Generator:
        """Returns the generator of a batch's transforms; in validation it is the same in every pass."""
        path = ("augment", epoch, batch) if self.training else ("validate", batch)
        return derive_generator(self.seed, *path)


def _draw(weights: Tensor, rng: torch.Generator) -> Tensor:
    """Draws as many positions as there are weights, with replacement. torch.multinomial takes at most 2^24 weights."""
    sums = weights.cumsum(0)
    points = torch.rand(len(weights), generator=rng, dtype=torch.float64) * sums[-1]
    last = int(weights.nonzero()[-1])  # a point may be rounded up to the last sum
    return torch.searchsorted(sums, points, right=True).clamp(max=last)
