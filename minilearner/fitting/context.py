"""`FitContext`: what all runs of one call share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch.optim import Optimizer

from minilearner.callbacks.progress import Output
from minilearner.metrics import Metric
from minilearner.results.recorder import Recorder
from minilearner.training.auto_precision import PrecisionChoice
from minilearner.training.callback import Callback
from minilearner.training.optimizers import Rate, n_layer_groups, set_hyperparameters
from minilearner.training.run import Run

__all__ = ["FitContext"]


@dataclass(frozen=True)
class FitContext:
    """Describes one call of `fit...`, `lr_find` or `profile`. A learner checks its data and builds one for each call.

    Attributes:
        optimizer: the optimizer of all runs of this call.
        new_run: makes a fresh run. A call makes one to train, and one more for each sweep.
        callbacks: the learner's callbacks and those of this call.
        metrics: name -> what to compute on validation batches.
        recorder: where a training run is written down.
        output: what to show.
        lr: the learner's own rate, for calls that give none.
        wd: weight decay for this call. None keeps the optimizer's own.
        auto_precision: what `precision="auto"` chose in this process; None if the precision was given.
        take_precision: makes the runs of this call, and the learner, train with another such choice.
        wd_bn_bias: whether `wd` also applies to norm layers and biases.
    """

    optimizer: Optimizer
    new_run: Callable[[], Run]
    callbacks: Sequence[Callback]
    metrics: dict[str, Metric]
    recorder: Recorder
    output: Output
    lr: Rate
    auto_precision: PrecisionChoice | None
    take_precision: Callable[[PrecisionChoice], None]
    wd: float | None = None
    wd_bn_bias: bool = False

    @property
    def n_groups(self) -> int:
        """How many layer groups the optimizer has."""
        return n_layer_groups(self.optimizer)

    def set_hyperparameters(self, run: Run, rates: Sequence[float]) -> AbstractContextManager[None]:
        """Gives the layer groups these rates and the call's weight decay. On leaving, puts the optimizer's own back."""
        return set_hyperparameters(run.optimizer, run.model, rates, self.wd, wd_bn_bias=self.wd_bn_bias)
