"""What a label means, both ways: raw labels become numbers here, and predictions become labels again.

A `Target` also knows how many outputs a model needs and which loss. `blocks` and `arrays` say what kind of label they
have; every class name becomes a number in `Category.encode`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilearner.checks import check_count, check_fraction, check_positive
from minilearner.data.labels import as_label, is_missing
from minilearner.data.vocabulary import as_hashable, check_each_once, check_vocabulary, is_several
from minilearner.errors import DataError, agree, plural, portion
from minilearner.keywords import suggest_keywords

__all__ = [
    "Category",
    "ClassNumbers",
    "Loss",
    "MultiCategory",
    "Regression",
    "Target",
    "are_zeros_and_ones",
    "as_labels",
    "check_finite",
    "encode_labels",
    "infer_target",
    "mean_squared_error",
    "restore_category",
    "restore_multi_category",
]

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``(pred, target) -> scalar tensor``."""

Labels: TypeAlias = "Sequence[Any] | np.ndarray[Any, Any]"
"""Labels as people have them, one for each item."""

NameItem: TypeAlias = Callable[[int], str]
"""Position -> how an error names the item there."""


@runtime_checkable
class Target(Protocol):
    """The meaning of a label. Any object with these five members will do.

    One that also has ``encode(labels, *, split, name_item)`` turns labels into numbers itself; see `encode_labels`.
    """

    @property
    def n_out(self) -> int | None:
        """How many outputs a model needs for one item; None if it is unknown."""
        ...

    @property
    def loss_func(self) -> Loss:
        """The loss of a learner that was given none."""
        ...

    def activate(self, pred: Tensor) -> Tensor:
        """Turns raw outputs (batch, n_out) into reported ones of the same shape, such as probabilities."""
        ...

    def decode(self, pred: Tensor) -> Tensor:
        """Turns activated outputs into predicted targets."""
        ...

    def label(self, value: Any) -> Any:
        """Returns what one target value means to people: an entry of the vocabulary, or a number."""
        ...


@dataclass(frozen=True)
class ClassNumbers:
    """One class out of as many as the model has outputs, known by its number.

    It is the meaning of integer labels if a loader does not name its classes: int64, shaped (batch,), or (batch, ...)
    for masks. A model with a single output for them, such as a count or the logit of one of two classes, does not tell
    classes apart. Its outputs are reported as they are.

    Args:
        temperature: outputs are divided by it before the softmax; see `Learner.calibrate`. Losses do not use it.

    Raises:
        ValueError: `temperature` is not positive.
    """

    temperature: float = field(default=1.0, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        check_positive(self.temperature, "temperature")

    def with_temperature(self, temperature: float) -> ClassNumbers:
        """Returns the same meaning with another temperature.

        Raises:
            ValueError: `temperature` is not positive.
        """
        check_positive(temperature, "temperature")
        other = copy.copy(self)
        object.__setattr__(other, "temperature", float(temperature))
        return other

    @property
    def n_out(self) -> int | None:
        """None: it is unknown."""
        return None

    @property
    def loss_func(self) -> Loss:
        """Cross-entropy of raw outputs (logits), averaged over items."""
        return nn.CrossEntropyLoss()

    def activate(self, pred: Tensor) -> Tensor:
        """Returns probabilities: the softmax over dimension 1. A single output stays as it is."""
        if not _has_classes(pred):
            return pred
        return (pred if self.temperature == 1 else pred / self.temperature).softmax(dim=1)

    def decode(self, pred: Tensor) -> Tensor:
        """Returns the number of the most likely class: (batch, classes, ...) becomes (batch, ...)."""
        return pred.argmax(dim=1) if _has_classes(pred) else pred

    def label(self, value: Any) -> Hashable:
        """Returns the number itself."""
        number = torch.as_tensor(value).flatten()
        return float(number[0]) if len(number) == 1 and number.is_floating_point() else int(value)

    def encode(self, labels: Labels, *, split: str, name_item: NameItem) -> Tensor:
        """Returns class numbers as int64, in the shape of the labels.

        Raises:
            DataError: labels are not whole numbers, or there is no such class.
        """
        y = np.asarray(labels)
        if y.dtype.kind not in "biu":
            raise DataError(
                f"`y` of {split} must be class numbers or names. Received: dtype {y.dtype}. Use y.astype(int)."
            )
        if self.n_out is not None:
            _check_range(y, self.n_out, split, name_item)
        return torch.from_numpy(y.astype(np.int64))


def _has_classes(pred: Tensor) -> bool:
    return pred.ndim > 1 and pred.shape[1] > 1


@suggest_keywords
@dataclass(frozen=True, init=False)
class Category(ClassNumbers):
    """One class out of a vocabulary; targets are int64 indices into it, shaped (batch,), or (batch, ...) for masks.

    >>> Category(["cat", "dog"]).label(1)
    'dog'

    Raises:
        TypeError: `vocab` has no order, as a set has none.
        ValueError: `vocab` is empty, has an empty name or names a class twice, perhaps with another blank in it.
    """

    vocab: tuple[Hashable, ...]

    def __init__(self, vocab: Sequence[Hashable]) -> None:
        object.__setattr__(self, "vocab", check_vocabulary(vocab))

    @property
    def c(self) -> int:
        """The number of classes."""
        return len(self.vocab)

    @property
    def n_out(self) -> int:
        """One output per class."""
        return self.c

    def label(self, value: Any) -> Hashable:
        """Returns the class with this index, as the vocabulary has it.

        Raises:
            DataError: the vocabulary has no such index, for the model has more outputs than there are classes.
        """
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel() == 1:  # of a single output
            return super().label(value)
        if int(value) >= len(self.vocab):
            raise DataError(
                f"class number {int(value)} has no name: there are {len(self.vocab)} classes, 0 to "
                f"{len(self.vocab) - 1}. Give the model as many outputs as classes."
            )
        return self.vocab[int(value)]

    def encode(self, labels: Labels, *, split: str, name_item: NameItem, unknown: int | None = None) -> Tensor:
        """Returns the numbers of class names as int64 (items,), or in the shape of an array.

        An array of integers holds class numbers already; all other labels are names. Blanks around a name do not count.

        Args:
            labels: one name for each item.
            split: the set that an error names, such as "validation".
            name_item: position -> how an error names an item.
            unknown: the number of labels that are missing or not among the classes; None refuses them.

        Raises:
            DataError: a label is missing, or not among the classes. Says how many, with three examples.
        """
        if isinstance(labels, np.ndarray) and labels.dtype.kind != "U":
            return super().encode(labels, split=split, name_item=name_item)
        shape = np.shape(labels) if isinstance(labels, np.ndarray) else (len(labels),)
        names = list(map(as_hashable, labels.ravel().tolist() if isinstance(labels, np.ndarray) else labels))
        number_of = {as_label(name): number for number, name in enumerate(self.vocab)}
        number_of |= {name: number for number, name in enumerate(self.vocab)}  # an old file may have " cat" and "cat"
        numbers = [number_of.get(name, unknown) for name in names]
        if None in numbers:
            per_item = len(names) // len(labels)
            self._refuse(names, numbers, split, lambda i: name_item(i // per_item))
        return torch.tensor(numbers, dtype=torch.int64).reshape(shape)

    def _refuse(self, names: list[Any], numbers: list[int | None], split: str, name_item: NameItem) -> None:
        odd = [i for i, number in enumerate(numbers) if number is None]
        if missing := [i for i in odd if is_missing(names[i])]:
            raise DataError(
                f"{portion(len(missing), len(names), f'{split} label', 'is', 'are')} missing: "
                f"{_examples(missing, name_item)}. Label "
                "these items, leave them out, or give them a class of their own with add_na=True."
            )
        known = ", ".join(map(repr, self.vocab[:10])) + (f" and {self.c - 10} more" if self.c > 10 else "")
        both_sets = ", keep each class in both sets with StratifiedSplitter()" if split == "validation" else ""
        raise DataError(
            f"{portion(len(odd), len(names), f'{split} label', 'is', 'are')} not among the classes: "
            f"{_examples(odd, name_item, names)}. "
            f"The classes are {known}. Name every class in `vocab`{both_sets}, or leave these items out."
        )


@suggest_keywords
@dataclass(frozen=True, init=False)
class MultiCategory:
    """Any number of classes out of a vocabulary; targets are float32 zeros and ones, shaped (batch, classes).

    >>> MultiCategory(["clear", "haze", "road"]).label([1, 0, 1])
    ['clear', 'road']

    Args:
        vocab: names of the classes, in the order of their columns.
        thresh: a class with a probability above it is predicted, in [0, 1].

    Raises:
        TypeError: `vocab` has no order, as a set has none.
        ValueError: as for `Category`, or `thresh` is outside [0, 1].
    """

    vocab: tuple[Hashable, ...]
    thresh: float

    def __init__(self, vocab: Sequence[Hashable], thresh: float = 0.5) -> None:
        check_fraction(thresh, "thresh")
        object.__setattr__(self, "vocab", check_vocabulary(vocab))
        object.__setattr__(self, "thresh", float(thresh))

    @property
    def n_out(self) -> int:
        """One output per class."""
        return len(self.vocab)

    @property
    def loss_func(self) -> Loss:
        """Binary cross-entropy of raw outputs (logits), averaged over items and classes."""
        return nn.BCEWithLogitsLoss()

    def activate(self, pred: Tensor) -> Tensor:
        """Returns the probability of each class: the sigmoid."""
        return pred.sigmoid()

    def decode(self, pred: Tensor) -> Tensor:
        """Returns which probabilities are above `thresh`: bool, (batch, classes)."""
        return pred > self.thresh

    def label(self, value: Any) -> list[Hashable]:
        """Returns the names of the classes whose entry is not zero."""
        return [name for name, has in zip(self.vocab, torch.as_tensor(value).tolist(), strict=True) if has]

    def encode(self, labels: Labels, *, split: str, name_item: NameItem, unknown: int | None = None) -> Tensor:
        """Returns lists of class names as float32 zeros and ones (items, classes); arguments as `Category.encode`.

        An array holds zeros and ones already.

        Raises:
            DataError: a label is no list, or has a name that is not among the classes.
        """
        if isinstance(labels, np.ndarray):
            return _encode_numbers(labels, np.float32, split)
        _check_lists(labels, split, name_item)
        names = [(i, name) for i, several in enumerate(labels) for name in several]
        rows = [i for i, _ in names]
        columns = Category(self.vocab).encode(
            [name for _, name in names], split=split, name_item=lambda k: name_item(rows[k]), unknown=unknown
        )
        y = torch.zeros(len(labels), len(self.vocab))
        y[torch.tensor(rows, dtype=torch.int64), columns] = 1
        return y

    def encode_rows(self, labels: Sequence[Any], *, split: str, name_item: NameItem) -> Tensor:
        """Returns lists of zeros and ones, one for each class, as float32 (items, classes).

        Raises:
            DataError: a label is no list, or not of that kind.
        """
        _check_lists(labels, split, name_item)
        n = len(self.vocab)
        rows = list(map(_as_finite_numbers, labels))
        if odd := [i for i, row in enumerate(rows) if row is None or len(row) != n or not set(row) <= {0.0, 1.0}]:
            raise DataError(
                f"{portion(len(odd), len(rows), f'{split} label', 'is', 'are')} not {n} zeros and ones, one for each "
                "name in `vocab`: "
                f"{_examples(odd, name_item, list(map(list, labels)))}."
            )
        return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), n)


def restore_category(vocab: Sequence[Hashable], temperature: float = 1.0) -> Category:
    """Returns the meaning that a file describes. Earlier versions also wrote empty names, and names with blanks."""
    target = object.__new__(Category)
    check_positive(temperature, "temperature")
    object.__setattr__(target, "temperature", float(temperature))
    object.__setattr__(target, "vocab", check_each_once(vocab))
    return target


def restore_multi_category(vocab: Sequence[Hashable], thresh: float) -> MultiCategory:
    """Returns the meaning that a file describes, as `restore_category` does."""
    target = MultiCategory([0], thresh)
    object.__setattr__(target, "vocab", check_each_once(vocab))
    return target


@suggest_keywords
@dataclass(frozen=True)
class Regression:
    """One or several real numbers per item; targets are float32, shaped (batch,) or (batch, n_out).

    Raises:
        ValueError: `n_out` is less than 1.
    """

    n_out: int = 1

    def __post_init__(self) -> None:
        check_count(self.n_out, "n_out")
        object.__setattr__(self, "n_out", int(self.n_out))  # an export holds Python's numbers

    @property
    def loss_func(self) -> Loss:
        """Mean squared error, safe against the silent broadcast of (batch,) with (batch, 1)."""
        return mean_squared_error

    def activate(self, pred: Tensor) -> Tensor:
        """Returns `pred` itself."""
        return pred

    def decode(self, pred: Tensor) -> Tensor:
        """Returns `pred` itself."""
        return pred

    def label(self, value: Any) -> float | list[float]:
        """Returns the number, or a list if there are several."""
        numbers: list[float] = torch.as_tensor(value).flatten().tolist()
        return numbers[0] if len(numbers) == 1 else numbers

    def encode(self, labels: Labels, *, split: str, name_item: NameItem) -> Tensor:
        """Returns numbers as float32 (items,), lists as (items, n_out), and an array in its own shape.

        Raises:
            DataError: a label is not a finite number, or a list has not `n_out` of them.
        """
        if isinstance(labels, np.ndarray):
            return _encode_numbers(labels, np.float32, split)
        rows = [_as_finite_numbers(label) for label in labels]
        if odd := [i for i, row in enumerate(rows) if row is None or len(row) != self.n_out]:
            count = "one finite number" if self.n_out == 1 else f"{self.n_out} finite numbers"
            raise DataError(
                f"{portion(len(odd), len(rows), f'{split} label', 'is', 'are')} not {count}: "
                f"{_examples(odd, name_item, labels)}."
            )
        y = torch.tensor(rows, dtype=torch.float32).reshape(len(rows), self.n_out)
        return y if self.n_out > 1 or any(map(is_several, labels)) else y.squeeze(1)


def mean_squared_error(pred: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Returns the mean of (pred - target)², with `target` viewed in `pred`'s shape; `reduction` as torch's losses take.

    torch's own loss broadcasts (batch, 1) against (batch,) to (batch, batch) and trains on nonsense; here equal element
    counts of one batch are compared one to one.

    Raises:
        ValueError: `pred` and `target` differ in the number of items or of elements.
    """
    if pred.numel() != target.numel() or pred.shape[:1] != target.shape[:1]:
        raise ValueError(
            f"`pred` and `target` must hold the same items with the same number of values. Received: pred of shape "
            f"{tuple(pred.shape)}, target of shape {tuple(target.shape)}. Let the model end in as many outputs as an "
            "item has target values."
        )
    return F.mse_loss(pred, target.reshape(pred.shape), reduction=reduction)


def as_labels(value: Any, split: str, name_item: NameItem | None = None) -> np.ndarray[Any, Any]:
    """Returns labels, in whatever form users bring them, as a NumPy array of numbers or of trimmed text.

    Args:
        value: the labels.
        split: the set that an error names.
        name_item: position -> how an error names an item; "item 7" when None.

    Raises:
        DataError: one is missing, or they are neither all numbers nor all text.
    """
    raw = value.detach().cpu() if isinstance(value, Tensor) else value
    raw = raw.float() if isinstance(raw, Tensor) and raw.dtype == torch.bfloat16 else raw
    try:
        y = np.asarray(raw)
    except ValueError as error:  # rows that differ in length
        raise DataError(f"`y` of {split} must have one shape for all items. Received: {error}.") from error
    missing = np.ma.getmaskarray(raw) if np.ma.isMaskedArray(raw) else np.zeros(y.shape, dtype=bool)
    if y.dtype.kind in "OUMm" and y.ndim:
        # `np.asarray` makes text of NaN and of numbers that stand among text.
        given = np.asarray(raw, dtype=object)
        labels = list(map(as_label, given.flat))
        missing |= np.array(list(map(is_missing, labels)), dtype=bool).reshape(y.shape)
        kinds = {str if isinstance(label, str) else type(label) for label in labels}
        is_one_kind = kinds <= {str} or kinds <= {bool, int, float}
        y = np.array(labels).reshape(y.shape) if is_one_kind else given
    if missing.any():
        items = np.flatnonzero(missing.reshape(len(y), -1).any(1)).tolist()
        examples = _examples(items, name_item or _name_by_position)
        n, verb = len(items), agree(len(items), "is", "are")
        raise DataError(
            f"{n} of {plural(len(y), 'label')} of {split} {verb} missing: {examples}. Label or remove them."
        )
    if y.dtype.kind not in "biufU" or y.ndim == 0:
        raise DataError(
            f"`y` of {split} must be a sequence of numbers or of text. Received: shape {y.shape}, dtype {y.dtype}."
        )
    return y


def infer_target(y: np.ndarray[Any, Any], vocab: Any = None) -> Target:
    """Returns what training labels mean: text and integers are classes, floats are numbers to regress.

    Without `vocab`, text gets the sorted distinct labels, and integers get 0 up to the largest. If some are negative,
    such as the -100 that torch's losses ignore, nobody knows how many classes there are.

    Raises:
        DataError: integers are two-dimensional, so that their meaning is unclear.
    """
    if vocab is not None:
        return Category(vocab)
    if y.dtype.kind == "U":
        return Category(np.unique(y).tolist())
    if y.dtype.kind == "f":
        return Regression(int(np.prod(y.shape[1:])))
    if y.ndim == 2:
        raise DataError(
            f"`y` of train holds integers of shape {y.shape}: one-hot rows, a column or sequences? Give class numbers "
            "of shape (items,), such as y.argmax(1) or y[:, 0], floats for regression, or target=ClassNumbers() if "
            "each is a class number."
        )
    return ClassNumbers() if y.min() < 0 else Category(range(int(y.max()) + 1))


def encode_labels(target: Target, y: np.ndarray[Any, Any], *, split: str, name_item: NameItem | None = None) -> Tensor:
    """Returns an array of labels as the target's numbers.

    A target without an `encode` of its own gets floats as float32, and integers as int64.

    Args:
        target: what the labels mean.
        y: numbers or text, as `as_labels` returns them.
        split: the set that an error names.
        name_item: position -> how an error names an item; "item 7" when None.

    Raises:
        DataError: a label is not among the classes, a class number is out of range, or a number is not finite.
    """
    encode = getattr(target, "encode", None)
    if encode is None:
        return _encode_numbers(y, np.float32 if y.dtype.kind == "f" else np.int64, split)
    encoded: Tensor = encode(y, split=split, name_item=name_item or _name_by_position)
    return encoded


def are_zeros_and_ones(labels: Sequence[Any]) -> bool:
    """Returns whether labels are rows of zeros and ones of one length, one-hot for example, and not lists of names."""
    rows = [[as_label(value) for value in label] for label in labels if is_several(label)]
    is_one_length = len({len(row) for row in rows}) == 1 and len(rows) == len(labels) and len(rows[0]) > 1
    return is_one_length and all(value in (0, 1, "0", "1") for row in rows for value in row)


def check_finite(t: Tensor, name: str) -> None:
    """Raises a DataError if a value is NaN or infinite; `name` is what the error calls the tensor."""
    if not t.is_floating_point() or bool(t.isfinite().all()):
        return
    bad = ~t.isfinite().reshape(len(t), -1)
    n = int(bad.sum())
    raise DataError(
        f"{name} must be finite. Received: {plural(n, 'value')} {agree(n, 'that is', 'that are')} NaN or infinite, "
        "the first in item "
        f"{int(bad.any(1).nonzero()[0, 0])}. Fill or remove them."
    )


def _encode_numbers(y: np.ndarray[Any, Any], dtype: type, split: str) -> Tensor:
    if y.dtype.kind == "U":
        raise DataError(f"`y` of {split} must be numbers for this target. Received: text such as {str(y.flat[0])!r}.")
    encoded = torch.from_numpy(y.astype(dtype))
    check_finite(encoded, f"`y` of {split}")
    return encoded


def _check_range(y: np.ndarray[Any, Any], c: int | None, split: str, name_item: NameItem) -> None:
    bad = (y < 0) if c is None else (y < 0) | (y >= c)
    if not bad.any():
        return
    item = int(bad.reshape(len(y), -1).any(1).argmax())
    raise DataError(
        f"`y` of {split} must be class numbers from 0 {'up' if c is None else f'to {c - 1}'}. Received: "
        f"{int(y[item][bad[item]].flat[0])} at {name_item(item)} ({int(bad.sum())} such labels). Correct the labels, "
        "or name every class in `vocab=`."
    )


def _check_lists(labels: Sequence[Any], split: str, name_item: NameItem) -> None:
    if odd := [i for i, label in enumerate(labels) if not is_several(label)]:
        raise DataError(
            f"{portion(len(odd), len(labels), f'{split} label', 'is no list', 'are not lists')}: "
            f"{_examples(odd, name_item, labels)}. Let "
            "`get_y` return a list, for instance with ColReader(..., label_delim=' ')."
        )


def _examples(positions: list[int], name_item: NameItem, labels: Labels | None = None) -> str:
    """Returns the first three of these items for an error, each with its label: "'a.jpg' ('cat'), ..."."""
    labelled = [name_item(i) + ("" if labels is None else f" ({labels[i]!r})") for i in positions[:3]]
    return ", ".join(labelled) + (", ..." if len(positions) > 3 else "")


def _name_by_position(position: int) -> str:
    return f"item {position}"


def _as_finite_numbers(label: Any) -> list[float] | None:
    try:
        numbers = [float(value) for value in label] if is_several(label) else [float(label)]
    except (TypeError, ValueError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
