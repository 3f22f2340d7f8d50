"""Worker processes that read batches ahead, and how their errors are reported.

`item_dataset` decides what a worker does to an item, and `item_loader` in which order. Workers draw no random numbers,
so neither their number nor their start method changes a bit.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from minilearner import processes
from minilearner.data.image_cache import Pixels
from minilearner.data.item_dataset import Fetched, ItemDataset, Key
from minilearner.data.worker_processes import Death, find_deaths, start_workers
from minilearner.errors import DataError, FileFormatError

__all__ = ["Workers", "default_num_workers"]

_MOST_NAMED = 8


def default_num_workers(device: torch.device) -> int:
    """Returns the default number of workers: one for each processor that this process may use, at most 8.

    Several training processes on one machine divide them. If a processor also trains (`device` is the CPU), there is
    one worker fewer; otherwise training and workers take turns, and each waits for the other. The default is 0 on
    systems that cannot fork (Windows, macOS): every worker starts a new Python there, which takes seconds and fails in
    notebooks and in scripts without ``if __name__ == "__main__"``. `num_workers` asks for them all the same.
    """
    if not sys.platform.startswith("linux"):
        return 0
    processors = len(os.sched_getaffinity(0)) // processes.local_count()
    return max(0, min(8, processors - (device.type == "cpu")))


class Workers:
    """Processes that live as long as this object, and read the batches of one pass at a time.

    Args:
        dataset: what they read from; they get a copy of it when the first pass starts.
        num_workers: the number of processes, at least 1.
        start_method: "fork", "spawn" or "forkserver"; None is "fork" on Linux and the system's own elsewhere.
        pin_memory: whether batches come in pinned memory, for copies to a GPU.
    """

    def __init__(
        self,
        dataset: ItemDataset,
        num_workers: int,
        *,
        start_method: str | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.dataset = dataset
        self._plan = _Plan()
        # The item that each worker reads; -1 between items. In shared memory, so that it outlives the worker.
        self._reading = torch.full((num_workers,), -1, dtype=torch.int64)
        self._reading.share_memory_()  # type: ignore[no-untyped-call]
        self._source = DataLoader(
            _WorkerSide(dataset, self._reading),
            batch_sampler=self._plan,
            collate_fn=_take_only,
            num_workers=num_workers,
            persistent_workers=True,
            pin_memory=pin_memory,
            multiprocessing_context=start_method or ("fork" if sys.platform.startswith("linux") else None),
            generator=torch.Generator().manual_seed(0),  # without one, torch draws from the global generator
        )
        weakref.finalize(self, _shut_down, self._source, os.getpid())
        self.is_busy = False
        """Whether a pass is running; a second one would take its batches."""

    def read(self, batches: Sequence[list[Key]]) -> Iterator[Fetched]:
        """Yields the inputs of each batch in turn.

        Raises:
            DataError: as `ItemDataset.fetch`, without the worker's own trace; or a worker died. Names the item.
        """
        self._plan.batches, self.is_busy = batches, True
        try:
            self._raise_if_dead(self._source._iterator)
            source = start_workers(self._source)
            for _ in batches:
                yield _unpack(self._next(source))
        finally:
            self.is_busy = False

    def _next(self, source: Iterator[Any]) -> Any:
        try:
            return next(source)
        except (RuntimeError, EOFError, OSError) as e:  # the last two: a worker died while it sent a batch
            self._raise_if_dead(source, e)
            raise

    def _raise_if_dead(self, source: Any, cause: Exception | None = None) -> None:
        if deaths := find_deaths(source, is_ending=cause is not None):
            self._source._iterator = None  # the other workers are of no use any more
            raise DataError(" ".join(death.describe(self._name_items(death)) for death in deaths)) from cause

    def _name_items(self, death: Death) -> str:
        position = int(self._reading[death.number])
        if position >= 0:
            return f"while reading {self.dataset.name_item(position)}"
        names = ", ".join(map(self.dataset.name_item, death.positions[:_MOST_NAMED]))
        more = f" and {n} more" if (n := len(death.positions) - _MOST_NAMED) > 0 else ""
        return f"between two items; the last that it had: {names}{more}" if names else "before it had any item"


@dataclass
class _Parcel:
    """A batch on its way between processes: fresh images are joined end to end, into one piece of shared memory."""

    x: Any
    positions: list[int]
    shapes: list[tuple[int, ...]]
    flat: Tensor | None

    def pin_memory(self) -> _Parcel:
        return _Parcel(Fetched(self.x).pin_memory().x, self.positions, self.shapes, self.flat)


@dataclass
class _Failure:
    """An error being sent between processes, as text, since not all errors pickle. The message includes the cause."""

    kind: type[Exception]
    message: str


class _WorkerSide(Dataset[Any]):
    """What a worker runs: it makes a batch for a list of keys."""

    def __init__(self, dataset: ItemDataset, reading: Tensor) -> None:
        self.dataset, self.reading = dataset, reading

    def __getitems__(self, keys: list[Key]) -> list[_Parcel | _Failure]:
        parcels: list[_Parcel | _Failure]
        worker = get_worker_info()
        slot = worker.id if worker is not None else 0
        try:
            parcels = [_pack(self.dataset.fetch(keys, lambda position: self.reading.__setitem__(slot, position)))]
        except Exception as e:  # not an exit: it ends the worker, and `reading` says at which item
            parcels = [_as_failure(e)]
        self.reading[slot] = -1
        return parcels


def _shut_down(source: DataLoader[Any], owner: int) -> None:
    # The garbage collector may close torch's queues before its workers are asked to stop. Each then takes 5 s.
    if source._iterator is not None and os.getpid() == owner:
        source._iterator._shutdown_workers()  # type: ignore[attr-defined]


class _Plan(Sampler[list[Key]]):
    """The batches of the next pass, as keys of the dataset."""

    def __init__(self) -> None:
        self.batches: Sequence[list[Key]] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)


def _pack(fetched: Fetched) -> _Parcel:
    positions, shapes = [p for p, _ in fetched.fresh], [pixels.shape for _, pixels in fetched.fresh]
    flat = torch.from_numpy(np.concatenate([pixels.reshape(-1) for _, pixels in fetched.fresh])) if positions else None
    return _Parcel(fetched.x, positions, shapes, flat)


def _unpack(sent: _Parcel | _Failure) -> Fetched:
    if isinstance(sent, _Failure):
        raise sent.kind(sent.message)
    if sent.flat is None:
        return Fetched(sent.x)
    fresh: list[tuple[int, Pixels]] = []
    rest = sent.flat.numpy()
    for position, shape in zip(sent.positions, sent.shapes, strict=True):
        n = int(torch.Size(shape).numel())
        fresh.append((position, rest[:n].reshape(shape)))
        rest = rest[n:]
    return Fetched(sent.x, fresh)


def _as_failure(e: Exception) -> _Failure:
    kind = next((kind for kind in (FileFormatError, DataError) if isinstance(e, kind)), RuntimeError)
    return _Failure(kind, str(e) if kind is not RuntimeError else f"{type(e).__name__}: {e}")


def _take_only(batches: list[Any]) -> Any:
    return batches[0]
