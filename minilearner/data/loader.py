"""What a loader is to everybody else, whatever it reads from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from minilearner.data.batch_transforms import BatchTransform, Pipeline, TensorFunction
from minilearner.data.share import Share
from minilearner.tree import Tree

__all__ = ["Loader", "with_missing"]


@runtime_checkable
class Loader(Protocol):
    """What the training loop may use of a loader: `MemoryLoader`, `ItemLoader` and `ForeignLoader` are the kinds."""

    batch_tfms: Pipeline
    """What runs on the inputs of every batch."""

    share: Share
    """What of each pass this process reads."""

    @property
    def n_items(self) -> int | None:
        """How many items `in_order` gives; None where it is not known."""
        ...

    def __len__(self) -> int:
        """The number of batches in a pass."""
        ...

    def __iter__(self) -> Iterator[tuple[Tree, Tree]]:
        """Starts a pass; batches ``(x, y)`` arrive on the device."""
        ...

    def iterate(self, start_batch: int = 0) -> Iterator[tuple[Tree, Tree]]:
        """Starts a pass at a batch, as a resumed run needs."""
        ...

    def in_order(self) -> Loader:
        """Returns a loader of every item in dataset order, without augmentation, for one process."""
        ...

    def shared(self, share: Share) -> Loader:
        """Returns a loader, standing at the same pass, of what one of several processes reads; see `sharing`."""
        ...

    def items(self, indices: Sequence[int]) -> tuple[Tree, Tree]:
        """Returns the items at these positions of `in_order` as one batch, for showing them."""
        ...

    def positions_of(self, batch: int) -> list[int] | None:
        """Returns where the items of a batch of the pass begun last stand in `in_order`; None where that is unknown."""
        ...

    def named(self, position: int) -> str:
        """Returns what an error calls an item: "item 7 ('cats/7.jpg')"."""
        ...

    def picked(self, indices: Sequence[int]) -> Loader:
        """Returns a loader of the items at these positions of `in_order`, as one batch, transformed as in validation.

        A position may be given more than once.
        """
        ...

    def augmented(self, number: int = 0, *, item_tfms: Any = None, batch_tfms: Any = None) -> Loader:
        """Returns a loader of every item in dataset order with the transforms of training.

        number: augmentations of another number are others; those of one are the same in every pass.
        item_tfms, batch_tfms: in place of the loader's item transforms, and of its batch transforms for training only.

        Raises:
            ValueError: there is nothing to augment with.
        """
        ...

    def decode(self, x: Tree) -> Tree:
        """Undoes, for showing, what validation's batch transforms did to inputs."""
        ...

    def at_hand(self) -> Iterator[tuple[Tree, Tree]]:
        """Gives all the data, in pieces, where that costs no reading and was not yet checked; else nothing."""
        ...

    def with_batch_tfms(self, *transforms: BatchTransform | TensorFunction) -> Loader:
        """Returns a loader that runs further batch transforms after its own."""
        ...

    def to(self, device: torch.device | str) -> Loader:
        """Returns a loader whose batches arrive on `device`; itself when they already do."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Returns what tells these data from others, in numbers and words: items, labels and transforms."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns where the loader stands, for a checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` stood."""
        ...


def with_missing(loader: Loader, transforms: Iterable[BatchTransform]) -> Loader:
    """Returns the loader with those of the transforms that it does not run yet; each is known by its identity."""
    present = {id(transform) for transform in loader.batch_tfms.transforms}
    missing = [transform for transform in transforms if id(transform) not in present]
    return loader.with_batch_tfms(*missing) if missing else loader
