"""`L`: a list with the methods that fastai's users chain, and `first` and `noop`, which go with it."""

from __future__ import annotations

import functools
import operator
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, cycle, islice
from typing import Any, TypeVar

from minilearner.keywords import suggest_keywords

__all__ = ["L", "first", "noop", "positions"]

T = TypeVar("T")


@suggest_keywords
class L(list[T]):
    """A list that also takes lists of positions and masks as an index, and whose methods return lists of its kind.

    >>> L(3, 1, 2).sorted().map(lambda n: 10 * n)[[0, 2]]
    (#2) [10, 30]

    It is a `list` through and through: it equals one, and takes one's place. Its methods do what those of fastai's `L`
    do. `repr` begins with the length and shows ten items.

    Args:
        items: a list, or anything else to iterate over; a single text, mapping, array or tensor is one item.
        rest: further items; `items` is then the first.
        use_list: iterate over a single text, mapping, array or tensor too.
        match: a collection, or a number: repeat a single item until there are as many.

    Raises:
        ValueError: there are several items, and not as many as `match`.
    """

    def __init__(self, items: Any = None, *rest: Any, use_list: bool | None = False, match: Any = None) -> None:
        super().__init__(_match(_as_items((items, *rest) if rest else items, use_list), match))

    # Items by position.

    def __getitem__(self, index: Any) -> Any:
        """Returns the item at a position, or a list of those of a slice, of several positions, or of a mask."""
        if isinstance(index, int):
            return super().__getitem__(index)
        if isinstance(index, slice):
            return self._new(super().__getitem__(index))
        if _is_position(index):
            return super().__getitem__(int(index))
        return self._new([super(L, self).__getitem__(i) for i in positions(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        """Sets the item at a position, or several, to one value or to as many."""
        if isinstance(index, (int, slice)) or _is_position(index):
            super().__setitem__(index, value)
            return
        places = positions(index)
        for i, one in zip(places, value if _is_iterable(value) else [value] * len(places), strict=False):
            super().__setitem__(i, one)

    def itemgot(self, *idxs: Any) -> L[Any]:
        """Returns each item's own item at the index or key; with several, those within those."""
        got: L[Any] = self
        for idx in idxs:
            got = got.map(operator.itemgetter(idx))
        return got

    def attrgot(self, k: str, default: Any = None) -> L[Any]:
        """Returns an attribute of each item, or a key of mappings; "parent.name" goes two steps."""
        return self.map(lambda item: item.get(k, default) if isinstance(item, dict) else _attribute(item, k, default))

    def setattrs(self, attr: str, val: Any) -> None:
        """Sets an attribute of every item."""
        for item in self:
            setattr(item, attr, val)

    # One new item for each.

    def map(self, f: Any, *args: Any, **kwargs: Any) -> L[Any]:
        """Returns ``f(item, *args, **kwargs)`` of each item.

        Args:
            f: a function; a text to `format`; or a mapping to look up.
            args, kwargs: further arguments of the function.
        """
        call = f if callable(f) else f.format if isinstance(f, str) else f.__getitem__
        return L([call(item, *args, **kwargs) for item in self])

    def starmap(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> L[Any]:
        """Returns ``f(*item, *args, **kwargs)`` of each item."""
        parts: list[Any] = list(self)
        return L([f(*item, *args, **kwargs) for item in parts])

    def map_dict(self, f: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """Returns a dictionary from each item to ``f(item)``."""
        call = noop if f is None else f
        return {item: call(item, *args, **kwargs) for item in self}

    def enumerate(self) -> L[tuple[int, T]]:
        """Returns pairs of position and item."""
        return L(list(enumerate(self)))

    def renumerate(self) -> L[tuple[T, int]]:
        """Returns pairs of item and position."""
        return L([(item, i) for i, item in enumerate(self)])

    # Some of them, or another order.

    def filter(self, f: Callable[..., Any] | None = None, negate: bool = False, **kwargs: Any) -> L[T]:
        """Returns the items for which ``f(item)`` is true, or those that are true themselves; `negate` the others."""
        call = noop if f is None else f
        return self._new([item for item in self if bool(call(item, **kwargs)) != negate])

    def argwhere(self, f: Callable[..., Any], negate: bool = False, **kwargs: Any) -> L[int]:
        """Returns the positions of the items that `filter` returns."""
        return L([i for i, item in enumerate(self) if bool(f(item, **kwargs)) != negate])

    def argfirst(self, f: Callable[[T], Any], negate: bool = False) -> int | None:
        """Returns the first position that `argwhere` returns; None if there is none."""
        return next((i for i, item in enumerate(self) if bool(f(item)) != negate), None)

    def first(self, f: Callable[[T], Any] | None = None, negate: bool = False) -> T | None:
        """Returns the first item that `filter` returns; None if there is none."""
        return first(self, f, negate)

    def sorted(self, key: Any = None, reverse: bool = False) -> L[T]:
        """Returns the items in order.

        Args:
            key: a function of an item; the name of an attribute; or the index of an item's own item.
            reverse: the largest first.
        """
        by: Any = operator.attrgetter(key) if isinstance(key, str) else key
        by = operator.itemgetter(by) if isinstance(by, int) else by
        items: list[Any] = list(self)
        return self._new(sorted(items, key=by, reverse=reverse))

    def shuffle(self) -> L[T]:
        """Returns the items in an order drawn from Python's global generator; `set_seed` decides it."""
        items = list(self)
        random.shuffle(items)
        return self._new(items)

    def unique(self, sort: bool = False, bidir: bool = False, start: Any = None) -> L[Any]:
        """Returns each different item once, in the order of their first places.

        Args:
            sort: return them sorted.
            bidir: return two: these items, and a dictionary from each to its position.
            start: an item, or a list of items, to begin with.
        """
        items = list(dict.fromkeys(self))
        items = sorted(items) if sort else items  # type: ignore[type-var]
        items = [*(start if isinstance(start, (list, tuple)) else [start]), *items] if start is not None else items
        return L([L(items), L(items).val2idx()]) if bidir else L(items)

    def val2idx(self) -> dict[T, int]:
        """Returns a dictionary from each item to its position."""
        return {item: i for i, item in enumerate(self)}

    # Lists of lists.

    def zip(self, cycled: bool = False) -> L[Any]:
        """Returns ``zip(*self)``: of pairs, all first and all second ones.

        Args:
            cycled: repeat the items of shorter ones until the first ends.
        """
        if not cycled or not self:
            return L(list(zip(*self, strict=False)))
        lists: list[Any] = list(self)
        return L(list(zip(lists[0], *map(cycle, lists[1:]), strict=False)))

    def zipwith(self, *rest: Any, cycled: bool = False) -> L[Any]:
        """Returns tuples of each item and those of the other lists at its place."""
        return L([self, *rest]).zip(cycled=cycled)

    def concat(self) -> L[Any]:
        """Returns the items of all items in one list."""
        return L(list(chain.from_iterable(_as_items(item, False) for item in self)))

    def cycle(self) -> Iterator[T]:
        """Returns an iterator that begins again after the last item, for ever."""
        return cycle(self)

    # One value of all.

    def reduce(self, f: Callable[[Any, Any], Any], initial: Any = None) -> Any:
        """Returns what `functools.reduce` makes of the items."""
        return functools.reduce(f, self) if initial is None else functools.reduce(f, self, initial)

    def sum(self) -> Any:
        """Returns the sum of the items."""
        return self.reduce(operator.add, 0)

    def product(self) -> Any:
        """Returns the product of the items."""
        return self.reduce(operator.mul, 1)

    @classmethod
    def range(cls, a: Any, b: int | None = None, step: int | None = None) -> L[int]:
        """Returns the numbers of `range`; of a collection, its positions."""
        stop = len(a) if hasattr(a, "__len__") else a
        bounds = (stop,) if b is None else (a, b)
        return L(list(range(*(bounds if step is None else (*(bounds if b is not None else (0, stop)), step)))))

    @classmethod
    def split(cls, s: str, sep: str | None = None, maxsplit: int = -1) -> L[str]:
        """Returns the parts of a text, as `str.split`."""
        return L(s.split(sep, maxsplit))

    # What `list` has, with lists of this kind.

    @property
    def items(self) -> list[T]:
        """The items: this list."""
        return self

    def copy(self) -> L[T]:
        """Returns a list of the same items."""
        return self._new(self)

    def __add__(self, other: Any) -> Any:
        """Returns the items of both; a single thing counts as one item."""
        return self._new([*self, *_as_items(other, False)])

    def __radd__(self, other: Any) -> Any:
        """Returns the items of both, the other's first."""
        return self._new([*_as_items(other, False), *self])

    def __mul__(self, n: Any) -> Any:
        """Returns the items `n` times."""
        return self._new(list(self) * n)

    def __invert__(self) -> L[bool]:
        """Returns whether each item is false: a mask of those that this mask leaves out."""
        return L([not item for item in self])

    def __eq__(self, other: object) -> bool:
        """Whether another list or tuple holds equal items."""
        return list.__eq__(self, list(other) if isinstance(other, tuple) else other)

    __hash__ = None  # as any list

    def __repr__(self) -> str:
        shown = [repr(item) for item in islice(self, 10)]
        return f"(#{len(self)}) [{', '.join(shown + ['...'] * (len(self) > 10))}]"

    def _new(self, items: Iterable[T]) -> L[T]:
        return L(list(items))


def first(x: Iterable[T], f: Callable[..., Any] | None = None, negate: bool = False, **kwargs: Any) -> T | None:
    """Returns the first item for which ``f(item, **kwargs)`` is true, or the first at all; None if there is none.

    Args:
        x: what to iterate over.
        f: a function of an item; None takes any.
        negate: take the first for which it is false.
        kwargs: further arguments of the function.
    """
    return next((item for item in x if f is None or bool(f(item, **kwargs)) != negate), None)


def noop(x: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Returns `x`, whatever else is given."""
    return x


def positions(index: Any) -> list[int]:
    """Returns the positions that a mask, or a collection of positions, stands for."""
    several = index.tolist() if hasattr(index, "tolist") else list(index)
    if several and isinstance(_plain(several[0]), bool):
        return [i for i, chosen in enumerate(several) if chosen]
    return [int(i) for i in several]


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _is_position(index: Any) -> bool:
    return hasattr(index, "__index__") and getattr(index, "ndim", 0) == 0


def _is_iterable(value: Any) -> bool:
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0


def _as_items(items: Any, use_list: bool | None) -> list[Any]:
    if items is None:
        return []
    if use_list:
        return list(items)
    is_one = isinstance(items, (str, bytes, Mapping)) or hasattr(items, "__array__") or not _is_iterable(items)
    return [items] if is_one else list(items)


def _match(items: list[Any], match: Any) -> list[Any]:
    if match is None:
        return items
    n = len(match) if hasattr(match, "__len__") else int(match)
    if len(items) not in (1, n):
        raise ValueError(f"`items` must be one, or {n} as `match`. Received: {len(items)} items.")
    return items * n if len(items) == 1 != n else items


def _attribute(item: Any, name: str, default: Any) -> Any:
    for part in name.split("."):
        item = getattr(item, part, default)
        if item is default:
            break
    return item
