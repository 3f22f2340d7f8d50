"""What inference gives: one batch, a whole set, one item."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minilearner.errors import DataError
from minilearner.tree import Tree, map_tensors

__all__ = ["BatchPrediction", "Prediction", "Predictions", "join"]


@dataclass(frozen=True)
class Predictions:
    """The predictions for a whole set, on the CPU, in its order. Unpacks to ``preds, targets``."""

    preds: Tree
    """(items, ...): the model's outputs after the activation of its loss; None where there are none."""
    targets: Tree
    """(items, ...), or None for data without targets."""
    inputs: Tree = None
    """(items, ...) where they were asked for."""
    losses: Tensor | None = None
    """(items,) the loss of each item, where it was asked for."""
    decoded: Any = None
    """(items,) what the predictions mean, class numbers for instance, where it was asked for."""
    indices: Tensor | None = None
    """(items,) the position of each item in its dataset."""

    def __iter__(self) -> Iterator[Tree]:
        return iter((self.preds, self.targets))

    def __getitem__(self, index: int) -> Tree:
        """Returns what unpacking gives at `index`: 0 for the predictions, 1 for the targets."""
        return (self.preds, self.targets)[index]

    @classmethod
    def from_batches(
        cls,
        batches: Iterable[BatchPrediction],
        *,
        with_input: bool = False,
        with_decoded: bool = False,
        with_loss: bool = False,
        decode: Callable[[Tree], Any] | None = None,
    ) -> Predictions:
        """Joins batches on the CPU; what was not asked for is let go batch by batch.

        `decode` turns activated predictions into what they mean; by default the number of the largest in the last
        dimension.

        Raises:
            DataError: there is no batch, losses were asked for and a batch has none, or some batches have what others
            lack.
        """
        kept: list[tuple[Tree, Tree, Tree, Tree]] = []
        n = 0
        for batch in batches:
            n += batch.n_items
            if with_loss and batch.losses is None:
                raise DataError("`with_loss=True` needs a loss for each item, and so targets: these batches have none.")
            x, losses = batch.x if with_input else None, batch.losses if with_loss else None
            kept.append(tuple(map_tensors(_to_cpu, part) for part in (batch.preds, batch.targets, x, losses)))
        if not kept:
            raise DataError("There is nothing to predict: the loader gave no batch.")
        preds, targets, inputs, joined_losses = (join(parts) for parts in zip(*kept, strict=True))
        decoded = (decode or _argmax)(preds) if with_decoded else None
        return cls(preds, targets, inputs, joined_losses, decoded, torch.arange(n))


@dataclass(frozen=True)
class BatchPrediction:
    """What one batch of inference gives, on the device where it was computed."""

    x: Tree
    """The inputs, (batch, ...)."""
    preds: Tree
    """(batch, ...) after the activation: probabilities for classes."""
    targets: Tree = None
    """(batch, ...), or None for data without targets."""
    losses: Tensor | None = None
    """(batch,), the loss of each item, or None."""
    n_items: int = 0
    """How many items the batch holds."""


@dataclass(frozen=True)
class Prediction:
    """What `predict` says about one item. Unpacks to ``label, index, probabilities``."""

    label: Any
    """The decoded answer, from the vocabulary where there is one."""
    index: Tensor
    """The answer as the loss knows it: a class number."""
    probabilities: Tensor
    """(classes,): the activated output."""
    input: Tree = None
    """The item as the model saw it but in its real colours, (channels, height, width), where it was asked for."""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.label, self.index, self.probabilities))

    def __getitem__(self, index: int) -> Any:
        """Returns what unpacking gives at `index`."""
        return (self.label, self.index, self.probabilities)[index]


def _to_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu()


def _argmax(preds: Tree) -> Tree:
    return map_tensors(lambda t: t.argmax(-1), preds)


def join(parts: tuple[Tree, ...]) -> Tree:
    """Concatenates equal structures along their first dimension; leaves that are no tensors become a list."""
    first = parts[0]
    if any(type(part) is not type(first) for part in parts):
        kinds = sorted({type(part).__name__ for part in parts})
        raise DataError(f"All batches must have the same structure. Received: {', '.join(kinds)} in the same place.")
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat([part.reshape(1) if part.ndim == 0 else part for part in parts])
    if isinstance(first, Mapping):
        return {key: join(tuple(part[key] for part in parts)) for key in first}
    if isinstance(first, (tuple, list)):
        joined = [join(column) for column in zip(*parts, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    return list(parts)
