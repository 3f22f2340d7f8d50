"""Loaders that are not ours: torch's `DataLoader`, torch datasets, and any re-iterable of batches.

A wrapped loader gives what a plain ``for x, y in loader`` gives, bit for bit, and draws from the global generators
exactly as that does; only the device is ours.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)
from torch.utils.data.distributed import DistributedSampler

from minilearner.data.batch_transforms import BatchTransform, Pipeline, TensorFunction
from minilearner.data.loader_state import generator_state, generators, set_generator_state, unmoved
from minilearner.data.share import WHOLE, DerivedSampler, Listed, Share, SharedBatches, dealt, drops_last
from minilearner.errors import DataError
from minilearner.runtime import derived_generator, derived_seed, isolated_rng, resolve_device
from minilearner.tree import Tree, map_tensors, n_items, to_device

__all__ = ["ForeignLoader", "from_dataset"]


class ForeignLoader:
    """Any re-iterable of batches ``(x, y)``; of a longer batch the last part is y, and x is the tuple of the rest.

    Args:
        source: the loader, left as it is.
        device: where batches are moved to; the default device when None.
        batch_tfms: run on the inputs of every batch, in training and validation. None may be random.
    """

    def __init__(
        self, source: Iterable[Any], *, device: torch.device | str | None = None, batch_tfms: Pipeline | None = None
    ) -> None:
        self.source = source
        self.batch_tfms = Pipeline() if batch_tfms is None else batch_tfms
        self.device = resolve_device(device)
        self.share: Share = WHOLE
        """What of each pass this process reads."""
        self._shared_source: DataLoader[Any] | None = None

    def __len__(self) -> int:
        """The number of batches in a pass."""
        return self.share.n_batches(len(self.source), 1, drop_last=drops_last(self.source))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Tree, Tree]]:
        delivered = map(self._deliver, self._read())
        return map(self._transformed, delivered) if self.batch_tfms.transforms else delivered

    def iterate(self, start_batch: int = 0) -> Iterator[tuple[Tree, Tree]]:
        """Starts a pass at a batch. A foreign loader is read up to there; a `DerivedSampler` skips without reading."""
        sampler = getattr(self.source, "sampler", None)
        if not isinstance(sampler, DerivedSampler):
            batches = iter(self)
            next(islice(batches, start_batch, start_batch), None)  # read now, for random numbers are drawn in reading
            return batches
        sampler.skip = start_batch * self.share.count * int(getattr(self.source, "batch_size", None) or 1)
        return iter(self)

    def shared(self, share: Share) -> ForeignLoader:
        """Returns a loader of the same source that gives this share of its batches.

        A `DataLoader` over a map-style dataset reads no more than its share, in an order that the first process
        decides. Of any other source every process reads all, which must come in one order everywhere.

        Raises:
            ValueError: the source has a `DistributedSampler`, and would be shared out twice.
        """
        if isinstance(getattr(self.source, "sampler", None), DistributedSampler):
            raise ValueError(
                "a loader must give all data to every process, for a Learner shares them out. Received: a DataLoader "
                "with a DistributedSampler. Leave the sampler out, and give shuffle=True for training."
            )
        is_indexed = share.count > 1 and isinstance(self.source, DataLoader) and self.source.batch_sampler is not None
        if not is_indexed or isinstance(self.source.dataset, IterableDataset):  # type: ignore[attr-defined]
            return self._view(share=share, _shared_source=None)
        return self._view(share=share, _shared_source=_shared_out(self.source, share))  # type: ignore[arg-type]

    def _read(self) -> Iterator[Any]:
        if self.share.count == 1:
            return iter(self.source)
        if self._shared_source is None:
            return dealt(self.source, self.share, drop_last=drops_last(self.source))
        return self._shared_batches(self._shared_source)

    def _shared_batches(self, source: DataLoader[Any]) -> Iterator[Any]:
        for i, batch in enumerate(source):
            is_stand_in = i == source.batch_sampler.stands_in_at  # type: ignore[union-attr]
            yield map_tensors(lambda t: t[:0], batch) if is_stand_in else batch

    @property
    def n_items(self) -> int | None:
        """How many items `in_order` gives; None where only a pass over the data would tell."""
        if not isinstance(self.source, DataLoader) or isinstance(self.source.dataset, IterableDataset):
            return None
        if self.source.batch_sampler is None:  # the dataset itself yields batches
            return None
        return len(_items_in_order(self.source))

    def in_order(self) -> ForeignLoader:
        """Returns a loader of every item in dataset order; for what is no torch `DataLoader`, the loader itself.

        The rebuilt `DataLoader` has the same dataset, collation and workers, keeps to the items of a sampler that
        covers a part of the dataset, and draws from no global generator.
        """
        if not isinstance(self.source, DataLoader) or isinstance(self.source.dataset, IterableDataset):
            return self.shared(WHOLE)
        return self._view(source=_sequential(self.source)).shared(WHOLE)

    def items(self, indices: Sequence[int]) -> tuple[Tree, Tree]:
        """Returns the items at these positions of `in_order` as a batch on the device.

        Read one by one from a map-style dataset; of any other source a pass is read as far as needed.
        """
        source = self.in_order().source
        with isolated_rng():  # a dataset may draw
            if isinstance(source, DataLoader) and not isinstance(source.dataset, IterableDataset):
                order = list(source.sampler)
                return self._deliver(source.collate_fn([source.dataset[order[int(i)]] for i in indices]))
            return _picked(self._view(batch_tfms=Pipeline()), [int(i) for i in indices])

    def positions_of(self, batch: int) -> list[int] | None:
        """Returns the positions of a batch's items in the pass begun last, where the shuffle is derived; else None."""
        sampler = getattr(self.source, "sampler", None)
        bs = getattr(self.source, "batch_size", None)
        if not isinstance(sampler, DerivedSampler) or bs is None:
            return None
        _, first, stop = self.share.piece(batch, sampler.n, bs, drop_last=drops_last(self.source))
        return sampler.order(sampler.epoch - 1)[first:stop].tolist()

    def named(self, position: int) -> str:
        """Returns what an error calls an item."""
        return f"item {position}"

    def picked(self, indices: Sequence[int]) -> ForeignLoader:
        """Returns a loader of the items at these positions of `in_order`, as one batch."""
        return self._view(source=[self.items(indices)]).shared(WHOLE)

    def augmented(self, number: int = 0, *, item_tfms: object = None, batch_tfms: object = None) -> ForeignLoader:
        """Raises: what a foreign loader does to its items in training cannot be told apart from the rest.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"a {type(self.source).__name__} does not say which of its transforms are augmentation. Build the loaders "
            "with `DataLoaders.from_arrays(..., batch_tfms=...)` or from files."
        )

    def decode(self, x: Tree) -> Tree:
        """Undoes, for showing, our own batch transforms; what the loader did itself it does not tell."""
        return map_tensors(self.batch_tfms.decode, x)

    def at_hand(self) -> Iterator[tuple[Tree, Tree]]:
        """Gives all the data where it lies in memory: the tensors of a `TensorDataset`, or the batches of a list."""
        if isinstance(self.source, (list, tuple)):
            yield from map(self._deliver, self.source)
        dataset = getattr(self.source, "dataset", None)
        if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
            yield dataset.tensors[:-1], dataset.tensors[-1]

    def with_batch_tfms(self, *transforms: BatchTransform | TensorFunction) -> ForeignLoader:
        """Returns a loader of the same source that runs further batch transforms after its own."""
        return self._view(batch_tfms=Pipeline((*self.batch_tfms.transforms, *transforms)))

    def to(self, device: torch.device | str) -> ForeignLoader:
        """Returns a loader that brings batches to `device`; itself when it already does."""
        device = resolve_device(device)
        return self if device == self.device else self._view(device=device)

    def fingerprint(self) -> dict[str, Any]:
        """Returns what little is known of foreign data: what kind of loader and dataset they come from."""
        dataset = getattr(self.source, "dataset", None)
        kinds = [type(part).__name__ for part in (self.source, dataset) if part is not None]
        return {"data": " of ".join(kinds), "batch_tfms": repr(self.batch_tfms)}

    def state_dict(self) -> dict[str, Any]:
        """Returns the next pass of a shuffle that is derived, the generators found, and the source's own state."""
        sampler = getattr(self.source, "sampler", None)
        derived = {"seed": sampler.seed, "epoch": sampler.epoch} if isinstance(sampler, DerivedSampler) else {}
        own = getattr(self.source, "state_dict", None)
        return {
            "derived": derived,
            "generators": [generator_state(generator) for generator in generators(self)],
            "source": dict(own()) if own is not None else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` stood."""
        sampler = getattr(self.source, "sampler", None)
        if isinstance(sampler, DerivedSampler):
            sampler.seed, sampler.epoch = int(state["derived"]["seed"]), int(state["derived"]["epoch"])
        for generator, kept in zip(generators(self), state["generators"], strict=True):
            set_generator_state(generator, kept)
        if state["source"]:
            self.source.load_state_dict(state["source"])  # type: ignore[attr-defined]

    def _deliver(self, batch: Any) -> tuple[Tree, Tree]:
        if type(batch) in (tuple, list) and len(batch) == 2:  # the ordinary batch, without the walk: 4 us a step
            x, y = batch
            if type(x) is torch.Tensor and type(y) is torch.Tensor and x.device == y.device == self.device:
                return x, y
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            kind = f"keys {list(batch)}" if isinstance(batch, Mapping) else type(batch).__name__
            raise DataError(
                f"A loader must yield batches (x, y). Received: {kind}. Yield a tuple whose last part is the target; "
                "in a torch DataLoader, `collate_fn=` is the place."
            )
        *inputs, y = (torch.as_tensor(part) if isinstance(part, np.ndarray) else part for part in batch)
        x = inputs[0] if len(inputs) == 1 else tuple(inputs)
        return to_device(x, self.device), to_device(y, self.device)

    def _transformed(self, batch: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
        rng = torch.Generator(self.device).manual_seed(0)
        return map_tensors(lambda t: self.batch_tfms(t, rng, training=False), batch[0]), batch[1]

    def _view(self, **changes: Any) -> ForeignLoader:
        view = copy.copy(self)
        view.__dict__.update(changes)
        return view

    def __repr__(self) -> str:
        return f"ForeignLoader({type(self.source).__name__}, {len(self)} batches, device={self.device})"


def _picked(loader: ForeignLoader, positions: list[int]) -> tuple[Tree, Tree]:
    """Reads a pass up to the last of the positions, and returns the items there in the order of `positions`."""
    found: dict[int, tuple[Tree, Tree]] = {}
    start = 0
    for batch in loader:
        n = n_items(batch)
        for position in positions:
            if start <= position < start + n:
                found[position] = map_tensors(lambda t, at=position - start: t[at], batch)  # type: ignore[misc]
        start += n
        if len(found) == len(set(positions)):
            break
    x, y = default_collate([found[position] for position in positions])
    return x, y


def _shared_out(loader: DataLoader[Any], share: Share) -> DataLoader[Any]:
    batches = SharedBatches(loader.batch_sampler, share, drop_last=drops_last(loader))  # type: ignore[arg-type]
    return DataLoader(
        loader.dataset, batch_sampler=batches, generator=loader.generator, **_options(loader),
        persistent_workers=loader.persistent_workers,
    )  # fmt: skip


def from_dataset(dataset: Any, *, bs: int, seed: int, training: bool) -> DataLoader[Any]:
    """Wraps a map-style dataset: for training shuffled by (seed, epoch) and without a short batch, else in order."""
    n = len(dataset)
    sampler: Sampler[int] = DerivedSampler(n, seed) if training else SequentialSampler(dataset)
    # Its own generator: without one, every pass would draw a number from torch's global generator.
    generator = derived_generator(seed, "workers", int(training))
    return DataLoader(dataset, batch_size=bs, sampler=sampler, drop_last=training, generator=generator)


def _sequential(loader: DataLoader[Any]) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(derived_seed(0, "in_order"))
    bs = loader.batch_size
    if bs is None and loader.batch_sampler is not None:
        bs = int(getattr(loader.batch_sampler, "batch_size", 64))
    order = _items_in_order(loader)
    return DataLoader(loader.dataset, batch_size=bs, sampler=order, generator=generator, **_options(loader))


def _options(loader: DataLoader[Any]) -> dict[str, Any]:
    """How a loader reads, whatever it reads and in which order."""
    return {
        "num_workers": loader.num_workers,
        "collate_fn": loader.collate_fn,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "prefetch_factor": loader.prefetch_factor,
    }


def _items_in_order(loader: DataLoader[Any]) -> SequentialSampler | Listed:
    dataset: Any = loader.dataset
    batches = loader.batch_sampler
    # torch fills `sampler` with a default that means nothing where a batch sampler was given.
    sampler = loader.sampler if batches is None else batches.sampler if type(batches) is BatchSampler else None
    if type(sampler) in (SequentialSampler, RandomSampler, DerivedSampler):
        return SequentialSampler(dataset)
    if isinstance(sampler, SubsetRandomSampler):
        return Listed(list(sampler.indices))
    with unmoved(loader), isolated_rng():
        drawn = list(sampler) if sampler is not None else [index for batch in batches or () for index in batch]
    # A sampler that draws as many as there are, perhaps some twice and some never, stands for the whole dataset.
    return SequentialSampler(dataset) if len(drawn) == len(dataset) else Listed(sorted(set(drawn)))
