"""The schedules behind `fit_one_cycle`, `fit_flat_cos`, `fit_sgdr` and `fine_tune`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from minilearner import schedules
from minilearner.callbacks.param_scheduler import ParamScheduler
from minilearner.checks import check_count, check_fraction, check_not_negative, check_positive, check_rate, is_auto
from minilearner.data.dataloaders import DataLoaders
from minilearner.training.callback import Callback
from minilearner.training.optimizers import Rate

__all__ = [
    "check_fit",
    "fine_tune_rates",
    "flat_cosine_scheduler",
    "one_cycle_scheduler",
    "sgdr_epochs",
    "sgdr_scheduler",
]


def check_fit(
    n_epoch: int,
    wd: float | None,
    plan: Callable[[list[float]], Callback] | None = None,
    *,
    start_epoch: int = 0,
    **rate: Rate | None,
) -> None:
    """Checks the arguments that the `fit...` methods share, before any of them changes the learner.

    Args:
        n_epoch: as in `Learner.fit`.
        wd: as in `Learner.fit`.
        plan: makes the callback that schedules a list of rates; it checks its own arguments.
        start_epoch: as in `Learner.fit`.
        rate: the rate, by the name of its argument; None means the learner's own.
    """
    if isinstance(n_epoch, (Tensor, np.ndarray, DataLoaders, DataLoader)):
        raise TypeError(
            "`n_epoch` must be a number of epochs. Received: data. They belong to the learner: "
            "Learner(DataLoaders.from_arrays((x, y), (valid_x, valid_y)), model), then learn.fit(n_epoch)."
        )
    check_count(n_epoch, "n_epoch")
    check_count(start_epoch, "start_epoch", least=0)
    if start_epoch >= n_epoch:
        raise ValueError(
            f"`start_epoch` must be below `n_epoch`. Received: start_epoch={start_epoch}, n_epoch={n_epoch}."
        )
    if wd is not None:
        check_not_negative(wd, "wd")
    for name, lr in rate.items():
        if lr is not None:
            check_rate(lr, name, auto=True)
    if plan is not None:
        plan([1.0])


def one_cycle_scheduler(
    rates: Sequence[float], *, div: float, div_final: float, pct_start: float, moms: tuple[float, float, float] | None
) -> ParamScheduler:
    """One cycle for each layer group's peak rate, and one for the momentum of all, unless `moms` is None."""
    check_positive(div_final, "div_final")  # `one_cycle` itself has defaults for these two
    check_fraction(pct_start, "pct_start")
    cycles = [schedules.one_cycle(lr, div=div, div_final=div_final, pct_start=pct_start, moms=moms) for lr in rates]
    momentum = {} if moms is None else {"momentum": cycles[0]["momentum"]}
    return ParamScheduler({"lr": [cycle["lr"] for cycle in cycles], **momentum})


def fine_tune_rates(
    epochs: int, freeze_epochs: int, base_lr: float | Literal["auto"], lr_mult: float
) -> tuple[Rate, Rate]:
    """Returns the rates of fine-tuning's two phases: of the head alone, then of all layer groups.

    Raises:
        TypeError, ValueError: an argument is out of range, or a number of epochs is not whole.
    """
    check_count(epochs, "epochs")
    check_count(freeze_epochs, "freeze_epochs", least=0)
    check_positive(lr_mult, "lr_mult")
    if not is_auto(base_lr):
        check_positive(base_lr, "base_lr")
    if base_lr == "auto":
        return "auto", "auto"
    return slice(base_lr), slice(base_lr / 2 / lr_mult, base_lr / 2)


def flat_cosine_scheduler(rates: Sequence[float], *, div_final: float, pct_start: float) -> ParamScheduler:
    """`schedules.flat_cosine` for each layer group's rate; the momentum stays as it is."""
    return ParamScheduler({"lr": [schedules.flat_cosine(lr, pct_start=pct_start, div_final=div_final) for lr in rates]})


def sgdr_scheduler(rates: Sequence[float], *, n_cycles: int, cycle_mult: float) -> ParamScheduler:
    """`schedules.sgdr`, down to 0 in each cycle, for each layer group's peak rate."""
    return ParamScheduler({"lr": [schedules.sgdr(lr, n_cycles, cycle_mult=cycle_mult) for lr in rates]})


def sgdr_epochs(n_cycles: int, cycle_len: int, cycle_mult: float) -> int:
    """Returns how many epochs the cycles last together: the sum of cycle_len cycle_mult^i, i from 0 to n_cycles - 1.

    Raises:
        ValueError: an argument is not positive, or the sum is no whole number.
    """
    check_count(n_cycles, "n_cycles")
    check_count(cycle_len, "cycle_len")
    check_positive(cycle_mult, "cycle_mult")
    n_epoch = sum(cycle_len * cycle_mult**i for i in range(n_cycles))
    if n_epoch != int(n_epoch):
        raise ValueError(
            f"`cycle_len` and `cycle_mult` must give whole epochs in all. Received: {cycle_len=}, {cycle_mult=}, which "
            f"make {n_epoch:g}."
        )
    return int(n_epoch)
