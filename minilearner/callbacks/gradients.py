"""Configure what happens to gradients between the backward pass and the update."""

from __future__ import annotations

from minilearner.training.callback import Callback
from minilearner.training.run import Run

__all__ = ["GradientAccumulation", "GradientClip"]


class GradientAccumulation(Callback):
    """Averages the gradients of `n_batches` batches into one update, as if they had been one batch.

    The mean is over items, so batches of unequal size and the short window at the end of an epoch count exactly. (Batch
    norm still sees the small batches.) Schedules count updates, so nothing else has to be changed. fastai's callback
    of this name counts items; ours counts batches.

    Raises:
        ValueError: `n_batches` below 1.
    """

    part_of_step = True
    ignored_arguments = ()

    def __init__(self, n_batches: int):
        if n_batches < 1:
            raise ValueError(f"`n_batches` must be at least 1. Received: n_batches={n_batches}.")
        self.n_batches = n_batches

    def before_fit(self, run: Run) -> None:
        run.step.n_accumulate = self.n_batches

    def after_fit(self, run: Run) -> None:
        run.step.n_accumulate = 1

    def __repr__(self) -> str:
        return f"GradientAccumulation(n_batches={self.n_batches})"


class GradientClip(Callback):
    """Scales gradients down before an update so that their total norm is at most `max_norm`.

    Counts the true gradients: after accumulation, and after the loss scale of fp16 is taken out.

    Args:
        max_norm: the largest total norm, above 0.
        norm_type: the exponent of the norm; infinity for the largest absolute value.

    Raises:
        ValueError: `max_norm` is not above 0.
    """

    part_of_step = True
    ignored_arguments = ()

    def __init__(self, max_norm: float = 1.0, norm_type: float = 2.0):
        if not max_norm > 0:
            raise ValueError(f"`max_norm` must be above 0. Received: max_norm={max_norm}.")
        self.max_norm = max_norm
        self.norm_type = norm_type

    def before_fit(self, run: Run) -> None:
        run.step.max_norm, run.step.norm_type = self.max_norm, self.norm_type

    def after_fit(self, run: Run) -> None:
        run.step.max_norm = None

    def __repr__(self) -> str:
        return f"GradientClip(max_norm={self.max_norm}, norm_type={self.norm_type})"
