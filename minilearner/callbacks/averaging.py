"""`EMA` and `SWA`: average a model's weights during a run, validate with the averages, and end with them.

Both keep the averages and swap them into the model. The updates themselves are made by `training.step`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from minilearner import processes
from minilearner.checks import check_count, check_fraction
from minilearner.data.loader_state import restore_loaders
from minilearner.models.tensors import copy_extra_state, load_extra_state
from minilearner.runtime import isolate_rng
from minilearner.training.callback import Callback
from minilearner.training.run import Moment, Run
from minilearner.tree import n_items

__all__ = ["EMA", "SWA"]


class _Averaging(Callback):
    """Keeps the averages, and lends them to the model for validation. Subclasses decide when and how to average.

    Attributes:
        averages: averaged parameters and buffers, named as in the model's `state_dict`; empty until the first one.
        n_averaged: how many states of the model the averages contain.
    """

    follows_weights = True
    ignored_arguments = ()
    order = 90  # after `SaveBest`, which must copy the averages before they leave the model

    def __init__(self, *, start: float, at_end: bool):
        check_fraction(start, "start", closed="left")
        self.start = start
        self.at_end = at_end
        self.averages: dict[str, Tensor] = {}
        self.n_averaged = 0
        self._n_seen = 0
        self._places: list[tuple[dict[str, Any], str]] = []
        self._is_averaged: list[bool] = []
        self._own: list[Tensor] | None = None

    def weight_of_newest(self) -> float:
        """Returns the next state's weight in the averages, in (0, 1], when they already contain `n_averaged` states."""
        raise NotImplementedError

    def is_averaged(self, live: Tensor) -> bool:
        """Returns whether to average a tensor of the model; others are copied. Called once, when a run begins."""
        raise NotImplementedError

    def complete(self, run: Run) -> None:
        """Recomputes what cannot be averaged. Called after the averages were put into the model."""

    def before_fit(self, run: Run) -> None:
        if other := run.driven.get("averaged weights"):
            raise ValueError(f"both {other} and {self!r} average the weights. Give one of them.")
        run.driven["averaged weights"] = repr(self)
        self._places = _find_tensors(run.model)
        self._is_averaged = [self.is_averaged(t) for t in self._live()]
        self.averages, self.n_averaged, self._own = {}, 0, None
        self._n_seen = run.global_step

    def before_validate(self, run: Run) -> None:
        self.catch_up(run)
        self._lend(run)

    def after_validate(self, run: Run) -> None:
        self._take_back()

    def after_epoch(self, run: Run) -> None:
        self._take_back()  # if the epoch was cancelled in its validation
        if run.epoch + 1 == run.n_epochs:
            self._end(run)

    def after_cancel_fit(self, run: Run) -> None:
        self._take_back()
        self._end(run)

    def after_fit(self, run: Run) -> None:
        if run.interrupted:
            self._take_back()
        self._own = None

    @contextmanager
    def undo_end(self, run: Run) -> Iterator[None]:
        """Gives the model its own weights inside the context."""
        own = self._own
        if own is None:
            yield
            return
        averages = [t.detach().clone() for t in self._live()]
        _copy(self._live(), own)
        try:
            yield
        finally:
            _copy(self._live(), averages)

    def catch_up(self, run: Run) -> None:
        """Adds the model's state to the averages if that is due and not yet done."""

    def add(self, run: Run) -> None:
        """Adds the model's state to the averages."""
        live = self._live()
        if not self.n_averaged:
            names = {id(t): name for name, t in (*run.model.named_parameters(), *run.model.named_buffers())}
            self.averages = {names[id(t)]: t.detach().clone() for t in live}
        averages, averaged = list(self.averages.values()), self._is_averaged
        with torch.no_grad():
            newest, weight = _local_parts(compress(live, averaged)), self.weight_of_newest()
            torch._foreach_lerp_(_local_parts(compress(averages, averaged)), newest, weight)
        if not all(averaged):
            copied = [not each for each in averaged]
            _copy(list(compress(averages, copied)), list(compress(live, copied)))
        self.n_averaged += 1

    def _live(self) -> list[Tensor]:
        """Returns the model's tensors as they are now: a forward pass may replace a buffer."""
        return [store[name] for store, name in self._places]

    def _lend(self, run: Run) -> None:
        if self.n_averaged and self._own is None:
            live = self._live()
            self._own = [t.detach().clone() for t in live]
            _copy(live, list(self.averages.values()))
            self.complete(run)

    def _take_back(self) -> None:
        if self._own is not None:
            _copy(self._live(), self._own)
            self._own = None

    def _end(self, run: Run) -> None:
        """Leaves the averages in the model. Its own weights are kept until the run has ended without an error."""
        if self.at_end:
            self.catch_up(run)
            self._lend(run)

    def state_dict(self) -> dict[str, Any]:
        """Returns the averages and the counters."""
        return {"averages": dict(self.averages), "n_averaged": self.n_averaged, "n_seen": self._n_seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the averages and the counters. In a run, the averages go to the model's device."""
        self._check(state)
        self.n_averaged, self._n_seen = state["n_averaged"], state["n_seen"]
        self.averages = {name: average.clone() for name, average in state["averages"].items()}
        if self.averages and self._places:
            pairs = zip(self.averages.items(), self._live(), strict=True)
            self.averages = {
                name: torch.empty_like(t).copy_(processes.distribute_like(average, t)) for (name, average), t in pairs
            }

    def _check(self, state: Mapping[str, Any]) -> None:
        for name in ("n_averaged", "n_seen"):
            if type(state[name]) is not int or state[name] < 0:
                raise ValueError(f"{name} must be an integer of at least 0. Saved: {state[name]!r:.40}.")
        if state["averages"] and self._places:
            odd = [
                name
                for (name, average), t in zip(state["averages"].items(), self._live(), strict=True)
                if average.shape != t.shape
            ]
            if odd:
                raise ValueError(f"the saved average of {odd[0]!r:.80} does not have the tensor's shape.")


class EMA(_Averaging):
    """Keeps an exponential moving average of the weights: ``average = decay * average + (1 - decay) * weights``.

    The average starts with the weights after the first optimizer update, and moves after each further one. Buffers,
    such as the statistics of batch norm, are averaged too; integers, and masks with infinities, are copied. Validation
    and `SaveBest` see the averages, and the model holds them at the end. If the run is interrupted, the model keeps its
    own weights. The result equals torch's `AveragedModel(multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)`,
    without a second model.

    The average remembers about 1 / (1 - decay) snapshots. If the run is not many times longer, the average lags far
    behind: lower `decay`, or pass ``debias=True``.

    Args:
        decay: in (0, 1).
        every_steps: number of optimizer updates between two averaged snapshots.
        start: fraction of the run to skip before the first snapshot, in [0, 1).
        debias: weight each snapshot by its age alone. Otherwise the first of n + 1 snapshots has a weight of decay^n,
            which is large if n is small.
        at_end: whether the model ends with the averages. If False, it keeps its own weights; load the averages with
            ``model.load_state_dict(ema.averages, strict=False)``.

    Raises:
        ValueError: an argument is out of range. When a run begins: another callback averages the weights too.
    """

    def __init__(
        self,
        decay: float = 0.999,
        every_steps: int = 1,
        *,
        start: float = 0.0,
        debias: bool = False,
        at_end: bool = True,
    ):
        super().__init__(start=start, at_end=at_end)
        check_fraction(decay, "decay", closed="neither")
        check_count(every_steps, "every_steps")
        self.decay, self.every_steps, self.debias = decay, every_steps, debias

    def after_step(self, run: Run) -> None:
        self.catch_up(run)

    def catch_up(self, run: Run) -> None:
        if run.global_step == self._n_seen:  # no update was made: the step was cancelled or skipped
            return
        self._n_seen = run.global_step
        if run.global_step % self.every_steps == 0 and run.progress > self.start:
            self.add(run)

    def plan_at(self, moment: Moment) -> dict[str, bool]:
        """Returns whether an update may be averaged."""
        return {"averaging": moment.progress_after > self.start} if self.start else {}

    def weight_of_newest(self) -> float:
        weight = 1 - self.decay
        return weight / (1 - self.decay ** (self.n_averaged + 1)) if self.debias else weight

    def is_averaged(self, live: Tensor) -> bool:
        if isinstance(live, nn.Parameter):
            return _has_fractions(live)
        # Averaging a mask would compute -inf - -inf, which is NaN.
        return _has_fractions(live) and bool(live.isfinite().all())

    def __repr__(self) -> str:
        return f"EMA(decay={self.decay}, every_steps={self.every_steps})"


class SWA(_Averaging):
    """Averages the weights at the end of each of the last epochs: stochastic weight averaging.

    From `start` on, the last weights of each epoch count equally. The statistics of batch norm cannot be averaged, so a
    forward pass over the training data recomputes them before the averages are used: once per epoch from `start` on,
    and never for models without batch norm. That pass leaves no trace on loaders and random generators. Validation and
    `SaveBest` see the averages, and the model holds them at the end. If the run is interrupted, the model keeps its own
    weights. The result equals torch's `AveragedModel` with `update_bn`.

    Use a learning rate that stays fairly high to the end (`fit`, `CyclicLR`). If the rate falls to almost zero, the
    weights hardly differ, and there is little to average.

    Args:
        start: fraction of the run to skip before the first epoch that counts, in [0, 1).
        at_end: whether the model ends with the averages. If False, it keeps its own weights; the averages are in
            `averages`.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018.

    Raises:
        ValueError: `start` is outside [0, 1). When a run begins: another callback averages the weights too.
    """

    def __init__(self, start: float = 0.75, *, at_end: bool = True):
        super().__init__(start=start, at_end=at_end)
        self._training: dict[nn.Module, bool] = {}
        self._is_complete = False

    def before_train(self, run: Run) -> None:
        self._training = {module: module.training for module in run.model.modules()}

    def after_train(self, run: Run) -> None:
        if (run.epoch + 1) / run.n_epochs > self.start:
            self.add(run)
            self._is_complete = False

    def plan_at(self, moment: Moment) -> dict[str, bool]:
        """Returns whether the epoch is averaged."""
        return {"averaging": (moment.epoch + 1) / moment.n_epochs > self.start}

    def weight_of_newest(self) -> float:
        return 1 / (self.n_averaged + 1)

    def is_averaged(self, live: Tensor) -> bool:
        return isinstance(live, nn.Parameter) and _has_fractions(live)

    def complete(self, run: Run) -> None:
        if self._is_complete:
            return
        _refresh_batch_norm(run, self._training)
        buffers = {name for name, _ in run.model.named_buffers()}
        for (name, average), t in zip(self.averages.items(), self._live(), strict=True):
            if name in buffers:
                average.copy_(t)
        self._is_complete = True

    def state_dict(self) -> dict[str, Any]:
        """Returns the averages, the counters, and whether batch norm's statistics match the averages."""
        return {**super().state_dict(), "is_complete": self._is_complete}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores all of these."""
        super().load_state_dict(state)
        self._is_complete = state["is_complete"]

    def __repr__(self) -> str:
        return f"SWA(start={self.start})"


def _refresh_batch_norm(run: Run, training: Mapping[nn.Module, bool]) -> None:
    """Recomputes the statistics of batch norm over the training data, only for layers that train.

    Args:
        run: the run, whose model holds the averages.
        training: the flag `training` that each module has in the training pass.
    """
    flags = {module: module.training for module in run.model.modules()}
    norms = [m for m in flags if isinstance(m, _BatchNorm) and m.track_running_stats and training.get(m, True)]
    momenta = [norm.momentum for norm in norms]
    if not norms:
        return
    try:
        for module in flags:
            module.training = training.get(module, True)
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # makes them the plain mean over all batches
        extra = copy_extra_state(run.model)
        with restore_loaders(run.dls.train), isolate_rng(), torch.no_grad():
            for x, _ in run.dls.train:
                if n_items(x):  # with several processes, one may get no items of the last batch
                    run.step.predict(x)
        if run.step.n_processes > 1:  # average over the processes' shares of the batches
            processes.average(t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None)
        load_extra_state(run.model, extra)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, flag in flags.items():
            module.training = flag


def _has_fractions(t: Tensor) -> bool:
    return t.is_floating_point() or t.is_complex()


def _find_tensors(model: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Returns where the model keeps its parameters and buffers, each tensor once, as (store, name)."""
    stores = [store for module in model.modules() for store in (module._parameters, module._buffers)]
    found = {id(t): (store, name) for store in stores for name, t in store.items() if t is not None}
    return list(found.values())


def _copy(to: list[Tensor], source: list[Tensor]) -> None:
    if to:
        with torch.no_grad():
            torch._foreach_copy_(_local_parts(to), _local_parts(source))


def _local_parts(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Returns the part of each tensor that this process holds: all of it, unless `fully_shard` has split it."""
    return [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
