"""`GradientAccumulation` and `GradientClip`: what happens to gradients between the backward pass and the update.

The callbacks only configure `training.step`, which does the arithmetic.
"""

from __future__ import annotations

from minilearner.checks import check_count, check_positive, is_number
from minilearner.training.callback import Callback
from minilearner.training.run import Run

__all__ = ["GradientAccumulation", "GradientClip"]


class GradientAccumulation(Callback):
    """Averages the gradients of several batches into one update, as if they were one large batch.

    The mean is over items. It is exact also for batches of unequal size, and for fewer batches at the end of an epoch.
    (Batch norm still sees the small batches.) Schedules count updates, so they need no change. fastai's callback of
    this name counts items; ours counts batches.

    Args:
        n_batches: number of batches per update.

    Raises:
        ValueError: `n_batches` is below 1.
    """

    part_of_step = True
    ignored_arguments = ()

    def __init__(self, n_batches: int):
        check_count(n_batches, "n_batches")
        self.n_batches = n_batches

    def before_fit(self, run: Run) -> None:
        run.step.n_accumulate = self.n_batches

    def after_fit(self, run: Run) -> None:
        run.step.n_accumulate = 1

    def __repr__(self) -> str:
        return f"GradientAccumulation(n_batches={self.n_batches})"


class GradientClip(Callback):
    """Scales gradients down before an update so that their total norm is at most `max_norm`.

    It sees the true gradients: after accumulation, and without the loss scale of fp16.

    Args:
        max_norm: the largest total norm, above 0.
        norm_type: the exponent of the norm; infinity takes the largest absolute value.

    Raises:
        TypeError, ValueError: `max_norm` or `norm_type` is not a positive number.
    """

    part_of_step = True
    ignored_arguments = ()

    def __init__(self, max_norm: float = 1.0, norm_type: float = 2.0):
        check_positive(max_norm, "max_norm")
        if not is_number(norm_type):
            raise TypeError(f"`norm_type` must be a number. Received: norm_type={norm_type!r}.")
        if not norm_type > 0:
            raise ValueError(f"`norm_type` must be positive; it may be infinity. Received: norm_type={norm_type!r}.")
        self.max_norm = max_norm
        self.norm_type = norm_type

    def before_fit(self, run: Run) -> None:
        run.step.max_norm, run.step.norm_type = self.max_norm, self.norm_type

    def after_fit(self, run: Run) -> None:
        run.step.max_norm = None

    def __repr__(self) -> str:
        return f"GradientClip(max_norm={self.max_norm}, norm_type={self.norm_type})"
