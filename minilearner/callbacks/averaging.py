"""Average the weights over the updates, validate with the averages, and end with them: EMA and SWA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from minilearner import processes
from minilearner.checks import check_count
from minilearner.data.loader_state import restore_loaders
from minilearner.runtime import isolated_rng
from minilearner.training.callback import Callback
from minilearner.training.run import Run
from minilearner.tree import n_items

__all__ = ["EMA", "SWA"]


class _Averaging(Callback):
    """Keeps the averages, and lends them to the model while it is validated.

    Attributes:
        averages: parameters and buffers by name, as in the model's `state_dict`; empty before the first.
        n_averaged: how many states of the model went into them.
    """

    follows_weights = True
    order = 90  # `SaveBest` keeps the weights that were validated, so it must come before they are taken out again

    def __init__(self, *, start: float, at_end: bool):
        if not 0 <= start < 1:
            raise ValueError(f"`start` must be in [0, 1). Received: start={start}.")
        self.start = start
        self.at_end = at_end
        self.averages: dict[str, Tensor] = {}
        self.n_averaged = 0
        self._n_seen = 0
        self._places: list[tuple[dict[str, Any], str]] = []
        self._is_averaged: list[bool] = []
        self._own: list[Tensor] | None = None

    def weight_of_newest(self) -> float:
        """Returns what a state of the model counts in the averages, in (0, 1], when `n_averaged` are in them."""
        raise NotImplementedError

    def is_averaged(self, live: Tensor) -> bool:
        """Whether a tensor of the model is averaged; others are copied. Asked once, when a run begins."""
        raise NotImplementedError

    def complete(self, run: Run) -> None:
        """The model has just got the averages: puts right what cannot be averaged."""

    def before_fit(self, run: Run) -> None:
        if other := run.driven.get("averaged weights"):
            raise ValueError(f"both {other} and {self!r} average the weights. Give one of them.")
        run.driven["averaged weights"] = repr(self)
        self._places = _places(run.model)
        self._is_averaged = [self.is_averaged(t) for t in self._live()]
        self.averages, self.n_averaged, self._own = {}, 0, None
        self._n_seen = run.global_step

    def before_validate(self, run: Run) -> None:
        self.catch_up(run)
        self._lend(run)

    def after_validate(self, run: Run) -> None:
        self._take_back()

    def after_epoch(self, run: Run) -> None:
        self._take_back()  # the validation may have been cancelled with its epoch
        if run.epoch + 1 == run.n_epochs:
            self._end(run)

    def after_cancel_fit(self, run: Run) -> None:
        self._take_back()
        self._end(run)

    def after_fit(self, run: Run) -> None:
        if run.interrupted:
            self._take_back()
        self._own = None

    def catch_up(self, run: Run) -> None:
        """Takes the model's state in, where that is due and not yet done."""

    def add(self, run: Run) -> None:
        """Takes the model's state in."""
        live = self._live()
        if not self.n_averaged:
            names = {id(t): name for name, t in (*run.model.named_parameters(), *run.model.named_buffers())}
            self.averages = {names[id(t)]: t.detach().clone() for t in live}
        averages, averaged = list(self.averages.values()), self._is_averaged
        copied = [not each for each in averaged]
        with torch.no_grad():
            newest, weight = _parts(compress(live, averaged)), self.weight_of_newest()
            torch._foreach_lerp_(_parts(compress(averages, averaged)), newest, weight)
        _copy(list(compress(averages, copied)), list(compress(live, copied)))
        self.n_averaged += 1

    def _live(self) -> list[Tensor]:
        """The model's tensors as they are now: a forward pass may put another one in a buffer's place."""
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
        """Leaves the averages in the model. Its own weights stay at hand until it is sure that the run ends well."""
        if self.at_end:
            self.catch_up(run)
            self._lend(run)

    def state_dict(self) -> dict[str, Any]:
        """The averages, and what was counted."""
        return {"averages": dict(self.averages), "n_averaged": self.n_averaged, "n_seen": self._n_seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts both back, in a run the averages onto the model's device."""
        self._check(state)
        self.n_averaged, self._n_seen = state["n_averaged"], state["n_seen"]
        self.averages = {name: average.clone() for name, average in state["averages"].items()}
        if self.averages and self._places:
            pairs = zip(self.averages.items(), self._live(), strict=True)
            self.averages = {
                name: torch.empty_like(t).copy_(processes.laid_out(average, t)) for (name, average), t in pairs
            }

    def _check(self, state: Mapping[str, Any]) -> None:
        for name in ("n_averaged", "n_seen"):
            if type(state[name]) is not int or state[name] < 0:
                raise ValueError(f"{name} must be a whole number from 0. Saved: {state[name]!r:.40}.")
        if state["averages"] and self._places:
            odd = [
                name
                for (name, average), t in zip(state["averages"].items(), self._live(), strict=True)
                if average.shape != t.shape
            ]
            if odd:
                raise ValueError(f"the average of {odd[0]!r:.80} is not of its shape.")


class EMA(_Averaging):
    """Keeps an exponential moving average of the weights: ``average = decay * average + (1 - decay) * weights``.

    Taken after each optimizer update, from the weights after the first on. Buffers, such as the statistics of batch
    norm, are averaged too; whole numbers, and masks with infinities, are copied. Validation sees the averages, and so
    does `SaveBest`; at the end the model holds them. An interrupted run leaves the model with its own weights. Equals
    torch's `AveragedModel(multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)`, without a second model.

    `decay` d remembers about 1 / (1 - d) takings. Where a run is not many times that long, the average trails far
    behind: lower `decay`, or give ``debias=True``.

    Args:
        decay: in (0, 1).
        every_steps: optimizer updates between two takings.
        start: how much of the run passes before the first, in [0, 1).
        debias: the mean over all takings, weighted by how recent they are, where otherwise the first keeps a weight of
            decay^n however early it was.
        at_end: False leaves the model its own weights at the end; the averages are in `averages` and fit
            ``model.load_state_dict(ema.averages, strict=False)``.

    Raises:
        ValueError: an argument out of range; in a run, another callback averages too.
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
        if not 0 < decay < 1:
            raise ValueError(f"`decay` must be above 0 and below 1. Received: decay={decay}.")
        check_count(every_steps, "every_steps")
        self.decay, self.every_steps, self.debias = decay, every_steps, debias

    def after_step(self, run: Run) -> None:
        self.catch_up(run)

    def catch_up(self, run: Run) -> None:
        if run.global_step == self._n_seen:  # nothing was updated: the step was cancelled or skipped
            return
        self._n_seen = run.global_step
        if run.global_step % self.every_steps == 0 and run.progress > self.start:
            self.add(run)

    def weight_of_newest(self) -> float:
        weight = 1 - self.decay
        return weight / (1 - self.decay ** (self.n_averaged + 1)) if self.debias else weight

    def is_averaged(self, live: Tensor) -> bool:
        if isinstance(live, nn.Parameter):
            return _has_fractions(live)
        return _has_fractions(live) and bool(live.isfinite().all())  # a mask of -inf less itself would be NaN

    def __repr__(self) -> str:
        return f"EMA(decay={self.decay}, every_steps={self.every_steps})"


class SWA(_Averaging):
    """Averages the weights at the ends of the last epochs: stochastic weight averaging.

    From `start` on, each epoch's last weights count alike. Batch norm's statistics do not average: a forward pass over
    the training data computes them anew wherever the averages are used, once for each epoch from `start` on (models
    without batch norm are spared it). It leaves no trace on loaders and random generators. Validation sees the
    averages, and so does `SaveBest`; at the end the model holds them. An interrupted run leaves the model with its own
    weights. Equals torch's `AveragedModel` with `update_bn`.

    A rate that stays fairly high to the end (`fit`, `CyclicLR`) suits it; one that falls to nothing leaves little to
    average.

    Args:
        start: how much of the run passes before the first epoch counts, in [0, 1).
        at_end: False leaves the model its own weights at the end; the averages are in `averages`.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018.

    Raises:
        ValueError: `start` outside [0, 1); in a run, another callback averages too.
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
        """The averages, what was counted, and whether batch norm's statistics belong to them."""
        return {**super().state_dict(), "is_complete": self._is_complete}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts all of it back."""
        super().load_state_dict(state)
        self._is_complete = state["is_complete"]

    def __repr__(self) -> str:
        return f"SWA(start={self.start})"


def _refresh_batch_norm(run: Run, training: Mapping[nn.Module, bool]) -> None:
    """Computes the statistics of batch norm over the training data; of those layers only that train.

    Args:
        training: every module's flag in training.
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
            norm.momentum = None  # the mean over all batches
        with restore_loaders(run.dls.train), isolated_rng(), torch.no_grad():
            for x, _ in run.dls.train:
                if n_items(x):  # of several processes one may have nothing of the last batch
                    run.step.predict(x)
        if run.step.n_processes > 1:  # each saw its share of the batches, so the mean of their means is that over all
            processes.average(t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, flag in flags.items():
            module.training = flag


def _has_fractions(t: Tensor) -> bool:
    return t.is_floating_point() or t.is_complex()


def _places(model: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Where the model keeps its parameters and buffers, each tensor once."""
    stores = [store for module in model.modules() for store in (module._parameters, module._buffers)]
    found = {id(t): (store, name) for store in stores for name, t in store.items() if t is not None}
    return list(found.values())


def _copy(to: list[Tensor], source: list[Tensor]) -> None:
    if to:
        with torch.no_grad():
            torch._foreach_copy_(_parts(to), _parts(source))


def _parts(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What this process holds of each tensor: all of it, unless `fully_shard` has been at it."""
    return [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
