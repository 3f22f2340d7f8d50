"""Intervals of means, which say how sure they are."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["t_interval"]


def t_interval(values: ArrayLike, overlap: float = 0.0) -> tuple[float, float]:
    """Returns the 95 % interval of a mean by Student's t. One value says nothing: its interval has no end.

    Args:
        values: (n,): the values.
        overlap: items for validation divided by items for training, if the values come from fits that share items.
            Their spread is too small, and Nadeau and Bengio's correction counts its variance 1 / n + `overlap` times.

    Source of the correction: Nadeau and Bengio, "Inference for the Generalization Error", 2003.
    """
    from scipy.stats import t  # takes a second to load

    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n < 2:
        return -math.inf, math.inf
    mean, variance = float(np.mean(values)), float(np.var(values, ddof=1))
    reach = float(t.ppf(0.975, n - 1)) * math.sqrt(variance * (1 / n + overlap))
    return mean - reach, mean + reach
