"""What a hand-written loop does with a batch, for running such a loop's parts in ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minilearner.training.inference import evaluating
from minilearner.training.run import Run
from minilearner.training.step import LossFunction, ScaledStep, TrainStep
from minilearner.tree import map_tensors, n_items

__all__ = ["Feed", "PlainScaledStep", "PlainStep"]


class PlainStep(TrainStep):
    """The step of a hand-written loop: whatever the inputs are, they are the model's one argument.

    Of the batches of one update each counts alike, as in `loss / accumulation_steps`, also a short one.
    """

    def predict(self, x: Any) -> Any:
        """Returns `model(x)`, also where `x` is a tuple."""
        return self.model(x)

    def backward(self, loss: Tensor, n_items: int) -> None:
        """Adds the gradients of one batch out of `n_accumulate`."""
        super().backward(loss, 1)


class PlainScaledStep(PlainStep, ScaledStep):
    """The same under the caller's own autocast settings and gradient scaler."""

    def __init__(
        self,
        model: nn.Module,
        loss_func: LossFunction,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        config: Mapping[str, Any],
    ):
        ScaledStep.__init__(self, model, loss_func, optimizer, scaler)
        self.config = config

    def predict(self, x: Any) -> Any:
        """Returns `model(x)`, in whatever precision it comes."""
        with torch.amp.autocast(**self.config):
            return self.model(x)

    def compute_loss(self, pred: Any, y: Any) -> Tensor:
        """Returns the loss, computed under autocast too."""
        with torch.amp.autocast(**self.config):
            return super().compute_loss(pred, y)


class Feed:
    """Batches as the loop wants them: on the device, and in passes of `n_batches`, wherever the data begin anew."""

    def __init__(self, batches: Iterator[tuple[Any, Any]], n_batches: int, *, device: torch.device, non_blocking: bool):
        self.batches = batches
        self.n_batches = n_batches
        self.device = device
        self.non_blocking = non_blocking

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for _ in range(self.n_batches):
            try:
                x, y = next(self.batches)
            except StopIteration:
                raise ValueError(
                    "`train_loader` came to its end before the sweep did. Lower `num_iter` or leave auto_reset=True."
                ) from None
            yield self._moved(x), self._moved(y)

    def mean_loss(self, run: Run, batches: Iterator[tuple[Any, Any]]) -> float:
        """The loss over all items of `batches`, by the model in evaluation mode."""
        total, n = 0.0, 0
        with evaluating(run.model), torch.no_grad():
            for x, y in batches:
                x, y = self._moved(x), self._moved(y)
                size = n_items(y) or n_items(x)
                total, n = total + float(run.step.compute_loss(run.step.predict(x), y)) * size, n + size
        if not n:
            raise ValueError("`val_loader` has no items.")
        return total / n

    def _moved(self, tree: Any) -> Any:
        if hasattr(tree, "to"):  # tensors, and what else knows how to move, such as a tokenizer's batch
            return tree.to(self.device, non_blocking=self.non_blocking)
        return map_tensors(lambda t: t.to(self.device, non_blocking=self.non_blocking), tree)
