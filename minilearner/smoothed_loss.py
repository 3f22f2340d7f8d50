"""The smoothed loss that records and sweeps show."""

from __future__ import annotations

import math

from minilearner.checks import check_fraction

__all__ = ["SmoothedLoss"]


class SmoothedLoss:
    """The exponential moving average of a loss, without the bias of its start at zero. Same as fastai's.

    s_t = beta s_(t-1) + (1 - beta) loss_t, and the value is s_t / (1 - beta^t). For losses 1, 2, 3, 4 and beta 0.98 the
    values are 1, 1.50505, 2.01347, 2.52525. ``beta=0`` does not smooth.

    Raises:
        ValueError: `beta` is outside [0, 1).
    """

    def __init__(self, beta: float = 0.98) -> None:
        check_fraction(beta, "beta", closed="left")
        self.beta = beta
        self.value = math.nan
        self._sum = 0.0
        self._weight = 0.0  # 1 - beta^t, accumulated in the same way

    def update(self, loss: float) -> float:
        """Adds the next loss, and returns the smoothed value. After a NaN the value stays NaN."""
        self._sum = self.beta * self._sum + (1 - self.beta) * loss
        self._weight = self.beta * self._weight + (1 - self.beta)
        self.value = self._sum / self._weight
        return self.value
