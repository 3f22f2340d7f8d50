"""How often training draws each item: weights by class or by item, checked, for the items of the training set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from minilearner.data.labels import as_label, as_python
from minilearner.data.targets import Target
from minilearner.errors import DataError, closest, plural

__all__ = ["Weights", "item_weights"]

Weights: TypeAlias = "str | Mapping[Hashable, float] | Sequence[float] | Tensor"
"""The word "balanced", class -> weight, or one weight for each item of the source."""


def item_weights(
    weights: Any, n_items: int, positions: Sequence[int], y: Tensor | None, target: Target | None
) -> Tensor:
    """Returns one weight for each training item: float64 (items,).

    Args:
        weights: see `Weights`. "balanced" gives each class the same chance in all, whatever its number of items.
        n_items: the number of items of the source.
        positions: where each training item stands in the source.
        y: the targets of the training items.
        target: what they mean.

    Raises:
        TypeError: `weights` is something else.
        DataError: there is not one for each item or class, a class is unknown, one is negative or not finite, or all
            training items have weight 0.
    """
    if isinstance(weights, str) and weights != "balanced":
        raise ValueError(f"`weights` must be 'balanced', class -> weight, or numbers. Received: weights={weights!r}.")
    if isinstance(weights, (str, Mapping)):
        numbers, vocab = _class_numbers(y, target)
        chosen = _by_class(weights, vocab) if isinstance(weights, Mapping) else _balance(numbers, len(vocab))
        return _check([chosen[number] for number in numbers])
    given = weights.tolist() if hasattr(weights, "tolist") else weights
    try:
        each = list(map(as_python, given))
    except TypeError as error:
        raise TypeError(
            f"`weights` must be 'balanced', class -> weight, or numbers. Received: a {type(weights).__name__}."
        ) from error
    if len(each) != n_items:
        raise DataError(
            f"`weights` must have one number for each of {plural(n_items, 'item')}, validation items among them. "
            "Received: "
            f"{len(each)}."
        )
    _check_numbers(each)
    return _check([each[i] for i in positions])


def _class_numbers(y: Tensor | None, target: Target | None) -> tuple[list[int], Sequence[Any]]:
    vocab = getattr(target, "vocab", None)
    if y is None or vocab is None or y.ndim != 1 or y.is_floating_point():
        raise DataError("weights by class need one class for each item. Give `weights` one number for each item.")
    numbers: list[int] = y.tolist()
    return numbers, vocab


def _balance(numbers: Sequence[int], n_classes: int) -> list[float]:
    counts = Counter(numbers)
    return [1 / counts[number] if counts[number] else 0.0 for number in range(n_classes)]


def _by_class(weights: Mapping[Any, Any], vocab: Sequence[Any]) -> list[float]:
    given = {as_label(name): as_python(weight) for name, weight in weights.items()}
    names = [as_label(name) for name in vocab]
    if unknown := [name for name in given if name not in names]:
        hint = closest(str(unknown[0]), map(str, names))
        raise DataError(
            f"`weights` names {unknown[0]!r}, which is no class.{hint} Classes: {', '.join(map(repr, names))}."
        )
    if absent := [name for name in names if name not in given]:
        raise DataError(f"`weights` must name every class. It lacks {', '.join(map(repr, absent[:5]))}.")
    _check_numbers(list(given.values()))
    return [given[name] for name in names]


def _check_numbers(weights: Sequence[Any]) -> None:
    for i, weight in enumerate(weights):
        is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not is_number or not 0 <= weight < math.inf:
            raise DataError(f"`weights` must be finite numbers, at least 0. Received: {weight!r} at position {i}.")


def _check(weights: Sequence[float]) -> Tensor:
    chosen = torch.tensor(weights, dtype=torch.float64)
    if not 0 < float(chosen.sum()) < math.inf:
        raise DataError("`weights` must have a finite sum above 0 over the training items, since these are drawn.")
    return chosen
