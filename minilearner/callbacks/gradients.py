"""`GradientAccumulation` and `GradientClip`: what happens to gradients between the backward pass and the update.

The callbacks only configure `training.step`, which does the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable

from minilearner.callbacks.progress import announce
from minilearner.checks import check_count, check_positive, is_number
from minilearner.training.callback import Callback
from minilearner.training.run import Run
from minilearner.tree import n_items

__all__ = ["GradientAccumulation", "GradientClip", "count_updates"]


class GradientAccumulation(Callback):
    """Averages the gradients of several batches into one update, as if they were one large batch.

    The mean is over items. It is exact also for batches of unequal size, and for fewer batches at the end of an epoch.
    (Batch norm still sees the small batches.) Schedules count updates, so they need no change.

    fastai counts items: ``GradientAccumulation(n_acc=64)`` makes an update of as many batches as have 64 items in each
    process. It is their mean, and the last update of an epoch has what is left. fastai divides by `n_acc`, and carries
    what is left into the next epoch. A number without a name counts batches; a line says how many items they have.

    Args:
        n_batches: number of batches per update.
        n_acc: number of items per update instead. Without a batch size, the first batch says how many a batch has.

    Raises:
        TypeError: not exactly one of both is given.
        ValueError: it is below 1.
    """

    part_of_step = True
    ignored_arguments = ()

    def __init__(self, n_batches: int | None = None, *, n_acc: int | None = None):
        if (n_batches is None) == (n_acc is None):
            raise TypeError("`GradientAccumulation` takes `n_batches`, a number of batches, or `n_acc`, one of items.")
        for name, value in (("n_batches", n_batches), ("n_acc", n_acc)):
            if value is not None:
                check_count(value, name)
        self.n_batches, self.n_acc = n_batches, n_acc

    def count_batches(self, run: Run) -> int:
        """Returns how many batches make an update in a run."""
        if self.n_batches is not None or self.n_acc is None:
            return self.n_batches or 1
        return -(-self.n_acc // (run.batch_size() or n_items(run.dls.one_batch()[0])))

    def before_fit(self, run: Run) -> None:
        run.step.n_accumulate = n = self.count_batches(run)
        if self.n_acc is None and run.record is not None and (size := run.batch_size()) is not None:
            announce(
                run, f"GradientAccumulation: each update takes {n} batches, {n * size} items. n_acc= counts items."
            )

    def after_fit(self, run: Run) -> None:
        run.step.n_accumulate = 1

    def __repr__(self) -> str:
        given = f"n_batches={self.n_batches}" if self.n_acc is None else f"n_acc={self.n_acc}"
        return f"GradientAccumulation({given})"


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


def count_updates(run: Run, callbacks: Iterable[Callback]) -> int:
    """Returns how many updates an epoch of a run has."""
    n_batches = next((one.count_batches(run) for one in callbacks if isinstance(one, GradientAccumulation)), 1)
    return -(-len(run.dls.train) // n_batches)
