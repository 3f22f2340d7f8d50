"""Whether the training labels teach every class, and how evenly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from minilearner.checkup.findings import Finding, NotCheckedError
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.known_labels import find_labels
from minilearner.data.loader import Loader
from minilearner.data.targets import MultiCategory
from minilearner.errors import agree, plural, portion
from minilearner.glance import enumerate_names

__all__ = ["find_label_problems"]

_SAMPLE = 8  # batches, if all labels cannot be had without reading all items
_MAJORITY, _IMBALANCE = 0.9, 10  # the share of the largest class, and how many times it may be as large as another


def find_label_problems(dls: DataLoaders) -> Iterator[Finding]:
    """Finds classes without training items, classes that hardly occur, and labels that are all the same."""
    y, is_whole = _training_labels(dls.train)
    is_weighted = getattr(dls.train, "weights", None) is not None
    if y.ndim == 2 and (isinstance(dls.target, MultiCategory) or _are_zeros_and_ones(y)):
        yield from _find_in_columns(y, dls.vocab, is_whole=is_whole)
    elif y.is_floating_point():
        yield from _find_constant(y)
    elif y.ndim == 1:
        found = _find_in_classes(y, dls.vocab, is_whole=is_whole)
        yield from (finding for finding in found if not (is_weighted and finding.check == "balance"))
    else:
        raise NotCheckedError("an item has many class numbers")


def _find_in_classes(y: Tensor, vocab: Sequence[Any] | None, *, is_whole: bool) -> Iterator[Finding]:
    y = y[y >= 0]
    names: Sequence[Any] = vocab or range(int(y.max()) + 1 if len(y) else 0)
    counts = torch.bincount(y, minlength=len(names)).tolist()
    values = {"items_per_class": {str(name): n for name, n in zip(names, counts, strict=False)}}
    missing = [name for name, n in zip(names, counts, strict=False) if not n]
    of = "training items" if is_whole else f"items of the first {_SAMPLE} training batches"
    if sum(n > 0 for n in counts) == 1 and is_whole:
        yield Finding(
            "labels",
            "warning",
            f"All {len(y):,} {of} have the same class, so there is nothing to tell apart.",
            "Check how the labels are made: `dls.show_batch()` shows them.",
            values,
        )
        return
    if missing and is_whole:
        is_named = vocab is not None and tuple(vocab) != tuple(range(len(vocab)))
        yield Finding(
            "labels",
            "warning" if is_named else "note",
            f"{portion(len(missing), len(names), 'class', 'has', 'have')} no training item: "
            f"{enumerate_names(missing)}.",
            "Add items of these classes, leave the classes out, or keep each class in both sets with "
            "StratifiedSplitter().",
            {**values, "missing": [str(name) for name in missing]},
        )
    yield from _find_imbalance(names, counts, of, values, is_whole=is_whole)


def _find_imbalance(
    names: Sequence[Any], counts: list[int], of: str, values: dict[str, Any], *, is_whole: bool
) -> Iterator[Finding]:
    present = [(n, str(name)) for name, n in zip(names, counts, strict=False) if n]
    if len(present) < 2:
        return
    (most, largest), (least, smallest) = max(present), min(present)
    share = most / sum(counts)
    if share < _MAJORITY and most < _IMBALANCE * least:
        return
    is_bad = share >= _MAJORITY and is_whole
    yield Finding(
        "balance",
        "warning" if is_bad else "note",
        f"{share:.0%} of the {of} have the class {largest!r}, and {smallest!r} has {plural(least, 'item')}."
        + (f" A model that always says {largest!r} is right that often." if is_bad else ""),
        "Judge the model by BalancedAccuracy() or F1Score(average='macro') instead of accuracy; draw rare classes more "
        "often with `weights=`, or give the loss a weight for each class.",
        {**values, "largest_share": share},
    )


def _find_in_columns(y: Tensor, vocab: Sequence[Any] | None, *, is_whole: bool) -> Iterator[Finding]:
    if not is_whole:
        raise NotCheckedError("all items would have to be read for their labels")
    names: Sequence[Any] = vocab or range(y.shape[1])
    counts = [int(n) for n in (y > 0.5).sum(0)]
    values = {"items_per_class": {str(name): n for name, n in zip(names, counts, strict=False)}}
    for extreme, words in ((0, "no training item"), (len(y), "all training items")):
        classes = [name for name, n in zip(names, counts, strict=False) if n == extreme]
        if classes:
            yield Finding(
                "labels",
                "warning",
                f"{portion(len(classes), len(names), 'class', 'has', 'have')} {words}: {enumerate_names(classes)}.",
                f"The model cannot learn {agree(len(classes), 'it', 'them')}. Check how the labels are made, or leave "
                f"{agree(len(classes), 'it', 'them')} out.",
                values,
            )


def _find_constant(y: Tensor) -> Iterator[Finding]:
    if len(y) > 1 and bool((y == y[:1]).all()):
        yield Finding(
            "labels",
            "warning",
            f"All {len(y):,} training targets are the same, so there is nothing to learn.",
            "Check how the targets are made.",
            {"target": y[0].flatten().tolist()},
        )


def _training_labels(loader: Loader) -> tuple[Tensor, bool]:
    """Returns the labels of the training items on the CPU, and whether they are all of them."""
    known = find_labels(loader)
    if known is not None:
        return known, True
    sample = [y for _, y in islice(loader.iterate(), _SAMPLE)]
    if not sample or not all(isinstance(y, Tensor) and y.ndim for y in sample):
        raise NotCheckedError("the targets are not one tensor for each batch")
    return torch.cat(sample).detach().cpu(), False


def _are_zeros_and_ones(y: Tensor) -> bool:
    return y.is_floating_point() and y.shape[1] > 1 and bool(((y == 0) | (y == 1)).all())
