"""`Learner`: one object that holds data, model, loss, optimizer and callbacks, and all that one does with them.

Each method gathers its parts, calls one function of a lower package, and returns what comes back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload
from weakref import ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset
from typing_extensions import Self, TypeVar

from minilearner.callbacks.bn_freeze import BnFreeze
from minilearner.callbacks.checkpoint import Checkpointing, as_checkpoint
from minilearner.callbacks.loggers import Loggers, as_loggers
from minilearner.callbacks.progress import Output, Progress
from minilearner.checks import check_count, check_moms, check_not_negative, check_rate
from minilearner.checkup.examination import examine
from minilearner.checkup.findings import Checkup
from minilearner.copies import copy_apart
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.folds import ItemPool
from minilearner.data.targets import ClassNumbers, MultiCategory
from minilearner.data.turns import take_turn
from minilearner.fitting import plans
from minilearner.fitting.context import FitContext
from minilearner.fitting.cross_validation import cross_validate, fit_briefly
from minilearner.fitting.fit import fit, undo_on_early_error, validate
from minilearner.fitting.profile import StepProfile, profile_steps
from minilearner.fitting.rates import sweep_rates
from minilearner.keywords import suggest_keywords
from minilearner.learner_parts import LearnerParts
from minilearner.lr_finder.result import LRSweep
from minilearner.lr_finder.suggestions import valley
from minilearner.lr_finder.sweep import SweepSettings
from minilearner.models.class_maps import Method
from minilearner.models.groups import Splitter, freeze_to, layer_groups
from minilearner.models.summary import ModelSummary, summarize
from minilearner.results.calibration import Calibration, check_temperature
from minilearner.results.evidence import Evidence
from minilearner.results.interpretation import ClassificationInterpretation
from minilearner.results.origins import Origins
from minilearner.results.predictions import BatchPrediction, Prediction, Predictions, PredictionWithInput
from minilearner.results.recorder import Recorder, RunRecord
from minilearner.results.training_facts import TrainingFacts
from minilearner.runtime import read_device
from minilearner.saving import learner_files
from minilearner.threads import hold, refuse_if_trained_elsewhere, train
from minilearner.training import optimizers
from minilearner.training.auto_precision import check_precision
from minilearner.training.callback import Callback, Callbacks, as_callbacks, drop_callbacks, is_fastai_style
from minilearner.training.compiler import Compile, resolve_compile
from minilearner.training.distributed import StrategyChoice as Strategy
from minilearner.training.distributed import resolve_strategy
from minilearner.training.facts import describe_training
from minilearner.training.fastai_style import LearnerView, may_change_batches, name_of
from minilearner.training.optimizers import OptimizerFactory, Rate
from minilearner.training.precompute import Features
from minilearner.training.predictor import Predictor
from minilearner.training.preflight import Preflight, check_parts, seed_after_model
from minilearner.training.run import Phase, Run
from minilearner.training.step import LossFunction, Step, make_step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Learner"]

_Label = TypeVar("_Label", default=Any)


class Batches(Protocol):
    """What a learner takes in place of a `DataLoaders`: one loader, or a pair of them."""

    def __len__(self) -> int:
        """Returns the number of batches, or of loaders."""

    def __iter__(self) -> Iterator[Any]:
        """Starts a pass."""


@suggest_keywords
class Learner(LearnerParts[_Label]):
    """Bundles data, a model and how to train it.

    Example::

        learn = Learner(fashion_mnist(), MiniGoogLeNet(10), metrics=accuracy)
        learn.fit_one_cycle(3, lr_max=learn.lr_find(suggest_funcs=minimum).minimum)

    Args:
        dls: a `DataLoaders`, a pair of loaders `(train, valid)`, or one loader to train on.
        model: any module. It is moved to the device.
        loss_func: `(pred, target) -> mean loss`. None takes the default loss for the kind of target. The parameters of
            a module are trained, saved and loaded with the model.
        opt_func: called as `opt_func(parameter_groups, lr=...)`: any torch optimizer class or partial. None is AdamW
            with betas (0.9, 0.99), eps 1e-5 and weight decay 0.01, which spares norm layers and biases.
        lr: the rate for calls that give none: a number, a list with one for each layer group, a slice, or "auto".
        splitter: divides the model's parameters into layer groups, from input to output. One group by default, of which
            `freeze` cannot freeze a part.
        cbs: callbacks for every run of this learner.
        metrics: functions `(pred, target)`, averaged over items, or objects with reset, update and compute: one,
            several in a list, or a dictionary with their names.
        wd: weight decay in place of the optimizer's own.
        wd_bn_bias: whether `wd` also applies to norm layers and biases.
        train_bn: whether norm layers keep learning in frozen layer groups.
        moms: momentum of `fit_one_cycle` at its start, peak and end, each in [0, 1).
        path: the folder for this learner's files. The loaders' path by default.
        model_dir: the folder for `save` and `load`, in `path` or anywhere. `path` itself by default; in fastai it is
            "models".
        precision: "fp32", "bf16", "fp16", or "auto", which takes what is fast here. On a CPU it times a small step. It
            takes bf16 only if that is 1.2 times as fast as fp32, and channels_last if that makes convolutions faster.
            On a GPU it goes by the compute capability. `summary` and the record say what it chose and why. A resumed
            run keeps its choice. "bf16" and "fp16" use channels_last, and "fp32" keeps the model's layout.
        device: the GPU by default if there is one.
        seed: seeds the four global random generators now, if given. The model was built before, so its random weights
            repeat only if you call `set_seed` before you build it.
        strategy: how the processes that torchrun started train together. "auto" is "ddp". See `training.distributed`.
        compile: trains and validates through `torch.compile`: True, a mode such as "reduce-overhead", or its arguments.
        loggers: where every run is logged: "csv", "jsonl", "tensorboard", "wandb", "mlflow", or a logger object; one or
            several in a list. "csv" and "jsonl" write "history.csv" and "history.jsonl" in `path`.

    Several learners may have the same loaders. Each trains as if it were alone: its first epoch has the order and the
    augmentation of the first epoch.

    Attributes:
        recorder: all runs of this learner. It is never wiped.
        optimizer: None until the first run. Then it keeps its state until layers are frozen or unfrozen.
    """

    _own_view: LearnerView | None = None

    def __init__(
        self,
        dls: DataLoaders[_Label] | Batches | Dataset[Any],
        model: nn.Module,
        loss_func: LossFunction | None = None,
        opt_func: OptimizerFactory | None = None,
        lr: Rate = 1e-3,
        splitter: Splitter | None = None,
        cbs: Callbacks = None,
        metrics: Any = None,
        *,
        wd: float | None = None,
        wd_bn_bias: bool = False,
        train_bn: bool = True,
        moms: tuple[float, float, float] = (0.95, 0.85, 0.95),
        path: str | Path | None = None,
        model_dir: str | Path = ".",
        precision: str = "fp32",
        device: str | torch.device | None = None,
        seed: int | None = None,
        strategy: Strategy = "auto",
        compile: Compile = False,
        loggers: Loggers = None,
    ):
        check_parts(model, loss_func)
        optimizers.check_factory(opt_func)
        check_rate(lr, "lr", auto=True)
        check_moms(moms)
        check_precision(precision)
        if wd is not None:
            check_not_negative(wd, "wd")
        if seed is not None:
            seed_after_model(seed)
        self.device = read_device(device)
        self.strategy = resolve_strategy(strategy)
        self._compiler = resolve_compile(compile, is_alone=self.strategy is None)
        self.model = model
        self._assign(dls=dls)
        self.model = model.to(self.device)
        self._set_precision(precision)
        self.lr, self.wd_bn_bias, self.train_bn, self.moms = lr, wd_bn_bias, train_bn, moms
        self._assign(loss_func=loss_func, opt_func=opt_func, splitter=splitter, wd=wd, metrics=metrics)
        self._assign(path=path or self.dls.path, model_dir=model_dir)
        self.seed = seed
        self.recorder, self._preflight, self._features, self._output = Recorder(), Preflight(), Features(), Output()
        self._written = set()
        self.cbs: list[Callback] = []
        self._named_loggers: dict[str, Callback] = {}
        self.add_cb([*as_callbacks(cbs), *as_loggers(loggers, self._named_loggers)])
        self._view.announce_creation(self.cbs)

    def fit(
        self,
        n_epoch: int,
        lr: Rate | None = None,
        wd: float | None = None,
        cbs: Callbacks = None,
        reset_opt: bool = False,
        start_epoch: int = 0,
        *,
        checkpoint: Checkpointing = None,
        loggers: Loggers = None,
    ) -> RunRecord:
        """Trains at a constant rate, or as callbacks schedule it. Returns the record, also in `learn.recorder`.

        Every `fit...` takes all of these. Wrong arguments and unfit data raise before training
        starts.

        Args:
            n_epoch: passes over the training data.
            lr: the rate; `learn.lr` by default. "auto" sweeps, prints the rate that it found, and trains with it.
            wd: weight decay for this run only.
            cbs: further callbacks for this run only.
            reset_opt: make the optimizer anew, without the state of the last run.
            start_epoch: the number of the first epoch, from 0. Schedules begin there, as if the ones before were over.
            checkpoint: a folder or a `Checkpoint`, where the run saves itself. If it is interrupted, run the same
                script again: it resumes at the batch where it was.
            loggers: further loggers for this run only; see `Learner`.
        """
        plans.check_fit(n_epoch, wd, start_epoch=start_epoch, lr=lr)
        rest: dict[str, Any] = {"reset_opt": reset_opt, "start_epoch": start_epoch, "loggers": loggers}
        return self._fit("fit", n_epoch, lr, wd=wd, cbs=cbs, checkpoint=checkpoint, **rest)

    def fit_one_cycle(
        self,
        n_epoch: int,
        lr_max: Rate | None = None,
        div: float = 25.0,
        div_final: float = 1e5,
        pct_start: float = 0.25,
        wd: float | None = None,
        moms: tuple[float, float, float] | None = None,
        cbs: Callbacks = None,
        reset_opt: bool = False,
        start_epoch: int = 0,
        *,
        checkpoint: Checkpointing = None,
        loggers: Loggers = None,
    ) -> RunRecord:
        """Trains with one cycle: the rate rises along a cosine to `lr_max`, then falls to almost nothing.

        Source: Smith and Topin, "Super-Convergence", 2018. The shape and the defaults are fastai's.

        Args:
            n_epoch, wd, cbs, reset_opt, start_epoch, checkpoint, loggers: as in `fit`.
            lr_max: the rate at the peak; `learn.lr` by default.
            div: the rate starts at `lr_max / div`.
            div_final: the rate ends at `lr_max / div_final`.
            pct_start: the fraction of updates in which the rate rises, in [0, 1].
            moms: momentum at the start, the peak and the end, if the optimizer has one; `learn.moms` by default.
        """
        how: dict[str, Any] = {"div": div, "div_final": div_final, "pct_start": pct_start, "moms": moms}
        plans.check_fit(n_epoch, wd, partial(plans.one_cycle_scheduler, **how), start_epoch=start_epoch, lr_max=lr_max)
        rest: dict[str, Any] = {"reset_opt": reset_opt, "start_epoch": start_epoch, "loggers": loggers}
        return self._fit_one_cycle(n_epoch, lr_max, how, wd=wd, cbs=cbs, checkpoint=checkpoint, **rest)

    def fit_flat_cos(
        self,
        n_epoch: int,
        lr: Rate | None = None,
        div_final: float = 1e5,
        pct_start: float = 0.75,
        wd: float | None = None,
        cbs: Callbacks = None,
        reset_opt: bool = False,
        start_epoch: int = 0,
        *,
        checkpoint: Checkpointing = None,
        loggers: Loggers = None,
    ) -> RunRecord:
        """Trains at a constant rate, then lets it fall along a cosine.

        Args:
            n_epoch, lr, wd, cbs, reset_opt, start_epoch, checkpoint, loggers: as in `fit`.
            div_final: the rate ends at `lr / div_final`.
            pct_start: the fraction of updates at the constant rate, in [0, 1].
        """
        fall = partial(plans.flat_cosine_scheduler, div_final=div_final, pct_start=pct_start)
        plans.check_fit(n_epoch, wd, fall, start_epoch=start_epoch, lr=lr)
        rest: dict[str, Any] = {"reset_opt": reset_opt, "start_epoch": start_epoch, "loggers": loggers}
        return self._fit("fit_flat_cos", n_epoch, lr, fall, wd=wd, cbs=cbs, checkpoint=checkpoint, **rest)

    def fit_sgdr(
        self,
        n_cycles: int,
        cycle_len: int,
        lr_max: Rate | None = None,
        cycle_mult: float = 2,
        cbs: Callbacks = None,
        reset_opt: bool = False,
        wd: float | None = None,
        start_epoch: int = 0,
        *,
        checkpoint: Checkpointing = None,
        loggers: Loggers = None,
    ) -> RunRecord:
        """Trains in cycles. In each, the rate falls along a cosine from `lr_max` to 0, then jumps back.

        Source: Loshchilov and Hutter, "SGDR", 2016; as in fastai.

        Args:
            n_cycles: number of cycles.
            cycle_len: epochs in the first cycle.
            lr_max: the rate at the start of each cycle; `learn.lr` by default.
            cycle_mult: each cycle lasts this many times as long as the one before: 3 cycles from 1 epoch take 1 + 2 + 4
                = 7.
            cbs, reset_opt, wd, start_epoch, checkpoint, loggers: as in `fit`.
        """
        n_epoch = plans.sgdr_epochs(n_cycles, cycle_len, cycle_mult)
        falls = partial(plans.sgdr_scheduler, n_cycles=n_cycles, cycle_mult=cycle_mult)
        plans.check_fit(n_epoch, wd, falls, start_epoch=start_epoch, lr_max=lr_max)
        rest: dict[str, Any] = {"reset_opt": reset_opt, "start_epoch": start_epoch, "loggers": loggers}
        return self._fit("fit_sgdr", n_epoch, lr_max, falls, wd=wd, cbs=cbs, checkpoint=checkpoint, **rest)

    def lr_find(
        self,
        start_lr: float = 1e-7,
        end_lr: float = 10,
        num_it: int = 100,
        stop_div: bool = True,
        show_plot: bool = True,
        suggest_funcs: Callable[..., Any] | Sequence[Callable[..., Any]] | None = (valley,),
        *,
        epochs: int | None = None,
        sample_steps: int | None = None,
        step_mode: str = "exp",
        smoothing: float = 0.98,
        stop_factor: float = 4.0,
        skip_start: int | None = None,
        skip_end: int = 5,
    ) -> LRSweep:
        """Trains for a few steps at rising rates, watches the loss, and puts everything back to the bit.

        `fit` gives the same weights afterwards as without a sweep, even if the sweep was interrupted. The momentum is
        that of one cycle at its peak. Layer groups keep the ratios of `learn.lr`. `recommended` is the rate to take.

        Args:
            start_lr: the first rate.
            end_lr: the last rate.
            num_it: number of updates.
            stop_div: whether to stop once the smoothed loss exceeds `stop_factor` times its best. NaN always stops.
            show_plot: whether to draw the sweep.
            suggest_funcs: `minimum`, `steep`, `slide`, `valley` or functions like them. The result unpacks in this
                order.
            epochs: sweep over so many whole epochs instead of `num_it` updates.
            sample_steps: sweep over `ceil(sample_steps / updates per epoch)` whole epochs instead.
            step_mode: "exp" or "linear": how the rate rises.
            smoothing: weight of the past in the smoothed loss, in [0, 1).
            stop_factor: see `stop_div`.
            skip_start: points at the start that suggestions and plot leave out. None is a tenth of `num_it`.
            skip_end: points at the end that they leave out.
        """
        stop = stop_factor if stop_div else None
        how = start_lr, end_lr, num_it, step_mode, smoothing, stop, skip_start, skip_end, epochs, sample_steps
        settings = SweepSettings(*how)
        with train(self.model, [self.dls.train]):
            sweep = sweep_rates(self._context(), settings, momentum=self.moms[1], suggest_funcs=suggest_funcs)
        self.recorder.sweep = sweep
        if show_plot:
            sweep.plot()
        return sweep

    def fine_tune(
        self,
        epochs: int,
        base_lr: float | Literal["auto"] = 2e-3,
        freeze_epochs: int = 1,
        lr_mult: float = 100,
        pct_start: float = 0.3,
        div: float = 5.0,
        *,
        div_final: float = 1e5,
        wd: float | None = None,
        moms: tuple[float, float, float] | None = None,
        cbs: Callbacks = None,
        reset_opt: bool = False,
        start_epoch: int = 0,
        checkpoint: Checkpointing = None,
        loggers: Loggers = None,
        precompute: bool = False,
    ) -> RunRecord:
        """Trains the last layer group, then all groups at discriminative rates. Returns the second phase's record.

        Phase one: `freeze_epochs` epochs of one cycle with all but the last group frozen; the rate rises nearly all the
        way to `base_lr`. Phase two: `epochs` epochs of one cycle with everything free, at `base_lr / 2` for the last
        group down to `base_lr / 2 / lr_mult` for the first.

        With the learner's `train_bn=False`, norm layers are frozen too, and the backward pass stops before the body. We
        measured frozen steps 2.1 times (ResNet-18) to 2.9 times (EfficientNet) as fast.

        Without layer groups, for which a `splitter` is needed, phase one trains everything, and a line says so.

        Source: Howard and Ruder, "Universal Language Model Fine-tuning", 2018. The constants and phases are fastai's.

        Args:
            epochs: epochs of the second phase.
            base_lr: the rate of the first phase. "auto" sweeps before each phase.
            freeze_epochs: epochs of the first phase. With 0 there is none.
            lr_mult: the last group's rate divided by the first group's, in the second phase.
            pct_start, div: shape of the second cycle; see `fit_one_cycle`.
            div_final: both cycles end at their peak rate divided by this.
            wd, cbs, checkpoint, loggers: as in `fit`, for both phases.
            moms: as in `fit_one_cycle`, for both phases.
            reset_opt: has no effect here, since each phase makes the optimizer anew.
            start_epoch: the number of the first epoch, from 0, in each phase. A phase of no more epochs is left out.
            precompute: send each image through the frozen body only once in the first phase; see `precompute`.
        """
        head, whole = plans.fine_tune_rates(epochs, freeze_epochs, base_lr, lr_mult)
        shape: dict[str, Any] = {"div": div, "div_final": div_final, "pct_start": pct_start, "moms": moms}
        plans.check_fit(epochs, wd, partial(plans.one_cycle_scheduler, **shape), start_epoch=start_epoch)
        first, second = (as_checkpoint(checkpoint, phase=phase) for phase in ("1-frozen", "2-unfrozen"))
        how = {"div_final": div_final, "moms": moms}
        logging = as_loggers(loggers, self._named_loggers)
        fit_phase = partial(self._fit_one_cycle, wd=wd, cbs=cbs, loggers=logging, start_epoch=start_epoch)
        n_epochs = freeze_epochs + epochs
        if precompute and start_epoch >= freeze_epochs:
            raise ValueError(
                "`precompute` serves the first phase, so it needs `freeze_epochs` above `start_epoch`. "
                f"Received: freeze_epochs={freeze_epochs}, start_epoch={start_epoch}."
            )
        if start_epoch < freeze_epochs:
            with undo_on_early_error(self):
                is_frozen = self._freeze_body()
                phase = Phase(f"fine_tune, {'frozen' if is_frozen else 'nothing frozen'}", 0, n_epochs)
                with self.precompute() if precompute else nullcontext():
                    short = {**how, "div": 25.0, "pct_start": 0.99}
                    fit_phase(freeze_epochs, head, short, ratios=slice(1.0), checkpoint=first, phase=phase)
        self.unfreeze()
        phase = Phase("fine_tune, unfrozen", freeze_epochs, n_epochs)
        how |= {"div": div, "pct_start": pct_start}
        return fit_phase(epochs, whole, how, ratios=slice(1 / lr_mult, 1.0), checkpoint=second, phase=phase)

    def freeze(self) -> None:
        """Freezes all layer groups but the last. Norm layers keep learning unless `train_bn` is False.

        Raises:
            ValueError: nothing would be frozen, for example because the learner has no `splitter`.
        """
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Lets all layer groups learn."""
        self.freeze_to(0)

    def freeze_to(self, n: int) -> None:
        """Freezes the layer groups before `n`, which counts from the end if negative. Drops the optimizer's state."""
        with hold(self.model):
            self._features.check_not_in_use()
            freeze_to(self.model, n, splitter=self.splitter, train_bn=self.train_bn)
        self.optimizer = None

    def precompute(self) -> AbstractContextManager[None]:
        """Computes the output of the frozen first layers once. Inside the context, training starts from that output.

        ``with learn.precompute(): learn.fit_one_cycle(10)`` after `freeze` makes cheap epochs. They end with the same
        weights as without it, to float tolerance. Inside, the frozen layers use no dropout, `compile` has no effect,
        and `MixUp` mixes features, because `run.x` holds features.

        Raises:
            ValueError: the frozen layers do not form the start of a sequential model, or norm layers in them learn.
            DataError: training augments its items, or the features do not fit in memory.
        """
        return self._features.precompute(self._context().new_run(), self._output.watch("precomputing"))

    def validate(self, ds_idx: int = 1, dl: Any = None, cbs: Callbacks = None) -> list[float]:
        """Returns the loss and the metrics over a whole set, in order and without augmentation.

        Args:
            ds_idx: 1 for the validation set, 0 for the training set.
            dl: another loader, such as `learn.dls.test_dl(items)`.
            cbs: further callbacks for this call only.
        """
        given = self._show_to(cbs)
        loader, run = self._predictor(ds_idx, dl).loader, self._run(None)
        shown = self._output.progress(table=False)
        return validate(run, loader, self.cbs, self.metrics, given=given, shown=shown)

    def predict_batches(
        self, ds_idx: int = 1, dl: Any = None, *, with_loss: bool = True, act: Callable[[Any], Any] | None = None
    ) -> Iterator[BatchPrediction]:
        """Yields the predictions batch by batch, in the order of the data set. Nothing is kept."""
        return self._predictor(ds_idx, dl).batches(act=act, with_loss=with_loss)

    def items(self, ds_idx: int, dl: Any, indices: Sequence[int]) -> list[Tensor]:
        """Returns the inputs at these positions of a set, in the order of the data set, ready to be shown."""
        return self._predictor(ds_idx, dl).images(indices)

    def origins(self, ds_idx: int = 1, dl: Any = None) -> Origins | None:
        """Returns the files of a set's items and the columns of their table. None for arrays in memory."""
        return self._predictor(ds_idx, dl).origins()

    def training_facts(self) -> TrainingFacts:
        """Returns the settings, the sets and the record, as the page of `interp.report` shows them."""
        return describe_training(self._run(self._optimizer()), self.recorder, self.cbs)

    def show_items(
        self, ds_idx: int, dl: Any, indices: Sequence[int], notes: Sequence[str] | None = None, **layout: Any
    ) -> Figure:
        """Draws the items at these positions of a set with their targets, predictions and a further line each."""
        return self._predictor(ds_idx, dl).show_items(indices, notes, **layout)

    def get_preds(
        self,
        ds_idx: int = 1,
        dl: Any = None,
        with_input: bool = False,
        with_decoded: bool = False,
        with_loss: bool = False,
        act: Callable[[Any], Any] | None = None,
        inner: bool = False,
        reorder: bool = True,
        cbs: Callbacks = None,
    ) -> Predictions:
        """Returns activated predictions and targets of a whole set, on the CPU. Unpacks to `(preds, targets)`.

        What else is asked for takes its place in fastai's order: `(inputs, preds, targets, decoded, losses)`.

        Args:
            ds_idx: 1 for the validation set, 0 for the training set (in order, without augmentation).
            dl: another loader, such as `learn.dls.test_dl(items)`.
            with_input, with_decoded, with_loss: also return the inputs, the decoded predictions, the loss of each item.
            act: activates the model's outputs. By default what belongs to the kind of target, such as softmax.
            inner: show no progress bar, as when another call of yours shows one.
            reorder: has no effect here, since predictions always come in the order of the data set.
            cbs: callbacks for this call only.
        """
        kept = {"with_input": with_input, "with_decoded": with_decoded, "with_loss": with_loss}
        with self.no_bar() if inner else nullcontext():
            return self._predictor(ds_idx, dl, self._show_to(cbs)).predictions(act=act, **kept)

    def cross_val_preds(
        self,
        k: int = 5,
        n_epoch: int = 5,
        *,
        fit: Callable[[Learner], Any] | None = None,
        make_learner: Callable[[Any], Learner] | None = None,
        ds_idx: int | None = None,
        seed: int = 0,
    ) -> Predictions:
        """Returns predictions of each item by a model that has not seen it, as label errors need: k fits, k folds.

        Example::

            interp = ClassificationInterpretation.from_predictions(learn.cross_val_preds())
            interp.label_errors().to_csv("review.csv")

        A model that was trained on an item has learnt its wrong label by heart. So each fold needs a new model, with
        the weights from before the first training. A learner of `vision_learner` is made again with its arguments. Any
        other learner is copied, which it must be before it is trained. This learner's own weights stay as they are.
        Of its callbacks, those that are part of the step act in the fits, such as `MixUp`.

        Args:
            k: the number of folds. Each model trains on (k - 1) / k of the items.
            n_epoch: epochs of each fit.
            fit: trains a new learner, in place of `fine_tune(n_epoch)` if a part of it is frozen, or else
                `fit_one_cycle(n_epoch)`.
            make_learner: returns a new learner of the loaders that it gets. Its weights must not have seen the items.
            ds_idx: 0 for the items of the training set, 1 for those of the validation set, None for both.
            seed: decides the folds, and all that is random in each fit.

        Raises:
            ValueError: an argument is out of range, or this learner was trained and cannot be made again.
            DataError: the items cannot be read by their position.
        """
        check_count(n_epoch, "n_epoch")
        check_count(seed, "seed", least=0)
        make = make_learner or self._plan_remake()
        train_fold = fit or partial(fit_briefly, n_epoch=n_epoch)
        return cross_validate(ItemPool(self.dls, ds_idx), k, make, train_fold, seed=seed, output=self._output)

    @overload
    def predict(self, item: Any, with_input: Literal[False] = False) -> Prediction[_Label]: ...

    @overload
    def predict(self, item: Any, with_input: Literal[True]) -> PredictionWithInput[_Label]: ...

    @overload
    def predict(self, item: Any, with_input: bool) -> Prediction[_Label] | PredictionWithInput[_Label]: ...

    def predict(self, item: Any, with_input: bool = False) -> Prediction[_Label] | PredictionWithInput[_Label]:
        """Returns `(label, index, probabilities)` of one item. Training goes on as if it had not been called.

        Args:
            item: anything that `dls.test_dl([item])` takes: a path, a Pillow image, an array (height, width, channels)
                or a tensor (channels, height, width). If the data are arrays in memory: an array like those, or a
                Pillow image. If the model has several inputs: a tuple or a dictionary of them.
            with_input: also return, as `input`, the image that the model saw, in its real colours.
        """
        return self._predictor().item(item, with_input=with_input)

    def calibrate(self, ds_idx: int = 1, dl: Any = None) -> Calibration:
        """Finds the temperature that makes probabilities honest, and predicts with it from now on.

        `predict`, `get_preds`, `tta` and exports divide the model's outputs by it before the softmax. No prediction
        becomes another class, and the loss stays as it was. Calibrate again after further training. Returns the
        calibration before; its `scaled` says what it is now.

        Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.

        Args:
            ds_idx: 1 for the validation set, 0 for the training set, on which a model is too sure of itself.
            dl: another loader with labels.

        Raises:
            ValueError: the targets are not one class for each item.
            DataError: no temperature fits this set, for instance because all its items are right.
        """
        target = self.dls.target
        if not isinstance(target, ClassNumbers):
            way_out = ""
            if isinstance(target, MultiCategory):
                way_out = " MultiLabelInterpretation.best_thresholds() finds a threshold for each label."
            raise ValueError(
                f"`calibrate` needs targets of one class for each item.{way_out} Received: {target!r:.100}."
            )
        found = ClassificationInterpretation.from_predictions(self.get_preds(ds_idx, dl)).calibration()
        check_temperature(found)
        self._dls = self.dls.with_target(target.with_temperature(target.temperature * found.temperature))
        return found

    def gradcam(
        self,
        item: Any,
        label: Any = None,
        *,
        layer: str | nn.Module | None = None,
        method: Method = "gradcam",
    ) -> Evidence:
        """Returns where in an image the model finds the evidence for a class. `plot` draws it.

        Example: ``learn.gradcam("cat.jpg").plot()``.

        Args:
            item: as in `predict`.
            label: the class, by its label or its number. None is the predicted class.
            layer: the layer that is looked at, or its path. None takes the last one with spatial extent, and the result
                names it.
            method: "gradcam", or "gradcam++", which finds several objects of a class better.

        Raises:
            ValueError: there is no such class or layer.
            DataError: no layer of the model has a spatial extent.
        """
        return self._predictor().evidence_in(item, label, layer=layer, method=method)

    def evidence(
        self,
        indices: Sequence[int],
        classes: Sequence[int] | None = None,
        ds_idx: int = 1,
        dl: Any = None,
        *,
        layer: str | nn.Module | None = None,
        method: Method = "gradcam",
    ) -> Evidence:
        """Returns where items of a set show evidence for a class each, as `gradcam` does for one image.

        Args:
            indices: the positions of the items, in the order of the data set.
            classes: a class number for each. None is the predicted class.
            ds_idx: 1 for the validation set, 0 for the training set.
            dl: another loader.
            layer: as in `gradcam`.
            method: as in `gradcam`.
        """
        return self._predictor(ds_idx, dl).evidence(indices, classes, layer=layer, method=method)

    def tta(
        self,
        ds_idx: int = 1,
        dl: Any = None,
        n: int = 4,
        item_tfms: Any = None,
        batch_tfms: Any = None,
        beta: float | None = 0.25,
        use_max: bool = False,
    ) -> Predictions:
        """Returns predictions averaged over augmentations of each item (test-time augmentation).

        With `a` the mean of `n` augmented passes and `p` the plain pass of `get_preds`, the result is `a + beta * (p -
        a)`.

        Args:
            ds_idx, dl: as in `get_preds`.
            n: number of augmented passes. Their augmentations are the same in every call.
            item_tfms, batch_tfms: augmentations in place of the loader's own. What validation does stays.
            beta: the weight of the plain pass, in [0, 1], or None to return the pair `(a, p)`.
            use_max: take the largest value of all passes instead.
        """
        return self._predictor(ds_idx, dl).tta(n, item_tfms, batch_tfms, beta=beta, use_max=use_max)

    def show_results(
        self,
        ds_idx: int = 1,
        dl: Any = None,
        max_n: int = 9,
        shuffle: bool = True,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
        *,
        ax: Axes | None = None,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws images of a set, each with its target and its prediction: green if right, red if wrong.

        Args:
            ds_idx, dl: as in `get_preds`.
            max_n: the largest number of images.
            shuffle: take images from all over the set (always the same ones) instead of the first.
            nrows, ncols: the shape of the grid.
            figsize: size of the figure in inches.
            ax: axes whose place the grid takes. None makes a new figure.
            save: a file to write the figure to, such as "results.png".
        """
        layout = {"nrows": nrows, "ncols": ncols, "figsize": figsize, "ax": ax, "save": save}
        return self._predictor(ds_idx, dl).show(max_n, shuffle=shuffle, **layout)

    def check(self, lr: Rate | None = None) -> Checkup:
        """Looks in seconds for what makes training fail or go badly, puts everything back, and returns the findings.

        Each finding has a `severity` ("error", "warning" or "note"), a `message` and the way out, `advice`. The result
        shows itself, `ok` says if there is nothing worse than a note, and `to_dict` returns it as data.

        It looks at the first batch, the labels and their balance, the order of the items, what is left out, the same
        items in training and validation, the metrics, the size of the last batch if there is batch norm, the scale of
        the inputs, the loss at the start, the gradients, whether a few items can be learnt by heart, and the rate.

        Args:
            lr: the rate to compare with the latest sweep; `learn.lr` by default.
        """
        if lr is not None:
            check_rate(lr, "lr", auto=True)
        callbacks = [*([] if self.train_bn else [BnFreeze()]), *self.cbs]
        sweep = self.recorder.sweep
        with train(self.model, [self.dls.train]):
            return examine(
                partial(self._step, None),
                self.dls,
                self.metrics,
                callbacks,
                rate=self.lr if lr is None else lr,
                sweep=sweep if isinstance(sweep, LRSweep) else None,
            )

    def profile(self, n_steps: int = 20) -> StepProfile:
        """Trains for `n_steps` steps, puts everything back, and returns a table of where the time went."""
        check_count(n_steps, "n_steps")
        with train(self.model, [self.dls.train]):
            context = self._context()
            return profile_steps(context.new_run(), context.callbacks, context.metrics, n_steps=n_steps)

    def summary(self) -> ModelSummary:
        """Returns a table of the model's layers, output shapes and parameters, and of how it is trained."""
        settings = self._run(self._optimizer()).settings(self.cbs)
        return summarize(self.model, self.dls.loader(0).first_batch()[0], settings)

    def save(self, file: str | Path, with_opt: bool = True) -> Path:
        """Writes weights, buffers and the optimizer's state to a safetensors file, and returns its path.

        The file is written whole or not at all. To continue an interrupted run, use `checkpoint=` of `fit` instead.

        Args:
            file: the file's name in `learn.model_dir`, or a path.
            with_opt: whether to include the optimizer's state.

        Raises:
            RuntimeError: another thread trains the model, so its weights change all the time.
        """
        with hold(self.model):
            parts = self.model, self._optimizer() if with_opt else None, self.loss_func
            path = learner_files.save(self.path / self.model_dir, file, *parts)
        self._say_where("save", path)
        return path

    def load(self, file: str | Path, with_opt: bool = True, strict: bool = True) -> Self:
        """Loads a file that `save` wrote: all of it, or nothing if something does not fit. Returns the learner.

        A file of `export` or `SaveBest`, or of another program in the safetensors format, is loaded too.

        Args:
            file: the file's name, or a path.
            with_opt: whether to load the optimizer's state. If the file has none, the optimizer stays as it is, and a
                line says so.
            strict: if False, takes what fits and warns about the rest.

        Raises:
            TypeError: `with_opt` is not True or False, but a device, for example, which fastai expects in this place.
            RuntimeError: another thread trains the model.
        """
        if not isinstance(with_opt, bool):
            raise TypeError(
                f"`with_opt` must be True or False. Received: with_opt={with_opt!r:.40}. Weights go to the device of "
                "the learner; Learner(..., device=) chooses it."
            )
        with hold(self.model):  # a thread that predicts sees the old weights or the new ones
            parts = self.model, self._optimizer() if with_opt else None, self.loss_func
            has_opt = learner_files.load(self.path / self.model_dir, file, *parts, strict=strict)
        self._has_learnt = True
        if with_opt and not has_opt:
            self._output.note(f"learn.load: {os.fspath(file)} has no optimizer's state, so only weights were loaded.")
        return self

    def export(self, path: str | Path | None = None, *, format: str | None = None) -> Path:
        """Writes all that predicting needs into one file, for `load_learner`, and returns its path.

        Register your own transforms and models with `minilearner.register` first. For a model that is not registered,
        only its weights are written, and `load_learner(path, model=...)` needs the model.

        Args:
            path: the file, in `learn.path`; "export.safetensors" by default. Its suffix decides the format.
            format: "safetensors" (.safetensors); or "onnx" (.onnx) or "torch_export" (.pt2) for a graph, which is
                checked against the model. The graph takes inputs in [0, 1] of the final size, normalises them, and
                returns what `get_preds` returns.
        """
        parts = self.dls, self._step(None)
        written = learner_files.export(self.path, path, *parts, precision=self.precision, format=format)
        self._say_where("export", written)
        return written

    def no_bar(self) -> AbstractContextManager[None]:
        """Hides the progress bar inside the context. The table of epochs stays."""
        return self._output.hide(bar=True)

    def no_logging(self) -> AbstractContextManager[None]:
        """Shows and prints nothing inside the context."""
        return self._output.hide(bar=True, table=True)

    def add_cb(self, cb: Callbacks) -> Self:
        """Adds one or several callbacks to every run from now on. Returns the learner."""
        added = self._output.take_progress(as_callbacks(cb))
        self._view.show_to(added)
        self.cbs = [*self.cbs, *added]
        return self

    def remove_cb(self, cb: Callback | type[Callback] | Iterable[Callback | type[Callback]]) -> Self:
        """Removes callbacks, given by object or by class. Returns the learner.

        Without fastai's ProgressCallback, there are no bars; adding it shows them again. The table of epochs stays.

        Raises:
            ValueError: the learner has no such callback.
        """
        unwanted = list(cb) if isinstance(cb, Iterable) else [cb]
        if Progress in unwanted:
            unwanted.remove(Progress)
            self._output.bar = False
        self.cbs = drop_callbacks(self.cbs, unwanted)
        return self

    add_cbs, remove_cbs = add_cb, remove_cb

    @contextmanager
    def added_cbs(self, cbs: Callbacks) -> Iterator[Self]:
        """Adds callbacks inside the ``with`` block."""
        before = self.cbs
        self.add_cb(cbs)
        try:
            yield self
        finally:
            self.cbs = before

    @contextmanager
    def removed_cbs(self, cbs: Callback | type[Callback] | Iterable[Callback | type[Callback]]) -> Iterator[Self]:
        """Removes callbacks inside the ``with`` block; see `remove_cb`."""
        before = self.cbs
        self.remove_cb(cbs)
        try:
            yield self
        finally:
            self.cbs = before

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *map(name_of, self.cbs)]

    if not TYPE_CHECKING:  # with `__getattr__`, a type checker would accept misspelt names

        def __getattr__(self, name: str) -> Any:
            """Returns the callback of this name, such as `early_stopping` for an EarlyStoppingCallback."""
            for callback in vars(self).get("cbs", ()):
                if name_of(callback) == name:
                    return callback
            return super().__getattr__(name)

    def _freeze_body(self) -> bool:
        """Freezes all layer groups but the last, for `fine_tune`. Returns False if there is only one, and says so."""
        if len(layer_groups(self.model, self.splitter)) > 1:
            self.freeze()
            return True
        self._output.note(
            "fine_tune freezes no layers, because the learner has one layer group: all layers train in both phases. "
            "Give the learner a `splitter=` to freeze the first layers."
        )
        self.unfreeze()
        return False

    def _fit_one_cycle(self, n_epoch: int, lr: Rate | None, how: dict[str, Any], **options: Any) -> RunRecord:
        if how["moms"] is None and optimizers.momentum_key(self._optimizer().param_groups[0]):
            how = {**how, "moms": self.moms}
        moms = how["moms"]
        cycle = partial(plans.one_cycle_scheduler, **how)
        return self._fit("fit_one_cycle", n_epoch, lr, cycle, momentum=moms and moms[1], **options)

    def _fit(
        self,
        kind: str,
        n_epoch: int,
        lr: Rate | None,
        plan: Callable[[list[float]], Callback] | None = None,
        *,
        wd: float | None,
        cbs: Callbacks,
        checkpoint: Checkpointing,
        loggers: Loggers,
        reset_opt: bool = False,
        **options: Any,
    ) -> RunRecord:
        logging = [one for one in as_loggers(loggers, self._named_loggers) if one not in self.cbs]
        with train(self.model, [self.dls.train]):
            context = self._context([*as_callbacks(cbs), *logging], wd, reset_opt=reset_opt)
            self._has_learnt = True
            record = fit(context, kind, n_epoch, lr, plan, as_checkpoint(checkpoint), **options)
            self._trained = ref(context.optimizer), record.hypers
        return record

    def _plan_remake(self) -> Callable[[DataLoaders], Learner]:
        """Returns a function that makes a learner of other loaders, like this one before its first training.

        Raises:
            ValueError: this learner was trained, and how it was made is unknown.
        """
        if self._recipe is None and self._has_learnt:
            raise ValueError(
                "`make_learner` is needed, since this learner was trained and a copy of it has seen the items. Call "
                "`cross_val_preds` before the first training, or give make_learner=lambda dls: Learner(dls, ...)."
            )
        return self._make_again

    def _make_again(self, dls: DataLoaders) -> Learner:
        if self._recipe is None:
            model, loss_func = (copy_apart(part) for part in (self.model, self.loss_func))
            learner = Learner(dls, model, loss_func, splitter=self.splitter, wd_bn_bias=self.wd_bn_bias)
            learner.train_bn = self.train_bn
        else:
            learner = self._recipe(dls)
        learner.opt_func, learner.lr, learner.wd, learner.moms = self.opt_func, self.lr, self.wd, self.moms
        learner.metrics = self.metrics
        learner._set_precision(self.precision)
        return learner.add_cb([copy_apart(callback) for callback in self.cbs if callback.part_of_step])

    @property
    def _view(self) -> LearnerView:
        """What callbacks in fastai's style see. A copy of the learner makes its own."""
        if self._own_view is None:
            self._own_view = LearnerView(self)
        return self._own_view

    def _context(self, cbs: Callbacks = None, wd: float | None = None, *, reset_opt: bool = False) -> FitContext:
        given = self._show_to(cbs)
        callbacks = [*([] if self.train_bn else [BnFreeze()]), *self.cbs, *given]
        take_turn(self.dls, self)
        self._trained = None  # `learn.opt` shows what the optimizer has now
        is_measured = self.dls.valid is not None or self.recorder.train_metrics
        metrics, may_change = self.metrics if is_measured else {}, may_change_batches(callbacks)
        self._preflight.check(self._step(None), self.dls, metrics, callbacks, may_change=may_change)
        if reset_opt:
            self.create_opt()
        optimizer = self._optimizer()
        return FitContext(
            optimizer=optimizer,
            new_run=lambda: self._features.serve(self._run(optimizer)),
            callbacks=callbacks,
            metrics=self.metrics,
            recorder=self.recorder,
            output=self._output,
            lr=self.lr,
            auto_precision=self._auto_precision,
            take_precision=self._take_precision,
            wd=wd,
            wd_bn_bias=self.wd_bn_bias,
        )

    def _run(self, optimizer: Optimizer | None) -> Run:
        step = self._step(optimizer)
        step.network = step.model if self._compiler is None else self._compiler.wrap(step.model)
        own: dict[str, Any] = {"recorder": self.recorder, "seed": self.seed, "path": self.path}
        return Run(step, self.dls, auto_precision=self._auto_precision, **own)

    def _step(self, optimizer: Optimizer | None) -> Step:
        refuse_if_trained_elsewhere(self.model)
        return make_step(self.model, self.loss_func, optimizer, precision=self.precision, wrap=self.strategy)

    def _predictor(self, ds_idx: int = 1, dl: Any = None, given: Sequence[Callback] = ()) -> Predictor:
        acting = [*filter(is_fastai_style, self.cbs), *given]
        return Predictor(self._step(None), self.dls, ds_idx, dl, self._output.watch("predicting"), acting)

    def _show_to(self, cbs: Callbacks) -> list[Callback]:
        """Returns callbacks for one call. Those in fastai's style see this learner from now on."""
        given = self._output.take_progress(as_callbacks(cbs))
        self._view.show_to([*self.cbs, *given])
        return given
