"""The menu: one object that holds data, model, loss, optimizer and callbacks, and offers what one does with them.

No cooking here. Each method gathers parts, hands them one layer down, and returns what comes back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minilearner.callbacks.auto_rate import found_rates, ratios_of, settle_bounds
from minilearner.callbacks.lr_finder import SweepSettings, find_rates
from minilearner.callbacks.progress import Progress, watched
from minilearner.callbacks.record import Evaluate, Record
from minilearner.callbacks.schedule import (
    flat_cosine_scheduler,
    one_cycle_scheduler,
    sgdr_epochs,
    sgdr_scheduler,
)
from minilearner.data.loaders import DataLoaders
from minilearner.metrics import named_metrics
from minilearner.models.groups import Splitter, all_parameters, freeze_to
from minilearner.models.layout import to_channels_last
from minilearner.models.summary import ModelSummary, summarize
from minilearner.results.lr_sweep import LRSweep, valley
from minilearner.results.predictions import BatchPrediction, Prediction, Predictions
from minilearner.results.recorder import Recorder, RunRecord
from minilearner.runtime import default_device, resolve_precision, set_seed
from minilearner.training.callback import Callback, Callbacks, as_callbacks
from minilearner.training.inference import predict_batches
from minilearner.training.loop import Loop
from minilearner.training.optimizers import (
    OptimizerFactory,
    Rate,
    build_optimizer,
    check_rate,
    hyperparameters_restored,
    momentum_key,
    set_rates,
    set_weight_decay,
    spread,
)
from minilearner.training.preflight import check_count, check_data, default_loss
from minilearner.training.run import Run
from minilearner.training.step import LossFunction, TrainStep, make_step

__all__ = ["Learner"]


class Learner:
    """Bundles data, a model and how to train it.

    Example::

        learn = Learner(fashion_mnist(), MiniGoogLeNet(10), metrics=accuracy)
        learn.fit_one_cycle(3, lr_max=learn.lr_find(suggest_funcs=minimum).minimum)

    Args:
        dls: a `DataLoaders`, a pair of loaders `(train, valid)`, or one loader to train on.
        model: any module; moved to the device.
        loss_func: `(pred, target) -> mean loss`; None takes the loss that belongs to the kind of target.
        opt_func: called as `opt_func(parameter_groups, lr=...)`: any torch optimizer class or partial. None is AdamW
            with betas (0.9, 0.99), eps 1e-5 and weight decay 0.01 that spares norm layers and biases.
        lr: the learning rate where a call does not give one: a number, a list with one for each layer group, a slice,
            or "auto", which sweeps before each run, tells what it found, and trains with that.
        splitter: divides the model's parameters into layer groups, from input to output; by default one group.
        cbs: callbacks of every run of this learner.
        metrics: one or a list of functions `(pred, target)` or objects with reset, update and compute, torchmetrics'
            among them. Functions are averaged over items.
        wd: weight decay instead of the optimizer's own; spares norm layers and biases unless `wd_bn_bias`.
        train_bn: norm layers learn also where they are frozen.
        moms: momentum of `fit_one_cycle` at its start, its peak rate and its end.
        path: where files of this learner go; the current folder by default.
        precision: "fp32", "bf16", "fp16", or "auto", which reads what the hardware computes fast. Any but "fp32" also
            lays out convolutional models as channels_last.
        device: the GPU where there is one by default.
        seed: if given, seeds the four global generators now.

    Attributes:
        recorder: all runs of this learner. Never wiped.
        optimizer: None until the first run, then kept with its state, until layers are frozen or unfrozen.
    """

    def __init__(
        self,
        dls: DataLoaders | tuple[Any, Any] | Any,
        model: nn.Module,
        loss_func: LossFunction | None = None,
        opt_func: OptimizerFactory | None = None,
        lr: Rate = 1e-3,
        splitter: Splitter = all_parameters,
        cbs: Callbacks = None,
        metrics: Any = None,
        *,
        wd: float | None = None,
        wd_bn_bias: bool = False,
        train_bn: bool = True,
        moms: tuple[float, float, float] = (0.95, 0.85, 0.95),
        path: str | Path | None = None,
        precision: str = "fp32",
        device: str | torch.device | None = None,
        seed: int | None = None,
    ):
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be a torch module. Received: {type(model).__name__}.")
        if lr != "auto":
            check_rate(lr)
        if seed is not None:
            set_seed(seed)
        self.device = torch.device(device) if device is not None else default_device()
        self.precision = resolve_precision(precision, self.device)
        if not isinstance(dls, DataLoaders):
            dls = DataLoaders(*dls) if isinstance(dls, tuple) else DataLoaders(dls)
        self.dls = dls.to(self.device)
        self.model = model.to(self.device) if precision == "fp32" else to_channels_last(model.to(self.device))
        self.loss_func = loss_func if loss_func is not None else default_loss(self.dls.target)
        self.opt_func, self.lr, self.splitter = opt_func, lr, splitter
        self.wd, self.wd_bn_bias, self.train_bn, self.moms = wd, wd_bn_bias, train_bn, moms
        self.cbs = as_callbacks(cbs)
        self.metrics = named_metrics(metrics, self.device)
        self.path = Path(path or ".")
        self.recorder = Recorder()
        self.optimizer: Optimizer | None = None
        self._checked: list[Any] = []
        self._bar = self._table = True

    # Training

    def fit(self, n_epoch: int, lr: Rate | None = None, wd: float | None = None, cbs: Callbacks = None) -> RunRecord:
        """Trains for `n_epoch` epochs at a constant rate, or as the callbacks schedule it.

        Args:
            n_epoch: passes over the training data, at least 1.
            lr: for this run; `learn.lr` by default; "auto" finds it by a sweep.
            wd: weight decay for this run.
            cbs: callbacks of this run only.

        Returns:
            The run's record, also appended to `learn.recorder`.

        Raises:
            ValueError, TypeError, DataError: an argument or the data cannot work. Nothing has been trained then.
        """
        return self._fit("fit", n_epoch, lr, wd, as_callbacks(cbs))

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
    ) -> RunRecord:
        """Trains with one cycle: the rate rises by a cosine to `lr_max` and falls to next to nothing.

        Args:
            n_epoch: passes over the training data, at least 1.
            lr_max: the peak; `learn.lr` by default. A list or slice has each layer group reach its own; or "auto".
            div: the first rate is `lr_max / div`.
            div_final: the last is `lr_max / div_final`.
            pct_start: the fraction, in [0, 1], of updates in which the rate rises.
            wd: weight decay for this run.
            moms: momentum at the start, the peak and the end, where the optimizer has one; `learn.moms` by default.
            cbs: callbacks of this run only.

        Source: Smith and Topin, "Super-Convergence", 2018; the shape and the defaults are fastai's.
        """
        if moms is None and momentum_key(self._optimizer().param_groups[0]):
            moms = self.moms
        lr_max = self._settled(lr_max, n_epoch, momentum=None if moms is None else moms[1])
        rates = spread(lr_max, self._n_layer_groups())
        cycle = one_cycle_scheduler(rates, div=div, div_final=div_final, pct_start=pct_start, moms=moms)
        return self._fit("fit_one_cycle", n_epoch, lr_max, wd, [*as_callbacks(cbs), cycle])

    def fit_flat_cos(
        self,
        n_epoch: int,
        lr: Rate | None = None,
        div_final: float = 1e5,
        pct_start: float = 0.75,
        wd: float | None = None,
        cbs: Callbacks = None,
    ) -> RunRecord:
        """Trains at `lr` for the first `pct_start` (in [0, 1]) of updates, then falls in a cosine to `lr / div_final`.

        As in fastai; the momentum stays as it is. A list or slice gives each layer group its own rate.
        """
        lr = self._settled(lr, n_epoch)
        rates = spread(lr, self._n_layer_groups())
        schedule = flat_cosine_scheduler(rates, div_final=div_final, pct_start=pct_start)
        return self._fit("fit_flat_cos", n_epoch, lr, wd, [*as_callbacks(cbs), schedule])

    def fit_sgdr(
        self,
        n_cycles: int,
        cycle_len: int,
        lr_max: Rate | None = None,
        cycle_mult: float = 2,
        cbs: Callbacks = None,
        wd: float | None = None,
    ) -> RunRecord:
        """Trains in cycles: in each the rate falls by a cosine from `lr_max` to 0, and then it starts afresh.

        The first cycle lasts `cycle_len` epochs, each later one `cycle_mult` times as long as the one before (1 keeps
        them equal): 3 cycles from 1 epoch take 1 + 2 + 4 = 7. A list or slice gives each layer group its own peak.

        Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016; as in fastai.
        """
        n_epoch = sgdr_epochs(n_cycles, cycle_len, cycle_mult)
        lr_max = self._settled(lr_max, n_epoch)
        rates = spread(lr_max, self._n_layer_groups())
        schedule = sgdr_scheduler(rates, n_cycles=n_cycles, cycle_mult=cycle_mult)
        return self._fit("fit_sgdr", n_epoch, lr_max, wd, [*as_callbacks(cbs), schedule])

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
        """Trains for a few steps at rising rates, watches the loss, and puts everything back, to the bit.

        `fit` after `lr_find` gives the same weights as `fit` without it, also where the sweep is interrupted. It sweeps
        with the momentum that `fit_one_cycle` has at its peak, over the ratios of the layer groups' rates in
        `learn.lr`. The result's `recommended`, with its `interval` and `reason`, is the rate to take.

        Args:
            start_lr, end_lr: the range.
            num_it: updates to sweep it in.
            stop_div: stop where the smoothed loss exceeds `stop_factor` times its best. NaN always stops.
            show_plot: draw the sweep (a notebook shows it).
            suggest_funcs: `minimum`, `steep`, `slide`, `valley` or functions like them; the result unpacks into their
                suggestions in this order.
            epochs: sweep over so many whole epochs instead of `num_it` updates.
            sample_steps: sweep over `ceil(sample_steps / updates per epoch)` whole epochs.
            step_mode: "exp" or "linear".
            smoothing: of the loss: the weight of what was before, in [0, 1).
            skip_start, skip_end: points that suggestions and plot leave out; `skip_start=None` is a tenth of `num_it`.
        """
        settings = SweepSettings(
            start_lr, end_lr, num_it, step_mode, smoothing, stop_factor if stop_div else None, skip_start, skip_end,
            epochs, sample_steps,
        )  # fmt: skip
        sweep = self._sweep(settings, suggest_funcs=suggest_funcs, momentum=self.moms[1])
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
    ) -> RunRecord:
        """Trains the last layer group alone, then everything at discriminative rates, as fastai does.

        First `freeze_epochs` epochs of one cycle with all but the last group frozen, rising nearly all the way to
        `base_lr`; then `epochs` of one cycle with everything free, at half that rate for the last group down to its
        `lr_mult`-th part for the first. Both stand in the recorder; the second is returned. With `base_lr` "auto" each
        of the two phases takes what a sweep finds for it.

        Source: Howard and Ruder, "Universal Language Model Fine-tuning", 2018; constants and phases are fastai's.
        """
        check_count(epochs, "epochs")
        check_count(freeze_epochs, "freeze_epochs")
        momentum = (moms or self.moms)[1]
        cycle: dict[str, Any] = {"div_final": div_final, "wd": wd, "moms": moms, "cbs": cbs}
        self.freeze()
        head: Rate = "auto" if base_lr == "auto" else slice(base_lr)
        head = self._settled(head, freeze_epochs, ratios=slice(1.0), momentum=momentum)
        self.fit_one_cycle(freeze_epochs, head, pct_start=0.99, **cycle)
        self.unfreeze()
        whole: Rate = "auto" if base_lr == "auto" else slice(base_lr / 2 / lr_mult, base_lr / 2)
        whole = self._settled(whole, epochs, ratios=slice(1 / lr_mult, 1.0), momentum=momentum)
        return self.fit_one_cycle(epochs, whole, div=div, pct_start=pct_start, **cycle)

    def freeze(self) -> None:
        """Lets only the last layer group learn (and norm layers, with `train_bn`)."""
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Lets every layer group learn."""
        self.freeze_to(0)

    def freeze_to(self, n: int) -> None:
        """Lets the layer groups from number `n` on learn; negative numbers count from the end.

        The optimizer's state is forgotten.
        """
        freeze_to(self.model, n, splitter=self.splitter, train_bn=self.train_bn)
        self.optimizer = None

    # Asking

    def validate(self, ds_idx: int = 1, dl: Any = None) -> list[float]:
        """Returns the loss and the metrics over a set: the validation set by default, 0 for the training set.

        Items come in the data set's order, none dropped or augmented. Recorder and random generators stand as before.
        """
        run = self._run(None)
        taking_part = [callback for callback in self.cbs if callback.part_of_step]
        callbacks = [*taking_part, Evaluate(self.metrics), Progress(bar=self._bar, table=False)]
        with self.dls.unmoved():
            Loop(run, callbacks, valid=self._loader(ds_idx, dl)).validate()
        return [run.metrics.get(name, math.nan) for name in ("valid_loss", *self.metrics)]

    def predict_batches(
        self, ds_idx: int = 1, dl: Any = None, *, with_loss: bool = True, act: Callable[[Any], Any] | None = None
    ) -> Iterator[BatchPrediction]:
        """Yields the predictions of one batch after another, in the data set's order; nothing is kept."""
        target = self.dls.target
        activate = act if act is not None else target.activate if target is not None else None
        step = make_step(self.model, self.loss_func, precision=self.precision)
        watch = partial(watched, what="predicting") if self._bar else iter
        return predict_batches(step, self._loader(ds_idx, dl), activate=activate, with_loss=with_loss, watch=watch)

    def items(self, ds_idx: int, dl: Any, indices: Sequence[int]) -> list[Tensor]:
        """Returns inputs at these positions of a set, in the data set's order, as they are to be shown."""
        x, _ = self._loader(ds_idx, dl).items(indices)
        return list(x)

    def get_preds(
        self,
        ds_idx: int = 1,
        dl: Any = None,
        with_input: bool = False,
        with_decoded: bool = False,
        with_loss: bool = False,
        act: Callable[[Any], Any] | None = None,
    ) -> Predictions:
        """Returns predictions, activated, and targets of a whole set, on the CPU, in the data set's order.

        Args:
            ds_idx: 1 for the validation set, 0 for the training set (in order, without augmentation).
            dl: another loader instead, such as `learn.dls.test_dl(items)`.
            with_input, with_decoded, with_loss: also keep the inputs, the decoded predictions, the loss of each item.
            act: what activates the model's outputs; by default what belongs to the kind of target, such as softmax.

        Returns:
            A `Predictions`, which unpacks to `(preds, targets)`; the rest are its fields.
        """
        batches = self.predict_batches(ds_idx, dl, with_loss=with_loss, act=act)
        decode = None if self.dls.target is None else self.dls.target.decode
        return Predictions.from_batches(
            batches, with_input=with_input, with_decoded=with_decoded, with_loss=with_loss, decode=decode
        )

    def predict(self, item: Any) -> Prediction:
        """Returns `(label, index, probabilities)` of one item: an array or tensor such as the data set's items.

        Leaves the training state alone.
        """
        x = torch.as_tensor(item)[None]
        with self.no_bar():
            preds, _ = self.get_preds(dl=self.dls.test_dl(x))
        target = self.dls.target
        index = preds[0] if target is None else target.decode(preds)[0]
        return Prediction(index if target is None else target.label(index), index, preds[0])

    def summary(self) -> ModelSummary:
        """Returns a table of the model's layers, output shapes and weights, and how it is trained."""
        x, _ = self.dls.one_batch()
        settings = self._run(self._optimizer()).settings(self.cbs)
        return replace(summarize(self.model, x), notes=tuple(f"{name}: {value}" for name, value in settings.items()))

    # Showing

    @contextmanager
    def no_bar(self) -> Iterator[None]:
        """Shows no progress bar inside; the table of epochs stays."""
        with self._showing(bar=False, table=self._table):
            yield

    @contextmanager
    def no_logging(self) -> Iterator[None]:
        """Shows and prints nothing inside."""
        with self._showing(bar=False, table=False):
            yield

    @contextmanager
    def _showing(self, *, bar: bool, table: bool) -> Iterator[None]:
        before = self._bar, self._table
        self._bar, self._table = bar, table
        try:
            yield
        finally:
            self._bar, self._table = before

    def add_cb(self, cb: Callback | Iterable[Callback]) -> None:
        """Adds one or several callbacks to every run from now on."""
        self.cbs += as_callbacks(cb)

    def remove_cb(self, cb: Callback | type[Callback] | Iterable[Callback | type[Callback]]) -> None:
        """Removes callbacks, each by itself or by its class.

        Raises:
            ValueError: there is none such.
        """
        for unwanted in cb if isinstance(cb, Iterable) else [cb]:
            kept = [c for c in self.cbs if c is not unwanted and type(c) is not unwanted]
            if len(kept) == len(self.cbs):
                raise ValueError(f"the learner has no callback {unwanted!r}. It has: {self.cbs}.")
            self.cbs = kept

    add_cbs, remove_cbs = add_cb, remove_cb

    # Gathering parts

    def _fit(self, kind: str, n_epoch: int, lr: Rate | None, wd: float | None, cbs: list[Callback]) -> RunRecord:
        check_count(n_epoch, "n_epoch")
        optimizer = self._optimizer()
        lr = self._settled(lr, n_epoch)
        rates = spread(lr, self._n_layer_groups())
        callbacks = [*self.cbs, *cbs]
        sweep = settle_bounds(callbacks, lambda: self._sweep(SweepSettings()), told=self._table)
        sweep = sweep or getattr(lr, "sweep", None)
        run = self._run(optimizer)
        run.n_epochs = n_epoch
        self._check_data(run.step)
        with hyperparameters_restored(optimizer):
            set_rates(optimizer, rates)
            if wd is not None:
                set_weight_decay(optimizer, self.model, wd, wd_bn_bias=self.wd_bn_bias)
            found = {} if sweep is None else {"found": sweep.summary()}
            run.record = self.recorder.start_run(kind, n_epoch=n_epoch, **run.settings(callbacks), **found)
            run.record.sweep = sweep
            recording = Record(deepcopy(self.metrics) if self.recorder.train_metrics else {})
            shown = Progress(bar=self._bar, table=self._table)
            callbacks += [Evaluate(self.metrics), recording, shown]
            try:
                Loop(run, callbacks, train=self.dls.train, valid=self.dls.valid).fit()
            finally:
                self.recorder.drop_empty()
        return run.record

    def _settled(
        self, lr: Rate | None, n_epoch: int, *, ratios: Rate | None = None, momentum: float | None = None
    ) -> Rate:
        """Returns the rate of a run, `learn.lr` by default; where it is "auto", what a sweep finds for it."""
        lr = self.lr if lr is None else lr
        if lr != "auto":
            return lr
        check_count(n_epoch, "n_epoch")
        by_last = ratios_of(self.lr if ratios is None else ratios, self._n_layer_groups())
        sweep = self._sweep(SweepSettings(), ratios=by_last, momentum=momentum)
        otherwise = 1e-3 if self.lr == "auto" else spread(self.lr, self._n_layer_groups())[-1]
        return found_rates(sweep, by_last, otherwise=otherwise, told=self._table)

    def _sweep(
        self,
        settings: SweepSettings,
        *,
        ratios: Sequence[float] | None = None,
        momentum: float | None = None,
        suggest_funcs: Callable[..., Any] | Sequence[Callable[..., Any]] | None = (),
    ) -> LRSweep:
        run = self._run(self._optimizer())
        self._check_data(run.step)
        return find_rates(
            run,
            settings,
            train=self.dls.train,
            ratios=ratios_of(self.lr, self._n_layer_groups()) if ratios is None else ratios,
            momentum=momentum if momentum_key(run.optimizer.param_groups[0]) else None,
            callbacks=self.cbs,
            shown_by=Progress(bar=self._bar, table=False),
            suggest_funcs=suggest_funcs,
        )

    def _run(self, optimizer: Optimizer | None) -> Run:
        step = make_step(self.model, self.loss_func, optimizer, precision=self.precision)
        target = self.dls.target
        return Run(step, self.dls, recorder=self.recorder, activate=target.activate if target is not None else None)

    def _optimizer(self) -> Optimizer:
        """Returns the optimizer with its state, or a new one where the model has got other parameters since."""
        held = [] if self.optimizer is None else [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.optimizer is None or {id(p) for p in held} != {id(p) for p in self.model.parameters()}:
            lr = 1e-3 if self.lr == "auto" else self.lr
            self.optimizer = build_optimizer(
                self.model, self.opt_func, lr, splitter=self.splitter, wd=self.wd, wd_bn_bias=self.wd_bn_bias
            )
        return self.optimizer

    def _n_layer_groups(self) -> int:
        return len({group.get("layer_group", 0) for group in self._optimizer().param_groups})

    def _loader(self, ds_idx: int, dl: Any) -> Any:
        dls = self.dls if dl is None else DataLoaders(dl, bs=self.dls.bs, device=self.device)
        return dls.in_order(ds_idx if dl is None else 0)

    def _check_data(self, step: TrainStep) -> None:
        """Once for each model, loss and data set."""
        parts = [*self.model.parameters(), self.loss_func, self.dls]
        if [id(part) for part in self._checked] != [id(part) for part in parts]:
            check_data(step, self.dls)
            self._checked = parts
