"""`NewItemLoaders`: loaders of new items that give them to a model as the training loader would."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from minilearner.data.arrays import as_inputs, as_pair
from minilearner.data.batch_transforms import BatchTransform
from minilearner.data.data_plan import NewItems
from minilearner.data.given_loader import as_loader, is_dataset
from minilearner.data.image_modes import as_byte_image
from minilearner.data.item_dataset import as_tensor
from minilearner.data.item_loader import ItemLoader
from minilearner.data.loader import DerivedLoader, Loader
from minilearner.data.loader_pair import LoaderPair
from minilearner.data.memory_loader import MemoryLoader
from minilearner.data.stream_loader import StreamLoader
from minilearner.data.targets import as_labels, encode_labels, infer_target
from minilearner.errors import DataError, plural
from minilearner.keywords import suggest_keywords
from minilearner.tree import Tree

__all__ = ["NewItemLoaders"]


@suggest_keywords
class NewItemLoaders(LoaderPair):
    """Makes loaders of new items, and takes loaders that were made elsewhere."""

    bs: int
    new_items: NewItems | None

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


def _brings_batches(source: Any) -> bool:
    return is_dataset(source) or isinstance(source, (DataLoader, Loader))


def _add_missing_transforms(loader: Loader, transforms: Iterable[BatchTransform]) -> Loader:
    """Returns the loader with those of the transforms, known by their identity, that it does not run yet."""
    present = {id(transform) for transform in loader.batch_tfms.transforms}
    missing = [transform for transform in transforms if id(transform) not in present]
    return loader.with_batch_tfms(*missing) if missing else loader


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
