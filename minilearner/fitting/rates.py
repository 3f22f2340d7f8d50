"""The rates of a call: the user's, spread over the layer groups, or those that a sweep finds for "auto"."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minilearner import processes
from minilearner.callbacks.checkpoint import Checkpoint
from minilearner.callbacks.cyclic_lr import CyclicLR
from minilearner.callbacks.gradients import count_updates
from minilearner.display import write_line
from minilearner.errors import CheckpointError, FileFormatError, NoSuggestion
from minilearner.files import json_text, read_json, write_atomically
from minilearner.fitting.context import FitContext
from minilearner.lr_finder.result import LRSweep, content_of, describe_steps
from minilearner.lr_finder.sweep import SweepSettings, find_rates, short_sweep
from minilearner.packing import pack, unpack
from minilearner.saving.identity import compare, identity
from minilearner.training.callback import select_for_step
from minilearner.training.optimizers import Rate, spread

__all__ = ["UPDATES_PER_SWEPT_STEP", "compute_ratios", "settle_rates", "sweep_rates", "take_recommendation"]

UPDATES_PER_SWEPT_STEP = 4
"""A free phase sweeps again only if it has this many updates for each step of the sweep.

A step of the sweep also measures the loss, and takes about twice as long as an update. So the sweep takes at most about
half of the phase's time. See "Learning rates" in `tests/benchmarks/README.md`.
"""


def settle_rates(
    context: FitContext,
    lr: Rate | None,
    checkpoint: Checkpoint | None = None,
    *,
    ratios: Rate | None = None,
    momentum: float | None = None,
    frozen_rate: float | None = None,
    n_epochs: int = 1,
) -> tuple[list[float], LRSweep | None]:
    """Returns a rate for each layer group, and the sweep that found them or the bounds of a `CyclicLR`, if any.

    Args:
        lr: the rate of this call; None takes the learner's own. "auto" sweeps.
        checkpoint: its folder, which it holds, keeps the sweep, so that a resumed run does not sweep again.
        ratios: how the rates of the layer groups relate to each other if a sweep finds them; the learner's by default.
        momentum: the momentum to sweep with; None keeps the optimizer's.
        frozen_rate: the rate of the frozen phase before this run. If the run is short, "auto" takes half of it.
        n_epochs: how many epochs the run has. Only a `frozen_rate` needs it.

    Raises:
        NoSuggestion: a `CyclicLR` needs bounds, and the sweep shows none.
        CheckpointError: the folder keeps the sweep of another run.
        FileFormatError: the sweep in the folder is damaged. Names the file.
    """
    lr = context.lr if lr is None else lr
    found = None
    if lr == "auto":
        by_last = compute_ratios(context.lr if ratios is None else ratios, context.n_groups)
        half = None if frozen_rate is None else _halve_if_short(context, frozen_rate, n_epochs, checkpoint)
        if half is None:
            found = _keep_sweep(context, checkpoint, ratios=ratios, momentum=momentum)
            rates = take_recommendation(found, by_last, otherwise=context.lr, verbose=context.output.table)
        else:
            rates = [half * ratio for ratio in by_last]
    else:
        rates = spread(lr, context.n_groups)
    return rates, _settle_bounds(context, checkpoint, found) or found


def sweep_rates(
    context: FitContext,
    settings: SweepSettings | None = None,
    *,
    ratios: Rate | None = None,
    momentum: float | None = None,
    suggest_funcs: Callable[..., Any] | Sequence[Callable[..., Any]] | None = (),
) -> LRSweep:
    """Sweeps with the rates of the layer groups in these `ratios`, by default the learner's. Returns the curve.

    Without `settings`, the sweep is short.
    """
    run = context.new_run()
    by_last = compute_ratios(context.lr if ratios is None else ratios, context.n_groups)
    with context.set_hyperparameters(run, by_last):
        return find_rates(
            run,
            settings or short_sweep(run.optimizer),
            train=run.dls.train,
            ratios=by_last,
            momentum=momentum,
            callbacks=context.callbacks,
            make_progress=context.output.sweep_progress,
            suggest_funcs=suggest_funcs,
        )


def take_recommendation(sweep: LRSweep, ratios: Sequence[float], *, otherwise: Rate, verbose: bool) -> list[float]:
    """Returns the rate that a sweep recommends, times each layer group's ratio. Prints it and the reason if `verbose`.

    A sweep recommends nothing if its loss does not fall, because the model is already good or does not learn yet. Such
    a model is trained all the same: at the rate `otherwise` (1e-3 if that is "auto"), or at a quarter of the rate from
    which the loss rose if this is lower.
    """
    steps = describe_steps(sweep)
    if not math.isnan(sweep.recommended):
        lr, line = sweep.recommended, f"learning rate {sweep.recommended:.2e}, after {steps}: {sweep.reason}"
    else:
        default = 1e-3 if otherwise == "auto" else spread(otherwise, len(ratios))[-1]
        lr = min(default, sweep.turns.get("rise", math.inf) / 4)
        line = f"no learning rate was found in {steps}, so {lr:.2e} is taken: {sweep.reason}"
    if verbose:
        write_line(line, sys.stdout)
    return [lr * ratio for ratio in ratios]


def compute_ratios(lr: Rate, n_groups: int) -> list[float]:
    """Returns each group's rate divided by the last group's: 1 for all if `lr` is "auto" or the last rate is 0."""
    rates = [1.0] * n_groups if lr == "auto" else spread(lr, n_groups)
    return [rate / rates[-1] if rates[-1] else 1.0 for rate in rates]


def _halve_if_short(
    context: FitContext, frozen_rate: float, n_epochs: int, checkpoint: Checkpoint | None
) -> float | None:
    """Returns half of the frozen phase's rate, and says so, if a sweep would cost too much. Otherwise returns None.

    A sweep that is already in the checkpoint's folder costs nothing.
    """
    n_updates = n_epochs * count_updates(context.new_run(), context.callbacks)
    n_steps = short_sweep(context.optimizer).num_it
    is_saved = checkpoint is not None and processes.take_from_first((checkpoint.folder / _FILE).exists())
    if n_updates >= UPDATES_PER_SWEPT_STEP * n_steps or is_saved:
        return None
    half = frozen_rate / 2
    context.output.say(
        f"learning rate {half:.2e}, half of the frozen phase's: a sweep of up to {n_steps} steps costs too much for "
        f"{n_updates} updates"
    )
    return half


def _settle_bounds(context: FitContext, checkpoint: Checkpoint | None, found: LRSweep | None) -> LRSweep | None:
    """Sweeps once for all `CyclicLR` callbacks with "auto" bounds. Returns the sweep, or None if no callback needs one.

    If the sweep finds no bounds, those of an earlier run are kept: by then the model is usually well trained. A folder
    keeps one sweep, so with a checkpoint the one that found the rate, if there is one, serves here too.
    """
    waiting = [callback for callback in context.callbacks if isinstance(callback, CyclicLR) and callback.is_auto]
    if not waiting:
        return None
    sweep = _keep_sweep(context, checkpoint) if found is None or checkpoint is None else found
    for callback in waiting:
        if sweep.bounds is not None:
            callback.take_bounds(*sweep.bounds)
        elif not callback.max_lr:
            raise NoSuggestion(f"the sweep shows no bounds for CyclicLR: {sweep.reason}. Give numbers.")
        context.output.say(f"{callback!r}: {sweep.reason}")
    return sweep


def _keep_sweep(
    context: FitContext, checkpoint: Checkpoint | None, *, ratios: Rate | None = None, momentum: float | None = None
) -> LRSweep:
    """Returns the sweep that is saved in a checkpoint's folder. If there is none, sweeps, and saves it there.

    A sweep that an earlier version saved does not say which run it belongs to. It counts only if a checkpoint is there
    too, which says that: the rate is a part of its identity. Otherwise the sweep is made again. It is not saved beside
    the checkpoint of a run that kept none: if that is another run, its folder stays as it was.
    """
    if checkpoint is None:
        return sweep_rates(context, ratios=ratios, momentum=momentum)
    path = checkpoint.folder / _FILE
    own = _sweep_identity(context, ratios, momentum)
    is_saved, is_used = processes.take_from_first((path.exists(), checkpoint.has_saved))
    saved = _read_identity(path) if is_saved else None
    if saved is None and not (is_saved and is_used):
        found = sweep_rates(context, ratios=ratios, momentum=momentum)
        if is_used:
            return found
        content = {**content_of(found), _IDENTITY: pack(own, {})}
        write_atomically(path, json_text({**content, _DIGEST: _digest(content)}))
        processes.wait()
    elif saved is not None and (changed := _list_changes(saved, own, path)):
        raise CheckpointError(
            f"{path} is the sweep of another run:\n  "
            + "\n  ".join(changed)
            + "\nPut the arguments back to go on with that run, or use another folder for a new one."
        )
    try:
        return LRSweep.from_json(path)
    except FileFormatError as error:
        raise FileFormatError(f"{error} Remove the file, and the next run sweeps again.") from error


_FILE = "sweep.json"
_IDENTITY = "identity"
_DIGEST = "digest"


def _digest(content: dict[str, Any]) -> str:
    """Returns the digest of a file's content. Its text is the same when it was read and is written again."""
    return hashlib.sha256(json_text(content).encode()).hexdigest()


def _sweep_identity(context: FitContext, ratios: Rate | None, momentum: float | None) -> dict[str, Any]:
    """Returns what makes a sweep this one: the model, the data, the loss, the optimizer, and what shapes its steps."""
    run = context.new_run()
    run.callbacks = select_for_step(context.callbacks)
    by_last = compute_ratios(context.lr if ratios is None else ratios, context.n_groups)
    how = {"ratios": by_last, "momentum": momentum, "wd": context.wd, "wd_bn_bias": context.wd_bn_bias}
    return {**identity(run, "sweep"), "lr": None, **how}


def _list_changes(saved: dict[str, Any], own: dict[str, Any], path: Path) -> list[str]:
    try:
        return compare(saved, own).changed
    except Exception as error:  # what a file says may be of any form
        raise FileFormatError(f"{path} does not say which run it belongs to: {error!r:.200}.") from error


def _read_identity(path: Path) -> dict[str, Any] | None:
    """Returns the identity in a saved sweep; None if an earlier version saved it."""
    saved = read_json(path)
    if not isinstance(saved, dict):
        raise FileFormatError(f"{path} does not hold a sweep written by LRSweep.to_json.")
    packed, digest = saved.get(_IDENTITY), saved.pop(_DIGEST, None)
    if packed is None and digest is None:
        return None
    if digest != _digest(saved):
        raise FileFormatError(
            f"{path} was changed after it was written, so its rates may be wrong. Remove the file, and the next run "
            "sweeps again."
        )
    try:
        found = unpack(packed, {})
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise FileFormatError(f"{path}: its identity is not what minilearner writes.")
    return found
