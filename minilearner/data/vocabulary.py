"""The vocabulary: which classes there are, and in which order, so that a class has the same number tomorrow.

`build_vocabulary` decides the order of the classes. `targets` turns names into their numbers.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Set, ValuesView
from typing import Any

from minilearner.data.labels import as_label, as_python, is_missing, look_alike
from minilearner.errors import DataError
from minilearner.lists import L, positions

__all__ = [
    "NO_LABEL",
    "Vocab",
    "as_hashable",
    "build_vocabulary",
    "check_each_once",
    "check_vocabulary",
    "is_several",
    "order_vocabulary",
]

NO_LABEL = "#na#"
"""The class that `add_na` puts first, for labels that are missing or unknown."""


class Vocab(tuple[Any, ...]):
    """The classes in the order of their numbers: a tuple that also takes lists of numbers and masks as an index.

    It equals the list of its names too.
    """

    @functools.cached_property
    def o2i(self) -> dict[Any, int]:
        """Name -> number."""
        return {name: i for i, name in enumerate(self)}

    def __getitem__(self, index: Any) -> Any:
        """Returns the name at a number, or a list of those at several or of a mask."""
        if isinstance(index, (int, slice)) or (hasattr(index, "__index__") and getattr(index, "ndim", 0) == 0):
            return super().__getitem__(index)
        return L([super(Vocab, self).__getitem__(i) for i in positions(index)])

    def map_ids(self, ids: Iterable[int]) -> L[Any]:
        """Returns the names at these numbers."""
        return L([self[int(i)] for i in ids])

    def map_objs(self, objs: Iterable[Any]) -> L[int]:
        """Returns the numbers of these names."""
        return L([self.o2i[name] for name in objs])

    def __eq__(self, other: object) -> bool:
        return tuple.__eq__(self, tuple(other) if isinstance(other, list) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__


def build_vocabulary(
    given: Sequence[Hashable] | None,
    labels: Iterable[Any],
    *,
    sort: bool,
    add_na: bool,
) -> list[Hashable]:
    """Returns the classes in the order of their numbers: those given, or the distinct labels.

    Args:
        given: the classes; None takes the labels. A set is sorted, since it comes in another order tomorrow.
        labels: the labels of training.
        sort: sort the labels; False keeps the order in which they come.
        add_na: put `NO_LABEL` first.

    Raises:
        TypeError: `given` can be read only once, or is a dictionary.
        DataError: there are no labels, one is not a single name, they cannot be sorted, or two look alike.
    """
    if given is None:
        every = [label for label in map(as_hashable, labels) if not is_missing(label)]
        if not every:
            raise DataError("no training item has a label, so there are no classes.")
        kinds = set(map(type, every))
        names = list(dict.fromkeys(every))
        if bool in kinds and len(kinds) > 1:  # True and 1 are one key of a dictionary
            raise _kinds_error(kinds)
        names = _sort(names) if sort else names
        _check_look_alikes(names, "labels")
    else:
        names = list(order_vocabulary(given))
        names = [name for name in names if not is_missing(name)] if add_na else names
    return [NO_LABEL, *(name for name in names if name != NO_LABEL)] if add_na else names


def order_vocabulary(vocab: Any) -> Any:
    """Returns the classes that a block was given, in a fixed order: a set and the parts of a dictionary are sorted.

    Raises:
        TypeError: `vocab` is a dictionary, or can be read only once.
        DataError: a set cannot be sorted.
    """
    if isinstance(vocab, (Set, ValuesView)):
        return _sort(list(map(as_python, vocab)))
    if isinstance(vocab, (Mapping, Iterator)) or not isinstance(vocab, Iterable):
        raise TypeError(
            f"`vocab` must be a list of the classes. Received: a {type(vocab).__name__}. Write sorted(...) or "
            "list(...) of what it holds."
        )
    return vocab


def check_vocabulary(vocab: Iterable[Any]) -> tuple[Hashable, ...]:
    """Returns the names of classes in the order of their numbers, NumPy's as Python's own."""
    if isinstance(vocab, (Set, Mapping, Iterator, ValuesView)):
        raise TypeError(
            "`vocab` must be a list of names in the order of their numbers, and "
            f"a {type(vocab).__name__} does not say which name is number 0. Received: vocab={vocab!r:.80}. "
            "Write sorted(...) or list(...) of what it holds."
        )
    names = check_each_once([as_python(name) for name in vocab])
    if missing := [i for i, name in enumerate(names) if is_missing(name)]:
        raise DataError(
            f"`vocab` must not hold an empty name. Received: {names[missing[0]]!r} as class number {missing[0]}. "
            "Leave it out: an item without a label belongs to no class."
        )
    _check_look_alikes(names, "`vocab`")
    return names


def check_each_once(vocab: Iterable[Hashable]) -> tuple[Hashable, ...]:
    """Returns the names as a tuple, or raises a ValueError if there are none or one stands twice."""
    names = tuple(vocab)
    if not names:
        raise ValueError("`vocab` must name at least one class. Received: vocab=().")
    if len(set(names)) < len(names):
        twice = [name for name, n in Counter(names).items() if n > 1]
        raise ValueError(f"`vocab` must name each class once. Received more than once: {twice[:5]}.")
    return names


def _check_look_alikes(names: Iterable[Any], what: str) -> None:
    if alike := look_alike(names):
        raise DataError(
            f"{what} must not hold names that differ only in blanks, invisible characters or how accents are stored. "
            f"Received: {alike[0]!a} and {alike[1]!a}. Write them alike, or return one of them in `get_y`."
        )


def is_several(label: Any) -> bool:
    """Returns whether one label holds several names or numbers."""
    return isinstance(label, (list, tuple, set, frozenset)) or getattr(label, "ndim", 0) == 1


def as_hashable(label: Any) -> Hashable:
    """Returns one label as a name or number of Python's own; a label of another kind is a DataError."""
    name: Hashable = as_label(label)
    if not isinstance(name, Hashable) or is_several(name) or bool(getattr(name, "ndim", 0)):
        raise DataError(
            f"a label must be one name or number. Received: {label!r:.80}. For several labels an item use "
            "MultiCategoryBlock, for several numbers RegressionBlock."
        )
    return name


def _sort(names: list[Any]) -> list[Any]:
    try:
        return sorted(names)
    except TypeError as error:
        raise _kinds_error(set(map(type, names))) from error


def _kinds_error(kinds: set[type]) -> DataError:
    return DataError(
        "labels must be of one kind, so that they can be sorted. "
        f"Received: {', '.join(sorted(kind.__name__ for kind in kinds))}. Convert them in `get_y`, or name the classes "
        "in `vocab`."
    )
