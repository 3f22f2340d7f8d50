"""Loaders that are not ours: torch's `DataLoader`, torch datasets, and any re-iterable of batches.

A wrapped loader gives what a plain ``for x, y in loader`` gives, bit for bit, and draws from the global generators
exactly as that does; only the device is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)
from torch.utils.data.distributed import DistributedSampler

from minilearner.data.batch_transforms import Pipeline
from minilearner.data.loader import Loader
from minilearner.data.loader_state import find_generators, generator_state, restore_loaders, set_generator_state
from minilearner.data.share import (
    WHOLE,
    DerivedSampler,
    ListSampler,
    Share,
    SharedBatches,
    choose_drop_last,
    drops_last,
    is_small_rest,
    share_batches,
)
from minilearner.data.worker_processes import read_under_watch
from minilearner.errors import DataError, plural
from minilearner.runtime import derive_generator, derive_seed, isolate_rng
from minilearner.tree import Tree, map_tensors, n_items, to_device

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ForeignLoader", "from_dataset", "over_datasets"]


class ForeignLoader(Loader):
    """Any re-iterable of batches ``(x, y)``. In a longer batch the last part is y, and x is the tuple of the others.

    Args:
        source: the loader, left as it is.
        device: where batches are moved to; the default device when None.
        batch_tfms: run on the inputs of every batch, in training and validation. None may be random.
    """

    def __init__(
        self,
        source: Iterable[Any],
        *,
        device: torch.device | str | None = None,
        batch_tfms: Pipeline | None = None,
    ) -> None:
        super().__init__(device, batch_tfms)
        self.source = source
        self._own_share: DataLoader[Any] | None = None
        self._latest: dict[str, int] = {}  # of the batches that this loader and its copies have delivered

    def __len__(self) -> int:
        return self.share.n_batches(len(self.source), 1, drop_last=self._drops_last)  # type: ignore[arg-type]

    @property
    def _drops_last(self) -> bool:
        """Whether a short last batch is left out, or with several processes a short last step."""
        sampler, bs = getattr(self.source, "sampler", None), getattr(self.source, "batch_size", None)
        if self.share.is_even and isinstance(sampler, DerivedSampler) and bs is not None:
            rest = sampler.n % (bs * self.share.count)
            return drops_last(self.source) and 10 * rest <= sampler.n  # see `choose_drop_last`
        return drops_last(self.source)

    def iterate(self, start_batch: int = 0) -> Iterator[tuple[Tree, Tree]]:
        """Starts a pass at a batch. A foreign loader is read up to there; a `DerivedSampler` skips without reading."""
        sampler = getattr(self.source, "sampler", None)
        if isinstance(sampler, DerivedSampler):
            sampler.skip = start_batch * self.share.count * int(getattr(self.source, "batch_size", None) or 1)
        batches = map(self._deliver, self._read())
        if self.batch_tfms.transforms:
            batches = map(self._transform, batches)
        if not isinstance(sampler, DerivedSampler):
            next(islice(batches, start_batch, start_batch), None)  # now, since reading draws random numbers
        return batches

    def take_share(self, share: Share) -> Self:
        """Returns a loader of the same source that gives this share of its batches.

        A `DataLoader` over a map-style dataset reads only its share, in an order that the first process decides. From
        any other source every process reads everything, and it must come in the same order everywhere.

        Raises:
            ValueError: the source has a `DistributedSampler`, which already takes a share.
        """
        if isinstance(getattr(self.source, "sampler", None), DistributedSampler):
            raise ValueError(
                "a loader must give all data to every process, because a Learner takes each process's share. Received: "
                "a DataLoader with a DistributedSampler. Leave the sampler out, and give shuffle=True for training."
            )
        is_indexed = share.count > 1 and isinstance(self.source, DataLoader) and self.source.batch_sampler is not None
        if not is_indexed or isinstance(self.source.dataset, IterableDataset):  # type: ignore[attr-defined]
            return self._copy_with(share=share, _own_share=None)
        part = self._copy_with(share=share)
        part._own_share = _read_share(self.source, share, drop_last=part._drops_last)  # type: ignore[arg-type]
        return part

    def _read(self) -> Iterator[Any]:
        if self.share.count == 1:
            return _read(self.source)
        if self._own_share is None:
            return share_batches(self._read_whole(), self.share, drop_last=self._drops_last)
        return self._empty_stand_ins(self._own_share)

    def _read_whole(self) -> Iterator[Any]:
        yield from _read(self.source)

    def _empty_stand_ins(self, source: DataLoader[Any]) -> Iterator[Any]:
        for i, batch in enumerate(_read(source)):
            is_stand_in = i == source.batch_sampler.stand_in_at  # type: ignore[union-attr]
            yield map_tensors(lambda t: t[:0], batch) if is_stand_in else batch

    @property
    def n_items(self) -> int | Any:
        """The number of items that `in_order` gives; None if only a pass over the data would say."""
        if not isinstance(self.source, DataLoader) or isinstance(self.source.dataset, IterableDataset):
            return None
        if self.source.batch_sampler is None:  # the dataset itself yields batches
            return None
        return len(_items_in_order(self.source))

    def in_order(self) -> Self:
        """Returns a loader of every item in dataset order; if the source is no torch `DataLoader`, the loader itself.

        The new `DataLoader` has the same dataset, collation and workers, and draws from no global generator. If a
        sampler covers a part of the dataset, so does the new loader.
        """
        if not isinstance(self.source, DataLoader) or isinstance(self.source.dataset, IterableDataset):
            return self.take_share(WHOLE)
        return self._copy_with(source=_sequential(self.source)).take_share(WHOLE)

    def items(self, indices: Sequence[int]) -> tuple[Tree, Tree]:
        """Returns the items at these positions of `in_order` as a batch on the device.

        They are read one by one from a map-style dataset; from any other source a pass is read as far as needed.
        """
        source = self.in_order().source
        with isolate_rng():  # a dataset may draw
            if isinstance(source, DataLoader) and not isinstance(source.dataset, IterableDataset):
                order = list(source.sampler)
                return self._deliver(source.collate_fn([source.dataset[order[int(i)]] for i in indices]))
            return _find_items(self._copy_with(batch_tfms=Pipeline()), [int(i) for i in indices])

    def positions_of(self, batch: int) -> list[int] | None:
        """Returns the positions of a batch's items, in the latest pass; None unless (seed, epoch) decide the order."""
        sampler = getattr(self.source, "sampler", None)
        bs = getattr(self.source, "batch_size", None)
        if not isinstance(sampler, DerivedSampler) or bs is None:
            return None
        n = len(self.source) * bs if drops_last(self.source) else sampler.n  # type: ignore[arg-type]
        _, first, stop = self.share.piece(batch, n, bs, drop_last=self._drops_last)
        return sampler.order(sampler.epoch - 1)[first:stop].tolist()

    def pick(self, indices: Sequence[int]) -> Self:
        """Returns a loader of the items at these positions of `in_order`, as one batch."""
        return self._copy_with(source=[self.items(indices)]).take_share(WHOLE)

    def augment(self, number: int = 0, *, item_tfms: object = None, batch_tfms: object = None) -> Self:
        """Raises an error: a foreign loader does not say which of its steps are augmentation.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"a {type(self.source).__name__} does not say which of its transforms are augmentation. Build the loaders "
            "with `DataLoaders.from_arrays(..., batch_tfms=...)` or from files."
        )

    def data_in_memory(self) -> Iterator[tuple[Tree, Tree]]:
        """Yields all data that lie in memory: the tensors of a `TensorDataset`, or the batches of a list."""
        if isinstance(self.source, (list, tuple)):
            yield from map(self._deliver, self.source)
        dataset = getattr(self.source, "dataset", None)
        if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
            yield dataset.tensors[:-1], dataset.tensors[-1]

    def fingerprint(self) -> dict[str, Any]:
        """Returns the little that is known of foreign data: the classes of the loader and of the dataset."""
        dataset = getattr(self.source, "dataset", None)
        kinds = [type(part).__name__ for part in (self.source, dataset) if part is not None]
        return {"data": " of ".join(kinds), "batch_tfms": repr(self.batch_tfms)}

    def state_dict(self) -> dict[str, Any]:
        """Returns the next pass of a derived shuffle, the generators found, and the source's own state."""
        sampler = getattr(self.source, "sampler", None)
        derived = {"seed": sampler.seed, "epoch": sampler.epoch} if isinstance(sampler, DerivedSampler) else {}
        own = getattr(self.source, "state_dict", None)
        return {
            "derived": derived,
            "generators": [generator_state(generator) for generator in find_generators(self)],
            "source": dict(own()) if own is not None else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was called."""
        sampler = getattr(self.source, "sampler", None)
        if isinstance(sampler, DerivedSampler):
            sampler.seed, sampler.epoch = int(state["derived"]["seed"]), int(state["derived"]["epoch"])
        for generator, kept in zip(find_generators(self), state["generators"], strict=True):
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
                "a torch DataLoader does so with a `collate_fn=`."
            )
        *inputs, y = (torch.as_tensor(part) if isinstance(part, np.ndarray) else part for part in batch)
        self._latest["n_inputs"] = len(inputs)
        x = inputs[0] if len(inputs) == 1 else tuple(inputs)
        return to_device(x, self.device), to_device(y, self.device)

    def _lists_inputs(self, x: Tree) -> bool:
        return self._latest.get("n_inputs", 1) > 1

    def _transform(self, batch: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
        rng = torch.Generator(self.device).manual_seed(0)
        return map_tensors(lambda t: self.batch_tfms(t, rng, training=False), batch[0]), batch[1]

    def __repr__(self) -> str:
        return f"ForeignLoader({type(self.source).__name__}, {plural(len(self), 'batch')}, device={self.device})"


def _read(source: Iterable[Any]) -> Iterator[Any]:
    return read_under_watch(source) if isinstance(source, DataLoader) else iter(source)


def _find_items(loader: ForeignLoader, positions: list[int]) -> tuple[Tree, Tree]:
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
    xs, ys = zip(*(found[position] for position in positions), strict=True)
    x = default_collate(list(xs))
    return tuple(x) if type(xs[0]) is tuple else x, None if ys[0] is None else default_collate(list(ys))


def _read_share(loader: DataLoader[Any], share: Share, *, drop_last: bool) -> DataLoader[Any]:
    batches = SharedBatches(loader.batch_sampler, share, drop_last=drop_last)  # type: ignore[arg-type]
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        generator=loader.generator,
        persistent_workers=loader.persistent_workers,
        **_options(loader),
    )


def from_dataset(dataset: Any, *, bs: int, seed: int, training: bool) -> DataLoader[Any]:
    """Wraps a map-style dataset: for training shuffled by (seed, epoch), else in order and complete.

    Training leaves out a short last batch, as `share.choose_drop_last` says.
    """
    n = len(dataset)
    drop_last = training and n > 0 and choose_drop_last(n, bs)
    sampler: Sampler[int] = DerivedSampler(n, seed) if training else SequentialSampler(dataset)
    # Its own generator: without one, every pass would draw a number from torch's global generator.
    generator = derive_generator(seed, "workers", int(training))
    return DataLoader(dataset, batch_size=bs, sampler=sampler, drop_last=drop_last, generator=generator)


def over_datasets(
    like: ForeignLoader,
    sources: Sequence[DataLoader[Any]],
    positions: Sequence[int],
    *,
    training: bool,
    seed: int = 0,
) -> ForeignLoader:
    """Returns a loader of the items at some positions of several loaders in a row, read and moved as `like` does.

    Args:
        like: the loader whose collation, workers and size of a batch it takes.
        sources: loaders of map-style datasets, in order.
        positions: counted over all sources.
        training: whether to shuffle.
        seed: decides the order, with the number of the pass.
    """
    source: Any = like.source
    every: Dataset[Any] = ConcatDataset([Subset(one.dataset, list(one.sampler)) for one in sources])
    part, bs = Subset(every, positions), source.batch_size or int(getattr(source.batch_sampler, "batch_size", 64))
    sampler: Sampler[int] = DerivedSampler(len(part), seed) if training else SequentialSampler(part)
    drop_last = training and drops_last(source) and is_small_rest(len(part), bs)
    generator = derive_generator(seed, "workers", int(training))
    options: dict[str, Any] = {"batch_size": bs, "sampler": sampler, "drop_last": drop_last, "generator": generator}
    loader: DataLoader[Any] = DataLoader(part, **options, **_options(source))
    return like._copy_with(source=loader).take_share(WHOLE)


def _sequential(loader: DataLoader[Any]) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(derive_seed(0, "in_order"))
    bs = loader.batch_size
    if bs is None and loader.batch_sampler is not None:
        bs = int(getattr(loader.batch_sampler, "batch_size", 64))
    order = _items_in_order(loader)
    return DataLoader(loader.dataset, batch_size=bs, sampler=order, generator=generator, **_options(loader))


def _options(loader: DataLoader[Any]) -> dict[str, Any]:
    """Returns how a loader reads, apart from what and in which order."""
    return {
        "num_workers": loader.num_workers,
        "collate_fn": loader.collate_fn,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "prefetch_factor": loader.prefetch_factor,
    }


def _items_in_order(loader: DataLoader[Any]) -> SequentialSampler | ListSampler:
    dataset: Any = loader.dataset
    batches = loader.batch_sampler
    # If there is a batch sampler, torch fills `sampler` with a default that means nothing.
    sampler = loader.sampler if batches is None else batches.sampler if type(batches) is BatchSampler else None
    if type(sampler) in (SequentialSampler, RandomSampler, DerivedSampler):
        return SequentialSampler(dataset)
    if isinstance(sampler, SubsetRandomSampler):
        return ListSampler(list(sampler.indices))
    with restore_loaders(loader), isolate_rng():
        indices = list(sampler) if sampler is not None else [index for batch in batches or () for index in batch]
    # A sampler that draws as many as there are covers the whole dataset, even if it draws some twice.
    return SequentialSampler(dataset) if len(indices) == len(dataset) else ListSampler(sorted(set(indices)))
