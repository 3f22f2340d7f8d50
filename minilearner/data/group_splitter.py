"""`GroupSplitter`: items that belong together, such as all images of one patient, stay on one side of the split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minilearner.checks import check_count, check_fraction
from minilearner.data.labels import apply_to_all, as_label, is_missing
from minilearner.data.splits import DEFAULT_SEED, Split, n_for_validation
from minilearner.data.table import as_table, is_table
from minilearner.errors import DataError, plural, portion
from minilearner.keywords import suggest_keywords

__all__ = ["GroupSplitter", "read_groups"]


@suggest_keywords
@dataclass(frozen=True)
class GroupSplitter:
    """Whole groups are drawn for validation, so no group is in both sets.

    Use it if several items show the same thing: frames of one video, photos of one patient, crops of one image. A
    random split would put some of them in each set, and validation would look better than the model is.

    >>> GroupSplitter(ColReader("patient"), valid_pct=0.2, seed=42)  # doctest: +SKIP

    Args:
        get_group: item -> its group: text or a number.
        valid_pct: in [0, 1), the share of the items. The set comes as near to it as whole groups allow, and has at
            least one of them. 0 means no validation set.
        seed: decides the draw; None is the same as 0.

    Raises:
        ValueError: `valid_pct` is outside [0, 1).
        DataError: (when called) `get_group` failed, an item has no group, or all items are in one group.
    """

    get_group: Callable[[Any], Any]
    valid_pct: float = 0.2
    seed: int | None = None

    def __post_init__(self) -> None:
        if not callable(self.get_group):
            raise TypeError(f"`get_group` must be a function of an item. Received: {self.get_group!r:.100}.")
        check_fraction(self.valid_pct, "valid_pct", closed="left")
        if self.seed is not None:
            check_count(self.seed, "seed", least=None)

    def __call__(self, items: Sequence[Any]) -> Split:
        """Returns the positions, ascending."""
        groups = read_groups(self.get_group, items)
        held = self._draw(Counter(groups))
        valid = [i for i, group in enumerate(groups) if group in held]
        return [i for i, group in enumerate(groups) if group not in held], valid

    def _draw(self, sizes: Counter[Any]) -> set[Any]:
        """Returns the groups for validation: in a random order, each that brings the set nearer to its size."""
        wanted = n_for_validation(self.valid_pct, sizes.total())
        if not wanted:
            return set()
        if len(sizes) < 2:
            raise DataError(
                f"all {sizes.total()} items are in one group, {next(iter(sizes))!r}, so none is left for the other "
                "set. Correct `get_group`, or give valid_pct=0 for no validation set."
            )
        rng = np.random.RandomState(DEFAULT_SEED if self.seed is None else self.seed)
        order = [list(sizes)[place] for place in rng.permutation(len(sizes))]
        held: set[Any] = set()
        n = 0
        for group in order:
            if abs(n + sizes[group] - wanted) < abs(n - wanted):
                held.add(group)
                n += sizes[group]
        return held or {min(order, key=sizes.__getitem__)}


def read_groups(get_group: Callable[[Any], Any] | Sequence[Any], items: Sequence[Any]) -> list[Any]:
    """Returns the group of every item.

    Args:
        get_group: item -> its group; or one group for each item.
        items: the items, or a table.

    Raises:
        DataError: `get_group` failed or has not one group for each item, or an item has no group.
    """
    if callable(get_group):
        given: Sequence[Any] = apply_to_all(get_group, as_table(items) if is_table(items) else items, "get_group")
    else:
        given = list(get_group)
    if len(given) != len(items):
        raise DataError(
            f"`get_group` must have one group for each of {plural(len(items), 'item')}. Received: {len(given)}."
        )
    groups = list(map(as_label, given))
    if missing := [i for i, group in enumerate(groups) if is_missing(group)]:
        raise DataError(
            f"{portion(len(missing), len(groups), 'item', 'has', 'have')} no group, the first at position "
            f"{missing[0]}. Give every item a group, or leave it out."
        )
    return groups
