"""What a model's frozen layers gave for every item of a loader, served in its place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minilearner.data.item_loader import ItemLoader
from minilearner.data.loader_protocol import Loader
from minilearner.data.memory import MemoryLoader
from minilearner.data.showing import first_batch
from minilearner.data.transforms import FunctionTransform, run_steps
from minilearner.errors import DataError
from minilearner.runtime import derived_generator
from minilearner.tree import tensors_of

__all__ = ["FeatureLoader", "check_repeats"]

_N_TRIED, _N_DRAWS = 4, 64


class FeatureLoader(MemoryLoader):
    """Serves features in the batches in which another loader serves its items, from the pass on where that stands.

    Args:
        source: that loader.
        x: (items, ...) features in the order of `source.in_order()`.
        y: (items, ...) targets.
    """

    def __init__(self, source: MemoryLoader | ItemLoader, x: Tensor, y: Tensor | None) -> None:
        options: dict[str, Any] = {name: getattr(source, name) for name in ("bs", "shuffle", "drop_last", "seed")}
        super().__init__(x, y, training=source.training, device=source.device, **options)
        self.source = source
        self.load_state_dict(source.state_dict())

    def fingerprint(self) -> dict[str, Any]:
        """Returns what tells the items from others: features differ in their last bits from machine to machine."""
        return {**self.source.fingerprint(), "features": "precomputed"}

    def named(self, position: int) -> str:
        """Returns what an error calls an item."""
        return self.source.named(position)


def check_repeats(loader: Loader, name: str) -> MemoryLoader | ItemLoader:
    """Returns a loader that gives each item alike in every pass, and in an order that it can tell.

    Known by what its transforms say, and by trial: a batch of the next pass must be what validation makes of it, and
    functions, which do not say whether they draw, are run many times on some of its items.

    Raises:
        DataError: it does not; says what changes.
    """
    if not isinstance(loader, (MemoryLoader, ItemLoader)):
        raise DataError(
            f"features can be precomputed of arrays in memory and of items that are read; {name} is a {loader!r:.200}, "
            "which tells no order. Build the loaders with `DataLoaders.from_arrays`, or from files."
        )
    if not loader.training:
        return loader
    random = [repr(transform) for transform in loader.batch_tfms.transforms if transform.train_only]
    if not random and not _is_as_in_validation(loader):
        random = [repr(loader.dataset.item_tfms if isinstance(loader, ItemLoader) else loader.batch_tfms)]
    if random:
        raise DataError(
            "features can be precomputed where each item is the same in every pass; here augmentation changes "
            f"{name}: {', '.join(random)}. Leave it out (Resize(size, method='squish') does not cut at random), or "
            "train without precomputing."
        )
    return loader


def _is_as_in_validation(loader: MemoryLoader | ItemLoader) -> bool:
    x, _ = first_batch(loader)
    chosen = loader.indices(loader.epoch)[: loader.bs]
    in_validation, _ = first_batch(loader.picked(chosen))
    return all(map(torch.equal, tensors_of(x), tensors_of(in_validation))) and not _draws(loader, chosen[:_N_TRIED])


def _draws(loader: MemoryLoader | ItemLoader, chosen: Tensor) -> bool:
    steps = loader.batch_tfms.steps(training=True)
    if not any(isinstance(step, FunctionTransform) for step in steps):
        return False
    inputs = tensors_of(loader.items(chosen)[0])
    first, *others = ([run_steps(steps, t, derived_generator(seed)) for t in inputs] for seed in range(_N_DRAWS))
    return not all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
