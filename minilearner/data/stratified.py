"""Splitters that treat all classes alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from minilearner.data.splits import DEFAULT_SEED, Split, check_share, n_for_validation
from minilearner.errors import DataError

__all__ = ["StratifiedSplitter", "TrainTestSplitter"]


@dataclass(frozen=True)
class StratifiedSplitter:
    """The same share of every class, drawn at random, is for validation. One item of each stays for training.

    Args:
        valid_pct: in [0, 1); of each class the share, rounded up or down so that ``int(valid_pct * n)`` items are for
            validation, or fewer where a class would have none left to train on.
        seed: decides the draw; None is the same as 0.

    Raises:
        ValueError: `valid_pct` is outside [0, 1).
        DataError: (when called) the share is less than one item, or an item has several labels.
    """

    valid_pct: float = 0.2
    seed: int | None = None
    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_share(self.valid_pct, "valid_pct")

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


@dataclass(frozen=True)
class TrainTestSplitter:
    """What scikit-learn's `train_test_split` gives for the same arguments, without scikit-learn.

    Args:
        test_size: the share in (0, 1), rounded up, or the number of items that are for validation.
        random_state: the seed; None is the same as 0.
        stratify: one class for each item, of which every one is split alike; True for the labels of the items.
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
        if self.needs_classes and not self.shuffle:
            raise ValueError("`stratify` needs shuffle=True. Received: shuffle=False.")

    @property
    def needs_classes(self) -> bool:
        """Whether classes are split alike."""
        return self.stratify is not None and self.stratify is not False

    @property
    def needs_labels(self) -> bool:
        """Whether the labels of the items are these classes."""
        return self.stratify is True

    def __call__(self, items: Sequence[Any], labels: Sequence[Any] | None = None) -> Split:
        """Returns the positions, in the order of the draw."""
        n = len(items)
        n_train, n_test = self._sizes(n)
        if not self.shuffle:
            return list(range(n_train)), list(range(n_train, n_train + n_test))
        rng = np.random.RandomState(DEFAULT_SEED if self.random_state is None else self.random_state)
        if self.needs_classes:
            of_items = labels if self.stratify is True else self.stratify
            return _stratified(of_items, n, n_train, n_test, rng)  # type: ignore[arg-type]
        order = rng.permutation(n).tolist()
        return order[n_test : n_test + n_train], order[:n_test]

    def _sizes(self, n: int) -> tuple[int, int]:
        test = 0.2 if self.test_size is None and self.train_size is None else self.test_size
        n_test = None if test is None else math.ceil(test * n) if isinstance(test, float) else test
        train = self.train_size
        n_train = math.floor(train * n) if isinstance(train, float) else n - (n_test or 0) if train is None else train
        n_test = n - n_train if n_test is None else n_test
        if n_train < 1 or n_train + n_test > n:
            raise DataError(
                f"{n} items are too few for {n_train} to train and {n_test} to validate: test_size={self.test_size}, "
                f"train_size={self.train_size}."
            )
        return n_train, n_test


def _check_size(value: float | int | None, name: str) -> None:
    if value is None or (isinstance(value, float) and 0 < value < 1) or (isinstance(value, int) and value >= 1):
        return
    raise ValueError(f"`{name}` must be a share in (0, 1) or a number of items. Received: {name}={value}.")


def _classes(labels: Sequence[Any]) -> NDArray[np.int64]:
    try:
        number = {label: i for i, label in enumerate(sorted(set(labels)))}
    except TypeError as error:
        raise DataError("a stratified split needs one label an item, all of one kind.") from error
    return np.array([number[label] for label in labels])


def _stratified(labels: Sequence[Any], n: int, n_train: int, n_test: int, rng: np.random.RandomState) -> Split:
    """Draws in scikit-learn's order, so that its splits are met bit for bit."""
    if len(labels) != n:
        raise DataError(f"`stratify` must have one class for each of {n} items. Received: {len(labels)}.")
    classes = _classes(labels)
    counts = np.bincount(classes)
    if counts.min() < 2 or min(n_train, n_test) < len(counts):
        raise DataError(
            f"a stratified split of {n_train} to train and {n_test} to validate needs two items of each of "
            f"{len(counts)} classes, and as many places in both. The rarest class has {counts.min()}."
        )
    in_train = _proportional(counts, n_train, rng)
    in_test = _proportional(counts - in_train, n_test, rng)
    train: list[int] = []
    test: list[int] = []
    for c, (k, m) in enumerate(zip(in_train.tolist(), in_test.tolist(), strict=True)):
        drawn = np.flatnonzero(classes == c)[rng.permutation(counts[c])].tolist()
        train += drawn[:k]
        test += drawn[k : k + m]
    return rng.permutation(train).tolist(), rng.permutation(test).tolist()


def _proportional(counts: NDArray[np.int64], n: int, rng: np.random.RandomState) -> NDArray[np.int64]:
    """Shares `n` places out among classes by their counts; those with the largest remainders get the rest."""
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
