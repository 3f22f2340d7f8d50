"""`SplitterFrom`: scikit-learn's splitters, and all that have their `split`, split the items of a data set."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from minilearner.checks import check_count
from minilearner.data.group_splitter import read_groups
from minilearner.data.labels import as_label
from minilearner.data.splits import DEFAULT_SEED, Split
from minilearner.errors import DataError, plural
from minilearner.keywords import suggest_keywords

__all__ = ["SplitterFrom", "check_splitter"]


@suggest_keywords
@dataclass(frozen=True)
class SplitterFrom:
    """One fold of a scikit-learn splitter: its test set is for validation.

    >>> SplitterFrom(GroupKFold(5), get_group=ColReader("patient"), fold=0)  # doctest: +SKIP
    >>> SplitterFrom(StratifiedKFold(5, shuffle=True, random_state=1), fold=2)  # doctest: +SKIP

    The splitter receives the labels if it is stratified. One that draws without a `random_state` of its own draws with
    0, so that the same items always split the same way.

    Args:
        splitter: an object with scikit-learn's ``split(X, y, groups)``, such as `StratifiedGroupKFold(5)`.
        get_group: item -> its group, text or a number; or one group for each item. None for splitters without groups.
        fold: which split, counted from 0.

    Raises:
        TypeError: `splitter` has no method `split`, or is a class.
        ValueError: `fold` is negative.
        DataError: (when called) the splitter refuses the items, there are fewer folds, or an item has no group.
    """

    splitter: Any
    get_group: Callable[[Any], Any] | Sequence[Any] | None = None
    fold: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.splitter, type) or not callable(getattr(self.splitter, "split", None)):
            raise TypeError(
                "`splitter` must be an object with scikit-learn's method `split`, such as GroupKFold(5). "
                f"Received: splitter={self.splitter!r:.100}."
            )
        check_count(self.fold, "fold", least=0)

    @property
    def needs_labels(self) -> bool:
        """Whether the splitter looks at the labels."""
        y = inspect.signature(self.splitter.split).parameters.get("y")
        is_stratified = any("Stratified" in base.__name__ for base in type(self.splitter).__mro__)
        return is_stratified or (y is not None and y.default is y.empty)

    def __call__(self, items: Sequence[Any], labels: Sequence[Any] | None = None) -> Split:
        """Returns the positions, in the splitter's order."""
        folds = self.split_all(items, labels, self.fold + 1)
        if self.fold >= len(folds):
            raise DataError(f"`fold` must be below {len(folds)}, the number of folds. Received: fold={self.fold}.")
        return folds[self.fold]

    def split_all(
        self, items: Sequence[Any], labels: Sequence[Any] | None = None, most: int | None = None
    ) -> list[Split]:
        """Returns the positions of every fold, in the splitter's order.

        Args:
            items, labels: as in a call.
            most: how many folds are needed; None for all.
        """
        y = None if labels is None else np.asarray(list(map(as_label, labels)))
        groups = None if self.get_group is None else read_groups(self.get_group, items)
        try:
            folds = list(islice(_with_seed(self.splitter).split(np.zeros(len(items)), y, groups), most))
        except ValueError as error:
            way_out = "" if groups is not None else " Give its groups as `get_group`, if it needs them."
            raise DataError(f"{self.splitter!r} cannot split {plural(len(items), 'item')}: {error}{way_out}") from error
        return [(train.tolist(), valid.tolist()) for train, valid in folds]


def check_splitter(splitter: Any) -> None:
    """Checks that a splitter is a function of the items.

    Raises:
        TypeError: it is no function, such as a splitter of scikit-learn, or it is a class.
    """
    if callable(splitter) and not isinstance(splitter, type):
        return
    name = splitter.__name__ if isinstance(splitter, type) else type(splitter).__name__
    made = f"{name}(...)" if isinstance(splitter, type) else repr(splitter)
    way_out = f" Write {made}." if isinstance(splitter, type) else ""
    if callable(getattr(splitter, "split", None)):
        way_out = f" Write SplitterFrom({made}), from minilearner.vision.all."
    raise TypeError(
        f"`splitter` must be a function items -> (train, valid), such as RandomSplitter(). Received: "
        f"splitter={splitter!r:.100}.{way_out}"
    )


def _with_seed(splitter: Any) -> Any:
    """Returns a copy that draws the same each time, and moves no generator of anybody else."""
    own = copy.deepcopy(splitter)
    if getattr(own, "random_state", 0) is None and getattr(own, "shuffle", True):
        own.random_state = DEFAULT_SEED
    return own
