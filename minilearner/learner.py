"""The menu: one object that holds data, model, loss, optimizer and callbacks, and offers what one does with them.

No cooking here. Each method gathers parts, hands them one layer down, and returns what comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minilearner.callbacks.bn_freeze import BnFreeze
from minilearner.callbacks.checkpoint import Checkpointing, as_checkpoint
from minilearner.callbacks.progress import Output
from minilearner.checks import check_count
from minilearner.data.dataloaders import DataLoaders
from minilearner.fitting import plans
from minilearner.fitting.context import FitContext
from minilearner.fitting.fit import fit, undo_unless_trained, validate
from minilearner.fitting.profile import StepProfile, profile_steps
from minilearner.fitting.rates import sweep_rates
from minilearner.lr_finder.result import LRSweep
from minilearner.lr_finder.suggestions import valley
from minilearner.lr_finder.sweep import SweepSettings
from minilearner.metrics import named_metrics
from minilearner.models.groups import Splitter, all_parameters, freeze_to
from minilearner.models.summary import ModelSummary, summarize
from minilearner.models.tensors import to_channels_last, to_contiguous
from minilearner.results.predictions import BatchPrediction, Prediction, Predictions
from minilearner.results.recorder import Recorder, RunRecord
from minilearner.runtime import default_device, resolve_precision, set_seed
from minilearner.saving import learner_files
from minilearner.training import optimizers
from minilearner.training.callback import Callback, Callbacks, as_callbacks, without
from minilearner.training.compiler import Compile, resolve_compile
from minilearner.training.distributed import Strategy, distributed_step, resolve_strategy, shared_out
from minilearner.training.optimizers import OptimizerFactory, Rate
from minilearner.training.precompute import Features
from minilearner.training.predictor import Asking
from minilearner.training.preflight import Preflight, check_parts, default_loss
from minilearner.training.run import Run
from minilearner.training.step import LossFunction, TrainStep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Learner"]


class Learner:
    """Bundles data, a model and how to train it.

    Example::

        learn = Learner(fashion_mnist(), MiniGoogLeNet(10), metrics=accuracy)
        learn.fit_one_cycle(3, lr_max=learn.lr_find(suggest_funcs=minimum).minimum)

    Args:
        dls, model: a `DataLoaders`, a pair of loaders `(train, valid)` or one to train on; any module, which is moved.
        loss_func: `(pred, target) -> mean loss`; None takes the loss that belongs to the kind of target.
        opt_func: called as `opt_func(parameter_groups, lr=...)`: any torch optimizer class or partial. None is AdamW
            with betas (0.9, 0.99), eps 1e-5 and weight decay 0.01 that spares norm layers and biases.
        lr: the rate where a call gives none: a number, a list with one for each layer group, a slice, or "auto".
        splitter: divides the model's parameters into layer groups, from input to output; by default one group.
        cbs, path: callbacks of every run of this learner; where its files go, the loaders' path by default.
        metrics: functions `(pred, target)`, averaged over items, or objects with reset, update and compute.
        wd: weight decay instead of the optimizer's own; spares norm layers and biases unless `wd_bn_bias`.
        train_bn, moms: norm layers learn also where frozen; momentum of `fit_one_cycle` at start, peak and end.
        precision: "fp32", "bf16", "fp16", or "auto", what the hardware computes fast; all but "fp32" in channels_last.
        device, seed: the GPU where there is one by default; if given, seeds the four global generators now.
        strategy: how the processes that torchrun started train together; "auto" is "ddp". See `training.distributed`.
        compile: train and validate through `torch.compile`: True, a mode such as "reduce-overhead", or its arguments.

    Attributes:
        recorder: all runs of this learner. Never wiped.
        optimizer: None until the first run, then kept with its state, until layers are frozen or unfrozen.
    """

    def __init__(
        self, dls: Any, model: nn.Module, loss_func: LossFunction | None = None,
        opt_func: OptimizerFactory | None = None, lr: Rate = 1e-3, splitter: Splitter | None = None,
        cbs: Callbacks = None, metrics: Any = None, *, wd: float | None = None, wd_bn_bias: bool = False,
        train_bn: bool = True, moms: tuple[float, float, float] = (0.95, 0.85, 0.95), path: str | Path | None = None,
        precision: str = "fp32", device: str | torch.device | None = None, seed: int | None = None,
        strategy: Strategy = "auto", compile: Compile = False,
    ):  # fmt: skip
        check_parts(model, loss_func)
        optimizers.check_rate(1.0 if lr == "auto" else lr)
        if seed is not None:
            set_seed(seed)
        self.device = torch.device(device) if device is not None else default_device()
        self.precision, self.strategy = resolve_precision(precision, self.device), resolve_strategy(strategy)
        self._compiler = resolve_compile(compile, is_alone=self.strategy is None)
        dls = dls if isinstance(dls, DataLoaders) else DataLoaders(*(dls if isinstance(dls, tuple) else (dls,)))
        self.dls = shared_out(dls.to(self.device), model, self.strategy)
        self.model = model.to(self.device) if precision == "fp32" else to_channels_last(model.to(self.device))
        self.loss_func = loss_func if loss_func is not None else default_loss(self.dls.target)
        self.opt_func, self.lr, self.splitter = opt_func, lr, splitter or all_parameters
        self.wd, self.wd_bn_bias, self.train_bn, self.moms = wd, wd_bn_bias, train_bn, moms
        self.metrics, self.path = named_metrics(metrics, self.device), Path(path or dls.path)
        self.cbs, self.seed = as_callbacks(cbs), seed
        self.recorder, self._preflight, self._features, self._output = Recorder(), Preflight(), Features(), Output()
        self.optimizer: Optimizer | None = None

    def fit(
        self, n_epoch: int, lr: Rate | None = None, wd: float | None = None, cbs: Callbacks = None, *,
        checkpoint: Checkpointing = None,
    ) -> RunRecord:  # fmt: skip
        """Trains at a constant rate, or as callbacks schedule it; returns the record, also in `learn.recorder`.

        Args:
            n_epoch, lr, wd, cbs: passes over the training data, rate (by default `learn.lr`; "auto", here and in every
                `fit...`: sweep, tell, train), weight decay and further callbacks of this run only.
            checkpoint: a folder, or a `Checkpoint`, where the call saves itself as it goes; the same script run again
                goes on where it was. Every `fit...` takes it. What cannot work raises before anything is trained.
        """
        return self._fit("fit", n_epoch, lr, wd=wd, cbs=cbs, checkpoint=checkpoint)

    def fit_one_cycle(
        self, n_epoch: int, lr_max: Rate | None = None, div: float = 25.0, div_final: float = 1e5,
        pct_start: float = 0.25, wd: float | None = None, moms: tuple[float, float, float] | None = None,
        cbs: Callbacks = None, *, checkpoint: Checkpointing = None,
    ) -> RunRecord:  # fmt: skip
        """Trains with one cycle: the rate rises by a cosine to `lr_max` and falls to next to nothing.

        From `lr_max / div`, over the first `pct_start` (in [0, 1]) of updates, up to `lr_max` (`learn.lr` by default),
        and down to `lr_max / div_final`. `moms` is the momentum at the start, the peak and the end, where the optimizer
        has one; `learn.moms` by default. The rest is as in `fit`.
        Source: Smith and Topin, "Super-Convergence", 2018; the shape and the defaults are fastai's.
        """
        how = {"div": div, "div_final": div_final, "pct_start": pct_start, "moms": moms}
        return self._fit_one_cycle(n_epoch, lr_max, how, wd=wd, cbs=cbs, checkpoint=checkpoint)

    def fit_flat_cos(
        self, n_epoch: int, lr: Rate | None = None, div_final: float = 1e5, pct_start: float = 0.75,
        wd: float | None = None, cbs: Callbacks = None, *, checkpoint: Checkpointing = None,
    ) -> RunRecord:  # fmt: skip
        """Trains at `lr` for a part `pct_start` of the updates, then falls in a cosine to `lr / div_final`."""
        fall = partial(plans.flat_cosine_scheduler, div_final=div_final, pct_start=pct_start)
        return self._fit("fit_flat_cos", n_epoch, lr, fall, wd=wd, cbs=cbs, checkpoint=checkpoint)

    def fit_sgdr(
        self, n_cycles: int, cycle_len: int, lr_max: Rate | None = None, cycle_mult: float = 2, cbs: Callbacks = None,
        wd: float | None = None, *, checkpoint: Checkpointing = None,
    ) -> RunRecord:  # fmt: skip
        """Trains in cycles: in each the rate falls by a cosine from `lr_max` to 0, and then it starts afresh.

        The first cycle lasts `cycle_len` epochs, each later one `cycle_mult` times as long as the one before: 3 cycles
        from 1 epoch take 1 + 2 + 4 = 7. Source: Loshchilov and Hutter, "SGDR", 2016; as in fastai.
        """
        n_epoch = plans.sgdr_epochs(n_cycles, cycle_len, cycle_mult)
        falls = partial(plans.sgdr_scheduler, n_cycles=n_cycles, cycle_mult=cycle_mult)
        return self._fit("fit_sgdr", n_epoch, lr_max, falls, wd=wd, cbs=cbs, checkpoint=checkpoint)

    def lr_find(
        self, start_lr: float = 1e-7, end_lr: float = 10, num_it: int = 100, stop_div: bool = True,
        show_plot: bool = True, suggest_funcs: Callable[..., Any] | Sequence[Callable[..., Any]] | None = (valley,), *,
        epochs: int | None = None, sample_steps: int | None = None, step_mode: str = "exp", smoothing: float = 0.98,
        stop_factor: float = 4.0, skip_start: int | None = None, skip_end: int = 5,
    ) -> LRSweep:  # fmt: skip
        """Trains for a few steps at rising rates, watches the loss, and puts everything back, to the bit.

        `fit` afterwards gives the same weights as without, also where the sweep is interrupted. The momentum is one
        cycle's at its peak; layer groups keep the ratios of `learn.lr`. `recommended` is the rate to take.

        Args:
            start_lr, end_lr, num_it, show_plot: the range, how many updates to sweep it in, and whether to draw it.
            stop_div: stop where the smoothed loss exceeds `stop_factor` times its best. NaN always stops.
            suggest_funcs: `minimum`, `steep`, `slide`, `valley` or others like them; the result unpacks in this order.
            epochs, sample_steps: whole epochs instead of `num_it` updates, or `ceil(sample_steps / updates per epoch)`.
            step_mode, smoothing: "exp" or "linear"; the weight in the smoothed loss of what was before, in [0, 1).
            skip_start, skip_end: points that suggestions and plot leave out; `skip_start=None` is a tenth of `num_it`.
        """
        stop = stop_factor if stop_div else None
        how = start_lr, end_lr, num_it, step_mode, smoothing, stop, skip_start, skip_end, epochs, sample_steps
        settings = SweepSettings(*how)
        sweep = sweep_rates(self._context(), settings, momentum=self.moms[1], suggest_funcs=suggest_funcs)
        if show_plot:
            sweep.plot()
        return sweep

    def fine_tune(
        self, epochs: int, base_lr: float | Literal["auto"] = 2e-3, freeze_epochs: int = 1, lr_mult: float = 100,
        pct_start: float = 0.3, div: float = 5.0, *, div_final: float = 1e5, wd: float | None = None,
        moms: tuple[float, float, float] | None = None, cbs: Callbacks = None, checkpoint: Checkpointing = None,
        precompute: bool = False,
    ) -> RunRecord:  # fmt: skip
        """Trains the last layer group alone, then everything at discriminative rates, as fastai does.

        First `freeze_epochs` epochs of one cycle with all but the last group frozen, rising nearly all the way to
        `base_lr`; then `epochs` of one cycle with everything free, at half that rate for the last group down to its
        `lr_mult`-th part for the first. Both are recorded; the second is returned. "auto" sweeps for each.
        With the learner's `train_bn=False` norm layers rest too while frozen, and no backward pass goes through the
        body: steps were 2.1 (ResNet-18) to 2.9 times as fast (EfficientNet). `precompute` makes it one pass in all.
        Source: Howard and Ruder, "Universal Language Model Fine-tuning", 2018; constants and phases are fastai's.
        """
        head, whole = plans.fine_tune_rates(epochs, freeze_epochs, base_lr, lr_mult)
        plans.one_cycle_scheduler([1.0], div=div, div_final=div_final, pct_start=pct_start, moms=moms or self.moms)
        first, second = (as_checkpoint(checkpoint, phase=phase) for phase in ("1-frozen", "2-unfrozen"))
        how = {"div_final": div_final, "moms": moms}
        train = partial(self._fit_one_cycle, wd=wd, cbs=cbs)
        with undo_unless_trained(self):
            self.freeze()
            with self.precompute() if precompute else nullcontext():
                train(freeze_epochs, head, {**how, "div": 25.0, "pct_start": 0.99}, ratios=slice(1.0), checkpoint=first)
        self.unfreeze()
        how |= {"div": div, "pct_start": pct_start}
        return train(epochs, whole, how, ratios=slice(1 / lr_mult, 1.0), checkpoint=second)

    def freeze(self) -> None:
        """Lets only the last layer group learn (and norm layers, with `train_bn`)."""
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Lets every layer group learn."""
        self.freeze_to(0)

    def freeze_to(self, n: int) -> None:
        """Lets the layer groups from `n` on learn (from the end where negative); the optimizer's state is forgotten."""
        self._features.check_idle()
        freeze_to(self.model, n, splitter=self.splitter, train_bn=self.train_bn)
        self.optimizer = None

    def precompute(self) -> AbstractContextManager[None]:
        """Computes once what the frozen layers at the model's start give; training inside begins behind them.

        ``with learn.precompute(): learn.fit_one_cycle(10)`` after `freeze`: cheap epochs that end with the weights that
        they would have without, to float tolerance; but dropout in those layers rests, as does `compile`, and `MixUp`
        mixes features, which are `run.x`. Needs layers in a row, `train_bn=False`, no augmentation; else it raises.
        """
        return self._features.precomputed(self._context().new_run(), self._output.watch("precomputing"))

    def validate(self, ds_idx: int = 1, dl: Any = None) -> list[float]:
        """Returns loss and metrics over a set, 0 for training: in order, all of it, nothing augmented or moved."""
        run, loader = self._run(None), self._asking(ds_idx, dl).loader
        return validate(run, loader, self.cbs, self.metrics, shown=self._output.progress(table=False))

    def predict_batches(
        self, ds_idx: int = 1, dl: Any = None, *, with_loss: bool = True, act: Callable[[Any], Any] | None = None
    ) -> Iterator[BatchPrediction]:
        """Yields the predictions of one batch after another, in the data set's order; nothing is kept."""
        return self._asking(ds_idx, dl).batches(act=act, with_loss=with_loss)

    def items(self, ds_idx: int, dl: Any, indices: Sequence[int]) -> list[Tensor]:
        """Returns inputs at these positions of a set, in the data set's order, as they are to be shown."""
        return self._asking(ds_idx, dl).pictures(indices)

    def get_preds(
        self, ds_idx: int = 1, dl: Any = None, with_input: bool = False, with_decoded: bool = False,
        with_loss: bool = False, act: Callable[[Any], Any] | None = None,
    ) -> Predictions:  # fmt: skip
        """Returns predictions, activated, and targets of a whole set, in its order, on the CPU: `(preds, targets)`.

        Args:
            ds_idx, dl: 1 for the validation set, 0 for the training set (in order, without augmentation); or another
                loader, such as `learn.dls.test_dl(items)`.
            with_input, with_decoded, with_loss: fields for inputs, decoded predictions and losses of items.
            act: what activates the model's outputs; by default what belongs to the kind of target, such as softmax.
        """
        kept = {"with_input": with_input, "with_decoded": with_decoded, "with_loss": with_loss}
        return self._asking(ds_idx, dl).predictions(act=act, **kept)

    def predict(self, item: Any, with_input: bool = False) -> Prediction:
        """Returns `(label, index, probabilities)` of one item, and leaves the training state alone.

        item: what `dls.test_dl([item])` takes: a path, a Pillow picture, an array (height, width, channels), a tensor
        (channels, height, width); of arrays in memory, one like those, or a Pillow picture. `with_input` keeps what the
        model saw, in real colours, as `input`. Threads wait for each other.
        """
        return self._asking().item(item, with_input=with_input)

    def tta(
        self, ds_idx: int = 1, dl: Any = None, n: int = 4, item_tfms: Any = None, batch_tfms: Any = None,
        beta: float | None = 0.25, use_max: bool = False,
    ) -> Predictions:  # fmt: skip
        """Returns predictions averaged over augmentations of each item: test-time augmentation.

        With the mean a of `n` augmented passes and the plain pass p that `get_preds` makes: a + beta (p - a).

        Args:
            ds_idx, dl, n: as in `get_preds`; augmented passes, whose augmentations are the same in every call.
            item_tfms, batch_tfms: augment by these instead of the loader's own; what validation does stays.
            beta, use_max: weight of p, in [0, 1], or None for the pair (a, p); the largest of all passes instead.
        """
        return self._asking(ds_idx, dl).augmented(n, item_tfms, batch_tfms, beta=beta, use_max=use_max)

    def show_results(
        self, ds_idx: int = 1, dl: Any = None, max_n: int = 9, shuffle: bool = True, nrows: int | None = None,
        ncols: int | None = None, figsize: tuple[float, float] | None = None,
    ) -> Figure:  # fmt: skip
        """Draws pictures of a set below what each is and what it was taken for: green where right, red where wrong.

        `shuffle` takes them from all over the set, always the same ones, else the first. `figsize` is in inches.
        """
        return self._asking(ds_idx, dl).show(max_n, shuffle=shuffle, nrows=nrows, ncols=ncols, figsize=figsize)

    def profile(self, n_steps: int = 20) -> StepProfile:
        """Trains for some steps, puts everything back as `lr_find` does, and returns where their time went: a table."""
        check_count(n_steps, "n_steps")
        context = self._context()
        return profile_steps(context.new_run(), context.callbacks, context.metrics, n_steps=n_steps)

    def summary(self) -> ModelSummary:
        """Returns a table of the model's layers, output shapes and weights, and how it is trained."""
        settings = self._run(self._optimizer()).settings(self.cbs)
        return summarize(self.model, self.dls.one_batch()[0], settings)

    def save(self, file: str | Path, with_opt: bool = True) -> Path:
        """Writes weights, buffers and, with `with_opt`, the optimizer's state to a file below `learn.path`.

        In safetensors' format, whole or not at all; returns the path. To go on in a run, see `checkpoint=` of `fit`.
        """
        return learner_files.save(self.path, file, self.model, self._optimizer() if with_opt else None)

    def load(self, file: str | Path, with_opt: bool = True, strict: bool = True) -> Learner:
        """Puts back what `save` wrote, all or nothing; `strict=False` takes what fits, and warns of the rest."""
        learner_files.load(self.path, file, self.model, self._optimizer() if with_opt else None, strict=strict)
        return self

    def export(self, path: str | Path | None = None, *, format: str = "safetensors") -> Path:
        """Writes all that predicting needs to "export.safetensors" below `learn.path`, for `load_learner`.

        Your own transforms must be known to `minilearner.register`; of an unknown model the weights are written. With
        format "onnx" or "torch_export" a graph, checked against the model: from inputs in [0, 1] of final size, which
        it normalises, to what `get_preds` gives. Returns the path.
        """
        return learner_files.export(
            self.path, path, self.dls, self._step(None), precision=self.precision, format=format
        )

    def to_fp16(self) -> Learner:
        """Computes in fp16 from now on, as `precision="fp16"` does, and returns the learner."""
        return self._to_precision("fp16")

    def to_bf16(self) -> Learner:
        """Computes in bf16 from now on, as `precision="bf16"` does, and returns the learner."""
        return self._to_precision("bf16")

    def to_fp32(self) -> Learner:
        """Computes in fp32 from now on, in torch's ordinary layout, and returns the learner."""
        return self._to_precision("fp32")

    def to_channelslast(self) -> Learner:
        """Lays out convolutional weights as channels_last, and returns the learner. The precision stays as it is."""
        to_channels_last(self.model)
        return self

    def _to_precision(self, precision: str) -> Learner:
        self.precision = resolve_precision(precision, self.device)
        (to_contiguous if precision == "fp32" else to_channels_last)(self.model)
        return self

    def no_bar(self) -> AbstractContextManager[None]:
        """Shows no progress bar inside; the table of epochs stays."""
        return self._output.without(bar=True)

    def no_logging(self) -> AbstractContextManager[None]:
        """Shows and prints nothing inside."""
        return self._output.without(bar=True, table=True)

    def add_cb(self, cb: Callback | Iterable[Callback]) -> None:
        """Adds one or several callbacks to every run from now on."""
        self.cbs += as_callbacks(cb)

    def remove_cb(self, cb: Callback | type[Callback] | Iterable[Callback | type[Callback]]) -> None:
        """Removes callbacks, each by itself or by its class. Raises ValueError where there is none such."""
        self.cbs = without(self.cbs, cb)

    add_cbs, remove_cbs = add_cb, remove_cb

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
        **options: Any,
    ) -> RunRecord:
        check_count(n_epoch, "n_epoch")
        return fit(self._context(cbs, wd), kind, n_epoch, lr, plan, as_checkpoint(checkpoint), **options)

    def _context(self, cbs: Callbacks = None, wd: float | None = None) -> FitContext:
        callbacks = [*([] if self.train_bn else [BnFreeze()]), *self.cbs, *as_callbacks(cbs)]
        self._preflight.check(self._step(None), self.dls, self.metrics)
        optimizer = self._optimizer()
        return FitContext(
            optimizer=optimizer,
            new_run=lambda: self._features.served_in(self._run(optimizer)),
            callbacks=callbacks,
            metrics=self.metrics,
            recorder=self.recorder,
            output=self._output,
            lr=self.lr,
            wd=wd,
            wd_bn_bias=self.wd_bn_bias,
        )

    def _run(self, optimizer: Optimizer | None) -> Run:
        step, activate = self._step(optimizer), getattr(self.dls.target, "activate", None)
        step.network = step.model if self._compiler is None else self._compiler.network(step.model)
        return Run(step, self.dls, recorder=self.recorder, activate=activate, seed=self.seed)

    def _step(self, optimizer: Optimizer | None) -> TrainStep:
        return distributed_step(self.model, self.loss_func, optimizer, self.strategy, precision=self.precision)

    def _asking(self, ds_idx: int = 1, dl: Any = None) -> Asking:
        return Asking(self._step(None), self.dls, ds_idx, dl, self._output.watch("predicting"))

    def _optimizer(self) -> Optimizer:
        how = {"splitter": self.splitter, "wd": self.wd, "wd_bn_bias": self.wd_bn_bias}
        self.optimizer = optimizers.kept_or_built(self.optimizer, self.model, self.opt_func, self.lr, **how)
        return self.optimizer
