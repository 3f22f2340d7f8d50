"""What a label means, both ways: how many outputs a model needs for it, the loss, and how predictions are read back.

Encoding raw labels into numbers is `arrays`' business; drawing them is `results`'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilearner.checks import check_count, check_fraction
from minilearner.errors import DataError

__all__ = ["Category", "ClassNumbers", "Loss", "MultiCategory", "Regression", "Target", "mean_squared_error"]

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``(pred, target) -> scalar tensor``."""


@runtime_checkable
class Target(Protocol):
    """The meaning of a label. Any object with these five members will do."""

    @property
    def n_out(self) -> int | None:
        """How many outputs a model needs for one item; None where it is not known."""
        ...

    @property
    def loss_func(self) -> Loss:
        """The loss that a learner takes when it is given none."""
        ...

    def activate(self, pred: Tensor) -> Tensor:
        """Turns raw outputs (batch, n_out) into what is reported, such as probabilities, of the same shape."""
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

    What integer labels of a loader mean that does not name its classes: int64, shaped (batch,), or (batch, ...) for
    masks.
    """

    @property
    def n_out(self) -> int | None:
        """Not known: None."""
        return None

    @property
    def loss_func(self) -> Loss:
        """Cross-entropy of raw outputs (logits), averaged over items."""
        return nn.CrossEntropyLoss()

    def activate(self, pred: Tensor) -> Tensor:
        """Returns probabilities: the softmax over dimension 1."""
        return pred.softmax(dim=1)

    def decode(self, pred: Tensor) -> Tensor:
        """Returns the number of the most likely class: (batch, classes, ...) becomes (batch, ...)."""
        return pred.argmax(dim=1)

    def label(self, value: Any) -> Hashable:
        """Returns the number itself."""
        return int(value)


@dataclass(frozen=True, init=False)
class Category(ClassNumbers):
    """One class out of a vocabulary; targets are int64 indices into it, shaped (batch,), or (batch, ...) for masks.

    >>> Category(["cat", "dog"]).label(1)
    'dog'

    Raises:
        ValueError: `vocab` is empty or names a class twice.
    """

    vocab: tuple[Hashable, ...]

    def __init__(self, vocab: Sequence[Hashable]) -> None:
        object.__setattr__(self, "vocab", _checked_vocab(vocab))

    @property
    def c(self) -> int:
        """The number of classes."""
        return len(self.vocab)

    @property
    def n_out(self) -> int:
        """One output a class."""
        return self.c

    def label(self, value: Any) -> Hashable:
        """Returns the class with this index, as the vocabulary has it.

        Raises:
            DataError: the vocabulary has no such index, for the model has more outputs than there are classes.
        """
        if int(value) >= len(self.vocab):
            raise DataError(
                f"class number {int(value)} has no name: there are {len(self.vocab)} classes, 0 to "
                f"{len(self.vocab) - 1}. Give the model as many outputs as classes."
            )
        return self.vocab[int(value)]


@dataclass(frozen=True, init=False)
class MultiCategory:
    """Any number of classes out of a vocabulary; targets are float32 zeros and ones, shaped (batch, classes).

    >>> MultiCategory(["clear", "haze", "road"]).label([1, 0, 1])
    ['clear', 'road']

    Args:
        vocab: names of the classes, in the order of their columns.
        thresh: a class with a probability above it is predicted, in [0, 1].

    Raises:
        ValueError: `vocab` is empty or names a class twice, or `thresh` is outside [0, 1].
    """

    vocab: tuple[Hashable, ...]
    thresh: float

    def __init__(self, vocab: Sequence[Hashable], thresh: float = 0.5) -> None:
        check_fraction(thresh, "thresh")
        object.__setattr__(self, "vocab", _checked_vocab(vocab))
        object.__setattr__(self, "thresh", thresh)

    @property
    def n_out(self) -> int:
        """One output a class."""
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


def _checked_vocab(vocab: Sequence[Hashable]) -> tuple[Hashable, ...]:
    names = tuple(vocab)
    if not names:
        raise ValueError("`vocab` must name at least one class. Received: vocab=().")
    if len(set(names)) < len(names):
        twice = [name for name, n in Counter(names).items() if n > 1]
        raise ValueError(f"`vocab` must name each class once. Received more than once: {twice[:5]}.")
    return names


@dataclass(frozen=True)
class Regression:
    """One or several real numbers an item; targets are float32, shaped (batch,) or (batch, n_out).

    Raises:
        ValueError: `n_out` is less than 1.
    """

    n_out: int = 1

    def __post_init__(self) -> None:
        check_count(self.n_out, "n_out")

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
        """Returns the number, or the list of numbers where there are several."""
        numbers: list[float] = torch.as_tensor(value).flatten().tolist()
        return numbers[0] if len(numbers) == 1 else numbers


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
