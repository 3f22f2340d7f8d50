"""`LearnerRuns`: what one call of a learner works with: a step, a run, the context of a fit, a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from typing_extensions import TypeVar

from minilearner.callbacks.bn_freeze import BnFreeze
from minilearner.data.turns import take_turn
from minilearner.fitting.context import FitContext
from minilearner.learner_callbacks import LearnerCallbacks
from minilearner.threads import refuse_if_trained_elsewhere
from minilearner.training.callback import Callback, Callbacks, is_fastai_style
from minilearner.training.compiler import Compiler
from minilearner.training.fastai_style import may_change_batches
from minilearner.training.precompute import Features
from minilearner.training.predictor import Predictor
from minilearner.training.preflight import Preflight
from minilearner.training.run import Run
from minilearner.training.step import Step, make_step

__all__ = ["LearnerRuns"]

_Label = TypeVar("_Label", default=Any)


class LearnerRuns(LearnerCallbacks[_Label]):
    """Makes what one call of a learner works with."""

    seed: int | None
    _compiler: Compiler | None
    _preflight: Preflight
    _features: Features

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
