"""Items that are read one by one: a path becomes an image, and an image becomes a uint8 tensor.

There are only inputs here; labels were encoded when the loaders were built. `item_loader` decides when an item is read,
and in which process.
"""

from __future__ import annotations

import copy
import errno
import functools
import hashlib
import inspect
import os
import random
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import starmap
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from minilearner.data.image_cache import KEPT, ImageCache, Pixels, fingerprint, make_room, room_for_cache
from minilearner.data.image_modes import as_input_image
from minilearner.data.item_transforms import ItemPipeline
from minilearner.data.items import name_items
from minilearner.data.table import Table
from minilearner.errors import DataError, FileFormatError
from minilearner.runtime import compute_pieces_in_threads, derive_seed
from minilearner.threads import one_reader
from minilearner.tree import Tree, map_tensors

__all__ = ["Fetched", "ItemDataset", "Key", "as_tensor"]

Key: TypeAlias = tuple[int, int | None]
"""(position, epoch); epoch None is validation."""

_N_SAMPLED = 8  # images decoded to estimate how large a cache would be
_MOST_TOGETHER, _BYTES_TOGETHER = 16, 2**25  # items that are read before any of them is transformed
_BLOCK_MODULES = ("minilearner.vision.image_block.", "minilearner.vision.blocks.")
"""Today's and the first module of `ImageBlock`. Its name is part of the name of caches that lie on disk."""

_LEAVE_OUT = (
    "To leave out all such files, read them once when the loaders are made, for example with "
    'ImageDataLoaders.from_folder(..., verify="decode", on_unreadable="skip").'
)


@dataclass
class Fetched:
    """A batch of inputs, and the images that were decoded for it."""

    x: Tree
    """(batch, channels, height, width), uint8 for images; a tuple if a model takes several inputs."""
    fresh: list[tuple[int, Pixels]] = field(default_factory=list)
    """Images to store in the cache, with their positions."""

    def pin_memory(self) -> Fetched:
        """Returns it with the inputs in pinned memory, so that copies to a GPU need no waiting."""
        return Fetched(map_tensors(Tensor.pin_memory, self.x), self.fresh)


class ItemDataset(Dataset[Tree]):
    """Inputs by position, read on demand.

    Args:
        items: what `read` takes: paths, rows, images.
        read: item -> PIL image, tensor or array, or a tuple of them if a model takes several inputs. It must always
            return the same for an item, and must pickle if workers start by spawn. If it has a parameter `reduce_to`,
            as `open_image` has, it gets the (width, height) that is enough for the transforms. If it has a true
            attribute `in_threads`, several threads may call it at once.
        item_tfms: run on every part of what `read` returns.
        seed: item transforms in training draw from (seed, epoch, position) and nothing else.
        cache: whether images are kept after the part of `item_tfms` that is always the same, so that later epochs need
            not decode. None keeps them if there is room (see `image_cache.room_for_cache`), False never, and True
            always, in a temporary file. A folder keeps them for later runs, until a file or a transform changes, or
            until newer caches need the room (see `image_cache.make_room`). Images are the same bits with and without
            the cache. The first pass decides.
        rows: the number of each item's row, if items come from a table, for errors.
    """

    def __init__(
        self,
        items: Sequence[Any],
        read: Callable[..., Any],
        item_tfms: ItemPipeline | None = None,
        *,
        seed: int = 0,
        cache: bool | str | os.PathLike[str] | None = None,
        rows: Sequence[int] | None = None,
        table: Table | None = None,
    ) -> None:
        self.items, self.seed, self.rows, self.table = items, seed, rows, table
        self._is_own = True  # False for items that no call has made loaders of, such as that of `predict`
        self.item_tfms = ItemPipeline() if item_tfms is None else item_tfms
        self._read = read
        self.read = _give_size(read, self.item_tfms)
        self.cache = cache
        self.store: ImageCache | None = None
        """The cache, if there is one; None before the first pass."""
        self._no_store = "" if cache is not False else "off"
        self._expected: int | None = None  # how many bytes the cache will take

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Key) -> Tree:
        """Returns the input at (position, epoch) as a tensor (channels, height, width); epoch None is validation."""
        with self._turn(), self.item_tfms.isolate_rng():
            return _map_parts(as_tensor, self._finish(self._prepare(key[0], self._read_item(key[0])), key))

    def fetch(self, keys: Sequence[Key], started: Callable[[int], object] | None = None) -> Fetched:
        """Returns the inputs at these keys as one batch, from the cache if they are stored.

        Args:
            keys: (position, epoch) of each.
            started: a function that is called with a position before the item is read, and before it is transformed.

        Raises:
            DataError: an item cannot be read or transformed, or does not have the shape of the others.
        """
        with self._turn(), self.item_tfms.isolate_rng():
            # Items that `drop_last` leaves out of every pass are never stored. They are fewer than a batch.
            is_work = not self.is_cached(len(keys) - 1)
            if started is None and self.in_threads and is_work:
                read = compute_pieces_in_threads(self._fetch_each, keys)
            else:
                read = self._fetch_each(keys, started)
        stacked = self._stack([item for item, _ in read], [position for position, _ in keys])
        return Fetched(stacked, [one for _, fresh in read for one in fresh])

    def _turn(self) -> AbstractContextManager[Any]:
        """Returns what keeps other threads from reading, unless the reader and the transforms allow several."""
        return nullcontext() if self.in_threads else one_reader()

    def _fetch_each(
        self,
        keys: Sequence[Key],
        started: Callable[[int], object] | None = None,
    ) -> list[tuple[Any, list[tuple[int, Pixels]]]]:
        """Returns each item after all transforms, and its image for the cache, if it is not stored yet."""
        note = (lambda _: None) if started is None else started
        # No name may refer to an item here, or it would stay in memory while the next ones are read.
        return list(starmap(functools.partial(self._transform, note), self._read_ahead(keys, note)))

    def _read_ahead(self, keys: Sequence[Key], note: Callable[[int], object]) -> Iterator[tuple[Key, Any]]:
        """Yields items as they were read, or as they are stored; reads as many ahead as take little memory.

        Reading several and then transforming them takes a tenth less time than one by one, because the processor's
        caches keep the code of each. Items that may not be read in threads may depend on the order, so they come alone.
        """
        most = _MOST_TOGETHER if self.in_threads else 1
        group: deque[tuple[Key, Any]] = deque()
        n_bytes = 0
        for n, key in enumerate(keys, 1):
            note(key[0])
            group.append((key, self._look_up(key[0])))
            n_bytes += _count_bytes(group[-1][1])
            if len(group) == most or n_bytes >= _BYTES_TOGETHER or n == len(keys):
                while group:
                    yield group.popleft()
                n_bytes = 0

    def _look_up(self, position: int) -> Any:
        """Returns an item as it is stored, or else as it is read."""
        stored = None if self.store is None else self.store.get(position)
        return self._read_item(position) if stored is None else _ByteImage(pixels=stored)

    def _transform(self, note: Callable[[int], object], key: Key, item: Any) -> tuple[Any, list[tuple[int, Pixels]]]:
        note(key[0])
        if isinstance(item, _ByteImage):  # from the cache
            return self._finish(item, key), []
        prepared = self._prepare(key[0], item)
        is_fresh = self.store is not None and isinstance(prepared, _ByteImage)
        return self._finish(prepared, key), [(key[0], prepared.pixels)] if is_fresh else []

    def over(self, items: Sequence[Any], item_tfms: ItemPipeline | None = None) -> ItemDataset:
        """Returns a dataset of other items, read as these, and transformed as these or by `item_tfms`; not cached."""
        other = copy.copy(self)
        other.item_tfms = self.item_tfms if item_tfms is None else item_tfms
        other.read = _give_size(self._read, other.item_tfms)
        other.items, other.cache, other.store, other._no_store = items, False, None, "off"
        other.rows, other.table, other._is_own = None, None, False
        return other

    def new(self, items: Sequence[Any], rows: Sequence[int] | None) -> ItemDataset:
        """Returns a dataset of other items of the same source, with a cache of its own, which no later run finds."""
        cache = self.cache if self.cache is None or isinstance(self.cache, bool) else True
        how: dict[str, Any] = {"seed": self.seed, "cache": cache, "rows": rows, "table": self.table}
        return type(self)(items, self._read, self.item_tfms, **how)

    def open_store(self) -> None:
        """Opens the cache, or decides once that there is none."""
        with one_reader():
            self._open_store()

    def _open_store(self) -> None:
        if self.store is not None or self._no_store or not len(self):
            return
        if self.cache is None or isinstance(self.cache, bool):
            path, is_there = None, False
        else:
            path = Path(self.cache) / f"{fingerprint(self.items, self._describe_preparation())}{KEPT}"
            is_there = path.exists()
        self._no_store = "" if is_there else self._reason_against_cache()
        try:
            self.store = None if self._no_store else ImageCache(len(self), path)
        except OSError as e:
            if e.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._go_without_store(e)

    def keep(self, fresh: list[tuple[int, Pixels]]) -> None:
        """Stores decoded images. If the disk is full, warns and continues without a cache."""
        store = self.store
        if store is None or not fresh:
            return
        try:
            with one_reader():
                store.put(fresh)
        except OSError as e:
            self._go_without_store(e)

    def _go_without_store(self, error: OSError) -> None:
        self.store, self._no_store = None, f"off: {error.strerror}"
        warnings.warn(f"Images are not cached any more: {error}", RuntimeWarning, stacklevel=3)

    def columns(self) -> dict[str, list[Any]]:
        """Returns the columns of the items' table, with one value for each item. Empty without a table."""
        if self.table is None or self.rows is None:
            return {}
        return {str(name): [cells[i] for i in self.rows] for name, cells in self.table.columns.items()}

    @property
    def in_threads(self) -> bool:
        """Whether `fetch` reads and transforms items in threads, outside worker processes.

        The reader and all item transforms must have a true attribute of this name: they may run in several threads at
        once, on different items. Ours for images have it. A subclass must set it again, because it may keep state.
        """
        return getattr(self._read, "in_threads", False) and self.item_tfms.in_threads

    def is_cached(self, n_missing: int = 0) -> bool:
        """Returns whether only a crop is left to do, because all images but `n_missing` are stored."""
        return (
            self.store is not None
            and self.store.n_stored >= len(self) - n_missing
            and self.item_tfms.window is not None
        )

    @property
    def cache_state(self) -> str:
        """The state of the cache, in words."""
        if self.store is None:
            return self._no_store or "not started"
        size = f"{self.store.n_bytes / 1e6:.1f} MB"
        if self.store.is_complete:
            return size
        expected = "" if self._expected is None else f" of about {self._expected / 1e6:.1f} MB"
        return f"{self.store.n_stored} of {len(self)}, {size}{expected}"

    def _read_item(self, position: int) -> Any:
        with self._name_failures(position, "read"):
            return _map_parts(_upright, self.read(self.items[position]))

    def _prepare(self, position: int, item: Any) -> Any:
        """Returns an item that was read after the transforms that always do the same; an image as a `_ByteImage`."""
        with self._name_failures(position, "transformed"):
            return _map_parts(lambda part: _as_byte_image(self.item_tfms.prepare(part)), item)

    def _finish(self, prepared: Any, key: Key) -> Any:
        """Returns a prepared item after the rest of the transforms: a `_ByteImage` or a tensor."""
        with self._name_failures(key[0], "transformed"):
            return _map_parts(lambda part: self._finish_part(part, *key), prepared)

    def _finish_part(self, part: Any, position: int, epoch: int | None) -> Any:
        rng = None if epoch is None else random.Random(derive_seed(self.seed, "item", epoch, position))
        window = self.item_tfms.window
        if window is not None and isinstance(part, _ByteImage) and self.item_tfms.only_cuts(part.size):
            left, upper, right, lower = window(part.size, rng)
            cut = part.pixels[upper:lower, left:right]
            # A view keeps the whole decoded image until its batch is made. If it was not scaled, that may be 36 MB.
            is_large = part.is_decoded and part.pixels.nbytes > 2 * cut.nbytes
            return _ByteImage(pixels=cut.copy() if is_large else cut)
        return _as_input(self.item_tfms.finish(part.image if isinstance(part, _ByteImage) else part, rng))

    @contextmanager
    def _name_failures(self, position: int, done: str) -> Iterator[None]:
        """Adds the item's name to any error."""
        try:
            yield
        except Exception as e:
            is_named = isinstance(e, DataError) and str(self.items[position]) in str(e)
            if is_named:
                message = f"{e} It is {self._name_row(position)}." if len(self) > 1 else str(e)
            else:
                message = f"I{self.name_item(position)[1:]} cannot be {done}: {_reason(e)}"
            if isinstance(e, FileFormatError):
                raise FileFormatError(f"{message} {_LEAVE_OUT}" if self._is_own else message) from e
            raise DataError(message) from e

    def name_item(self, position: int) -> str:
        """Returns how an error names an item."""
        row = "" if self.rows is None else f"row {self.rows[position]} of the table, "
        return f"item {position} ({row}{name_items(self.items, [position])})"

    def _name_row(self, position: int) -> str:
        return f"item {position}" if self.rows is None else f"row {self.rows[position]} of the table, counted from 0"

    def _stack(self, inputs: list[Any], positions: list[int]) -> Tree:
        if isinstance(inputs[0], tuple):
            return tuple(self._stack(list(part), positions) for part in zip(*inputs, strict=True))
        other = next((i for i, part in enumerate(inputs) if part.shape != inputs[0].shape), None)
        if other is not None:
            seen = [f"{self.name_item(positions[i])} of {_size(inputs[i])}" for i in (0, other)]
            raise DataError(
                f"The items of a batch must have one shape. Received: {', '.join(seen)}. Give them one with a "
                "transform in `item_tfms`, such as Resize(224)."
            )
        if isinstance(inputs[0], _ByteImage):
            return _planes_first(torch.from_numpy(np.stack([part.pixels for part in inputs])))
        return torch.stack(inputs)

    def estimate_cache(self) -> int | None:
        """Returns how many bytes the cache will take, from a few images that are decoded for it; None if none can be.

        Only images of 8 bits are kept.
        """
        n = min(_N_SAMPLED, len(self))
        with self.item_tfms.isolate_rng():
            positions = [i * len(self) // n for i in range(n)]
            sample = [self._prepare(position, self._read_item(position)) for position in positions]
        if not all(isinstance(part, _ByteImage) for part in sample):
            return None
        sampled: int = sum(part.pixels.nbytes for part in sample)
        return sampled * len(self) // max(n, 1)

    def _reason_against_cache(self) -> str:
        """Returns why there can be no cache; an empty text if there can."""
        self._expected = self.estimate_cache()
        if self._expected is None:
            return "off: not images of 8 bits"
        if self.cache is True:
            return ""
        room = room_for_cache() if self.cache is None else make_room(str(self.cache), self._expected)
        if self._expected <= room:
            return ""
        reason = f"off: it would take {self._expected / 1e9:.1f} GB, and it may take {room / 1e9:.1f} GB"
        if self.cache is not None:
            warnings.warn(f"Images are not kept in {self.cache}. The cache is {reason}.", RuntimeWarning, stacklevel=2)
        return reason

    def _describe_preparation(self) -> str:
        """Returns everything but the files that stored images depend on, as text that is the same in another run.

        Raises:
            ValueError: the reader or a transform has no `__repr__` of its own.
        """
        how = f"{_name(self.read)} | {self.item_tfms.preparation} | Pillow {PIL.__version__}"
        if " at 0x" in how:
            raise ValueError(
                "`cache` can only be a folder if `read` and the transforms have a `__repr__` that says what they do. "
                f"Received: {how}. Define one, or use cache=True."
            )
        return how.replace(*_BLOCK_MODULES)

    def __getstate__(self) -> dict[str, Any]:
        # Only a process that is starting can get the cache's open file; any other copy opens its own.
        passes_on = get_spawning_popen() is not None and os.name == "posix"
        state = {**self.__dict__, "table": None}  # a worker reads files, and the table may be large
        return state if passes_on else {**state, "store": None}


def as_tensor(item: Any) -> Tensor:
    """Returns a PIL image as uint8 (channels, height, width); tensors and arrays as they are."""
    item = _as_input(item)
    return (
        item if isinstance(item, Tensor) else _planes_first(torch.from_numpy(item.pixels[None].copy()))[0].contiguous()
    )


class _ByteImage:
    """An image of 8 bits, as pixels and as a Pillow image; each is made from the other when it is needed."""

    def __init__(self, *, pixels: Pixels | None = None, image: Image.Image | None = None) -> None:
        self._pixels, self._image = pixels, image

    @property
    def is_decoded(self) -> bool:
        return self._image is not None

    @property
    def pixels(self) -> Pixels:
        if self._pixels is None:
            self._pixels = np.asarray(self._image)
        return self._pixels

    @property
    def image(self) -> Image.Image:
        if self._image is None:
            self._image = Image.fromarray(self.pixels)
        return self._image

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.pixels.shape)


def _upright(item: Any) -> Any:
    return as_input_image(item) if isinstance(item, Image.Image) else item


def _as_byte_image(item: Any) -> Any:
    return _ByteImage(image=item) if isinstance(item, Image.Image) and item.mode in ("L", "RGB", "RGBA") else item


def _as_input(item: Any) -> _ByteImage | Tensor:
    if isinstance(item, Image.Image):
        return _ByteImage(image=as_input_image(item))
    if isinstance(item, Tensor):
        return item.as_subclass(Tensor)  # torchvision's own kind of tensor would slow every operation on it
    return item if isinstance(item, _ByteImage) else torch.as_tensor(item)


def _planes_first(pixels: Tensor) -> Tensor:
    """(batch, height, width[, channels]) -> (batch, channels, height, width), a view."""
    return pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)


def _map_parts(f: Callable[[Any], Any], item: Any) -> Any:
    return tuple(f(part) for part in item) if isinstance(item, tuple) else f(item)


def _count_bytes(item: Any) -> int:
    """Returns about how much memory an item takes that was read; 0 for one from the cache."""
    if isinstance(item, tuple):
        return sum(map(_count_bytes, item))
    if isinstance(item, Image.Image):
        return item.width * item.height * 4
    if isinstance(item, Tensor):
        return item.numel() * item.element_size()  # sparse ones have no `nbytes`
    if isinstance(item, _ByteImage):
        return 0
    return item.nbytes if isinstance(item, np.ndarray) else _BYTES_TOGETHER  # as if it were large


def _size(part: _ByteImage | Tensor) -> str:
    if isinstance(part, Tensor):
        return f"shape {tuple(part.shape)}"
    return f"{part.size[0]} x {part.size[1]} pixels with {(*part.shape, 1)[2]} channels"


def _reason(e: Exception) -> str:
    if isinstance(e, DataError):
        return str(e)
    frames = traceback.extract_tb(e.__traceback__)
    where = f" ({frames[-1].name} at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(e).__name__}: {e}{where}"


def _name(f: Callable[..., Any]) -> str:
    """Returns a text that changes when the code of a function changes; other code that it calls does not count."""
    if isinstance(f, functools.partial):
        return f"{_name(f.func)} {f.args} {f.keywords}"
    code = getattr(f, "__code__", None)
    if code is None:
        return repr(f)
    constants = [value for value in code.co_consts if not hasattr(value, "co_code")]
    digest = hashlib.blake2b(code.co_code + repr((constants, code.co_names)).encode(), digest_size=8).hexdigest()
    return f"{f.__module__}.{f.__qualname__} {digest}"


def _give_size(read: Callable[..., Any], item_tfms: ItemPipeline) -> Callable[[Any], Any]:
    """Returns the reader with `reduce_to` set, if it takes that and the transforms know the size."""
    try:
        takes = "reduce_to" in inspect.signature(read).parameters
    except (TypeError, ValueError):  # some functions written in C have no signature
        takes = False
    if not takes or item_tfms.reduce_to is None:
        return read
    return functools.partial(read, reduce_to=item_tfms.reduce_to)
