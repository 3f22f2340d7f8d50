"""Batches from a stream of items: an iterable that need have neither a length nor positions.

Streamed datasets of Hugging Face and WebDataset's tar files are such iterables. `ImageDataLoaders.from_stream` makes
the loaders.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from minilearner.checks import check_count
from minilearner.data.batch_transforms import Transforms, in_unit_range, run_steps
from minilearner.data.foreign_loader import ForeignLoader
from minilearner.data.item_dataset import ItemDataset, as_tensor
from minilearner.data.item_loader import ItemLoader
from minilearner.data.item_transforms import ItemPipeline
from minilearner.data.share import WHOLE, share_batches
from minilearner.data.worker_processes import read_under_watch
from minilearner.errors import DataError, plural
from minilearner.runtime import derive_generator, derive_seed
from minilearner.tree import Tree

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ItemStream", "StreamLoader"]


class ItemStream(IterableDataset[Any]):
    """The items of a source as tensors ``(x, y)``.

    In a worker process, a torch `IterableDataset` chooses its own part, as torch asks of it; from any other source,
    each of n workers takes every n-th item.

    Args:
        source: what can be iterated again and again.
        get_x: item -> what `read` takes.
        get_y: item -> the target as a number.
        read: reads an input, such as the `read` of an `ImageBlock`.
        item_tfms: transforms of one item.
        seed: item transforms in training draw from (seed, pass, worker, place) and nothing else.
        training: whether random item transforms run.
    """

    def __init__(
        self,
        source: Iterable[Any],
        *,
        get_x: Callable[[Any], Any],
        get_y: Callable[[Any], int | float],
        read: Callable[[Any], Any],
        item_tfms: ItemPipeline,
        seed: int,
        training: bool,
    ) -> None:
        self._held = (
            source,
        )  # in a tuple: a look at the loader would put the state of a bare one back, and so move it
        self.get_x, self.get_y = get_x, get_y
        self.read, self.item_tfms, self.seed, self.training = read, item_tfms, seed, training
        self.epoch = 0

    @property
    def items(self) -> Any:
        """The source."""
        return self._held[0]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        set_epoch = getattr(self.items, "set_epoch", None)
        if set_epoch is not None:  # so that a source that shuffles has a new order
            set_epoch(max(self.epoch, 0))
        worker = get_worker_info()
        number, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        chooses = isinstance(self.items, IterableDataset)
        for place, item in enumerate(self.items if chooses else islice(self.items, number, None, step)):
            seed = derive_seed(self.seed, "stream", self.epoch, number, place)
            with self.item_tfms.isolate_rng():
                x = self.item_tfms(self.read(self.get_x(item)), random.Random(seed) if self.training else None)
            yield as_tensor(x), torch.as_tensor(self.get_y(item))


class StreamLoader(ForeignLoader):
    """Serves the first `n` items of each pass over a stream in batches ``(x, y)``.

    Args:
        stream: the items.
        n: how many items a pass has.
        bs: items per batch.
        num_workers: processes that read ahead.
        drop_last: leave out the last batch if it is short.
        batch_tfms: run on the inputs of every batch; those for training only if the stream trains.
        device: where batches arrive.

    Raises:
        DataError: (in a pass) the stream ends before `n` items, or inputs differ in shape.
    """

    def __init__(
        self,
        stream: ItemStream,
        n: int,
        *,
        bs: int,
        num_workers: int = 0,
        drop_last: bool = False,
        batch_tfms: Transforms = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_count(bs, "bs")
        check_count(num_workers, "num_workers", least=0)
        super().__init__(stream, device=device)
        self.batch_tfms = type(self.batch_tfms)(batch_tfms)
        self.bs, self.drop_last, self.num_workers = bs, drop_last, num_workers
        self._n, self.epoch = n, 0

    @property
    def n_items(self) -> int:
        """The number of items in a pass, including those of a short batch that is dropped."""
        return self._n

    @property
    def like_items(self) -> ItemLoader:
        """A loader without items, for new ones to be read and transformed as in validation."""
        stream: Any = self.source
        dataset = ItemDataset([], stream.read, stream.item_tfms, seed=stream.seed)
        return ItemLoader(dataset, bs=self.bs, seed=stream.seed, batch_tfms=self.batch_tfms, device=self.device)

    def __len__(self) -> int:
        n = self._n // self.bs if self.drop_last else -(-self._n // self.bs)
        return self.share.n_batches(n, 1, drop_last=self.drop_last)

    def iterate(self, start_batch: int = 0) -> Iterator[tuple[Tree, Tree]]:
        """Starts a pass at a batch; the stream is read up to there."""
        epoch, self.epoch = self.epoch, self.epoch + 1
        batches = share_batches(self._batches(epoch), self.share, drop_last=self.drop_last)
        next(islice(batches, start_batch, start_batch), None)
        return (self._finish(batch, epoch, b) for b, batch in enumerate(batches, start_batch))

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        stream: Any = self.source
        stream.epoch = epoch
        generator = derive_generator(stream.seed, "workers", epoch)
        loader: DataLoader[Any] = DataLoader(stream, batch_size=None, num_workers=self.num_workers, generator=generator)
        items = islice(read_under_watch(loader), self._n)
        n_read = 0
        while some := list(islice(items, self.bs)):
            n_read += len(some)
            if len(some) < self.bs and (self.drop_last or n_read < self._n):
                break
            yield _stack([x for x, _ in some]), torch.stack([y for _, y in some])
        if n_read < self._n:
            raise DataError(
                f"the stream ended after {plural(n_read, 'item')}, before the {self._n:,} that a pass has. Give the "
                "number of its items, or a stream that repeats."
            )

    def _finish(self, batch: tuple[Tensor, Tensor], epoch: int, b: int) -> tuple[Tree, Tree]:
        stream: Any = self.source
        x, y = (t.to(self.device) for t in batch)
        steps = self.batch_tfms.steps(training=stream.training)
        path = ("augment", epoch, b) if stream.training else ("validate", b)
        return (run_steps(steps, x, derive_generator(stream.seed, *path)) if steps else in_unit_range(x)), y

    def in_order(self) -> Self:
        """Returns a loader of a whole pass without augmentation, always the same if the source's order is."""
        stream: Any = self.source
        return self._copy_with(source=_for_validation(stream), drop_last=False, epoch=0, share=WHOLE)

    def items(self, indices: Any) -> tuple[Tree, Tree]:
        """Returns the items at these positions of `in_order` as a batch; a pass is read as far as needed."""
        wanted = [int(i) for i in indices]
        stream = _for_validation(self.source)
        found = {i: item for i, item in enumerate(islice(stream, max(wanted) + 1)) if i in set(wanted)}
        x, y = _stack([found[i][0] for i in wanted]), torch.stack([found[i][1] for i in wanted])
        return in_unit_range(x.to(self.device)), y.to(self.device)

    def fingerprint(self) -> dict[str, Any]:
        """Returns the little that is known of a stream: its class, its number of items and the transforms."""
        stream: Any = self.source
        tfms = {"item_tfms": repr(stream.item_tfms), "batch_tfms": repr(self.batch_tfms)}
        return {"data": f"{self._n} of {type(stream.items).__name__}", **tfms}

    def state_dict(self) -> dict[str, Any]:
        """Returns the number of the next pass, and the seed."""
        return {"seed": self.source.seed, "epoch": self.epoch}  # type: ignore[attr-defined]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was called."""
        self.source.seed, self.epoch = int(state["seed"]), int(state["epoch"])  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"StreamLoader({plural(self._n, 'item')}, bs={self.bs}, {plural(len(self), 'batch')})"


def _for_validation(stream: Any) -> ItemStream:
    """Returns the same stream without augmentation, at its first pass."""
    how = {"get_x": stream.get_x, "get_y": stream.get_y, "read": stream.read, "item_tfms": stream.item_tfms}
    return ItemStream(stream.items, seed=stream.seed, training=False, **how)


def _stack(inputs: list[Any]) -> Tensor:
    shapes = dict.fromkeys(tuple(x.shape) for x in inputs)
    if len(shapes) > 1:
        raise DataError(
            "inputs must have one shape to make batches. Received: "
            f"{' and '.join(map(str, list(shapes)[:2]))}. Give them one with item_tfms=Resize(...)."
        )
    return torch.stack(inputs)
