"""One small tensor from each batch, such as its loss: kept on its device, in few tensors, until somebody reads all."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["MOST_LOOSE", "BatchValues"]

MOST_LOOSE = 64
"""How many small tensors may wait before they move into one. Between large tensors, they would fragment memory."""


class BatchValues:
    """Collects one small tensor from each batch, all of the same shape. Nothing waits for the device before `read`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all values."""
        self._full: list[Tensor] = []  # checkpoints hold both lists of a training metric by these names
        self._values: list[Tensor] = []

    def add(self, value: Tensor) -> None:
        """Adds the value of the next batch, without its graph."""
        self._values.append(value.detach() if value.requires_grad else value)
        if len(self._values) >= MOST_LOOSE:
            self._stack()

    def read(self) -> Tensor:
        """Returns all values on the CPU, (batch, ...), in their order. Without any it is empty. It forgets none."""
        if self._values:
            self._stack()
        return torch.cat([values.cpu() for values in self._full]) if self._full else torch.empty(0)

    def _stack(self) -> None:
        device = self._values[-1].device  # the values of a resumed run may be on another device
        self._full.append(torch.stack([value.to(device) for value in self._values]))
        self._values = []
