"""Images and labels in the items of a stream: dictionaries, tuples or whatever a function takes apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minilearner.checks import check_count
from minilearner.data.item_transforms import ItemPipeline
from minilearner.data.labels import as_label
from minilearner.data.share import choose_drop_last
from minilearner.data.stream_loader import ItemStream, StreamLoader
from minilearner.errors import DataError, closest
from minilearner.vision.image_block import ImageBlock

__all__ = ["StreamReader", "find_classes"]


@dataclass(frozen=True)
class PartOfItem:
    """Takes the image or the label out of an item.

    Args:
        part: a key, a position, or a function of the item.
        name: the argument that an error names.
    """

    part: Any
    name: str

    def __call__(self, item: Any) -> Any:
        """Returns the part."""
        if callable(self.part):
            return self.part(item)
        try:
            return item[self.part]
        except (KeyError, IndexError, TypeError) as error:
            has = f"keys {', '.join(map(str, item))}" if isinstance(item, Mapping) else f"a {type(item).__name__}"
            hint = closest(str(self.part), map(str, item)) if isinstance(item, Mapping) else ""
            raise DataError(
                f"an item of the stream has no part {self.part!r}.{hint} Received: {has}. Give `{self.name}` a key, a "
                "position or a function."
            ) from error


@dataclass(frozen=True)
class LabelNumber:
    """Takes the label out of an item, as a number.

    Args:
        part: takes the label.
        vocab: the names of the classes; () if labels are numbers already.
    """

    part: Callable[[Any], Any]
    vocab: Sequence[Any] = ()

    def __call__(self, item: Any) -> int | float:
        """Returns the number of a class, or a number to regress."""
        label = as_label(self.part(item))
        if label in self.vocab:
            return list(self.vocab).index(label)
        is_number = isinstance(label, (int, float)) and not isinstance(label, bool)
        if is_number and (not self.vocab or (isinstance(label, int) and 0 <= label < len(self.vocab))):
            return label  # type: ignore[no-any-return]
        known = f" Classes: {', '.join(map(repr, self.vocab))}." if self.vocab else " Name the classes by `vocab`."
        hint = closest(str(label), map(str, self.vocab))
        raise DataError(f"{label!r:.60} is the label of an item of the stream, and no class.{hint}{known}")


@dataclass(frozen=True)
class StreamReader:
    """Makes loaders of streams whose items have one form; the arguments are those of `ImageDataLoaders.from_stream`."""

    block: ImageBlock
    get_x: Any
    get_y: Any
    vocab: Sequence[Any]
    item_tfms: ItemPipeline
    seed: int

    def load(self, stream: Iterable[Any], n: int, split: str, *, bs: int, **options: Any) -> StreamLoader:
        """Returns the loader of a stream; `split` is "train" or "valid".

        Raises:
            TypeError: the stream can be read only once.
            ValueError: `n` is below 1.
        """
        check_count(n, f"n_{split}")
        check_count(bs, "bs")
        if not isinstance(stream, Iterable) or isinstance(stream, Iterator):
            raise TypeError(
                f"`{split}` must be a stream that can be iterated again and again. Received: {type(stream).__name__}."
            )
        trains = split == "train"
        items = ItemStream(
            stream,
            get_x=PartOfItem(self.get_x, "get_x"),
            get_y=LabelNumber(PartOfItem(self.get_y, "get_y"), self.vocab),
            read=self.block.read,
            item_tfms=self.item_tfms,
            seed=self.seed,
            training=trains,
        )
        return StreamLoader(items, n, bs=bs, drop_last=trains and choose_drop_last(n, bs), **options)


def find_classes(stream: Any, label: Any) -> list[str] | None:
    """Returns the names of the classes, if a stream of Hugging Face's `datasets` knows them."""
    features = getattr(stream, "features", None)
    names = getattr(features.get(label), "names", None) if isinstance(features, Mapping) else None
    return None if names is None else list(names)
