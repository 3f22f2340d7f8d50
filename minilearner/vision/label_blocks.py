"""Which target block fits some labels, if the user names none."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from minilearner.data.blocks import CategoryBlock, MultiCategoryBlock, RegressionBlock
from minilearner.data.labels import as_python, is_missing
from minilearner.data.targets import are_zeros_and_ones

__all__ = ["block_of", "choose_block"]


def choose_block(labels: Sequence[Any], names: Sequence[Any] | None = None) -> Any:
    """Returns the block that fits these labels; `names` are those of the columns, if each label has a cell of each."""
    several = [label for label in labels if isinstance(label, (list, tuple)) or getattr(label, "ndim", 0) == 1]
    if several:
        values = [value for label in several for value in label if not is_missing(value)]
        if are_zeros_and_ones(labels):
            return MultiCategoryBlock() if names is None else MultiCategoryBlock(encoded=True, vocab=names)
        return RegressionBlock() if all(map(len, several)) and _are_floats(values) else MultiCategoryBlock()
    return RegressionBlock() if _are_floats([v for v in labels if not is_missing(v)]) else CategoryBlock()


def block_of(labels: Sequence[Any], names: Sequence[str] | None) -> Any:
    """Returns the block that fits these labels, with the classes in the order of `names` if they are known."""
    if names is None:
        return choose_block(labels)
    has_several = any(isinstance(label, list) for label in labels)
    return MultiCategoryBlock(vocab=names) if has_several else CategoryBlock(names)


def _are_floats(values: Sequence[Any]) -> bool:
    """Returns whether these are numbers with at least one that is measured. Whole numbers alone are classes."""
    kinds = {type(as_python(value)) for value in values}
    return bool(kinds & {float, Decimal, Fraction}) and kinds <= {float, int, Decimal, Fraction}
