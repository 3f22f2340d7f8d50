"""Splitters: functions of the items that say which are for training and which for validation.

Each is a function `items -> (train positions, valid positions)`. Random ones have a generator of their own: the same
items and seed always split the same way, and no other random number changes. A splitter with a true `needs_labels` also
gets the labels: `(items, labels)`. `StratifiedSplitter` and `TrainTestSplitter` split every class alike.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from minilearner.checks import check_count, check_fraction, is_number, is_whole_number
from minilearner.data.items import name_items
from minilearner.data.labels import apply_to_all, as_label, is_missing
from minilearner.data.table import as_table, is_table, read_text
from minilearner.errors import DataError, agree, closest, plural
from minilearner.keywords import suggest_keywords

__all__ = [
    "DEFAULT_SEED",
    "ColSplitter",
    "EndSplitter",
    "FileSplitter",
    "FuncSplitter",
    "GrandparentSplitter",
    "IndexSplitter",
    "MaskSplitter",
    "RandomSplitter",
    "RandomSubsetSplitter",
    "Split",
    "Splitter",
    "StratifiedSplitter",
    "TrainTestSplitter",
    "n_for_validation",
    "split_items",
]

Split: TypeAlias = tuple[list[int], list[int]]
"""Positions for training and for validation."""

Splitter: TypeAlias = Callable[..., Any]
"""``items -> (train, valid)``; or ``(items, labels) -> (train, valid)`` if it has a true `needs_labels`."""

DEFAULT_SEED = 0
"""The seed of a splitter with ``seed=None``: the same items always split the same way."""


@suggest_keywords
@dataclass(frozen=True)
class RandomSplitter:
    """A random share of the items is for validation. With a seed, it is the split that fastai makes.

    Args:
        valid_pct: in [0, 1); ``int(valid_pct * n)`` items are for validation. 0 means no validation set.
        seed: decides the draw; None is the same as 0.

    Raises:
        ValueError: `valid_pct` is outside [0, 1).
        DataError: (when called) the share is less than one item.
    """

    valid_pct: float = 0.2
    seed: int | None = None

    def __post_init__(self) -> None:
        check_fraction(self.valid_pct, "valid_pct", closed="left")
        _check_seed(self.seed, "seed")

    def __call__(self, items: Sequence[Any]) -> Split:
        """Returns the positions, in the order of the draw."""
        n_valid = n_for_validation(self.valid_pct, len(items))
        order = _permutation(len(items), self.seed)
        return order[n_valid:], order[:n_valid]


@suggest_keywords
@dataclass(frozen=True)
class IndexSplitter:
    """The items at these positions are for validation, all others for training.

    Raises:
        DataError: (when called) there are no positions, or one that no item has.
    """

    valid_idx: Iterable[int]

    def __post_init__(self) -> None:
        positions = tuple(self.valid_idx)  # it may be an iterator
        for position in positions:
            check_count(position, "valid_idx", least=None)
        object.__setattr__(self, "valid_idx", tuple(map(int, positions)))

    def __call__(self, items: Sequence[Any]) -> Split:
        """Returns the positions: training ascending, validation in the order given."""
        held = set(self.valid_idx)
        if not held:
            raise _no_validation("`valid_idx` names no position")
        return [i for i in range(len(items)) if i not in held], list(self.valid_idx)


@suggest_keywords
@dataclass(frozen=True)
class EndSplitter:
    """The last items, or the first, are for validation: for data in order of time.

    Args:
        valid_pct: in [0, 1); ``int(valid_pct * n)`` items are for validation.
        valid_last: False takes the first items.

    Raises:
        ValueError: `valid_pct` is outside [0, 1).
        DataError: (when called) the share is less than one item. (fastai then validates on everything.)
    """

    valid_pct: float = 0.2
    valid_last: bool = True

    def __post_init__(self) -> None:
        check_fraction(self.valid_pct, "valid_pct", closed="left")

    def __call__(self, items: Sequence[Any]) -> Split:
        """Returns the positions, ascending."""
        n, n_valid = len(items), n_for_validation(self.valid_pct, len(items))
        if self.valid_last:
            return list(range(n - n_valid)), list(range(n - n_valid, n))
        return list(range(n_valid, n)), list(range(n_valid))


@suggest_keywords
@dataclass(frozen=True)
class GrandparentSplitter:
    """Splits by the folder two levels above a file: ``train/cat/1.jpg`` is for training.

    Args:
        train_name: the folder's name, or several.
        valid_name: the same for validation. Files in other folders are in neither set.

    Raises:
        DataError: (when called) one of the two sets is empty. Names the folders that exist.
    """

    train_name: str | Sequence[str] = "train"
    valid_name: str | Sequence[str] = "valid"

    def __call__(self, items: Sequence[Any]) -> Split:
        """Returns the positions, ascending for each name in turn."""
        names = [Path(item).parent.parent.name for item in items]
        return self._find(names, self.train_name, "train_name"), self._find(names, self.valid_name, "valid_name")

    @staticmethod
    def _find(names: list[str], wanted: str | Sequence[str], argument: str) -> list[int]:
        several = (wanted,) if isinstance(wanted, str) else wanted
        found = [i for name in several for i, own in enumerate(names) if own == name]
        if not found:
            counts = ", ".join(f"{name!r} ({plural(n, 'item')})" for name, n in Counter(names).most_common(5))
            raise DataError(f"no item lies two folders below `{argument}={wanted!r}`. What lies there: {counts}.")
        return found


@suggest_keywords
@dataclass(frozen=True)
class FuncSplitter:
    """The items for which a function returns true are for validation.

    Raises:
        DataError: (when called) the function failed or returned NaN or NA on some items, or is true for none.
    """

    func: Callable[[Any], Any]

    def __call__(self, items: Sequence[Any]) -> Split:
        """Returns the positions, ascending."""
        answers = apply_to_all(self.func, items, "func")
        if odd := [i for i, answer in enumerate(answers) if _is_undecided(answer)]:
            raise DataError(
                f"`func` must return true or false. It returned {answers[odd[0]]!r} for {len(odd)} of "
                f"{plural(len(answers), 'item')}: {name_items(items, odd)}."
            )
        return _by_mask([bool(answer) for answer in answers], "`func` is true for none")


@suggest_keywords
@dataclass(frozen=True)
class MaskSplitter:
    """The items for which a mask is true are for validation.

    Raises:
        DataError: (when called) the mask does not have one entry for each item, has entries that are neither true nor
            false, or is true for none.
    """

    mask: Sequence[Any]

    def __call__(self, items: Sequence[Any]) -> Split:
        """Returns the positions, ascending."""
        if len(self.mask) != len(items):
            raise DataError(
                f"`mask` must have one entry for each of {plural(len(items), 'item')}. Received: {len(self.mask)}."
            )
        mask = self.mask.tolist() if hasattr(self.mask, "tolist") else list(self.mask)
        return _by_mask(_as_truth(mask, "entries of `mask`", "Give True, False, 1 or 0."), "`mask` is true for none")


@suggest_keywords
@dataclass(frozen=True)
class FileSplitter:
    """Files whose names are listed in a text file, one per line, are for validation.

    Args:
        fname: the text file.
        encoding: such as "cp1252"; see `read_csv`. None is UTF-8, or UTF-16 or UTF-32 if the file begins with its
            byte-order mark.

    Raises:
        DataError: (when called) the file cannot be read, has no names, or names a file that is not among the items.
    """

    fname: str | os.PathLike[str]
    encoding: str | None = field(default=None, repr=False)

    def __call__(self, items: Sequence[Any]) -> Split:
        """Returns the positions, ascending."""
        lines = read_text(self.fname, self.encoding).splitlines()
        wanted = {_file_name(line.strip()): line.strip() for line in lines if line.strip()}
        names = [_file_name(name) for name in apply_to_all(_own_name, items, "items")]
        if absent := sorted(wanted[name] for name in set(wanted) - set(names)):
            raise DataError(
                f"{len(absent)} of {plural(len(wanted), 'name')} in '{self.fname}' {agree(len(absent), 'is', 'are')} "
                f"not among the {plural(len(items), 'item')}: "
                f"{name_items(absent, range(len(absent)))}. A name is a file's own, without its folder."
            )
        return _by_mask([name in wanted for name in names], f"'{self.fname}' has no names")


@suggest_keywords
@dataclass(frozen=True)
class ColSplitter:
    """Splits by a column of a table; the items are its rows.

    Args:
        col: name or position of the column.
        on: the value that means validation, or a collection of such values. None: the column holds truth values or 0
            and 1. Blanks around text do not count.

    Raises:
        DataError: (when called) the items are not a table, there is no such column, `on` is needed, a value is in no
            cell, or no row is for validation.
    """

    col: str | int = "is_valid"
    on: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.on, Iterator):  # it may be read only once
            object.__setattr__(self, "on", tuple(self.on))

    def __call__(self, items: Any) -> Split:
        """Returns the positions, ascending."""
        if not is_table(items):
            raise DataError(f"ColSplitter needs the rows of a table. Received: items such as {name_items(items, [0])}.")
        table = as_table(items)
        column = table.column(self.col)
        if self.on is None:
            what, advice = f"cells of column {self.col!r}", "Give the values that mean validation with `on=`."
            mask = _as_truth(column, what, advice, table.name_row)
            return _by_mask(mask, f"no cell of column {self.col!r} is true")
        is_one = isinstance(self.on, (str, bytes)) or not isinstance(self.on, Iterable)
        wanted = dict.fromkeys(map(as_label, [self.on] if is_one else self.on))
        cells = list(map(as_label, column))
        known = dict.fromkeys(cell for cell in cells if isinstance(cell, Hashable))
        if absent := [value for value in wanted if value not in known]:
            some = ", ".join(map(repr, [*known][:10])) + (", ..." if len(known) > 10 else "")
            raise DataError(
                f"no cell of column {self.col!r} holds {absent[0]!r}, which `on` names for validation."
                f"{closest(str(absent[0]), map(str, known))} Its cells hold: {some}."
            )
        mask = [isinstance(cell, Hashable) and cell in wanted for cell in cells]
        return _by_mask(mask, "`on` names no value")


@suggest_keywords
@dataclass(frozen=True)
class RandomSubsetSplitter:
    """Random parts of the items are for training and validation; the rest is in neither. With a seed, as fastai splits.

    Args:
        train_sz: the share for training, in (0, 1).
        valid_sz: the share for validation, in (0, 1); at most 1 with `train_sz`.
        seed: decides the draw; None is the same as 0.

    Raises:
        ValueError: a share is out of range.
    """

    train_sz: float
    valid_sz: float
    seed: int | None = None

    def __post_init__(self) -> None:
        check_fraction(self.train_sz, "train_sz", closed="neither")
        check_fraction(self.valid_sz, "valid_sz", closed="neither")
        _check_seed(self.seed, "seed")
        if self.train_sz + self.valid_sz > 1:
            raise ValueError(
                "`train_sz` and `valid_sz` must not exceed 1 together. "
                f"Received: train_sz={self.train_sz}, valid_sz={self.valid_sz}."
            )

    def __call__(self, items: Sequence[Any]) -> Split:
        """Returns the positions, in the order of the draw."""
        n_train, n_valid = int(len(items) * self.train_sz), int(len(items) * self.valid_sz)
        order = _permutation(len(items), self.seed)
        return order[:n_train], order[n_train : n_train + n_valid]


def split_items(splitter: Splitter, items: Sequence[Any], labels: Sequence[Any] | None) -> Split:
    """Calls a splitter, checks its result, and returns it.

    Raises:
        DataError: it returns no two lists, no item to train on, a position that does not exist, or a position twice.
    """
    if getattr(splitter, "needs_labels", False):
        if labels is None:
            raise DataError(f"{splitter!r} needs labels, and the items have none.")
        given = splitter(items, labels)
    else:
        given = splitter(items)
    try:
        train, valid = ([int(i) for i in part] for part in given)
    except (TypeError, ValueError) as error:
        raise DataError(f"`splitter` must return two lists of positions. Received: {given!r:.100}.") from error
    _check_split(train, valid, len(items))
    return train, valid


def _check_split(train: list[int], valid: list[int], n: int) -> None:
    if not train:
        raise DataError(f"the split leaves no item to train on: 0 to train, {len(valid)} to validate, of {n}.")
    positions = train + valid
    if outside := [i for i in positions if not 0 <= i < n]:
        raise DataError(f"the split has {plural(len(outside), 'position')} outside 0 to {n - 1}: {outside[:3]}.")
    if both := sorted(set(train) & set(valid)):
        raise DataError(
            f"the split puts {plural(len(both), 'item')} both into training and validation: positions {both[:3]}."
        )
    if len(set(positions)) < len(positions):
        twice = [i for i, count in Counter(positions).items() if count > 1]
        raise DataError(f"the split has {plural(len(twice), 'item')} more than once: positions {twice[:3]}.")


def _permutation(n: int, seed: int | None) -> list[int]:
    generator = torch.Generator().manual_seed(DEFAULT_SEED if seed is None else int(seed))
    order: list[int] = torch.randperm(n, generator=generator).tolist()
    return order


def _by_mask(is_valid: list[bool], reason: str) -> Split:
    """Returns the positions in both sets.

    Raises:
        DataError: no item is for validation. The message begins with `reason`.
    """
    if not any(is_valid):
        raise _no_validation(reason)
    return [i for i, held in enumerate(is_valid) if not held], [i for i, held in enumerate(is_valid) if held]


def _no_validation(reason: str) -> DataError:
    return DataError(
        f"{reason}, so the validation set is empty. To train without one, use RandomSplitter(valid_pct=0)."
    )


def _as_truth(
    values: Sequence[Any], what: str, advice: str, name: Callable[[int], str] = lambda i: f"item {i}"
) -> list[bool]:
    """Returns truth values as Python's own.

    Raises:
        DataError: one is neither true nor false, as text and empty cells are not. Says how many, with three examples.
    """
    plain = list(map(as_label, values))
    odd = [i for i, value in enumerate(plain) if not isinstance(value, (bool, int, float)) or value not in (0, 1)]
    if odd:
        examples = ", ".join(f"{values[i]!r} in {name(i)}" for i in odd[:3]) + (", ..." if len(odd) > 3 else "")
        raise DataError(
            f"{len(odd)} of {len(plain)} {what} {agree(len(odd), 'is', 'are')} neither true nor false: {examples}. "
            f"{advice}"
        )
    return list(map(bool, plain))


def _is_undecided(answer: Any) -> bool:
    """Returns whether an answer is NaN or NA. None and an empty text count as false, as everywhere in Python."""
    return answer is not None and not isinstance(answer, (str, bytes)) and is_missing(answer)


def _own_name(item: Any) -> str:
    return str(os.path.basename(os.fspath(item)))


def _file_name(name: str) -> str:
    """Returns a name as it is compared: systems differ in how they store accents."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def n_for_validation(valid_pct: float, n: int) -> int:
    """Returns how many of `n` items are for validation, rounded down.

    Raises:
        DataError: the share is positive and less than one item.
    """
    n_valid = int(valid_pct * n)
    if valid_pct > 0 and not n_valid:
        raise DataError(
            f"valid_pct={valid_pct} of {plural(n, 'item')} is less than one. Raise it to {1 / max(n, 1):.2g} or more, "
            "or give "
            "valid_pct=0 for no validation set."
        )
    return n_valid


@suggest_keywords
@dataclass(frozen=True)
class StratifiedSplitter:
    """The same random share of every class is for validation. At least one item of each class stays for training.

    scikit-learn's stratified split (`TrainTestSplitter`) refuses a class that has only one item; this one trains on it.

    Args:
        valid_pct: in [0, 1), the share of each class. It is rounded up or down so that ``int(valid_pct * n)`` items are
            for validation, or fewer if a class would have none left to train on.
        seed: decides the draw; None is the same as 0.

    Raises:
        ValueError: `valid_pct` is outside [0, 1).
        DataError: (when called) the share is less than one item, or an item has several labels.
    """

    valid_pct: float = 0.2
    seed: int | None = None
    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fraction(self.valid_pct, "valid_pct", closed="left")
        _check_seed(self.seed, "seed")

    def __call__(self, items: Sequence[Any], labels: Sequence[Any]) -> Split:
        """Returns the positions, in the order of the draw."""
        n_valid = n_for_validation(self.valid_pct, len(items))
        classes = _classes(labels)
        counts = np.bincount(classes)
        rng = np.random.RandomState(DEFAULT_SEED if self.seed is None else self.seed)
        left = np.minimum(_proportional(counts, n_valid, rng), counts - 1)
        train: list[int] = []
        valid: list[int] = []
        for position in rng.permutation(len(items)).tolist():
            c = classes[position]
            (valid if left[c] else train).append(position)
            left[c] -= left[c] > 0
        return train, valid


@suggest_keywords
@dataclass(frozen=True)
class TrainTestSplitter:
    """Splits with scikit-learn's `train_test_split`, and takes its arguments.

    Args:
        test_size: the share in (0, 1), rounded up, or the number of items that are for validation. If both sizes are
            None, 0.2.
        random_state: the seed; None is the same as 0.
        stratify: one class for each item; every class gets the same share of both sets. True takes the items' labels.
        train_size: the share, rounded down, or the number of items that are for training; None for all others.
        shuffle: False takes the training items from the front and the validation items after them.

    Raises:
        ValueError: a size is out of range, or `stratify` is given with ``shuffle=False``.
        DataError: (when called) there are too few items, or too few of a class.
    """

    test_size: float | int | None = 0.2
    random_state: int | None = None
    stratify: Sequence[Any] | bool | None = None
    train_size: float | int | None = None
    shuffle: bool = True

    def __post_init__(self) -> None:
        for name in ("test_size", "train_size"):
            _check_size(getattr(self, name), name)
        _check_seed(self.random_state, "random_state")
        if self.needs_classes and not self.shuffle:
            raise ValueError("`stratify` needs shuffle=True. Received: shuffle=False.")

    @property
    def needs_classes(self) -> bool:
        """Whether every class gets the same share of both sets."""
        return self.stratify is not None and self.stratify is not False

    @property
    def needs_labels(self) -> bool:
        """Whether the classes are the labels of the items."""
        return self.stratify is True

    def __call__(self, items: Sequence[Any], labels: Sequence[Any] | None = None) -> Split:
        """Returns the positions, in the order of the draw."""
        from sklearn.model_selection import train_test_split  # loads SciPy, which takes a second

        n = len(items)
        classes = self._number_classes(n, labels) if self.needs_classes else None
        test_size = 0.2 if self.test_size is None and self.train_size is None else self.test_size
        rng = np.random.RandomState(DEFAULT_SEED if self.random_state is None else self.random_state)
        try:
            train, valid = train_test_split(
                np.arange(n),
                test_size=_plain_size(test_size),
                train_size=_plain_size(self.train_size),
                random_state=rng,
                shuffle=self.shuffle,
                stratify=classes,
            )
        except ValueError as error:
            reason = error if classes is None else _describe_need(classes)
            sizes = f"test_size={self.test_size}, train_size={self.train_size}"
            raise DataError(f"{plural(n, 'item')} cannot be split by {sizes}: {reason}") from error
        return train.tolist(), valid.tolist()

    def _number_classes(self, n: int, labels: Sequence[Any] | None) -> NDArray[np.int64]:
        given: Any = labels if self.stratify is True else self.stratify
        if len(given) != n:
            raise DataError(f"`stratify` must have one class for each of {plural(n, 'item')}. Received: {len(given)}.")
        return _classes(given)


def _check_seed(seed: int | None, name: str) -> None:
    if seed is not None:
        check_count(seed, name, least=None)


def _check_size(value: float | int | None, name: str) -> None:
    if value is None or (value >= 1 if is_whole_number(value) else is_number(value) and 0 < value < 1):
        return
    raise ValueError(f"`{name}` must be a share in (0, 1) or a number of items. Received: {name}={value!r}.")


def _plain_size(value: float | int | None) -> float | int | None:
    """Returns a size as Python's own number, which scikit-learn needs to distinguish a count from a share."""
    return None if value is None else int(value) if is_whole_number(value) else float(value)


def _classes(labels: Sequence[Any]) -> NDArray[np.int64]:
    names = list(map(as_label, labels))
    if missing := [i for i, name in enumerate(names) if is_missing(name)]:
        several = ", ".join(f"item {i}" for i in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(f"a stratified split needs one label per item. {len(missing)} have none: {several}.")
    try:
        number = {label: i for i, label in enumerate(sorted(set(names)))}
    except TypeError as error:
        raise DataError("a stratified split needs one label per item, all of one kind.") from error
    return np.array([number[name] for name in names])


def _describe_need(classes: NDArray[np.int64]) -> str:
    counts = Counter(classes.tolist())
    return (
        f"a stratified split needs two items of each of {plural(len(counts), 'class')}, and room for every class in "
        "both sets. "
        f"The rarest class has {min(counts.values(), default=0)}."
    )


def _proportional(counts: NDArray[np.int64], n: int, rng: np.random.RandomState) -> NDArray[np.int64]:
    """Divides `n` places among classes by their counts; the classes with the largest remainders get the rest."""
    exact = counts / counts.sum() * n
    places = np.floor(exact)
    remainder = exact - places
    for value in np.unique(remainder)[::-1]:
        rest = int(n - places.sum())
        if not rest:
            break
        tied = np.flatnonzero(remainder == value)
        places[rng.choice(tied, size=min(len(tied), rest), replace=False)] += 1
    whole: NDArray[np.int64] = places.astype(np.int64)
    return whole
