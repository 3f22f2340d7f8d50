"""`LearnerTraining`: the calls that change the weights, and those that prepare them.

Each method gathers its parts and calls one function of `fitting`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal
from weakref import ref

import numpy as np
from typing_extensions import TypeVar

from minilearner.callbacks.checkpoint import Checkpointing, as_checkpoint
from minilearner.callbacks.loggers import Loggers, as_loggers
from minilearner.checks import is_auto
from minilearner.fitting import plans
from minilearner.fitting.auto_precompute import saves_work
from minilearner.fitting.fit import fit, undo_on_early_error
from minilearner.fitting.rates import sweep_rates
from minilearner.keywords import suggest_keywords
from minilearner.learner_runs import LearnerRuns
from minilearner.lr_finder.result import LRSweep
from minilearner.lr_finder.suggestions import valley
from minilearner.lr_finder.sweep import SweepSettings
from minilearner.models.groups import freeze_to, layer_groups
from minilearner.results.run_record import RunRecord
from minilearner.threads import hold, train
from minilearner.training import optimizers
from minilearner.training.callback import Callback, Callbacks, as_callbacks
from minilearner.training.optimizers import Rate
from minilearner.training.run import Phase

__all__ = ["LearnerTraining"]

_Label = TypeVar("_Label", default=Any)


@suggest_keywords
class LearnerTraining(LearnerRuns[_Label]):
    """Trains the model of a `Learner`, finds its rate, and freezes a part of it."""

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
        extend: bool = False,
        loggers: Loggers = None,
    ) -> RunRecord:
        """Trains at a constant rate, or as callbacks schedule it. Returns the record, also in `learn.recorder`.

        Every `fit...` takes all of these, but `fit_sgdr` has no `extend`. Wrong arguments and unfit data raise before
        training starts.

        Args:
            n_epoch: passes over the training data.
            lr: the rate; `learn.lr` by default. "auto" sweeps, prints the rate that it found, and trains with it.
            wd: weight decay for this run only.
            cbs: further callbacks for this run only.
            reset_opt: make the optimizer anew, without the state of the last run.
            start_epoch: the number of the first epoch, from 0. Schedules begin there, as if the ones before were over.
            checkpoint: a folder or a `Checkpoint`, where the run saves itself. If it is interrupted, run the same
                script again: it resumes at the batch where it was.
            extend: if the folder of `checkpoint` holds this run with fewer epochs, go on with it. It ends with the bits
                of a run that had all epochs from the start. Rates that depend on the number of epochs, as those of one
                cycle do, do not allow it; see `Checkpoint`.
            loggers: further loggers for this run only; see `Learner`.
        """
        plans.check_fit(n_epoch, wd, start_epoch=start_epoch, lr=lr)
        rest: dict[str, Any] = {"reset_opt": reset_opt, "start_epoch": start_epoch, "loggers": loggers}
        return self._fit("fit", n_epoch, lr, wd=wd, cbs=cbs, checkpoint=checkpoint, extend=extend, **rest)

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
        extend: bool = False,
        loggers: Loggers = None,
    ) -> RunRecord:
        """Trains with one cycle: the rate rises along a cosine to `lr_max`, then falls to almost nothing.

        Source: Smith and Topin, "Super-Convergence", 2018. The shape and the defaults are fastai's.

        Args:
            n_epoch, wd, cbs, reset_opt, start_epoch, checkpoint, extend, loggers: as in `fit`.
            lr_max: the rate at the peak; `learn.lr` by default.
            div: the rate starts at `lr_max / div`.
            div_final: the rate ends at `lr_max / div_final`.
            pct_start: the fraction of updates in which the rate rises, in [0, 1].
            moms: momentum at the start, the peak and the end, if the optimizer has one; `learn.moms` by default.
        """
        how: dict[str, Any] = {"div": div, "div_final": div_final, "pct_start": pct_start, "moms": moms}
        plans.check_fit(n_epoch, wd, partial(plans.one_cycle_scheduler, **how), start_epoch=start_epoch, lr_max=lr_max)
        rest: dict[str, Any] = {"reset_opt": reset_opt, "start_epoch": start_epoch, "loggers": loggers}
        return self._fit_one_cycle(n_epoch, lr_max, how, wd=wd, cbs=cbs, checkpoint=checkpoint, extend=extend, **rest)

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
        extend: bool = False,
        loggers: Loggers = None,
    ) -> RunRecord:
        """Trains at a constant rate, then lets it fall along a cosine.

        Args:
            n_epoch, lr, wd, cbs, reset_opt, start_epoch, checkpoint, extend, loggers: as in `fit`.
            div_final: the rate ends at `lr / div_final`.
            pct_start: the fraction of updates at the constant rate, in [0, 1].
        """
        fall = partial(plans.flat_cosine_scheduler, div_final=div_final, pct_start=pct_start)
        plans.check_fit(n_epoch, wd, fall, start_epoch=start_epoch, lr=lr)
        rest: dict[str, Any] = {"reset_opt": reset_opt, "start_epoch": start_epoch, "loggers": loggers}
        return self._fit(
            "fit_flat_cos", n_epoch, lr, fall, wd=wd, cbs=cbs, checkpoint=checkpoint, extend=extend, **rest
        )

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
            end_lr: the end of the range; as in fastai, the last rate is one step below.
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
            skip_start: points at the start that suggestions leave out. None is a tenth of `num_it`. The plot has them.
            skip_end: points at the end that suggestions leave out, and the plot if it names no rate there.
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
        extend: bool = False,
        loggers: Loggers = None,
        precompute: bool | Literal["auto"] = "auto",
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
            base_lr: the rate of the first phase. "auto" finds it by a sweep, and sweeps again before a second phase of
                at least 192 updates. A shorter one takes half of the first rate: a sweep would cost too much.
            freeze_epochs: epochs of the first phase. With 0 there is none.
            lr_mult: the last group's rate divided by the first group's, in the second phase.
            pct_start, div: shape of the second cycle; see `fit_one_cycle`.
            div_final: both cycles end at their peak rate divided by this.
            wd, cbs, checkpoint, extend, loggers: as in `fit`, for both phases.
            moms: as in `fit_one_cycle`, for both phases.
            reset_opt: has no effect here, since each phase makes the optimizer anew.
            start_epoch: the number of the first epoch, from 0, in each phase. A phase of no more epochs is left out.
            precompute: send each image through the frozen body only once in the first phase; see `precompute`. "auto"
                does so, and says so, if that saves work and cannot change the result: with `train_bn=False`, two frozen
                epochs or more, no augmentation, random crop or function as a transform, no `checkpoint`, and no
                callbacks other than trackers and loggers.
        """
        head, whole = plans.fine_tune_rates(epochs, freeze_epochs, base_lr, lr_mult)
        shape: dict[str, Any] = {"div": div, "div_final": div_final, "pct_start": pct_start, "moms": moms}
        plans.check_fit(epochs, wd, partial(plans.one_cycle_scheduler, **shape), start_epoch=start_epoch)
        first, second = (as_checkpoint(checkpoint, phase=phase, extend=extend) for phase in ("1-frozen", "2-unfrozen"))
        how = {"div_final": div_final, "moms": moms}
        logging = as_loggers(loggers, self._named_loggers)
        fit_phase = partial(self._fit_one_cycle, wd=wd, cbs=cbs, loggers=logging, start_epoch=start_epoch)
        n_epochs, frozen_rate = freeze_epochs + epochs, None
        if not (isinstance(precompute, bool) or is_auto(precompute)):
            raise ValueError(f'`precompute` must be True, False or "auto". Received: precompute={precompute!r}.')
        if precompute is True and start_epoch >= freeze_epochs:
            raise ValueError(
                "`precompute` serves the first phase, so it needs `freeze_epochs` above `start_epoch`. "
                f"Received: freeze_epochs={freeze_epochs}, start_epoch={start_epoch}."
            )
        if start_epoch < freeze_epochs:
            with undo_on_early_error(self):
                is_frozen = self._freeze_body()
                phase = Phase(f"fine_tune, {'frozen' if is_frozen else 'nothing frozen'}", 0, n_epochs)
                if is_auto(precompute):
                    seen = [*as_callbacks(cbs), *logging]
                    precompute = first is None and self._precomputes_safely(seen, freeze_epochs - start_epoch)
                with self.precompute() if precompute else nullcontext():
                    short = {**how, "div": 25.0, "pct_start": 0.99}
                    record = fit_phase(freeze_epochs, head, short, ratios=slice(1.0), checkpoint=first, phase=phase)
                    frozen_rate = float(np.ravel(record.settings["lr"])[-1])
        self.unfreeze()
        phase = Phase("fine_tune, unfrozen", freeze_epochs, n_epochs)
        how |= {"div": div, "pct_start": pct_start}
        rates: dict[str, Any] = {"ratios": slice(1 / lr_mult, 1.0), "frozen_rate": frozen_rate}
        return fit_phase(epochs, whole, how, **rates, checkpoint=second, phase=phase)

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

    def _precomputes_safely(self, cbs: Sequence[Callback], n_epochs: int) -> bool:
        """Returns whether `precompute` saves work in a run of the frozen model, with the same result, and says so."""
        if n_epochs < 2:
            return False
        context = self._context(cbs)
        is_safe = saves_work(context.new_run(), context.callbacks, n_epochs)
        if is_safe:
            self._output.say(
                f"fine_tune sends each item through the frozen layers once for {n_epochs} epochs, because nothing "
                "changes the items. With precompute=False, each epoch does so."
            )
        return is_safe

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
        extend: bool = False,
        reset_opt: bool = False,
        **options: Any,
    ) -> RunRecord:
        saving = as_checkpoint(checkpoint, extend=extend)
        logging = [one for one in as_loggers(loggers, self._named_loggers) if one not in self.cbs]
        with train(self.model, [self.dls.train]):
            context = self._context([*as_callbacks(cbs), *logging], wd, reset_opt=reset_opt)
            self._has_learnt = True
            record = fit(context, kind, n_epoch, lr, plan, saving, **options)
            self._trained = ref(context.optimizer), record.hypers
        return record
