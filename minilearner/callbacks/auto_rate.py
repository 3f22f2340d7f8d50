"""Where a rate is "auto": find, tell, train. What to find, and what to do with it; the finding is `lr_finder`'s."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from minilearner.callbacks.schedule import CyclicLR
from minilearner.errors import NoSuggestion
from minilearner.results.lr_sweep import LRSweep
from minilearner.training.callback import Callback
from minilearner.training.optimizers import spread

__all__ = ["FoundRates", "found_rates", "ratios_of", "settle_bounds"]


class FoundRates(list[float]):
    """A rate for each layer group, with the sweep that it comes from."""

    def __init__(self, rates: Iterable[float], sweep: LRSweep):
        super().__init__(rates)
        self.sweep = sweep


def found_rates(sweep: LRSweep, ratios: Sequence[float], *, otherwise: float, told: bool) -> FoundRates:
    """Returns what the sweep recommends for each layer group, by its ratio to the last; prints it and why, if `told`.

    A model that is good already, or does not learn yet, shows no fall and so no rate. It is trained all the same, with
    the rate `otherwise`, or a quarter of that from which the loss rose where this is lower; and that is told.
    """
    if sweep.recommended is not None:
        lr, line = sweep.recommended, f"learning rate {sweep.recommended:.2e}: {sweep.reason}"
    else:
        lr = min(otherwise, sweep.turns.get("rise", math.inf) / 4)
        line = f"no learning rate was found, so {lr:.2e} is taken: {sweep.reason}"
    if told:
        sys.stdout.write(line + "\n")
    return FoundRates((lr * ratio for ratio in ratios), sweep)


def ratios_of(lr: Any, n_groups: int) -> list[float]:
    """Returns each layer group's rate by that of the last; 1 where that is 0 and there is no ratio, or `lr` "auto"."""
    rates = [1.0] * n_groups if lr == "auto" else spread(lr, n_groups)
    return [rate / rates[-1] if rates[-1] else 1.0 for rate in rates]


def settle_bounds(callbacks: Iterable[Callback], find: Callable[[], LRSweep], *, told: bool) -> LRSweep | None:
    """Gives every `CyclicLR` whose bounds are "auto" those of one sweep; returns the sweep, or None if none was needed.

    Bounds of an earlier run stay where the sweep shows none, for the model is good by now.

    Raises:
        NoSuggestion: the sweep shows no bounds, and there are none yet.
    """
    waiting = [callback for callback in callbacks if isinstance(callback, CyclicLR) and callback.is_auto]
    if not waiting:
        return None
    sweep = find()
    for callback in waiting:
        if sweep.bounds is not None:
            callback.take_bounds(*sweep.bounds)
        elif not callback.max_lr:
            raise NoSuggestion(f"the sweep shows no bounds for CyclicLR: {sweep.reason}. Give numbers.")
        if told:
            sys.stdout.write(f"{callback!r}: {sweep.reason}\n")
    return sweep
