"""Whether the learning rate lies in the range that the latest sweep found."""

from __future__ import annotations

import math
from collections.abc import Iterator

from minilearner.checkup.findings import Finding, NotCheckedError
from minilearner.lr_finder.result import LRSweep
from minilearner.training.optimizers import Rate, spread

__all__ = ["find_rate_problems"]


def find_rate_problems(rate: Rate, sweep: LRSweep | None) -> Iterator[Finding]:
    """Finds a rate outside the bounds of a sweep.

    Args:
        rate: the rate to judge. If layer groups have their own, the highest one counts.
        sweep: the latest sweep.
    """
    if rate == "auto":
        return
    if sweep is None or sweep.bounds is None or math.isnan(sweep.recommended):
        raise NotCheckedError("no sweep has found a range yet; run `learn.lr_find()` first")
    lr, (low, high) = max(spread(rate, 1)), sweep.bounds
    values = {"lr": lr, "low": low, "high": high, "recommended": sweep.recommended}
    advice = f"The sweep recommends {sweep.recommended:.2e}."
    if lr > high:
        text = f"The learning rate {lr:.2e} is above {high:.2e}, from where on the loss of the sweep rises."
        yield Finding("learning rate", "warning", text, advice, values)
    elif lr < low:
        text = f"The learning rate {lr:.2e} is below {low:.2e}, where the loss of the sweep begins to fall."
        yield Finding("learning rate", "note", text, advice, values)
