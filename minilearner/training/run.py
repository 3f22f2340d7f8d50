"""What is true now: the one object that the loop fills in and callbacks read and change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from minilearner.models.tensors import is_channels_last
from minilearner.results.predictions import Predictions
from minilearner.training.inference import predict_batches
from minilearner.training.step import TrainStep

if TYPE_CHECKING:
    from minilearner.data.dataloaders import DataLoaders
    from minilearner.results.recorder import Recorder, RunRecord

__all__ = ["Run"]


@dataclass(slots=True)
class Run:
    """One call of `fit`, `validate` or `lr_find`, as it stands. Every field is plain; nothing falls through elsewhere.

    Attributes:
        step: what happens to one batch. Callbacks that configure it do so in `before_fit` and undo it in `after_fit`.
        dls: the loaders; `dls.train` gives the training batches, `dls.valid` may be None.
        n_epochs, epoch: how many passes, and the number of this one, from 0.
        n_batches, iter: batches in this pass, and the number of this one, from 0.
        global_step: optimizer updates made in this run. Schedules count these.
        position, n_positions: where schedules stand: updates up to now, and in all. An epoch begins at a whole multiple
            of the updates of an epoch, also where updates were skipped before.
        training: False while validating.
        in_mid_epoch: True throughout the training pass of an epoch, also in a validation made inside it.
        interrupted: True in `after_fit` where an exception or an interrupt ends the run, not a `CancelFit` or its end.
        x, y: the batch. Assign to them, or to `batch`, to change it.
        pred, loss: the model's output and the mean loss of the batch. Assign in `after_pred` and `after_loss`.
        metrics: the newest value of each: "train_loss", "valid_loss" and the metrics' names. Add your own.
        columns: the names that `metrics` will hold, known from `before_fit` on. Add your own, to have them monitored.
        recorder, record: what has been written down in this sitting, and in this run.
        driven: which hyperparameters are scheduled in this run, and what else has one master only; and by what.
        validate: makes a validation pass now, and writes its row.
        callbacks: all that take part, in the order in which they act.
        start_batch: where the next training pass begins; above 0 only in a run that is resumed in mid-epoch.
        at_start: called once, when that pass stands at its first batch.
        in_parts: what makes a training batch's forward and backward pass, of which it is given a single one, several
            over its parts; None for one over the whole. `SplitOnOOM` sets it.
        part: the items of the batch that `x` and `y` hold, where it is trained in parts.
        seed: what the learner seeded the global generators with, where it was given one.
    """

    step: TrainStep
    dls: DataLoaders
    n_epochs: int = 1
    recorder: Recorder | None = None
    record: RunRecord | None = None
    epoch: int = 0
    n_batches: int = 0
    iter: int = 0
    global_step: int = 0
    position: int = 0
    n_positions: int = 1
    training: bool = False
    in_mid_epoch: bool = False
    interrupted: bool = False
    x: Any = None
    y: Any = None
    pred: Any = None
    loss: Tensor | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    driven: dict[str, str] = field(default_factory=dict)
    validate: Callable[[], None] | None = None
    activate: Callable[[Any], Any] | None = None
    callbacks: Sequence[Any] = ()
    start_batch: int = 0
    at_start: Callable[[], None] | None = None
    in_parts: Callable[[Callable[[], None]], None] | None = None
    part: slice | None = None
    seed: int | None = None

    @property
    def batch(self) -> tuple[Any, Any]:
        """The batch as `(x, y)`. Assignable."""
        return self.x, self.y

    @batch.setter
    def batch(self, batch: tuple[Any, Any]) -> None:
        self.x, self.y = batch

    @property
    def progress(self) -> float:
        """How much of the run lies behind: (epoch + i / n) / n_epochs at update i of n. 0 at first, never quite 1."""
        return self.position / self.n_positions

    @property
    def model(self) -> nn.Module:
        """The model in training."""
        return self.step.model

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer of this run.

        Raises:
            RuntimeError: the run only validates and has none.
        """
        if self.step.optimizer is None:
            raise RuntimeError("this run only validates: it has no optimizer.")
        return self.step.optimizer

    @property
    def lrs(self) -> list[float]:
        """The learning rate of each layer group."""
        return list({group.get("layer_group", 0): group["lr"] for group in self.optimizer.param_groups}.values())

    def settings(self, callbacks: Iterable[Any] = ()) -> dict[str, Any]:
        """How this run trains, in numbers and words, for its record and for people."""
        layout, network = ", channels_last" if is_channels_last(self.model) else "", self.step.network
        return {
            "lr": self.lrs[0] if len(self.lrs) == 1 else self.lrs,
            "bs": self._batch_size(),
            "optimizer": type(self.optimizer).__name__,
            "loss": getattr(self.step.loss_func, "__name__", None) or repr(self.step.loss_func),
            "precision": self.step.precision + layout,
            **({} if isinstance(network, nn.Module) else {"compiled": True}),
            **({"features": "precomputed"} if isinstance(network, nn.Module) and network is not self.model else {}),
            "device": str(next(self.model.parameters()).device),
            **({"processes": self.step.n_processes} if self.step.n_processes > 1 else {}),
            **({"strategy": "fsdp"} if self.step.passes_together else {}),
            "callbacks": [repr(callback) for callback in callbacks],
        }

    def _batch_size(self) -> int | None:
        train = self.dls.train
        return getattr(train, "bs", None) or getattr(getattr(train, "source", None), "batch_size", None)

    def predict(self, loader: Iterable[Any]) -> Predictions:
        """Predicts a whole loader with the model as it stands, and leaves no trace on the run."""
        return Predictions.from_batches(predict_batches(self.step, loader, activate=self.activate))
