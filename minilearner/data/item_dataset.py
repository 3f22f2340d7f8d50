"""Items that are read one by one: a path becomes a picture, and a picture a uint8 tensor.

What an item's label is was decided when the loaders were built; here are inputs only. Who reads when, and in which
process, is `item_loader`'s business.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import os
import random
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from minilearner.data.image_cache import PictureCache, Pixels, fingerprint, room_for_cache
from minilearner.data.item_transforms import ItemPipeline
from minilearner.data.items import name_items
from minilearner.errors import DataError, FileFormatError
from minilearner.runtime import derived_seed, in_threads
from minilearner.tree import Tree, map_tensors

__all__ = ["Fetched", "ItemDataset", "Key", "as_tensor"]

Key: TypeAlias = tuple[int, int | None]
"""(position, epoch); epoch None is validation."""

_N_SAMPLED = 8  # pictures decoded to estimate how large a cache would be
_LEAVE_OUT = 'To leave out all such files when loaders are built: verify="decode", on_unreadable="skip".'


@dataclass
class Fetched:
    """A batch of inputs, and what was decoded for it."""

    x: Tree
    """(batch, channels, height, width), uint8 of pictures; a tuple where a model takes several inputs."""
    fresh: list[tuple[int, Pixels]] = field(default_factory=list)
    """Prepared pictures with their positions, for the cache to store."""

    def pin_memory(self) -> Fetched:
        """Returns it with the inputs in pinned memory, from where copies to a GPU need not be waited for."""
        return Fetched(map_tensors(Tensor.pin_memory, self.x), self.fresh)


class ItemDataset(Dataset[Tree]):
    """Inputs by position, read when asked for.

    Args:
        items: what `read` takes: paths, rows, pictures.
        read: item -> PIL picture, tensor or array, or a tuple of them where a model takes several inputs. It must
            always give the same for an item, and pickle where loader workers are started by spawn. One with a parameter
            `reduce_to`, as `open_image` has, is told the (width, height) that are enough for the transforms; one with
            an attribute `in_threads` that is true may be called from several threads at once.
        item_tfms: run on every part of what `read` gives.
        seed: item transforms in training draw from (seed, epoch, position) and nothing else.
        cache: whether pictures are kept as they are after the part of `item_tfms` that is always the same, so that
            later epochs do not decode: None where they fit (see `cache.room_for_cache`), False never, True always, in a
            temporary file; or a folder in which they are kept for later runs, as long as no file and no transform
            changes. The pictures of an epoch are the same bits with and without. Decided when the first pass starts.
    """

    def __init__(
        self,
        items: Sequence[Any],
        read: Callable[..., Any],
        item_tfms: ItemPipeline | None = None,
        *,
        seed: int = 0,
        cache: bool | str | os.PathLike[str] | None = None,
    ) -> None:
        self.items, self.seed = items, seed
        self.item_tfms = ItemPipeline() if item_tfms is None else item_tfms
        self._read = read
        self.read = _told_the_size(read, self.item_tfms)
        self.cache = cache
        self.store: PictureCache | None = None
        """The cache, once a pass has started and where there is one."""
        self._no_store = "" if cache is not False else "off"

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Key) -> Tree:
        """Returns the input at (position, epoch) as a tensor (channels, height, width); epoch None is validation."""
        with self.item_tfms.isolated():
            return _map_parts(as_tensor, self._finished(self._prepared(key[0]), key))

    def fetch(self, keys: Sequence[Key], started: Callable[[int], object] | None = None) -> Fetched:
        """Returns the inputs at these keys as one batch, from the cache where they are stored.

        Args:
            keys: (position, epoch) of each.
            started: called with each position before it is read.

        Raises:
            DataError: an item cannot be read or transformed, or does not have the shape of the others.
        """
        with self.item_tfms.isolated():
            # What `drop_last` leaves out of every pass is never stored, and is less than a batch.
            is_work = not self.is_at_hand(len(keys) - 1)
            if started is None and self.in_threads and is_work:
                read = in_threads(self._fetched, keys, torch.get_num_threads())
            else:
                read = [self._fetched(key, started) for key in keys]
        stacked = self._stacked([item for item, _ in read], [position for position, _ in keys])
        return Fetched(stacked, [one for _, fresh in read for one in fresh])

    def _fetched(
        self, key: Key, started: Callable[[int], object] | None = None
    ) -> tuple[Any, list[tuple[int, Pixels]]]:
        """Returns an item after all transforms, and what the cache is to store of it, if anything."""
        if started is not None:
            started(key[0])
        stored = None if self.store is None else self.store.get(key[0])
        prepared = self._prepared(key[0]) if stored is None else _Picture(pixels=stored)
        is_fresh = self.store is not None and stored is None and isinstance(prepared, _Picture)
        return self._finished(prepared, key), [(key[0], prepared.pixels)] if is_fresh else []

    def over(self, items: Sequence[Any], item_tfms: ItemPipeline | None = None) -> ItemDataset:
        """Returns a dataset of other items, read as these and transformed as these, or by `item_tfms`; uncached."""
        other = copy.copy(self)
        other.item_tfms = self.item_tfms if item_tfms is None else item_tfms
        other.read = _told_the_size(self._read, other.item_tfms)
        other.items, other.cache, other.store, other._no_store = items, False, None, "off"
        return other

    def open_store(self) -> None:
        """Opens the cache or decides that there is none; what was decided once stays."""
        if self.store is not None or self._no_store or not len(self):
            return
        if self.cache is None or isinstance(self.cache, bool):
            self._no_store = self._why_not()
            self.store = None if self._no_store else PictureCache(len(self))
        else:
            name = fingerprint(self.items, self._made_how())
            self.store = PictureCache(len(self), Path(self.cache) / f"{name}.pictures")

    def keep(self, fresh: list[tuple[int, Pixels]]) -> None:
        """Stores pictures that were decoded. Where the disk is full, warns and goes on without a cache."""
        if self.store is None or not fresh:
            return
        try:
            self.store.put(fresh)
        except OSError as e:
            self.store, self._no_store = None, f"off: {e.strerror}"
            warnings.warn(f"The picture cache is given up, and every epoch decodes: {e}", RuntimeWarning, stacklevel=2)

    @property
    def in_threads(self) -> bool:
        """Whether `fetch` reads and transforms items in threads, where no worker process does it.

        The reader and all item transforms must say, by an attribute of this name, that they may run in several threads
        at once, on different items. Those for pictures do; what subclasses of them add is not known, so each says it
        again.
        """
        return getattr(self._read, "in_threads", False) and self.item_tfms.in_threads

    def is_at_hand(self, n_missing: int = 0) -> bool:
        """Whether batches are mere copies: only a cut is left to do, and all but `n_missing` pictures are stored."""
        return (
            self.store is not None
            and self.store.n_stored >= len(self) - n_missing
            and self.item_tfms.window is not None
        )

    @property
    def cache_state(self) -> str:
        """What the cache stands at, in words."""
        if self.store is None:
            return self._no_store or "not started"
        size = f"{self.store.n_bytes / 1e6:.1f} MB"
        return size if self.store.is_complete else f"{self.store.n_stored} of {len(self)}, {size}"

    def _prepared(self, position: int) -> Any:
        """Returns what always stays the same of an item; a picture as `_Picture`."""
        with self._told(position, "read"):
            raw = self.read(self.items[position])
        with self._told(position, "transformed"):
            return _map_parts(lambda part: _as_picture(self.item_tfms.prepare(part)), raw)

    def _finished(self, prepared: Any, key: Key) -> Any:
        """Returns a prepared item after the rest of the transforms: pixels of a picture, else a tensor."""
        with self._told(key[0], "transformed"):
            return _map_parts(lambda part: self._finished_part(part, *key), prepared)

    def _finished_part(self, part: Any, position: int, epoch: int | None) -> Any:
        rng = None if epoch is None else random.Random(derived_seed(self.seed, "item", epoch, position))
        if isinstance(part, _Picture) and self.item_tfms.window is not None:
            left, upper, right, lower = self.item_tfms.window(part.size, rng)
            cut = part.pixels[upper:lower, left:right]
            # A view would keep the whole picture, 36 MB maybe, until its batch is made; the cache's lie in a file.
            return _Picture(pixels=cut.copy() if part.is_decoded else cut)
        return _as_input(self.item_tfms.finish(part.image if isinstance(part, _Picture) else part, rng))

    @contextmanager
    def _told(self, position: int, done: str) -> Iterator[None]:
        """Names the item in whatever goes wrong with it."""
        try:
            yield
        except Exception as e:
            is_named = isinstance(e, DataError) and str(self.items[position]) in str(e)
            told = str(e) if is_named else f"I{self.name_item(position)[1:]} cannot be {done}: {_reason(e)}"
            if isinstance(e, FileFormatError):
                raise FileFormatError(f"{told} {_LEAVE_OUT}") from e
            if is_named:
                raise
            raise DataError(told) from e

    def name_item(self, position: int) -> str:
        """Returns how an error names an item."""
        return f"item {position} ({name_items(self.items, [position])})"

    def _stacked(self, inputs: list[Any], positions: list[int]) -> Tree:
        if isinstance(inputs[0], tuple):
            return tuple(self._stacked(list(part), positions) for part in zip(*inputs, strict=True))
        other = next((i for i, part in enumerate(inputs) if part.shape != inputs[0].shape), None)
        if other is not None:
            seen = [f"{self.name_item(positions[i])} of {_size(inputs[i])}" for i in (0, other)]
            raise DataError(
                f"The items of a batch must have one shape. Received: {', '.join(seen)}. Add one to `item_tfms` that "
                "makes them alike, such as Resize(224)."
            )
        if isinstance(inputs[0], _Picture):
            return _planes_first(torch.from_numpy(np.stack([part.pixels for part in inputs])))
        return torch.stack(inputs)

    def _why_not(self) -> str:
        """Returns why there can be no cache; an empty text where there can."""
        n = min(_N_SAMPLED, len(self))
        with self.item_tfms.isolated():
            sample = [self._prepared(i * len(self) // n) for i in range(n)]
        if not all(isinstance(part, _Picture) for part in sample):
            return "off: not pictures of 8 bits"
        needed, room = sum(part.pixels.nbytes for part in sample) / n * len(self), room_for_cache()
        if self.cache is None and needed > room:
            return f"off: it would take {needed / 1e9:.1f} GB of {room / 1e9:.1f} GB free for it"
        return ""

    def _made_how(self) -> str:
        """Returns all that stored pictures depend on but the files, as text that is the same in another run.

        Raises:
            ValueError: the reader or a transform cannot be told from another.
        """
        how = f"{_name(self.read)} | {self.item_tfms.preparation} | Pillow {PIL.__version__}"
        if " at 0x" in how:
            raise ValueError(
                "`cache` can be a folder where `read` and the transforms have a `__repr__` that tells what they do. "
                f"Received: {how}. Define one, or use cache=True."
            )
        return how

    def __getstate__(self) -> dict[str, Any]:
        # Only a process that is being started can be given the cache's open file; any other copy opens its own.
        passes_on = get_spawning_popen() is not None and os.name == "posix"
        return self.__dict__ if passes_on else {**self.__dict__, "store": None}


def as_tensor(item: Any) -> Tensor:
    """Returns a PIL picture as uint8 (channels, height, width); tensors and arrays as they are."""
    item = _as_input(item)
    return (
        item if isinstance(item, Tensor) else _planes_first(torch.from_numpy(item.pixels[None].copy()))[0].contiguous()
    )


class _Picture:
    """A picture of 8 bits as pixels, as a Pillow image, or both: each is made of the other when it is needed."""

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


def _as_picture(item: Any) -> Any:
    return _Picture(image=item) if isinstance(item, Image.Image) and item.mode in ("L", "RGB", "RGBA") else item


def _as_input(item: Any) -> _Picture | Tensor:
    if isinstance(item, Image.Image):
        return _Picture(image=item)
    if isinstance(item, Tensor):
        return item.as_subclass(Tensor)  # torchvision's own kind of tensor would slow every operation on it
    return item if isinstance(item, _Picture) else torch.as_tensor(item)


def _planes_first(pixels: Tensor) -> Tensor:
    """(batch, height, width[, channels]) -> (batch, channels, height, width), a view."""
    return pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)


def _map_parts(f: Callable[[Any], Any], item: Any) -> Any:
    return tuple(f(part) for part in item) if isinstance(item, tuple) else f(item)


def _size(part: _Picture | Tensor) -> str:
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
    """Returns a text that changes when what a function does is changed, as far as its own code tells."""
    if isinstance(f, functools.partial):
        return f"{_name(f.func)} {f.args} {f.keywords}"
    code = getattr(f, "__code__", None)
    if code is None:
        return repr(f)
    constants = [value for value in code.co_consts if not hasattr(value, "co_code")]
    digest = hashlib.blake2b(code.co_code + repr((constants, code.co_names)).encode(), digest_size=8).hexdigest()
    return f"{f.__module__}.{f.__qualname__} {digest}"


def _told_the_size(read: Callable[..., Any], item_tfms: ItemPipeline) -> Callable[[Any], Any]:
    """Returns the reader with `reduce_to` given, where it takes that and the transforms know it."""
    try:
        takes = "reduce_to" in inspect.signature(read).parameters
    except (TypeError, ValueError):  # some functions written in C do not tell
        takes = False
    if not takes or item_tfms.reduce_to is None:
        return read
    return functools.partial(read, reduce_to=item_tfms.reduce_to)
