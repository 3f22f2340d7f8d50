"""Where a rate is "auto": find, tell, train. The sweep itself is `lr_finder`'s."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilearner import processes
from minilearner.callbacks.checkpoint import Checkpointing, as_checkpoint
from minilearner.callbacks.cyclic_lr import CyclicLR
from minilearner.callbacks.progress import Output
from minilearner.errors import NoSuggestion
from minilearner.lr_finder.result import LRSweep
from minilearner.lr_finder.sweep import SweepSettings, find_rates
from minilearner.training.callback import Callback
from minilearner.training.optimizers import Rate, hyperparameters_set, n_layer_groups, spread
from minilearner.training.run import Run

__all__ = ["FoundRates", "RateFinder", "found_rates", "kept_sweep", "ratios_of"]


class FoundRates(list[float]):
    """A rate for each layer group, with the sweep that it comes from."""

    def __init__(self, rates: Iterable[float], sweep: LRSweep):
        super().__init__(rates)
        self.sweep = sweep


@dataclass(frozen=True)
class RateFinder:
    """Finds what a learner's runs are to be trained with.

    Attributes:
        new_run: makes a fresh run, with an optimizer, whose data were checked.
        lr: the learner's own rate.
        callbacks: those of the learner's every run, and of this one. They take part in a sweep as in `find_rates`.
        output: whether to show the sweep, and to tell.
        wd, wd_bn_bias: the run's own weight decay, which is then the sweep's too; None leaves the optimizer's.
    """

    new_run: Callable[[], Run]
    lr: Rate
    callbacks: Sequence[Callback]
    output: Output
    wd: float | None = None
    wd_bn_bias: bool = False

    def sweep(self, settings: SweepSettings, *, ratios: Rate | None = None, **options: Any) -> LRSweep:
        """Sweeps over layer groups whose rates have the `ratios`, the learner's own by default.

        options: momentum and suggest_funcs, as in `find_rates`.
        """
        run = self.new_run()
        by_last = ratios_of(self.lr if ratios is None else ratios, n_layer_groups(run.optimizer))
        shown = self.output.progress(table=False)
        with hyperparameters_set(run.optimizer, run.model, by_last, self.wd, wd_bn_bias=self.wd_bn_bias):
            return find_rates(
                run, settings, train=run.dls.train, ratios=by_last, callbacks=self.callbacks, shown_by=shown, **options
            )

    def rates(
        self,
        lr: Rate | None,
        checkpoint: Checkpointing,
        *,
        ratios: Rate | None = None,
        momentum: float | None = None,
    ) -> list[float]:
        """Returns a rate for each layer group: those of `lr`, of the learner's where it is None, or "auto" ones.

        Found ones stand beside their sweep, which the folder of the `checkpoint` keeps for a run that is resumed.
        """
        lr = self.lr if lr is None else lr
        if isinstance(lr, FoundRates):
            return lr
        n_groups = n_layer_groups(self.new_run().optimizer)
        if lr != "auto":
            return spread(lr, n_groups)
        sweep = self._kept(checkpoint, ratios=ratios, momentum=momentum)
        by_last = ratios_of(self.lr if ratios is None else ratios, n_groups)
        return found_rates(sweep, by_last, otherwise=self.lr, told=self.output.table)

    def settled(
        self, lr: Rate | None, checkpoint: Checkpointing, *, momentum: float | None = None
    ) -> tuple[list[float], LRSweep | None]:
        """Returns `rates`, settles the bounds of cyclical ones, and gives the sweep that any of it came from, or None.

        Raises:
            NoSuggestion: as in `settle_bounds`.
        """
        rates = self.rates(lr, checkpoint, momentum=momentum)
        return rates, self.settle_bounds(checkpoint) or getattr(rates, "sweep", None)

    def settle_bounds(self, checkpoint: Checkpointing) -> LRSweep | None:
        """Gives every `CyclicLR` whose bounds are "auto" those of one sweep, and returns it; None if none was needed.

        Bounds of an earlier run stay where the sweep shows none, for the model is good by now.

        Raises:
            NoSuggestion: the sweep shows no bounds, and there are none yet.
        """
        waiting = [callback for callback in self.callbacks if isinstance(callback, CyclicLR) and callback.is_auto]
        if not waiting:
            return None
        sweep = self._kept(checkpoint)
        for callback in waiting:
            if sweep.bounds is not None:
                callback.take_bounds(*sweep.bounds)
            elif not callback.max_lr:
                raise NoSuggestion(f"the sweep shows no bounds for CyclicLR: {sweep.reason}. Give numbers.")
            if self.output.table:
                sys.stdout.write(f"{callback!r}: {sweep.reason}\n")
        return sweep

    def _kept(self, checkpoint: Checkpointing, **options: Any) -> LRSweep:
        keeper = as_checkpoint(checkpoint)
        return kept_sweep(None if keeper is None else keeper.folder, lambda: self.sweep(SweepSettings(), **options))


def found_rates(sweep: LRSweep, ratios: Sequence[float], *, otherwise: Rate, told: bool) -> FoundRates:
    """Returns what the sweep recommends for each layer group, by its ratio to the last; prints it and why, if `told`.

    A model that is good already, or does not learn yet, shows no fall and so no rate. It is trained all the same, with
    the rate `otherwise` (1e-3 where that is "auto"), or a quarter of the rate from which the loss rose where this is
    lower; and that is told.
    """
    if sweep.recommended is not None:
        lr, line = sweep.recommended, f"learning rate {sweep.recommended:.2e}: {sweep.reason}"
    else:
        default = 1e-3 if otherwise == "auto" else spread(otherwise, len(ratios))[-1]
        lr = min(default, sweep.turns.get("rise", math.inf) / 4)
        line = f"no learning rate was found, so {lr:.2e} is taken: {sweep.reason}"
    if told:
        sys.stdout.write(line + "\n")
    return FoundRates((lr * ratio for ratio in ratios), sweep)


def kept_sweep(folder: Path | None, find: Callable[[], LRSweep]) -> LRSweep:
    """Returns the sweep that stands in the folder of a run's checkpoints, so that a resumed run need not find it again.

    Where there is none, it is found, and written there if there is a folder.
    """
    if folder is None:
        return find()
    path = folder / "sweep.json"
    if not processes.agreed(path.exists()):
        sweep = find()
        folder.mkdir(parents=True, exist_ok=True)
        sweep.to_json(path)
        processes.wait()
    return LRSweep.from_json(path)


def ratios_of(lr: Rate, n_groups: int) -> list[float]:
    """Returns each layer group's rate by that of the last; 1 where that is 0 and there is no ratio, or `lr` "auto"."""
    rates = [1.0] * n_groups if lr == "auto" else spread(lr, n_groups)
    return [rate / rates[-1] if rates[-1] else 1.0 for rate in rates]
