"""What is true now: the one object that the loop fills in and callbacks read and change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from minilearner.keywords import suggest_keywords
from minilearner.models.tensors import is_channels_last
from minilearner.results.predictions import Predictions
from minilearner.training.auto_precision import PrecisionChoice
from minilearner.training.inference import predict_all
from minilearner.training.meaning import choose_activation
from minilearner.training.step import Step

if TYPE_CHECKING:
    from minilearner.data.dataloaders import DataLoaders
    from minilearner.results.recorder import Recorder
    from minilearner.results.run_record import RunRecord

__all__ = ["Moment", "Phase", "ResumePoint", "Run"]


@dataclass(frozen=True)
class ResumePoint:
    """Where the next training pass begins in a run that is resumed in mid-epoch.

    Attributes:
        batch: the number of its first batch.
        rng: the state of the random generators at that batch.
    """

    batch: int
    rng: dict[str, Any]


@dataclass(frozen=True)
class Moment:
    """The start of a training batch in a run of a given length, for callbacks that plan ahead.

    Attributes:
        epoch: the number of the epoch, from 0.
        batch: the number of the batch in it, from 0.
        n_epochs: how many epochs the run has.
        n_batches: how many batches an epoch has.
    """

    epoch: int
    batch: int
    n_epochs: int
    n_batches: int

    @property
    def progress(self) -> float:
        """What `Run.progress` is then, if each batch makes an update."""
        return (self.epoch * self.n_batches + self.batch) / (self.n_epochs * self.n_batches)

    @property
    def progress_after(self) -> float:
        """What it is after the batch."""
        return (self.epoch * self.n_batches + self.batch + 1) / (self.n_epochs * self.n_batches)

    @property
    def is_in_last_epoch(self) -> bool:
        """Whether the run ends with this epoch."""
        return self.epoch + 1 == self.n_epochs


@dataclass(frozen=True)
class Phase:
    """One run of a call that trains in several, as `fine_tune` does.

    Attributes:
        name: what it is, for people.
        epochs_before: the epochs of the phases before it.
        n_epochs: the epochs of all phases.
    """

    name: str
    epochs_before: int
    n_epochs: int


def _refuse() -> None:
    raise RuntimeError("`run.process_batch` is set when the run begins.")


@suggest_keywords
@dataclass(slots=True)
class Run:
    """One call of `fit`, `validate` or `lr_find`, as it is now. Every field is plain; none is looked up elsewhere.

    Attributes:
        step: what happens to one batch. Callbacks configure it in `before_fit` and undo that in `after_fit`.
        dls: the loaders; `dls.train` gives the training batches, `dls.valid` may be None.
        n_epochs, epoch: how many passes, and the number of this one, from 0.
        phase: which part of a longer call this run is; None if it is the whole call.
        recorder, record: the records of this learner's runs, and the record of this run.
        n_batches, iter: how many batches this pass has, and the number of this one, from 0.
        global_step: optimizer updates made in this run. Schedules count these.
        position, n_positions: where schedules are: updates so far, and in all. An epoch begins at a whole multiple of
            the updates of an epoch, even if updates were skipped before.
        training: False while validating.
        in_mid_epoch: True throughout the training pass of an epoch, also in a validation made inside it.
        interrupted: True in `after_fit` if an exception or an interrupt ends the run; False if it ends in good order,
            by `CancelFit` for instance.
        x, y: the batch. Assign to them, or to `batch`, to change it.
        part: the items of the batch that `x` and `y` hold while it is trained in parts; else None.
        pred, loss: the model's output and the mean loss of the batch. Assign in `after_pred` and `after_loss`.
        process_batch: runs the forward and backward pass of one training batch: it sets `pred` and `loss` and adds the
            gradients. A callback may wrap or replace it in `before_fit`; see `Callback`.
        metrics: the latest value of each: "train_loss", "valid_loss" and the metrics' names. Add your own.
        columns: the names that `metrics` will hold, known from `before_fit` on. Add your own, to let them be monitored.
        driven: which hyperparameters are scheduled in this run, and what else only one callback may do; and which
            callback does it.
        validate: makes a validation pass now, and writes its row.
        callbacks: all that take part, in the order in which they act.
        resume: where the next training pass begins, if this run is resumed in mid-epoch; else None.
        seed: the seed that the learner gave the global generators, if it had one.
        auto_precision: what `precision="auto"` chose; None if the precision was given.
        path: the folder of the learner's files; None is that of the loaders.
        ending: True from the moment at which `CancelFit` or an interrupt ends the run, in the events that still come.
    """

    step: Step
    dls: DataLoaders
    n_epochs: int = 1
    phase: Phase | None = None
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
    part: slice | None = None
    pred: Any = None
    loss: Tensor | Any = None  # None between batches; callbacks read it where it is a tensor
    process_batch: Callable[[], None] = _refuse
    metrics: dict[str, float] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    driven: dict[str, str] = field(default_factory=dict)
    validate: Callable[[], None] | None = None
    callbacks: Sequence[Any] = ()
    resume: ResumePoint | None = None
    seed: int | None = None
    auto_precision: PrecisionChoice | None = None
    path: Path | None = None
    ending: bool = False

    @property
    def batch(self) -> tuple[Any, Any]:
        """The batch as `(x, y)`. Assignable."""
        return self.x, self.y

    @batch.setter
    def batch(self, batch: tuple[Any, Any]) -> None:
        self.x, self.y = batch

    def label_epoch(self, epoch: int | None = None) -> str:
        """Returns the number that people read, such as "2/3", for an epoch, by default this one.

        It counts from 1 through all phases of the call, while `epoch` counts from 0 in each run.
        """
        before, in_all = (0, self.n_epochs) if self.phase is None else (self.phase.epochs_before, self.phase.n_epochs)
        return f"{before + (self.epoch if epoch is None else epoch) + 1}/{in_all}"

    @property
    def progress(self) -> float:
        """The part of the run that is done: (epoch + i / n) / n_epochs at update i of n. 0 at first, never quite 1."""
        return self.position / self.n_positions

    @property
    def model(self) -> nn.Module:
        """The model in training."""
        return self.step.model

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer of this run.

        Raises:
            RuntimeError: the run only validates and has no optimizer.
        """
        if self.step.optimizer is None:
            raise RuntimeError("this run only validates, so it has no optimizer.")
        return self.step.optimizer

    @property
    def lrs(self) -> list[float]:
        """The learning rate of each layer group."""
        return list({group.get("layer_group", 0): group["lr"] for group in self.optimizer.param_groups}.values())

    def count_update(self) -> None:
        """Counts an optimizer update, so that schedules move on. Call it if you make the update yourself."""
        self.global_step += 1
        self.position += 1

    def settings(self, callbacks: Iterable[Any] = ()) -> dict[str, Any]:
        """Returns how this run trains, in numbers and words, for its record and for people."""
        step = self.step
        layout = ", channels_last" if is_channels_last(self.model) else ""
        return {
            "lr": self.lrs[0] if len(self.lrs) == 1 else self.lrs,
            "bs": self.batch_size(),
            "optimizer": type(self.optimizer).__name__,
            "loss": getattr(step.loss_func, "__name__", None) or repr(step.loss_func),
            "precision": step.precision.name + layout,
            **({} if self.auto_precision is None else {"auto_precision": str(self.auto_precision)}),
            **({} if step.network is step.model else getattr(step.network, "settings", {})),
            "device": str(next(self.model.parameters()).device),
            **({"processes": step.n_processes} if step.n_processes > 1 else {}),
            **({"strategy": "fsdp"} if step.strategy.passes_together else {}),
            "callbacks": [repr(callback) for callback in callbacks],
        }

    def batch_size(self) -> int | None:
        """Returns how many items a training batch has; None if the loader does not say."""
        train = self.dls.train
        return getattr(train, "bs", None) or getattr(getattr(train, "source", None), "batch_size", None)

    def predict(self, loader: Iterable[Any]) -> Predictions:
        """Predicts a whole loader with the model as it is now, and leaves no trace on the run."""
        activate = choose_activation(self.dls.target, self.step.loss_func)
        with predict_all(self.step, loader, activate=activate) as batches:
            return Predictions.from_batches(batches)
