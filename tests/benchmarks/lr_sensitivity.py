"""Says how much each constant of the finder's rule matters to the tasks of `lr_bank.py`, and if one task decides it.

The rule reads the recorded sweeps again with one constant at a time changed, so nothing is trained or swept.
"""

import contextlib
from dataclasses import fields, replace
from unittest import mock

import numpy as np
from lr_tasks import points_lost

from minilearner.lr_finder import recommendation
from minilearner.lr_finder.recommendation import Calibration, recommend

FACTORS = 0.7, 1.4
SWEEP = "100 steps"
OF_THE_MODULE = {
    "_RISEN": lambda factor: {"_RISEN": factor * recommendation._RISEN},
    "_KERNEL, decades": lambda factor: {"_KERNEL": (factor * recommendation._KERNEL[0], recommendation._KERNEL[1])},
    "_KERNEL, steps": lambda factor: {"_KERNEL": (recommendation._KERNEL[0], factor * recommendation._KERNEL[1])},
}
"""Constants beside those of `Calibration` -> the values of the module's names if they are larger by a factor."""


def advise(sweep, calibration):
    """Returns the rate that the rule reads off a recorded sweep with other constants."""
    known = {name: sweep.settings[name] for name in ("bs", "adaptive", "has_norm", "has_lstm", "untrained")}
    known |= {"broke": sweep.stop_reason.startswith("the loss became"), "highest": sweep.settings["highest"]}
    return recommend(sweep.lrs, sweep.losses, sweep.fixed, **known, calibration=calibration).lr


def print_sensitivity(parts):
    """Prints how the mean of each part changes with each constant, and how much of it the most affected task explains.

    Args:
        parts: title -> the rows that `lr_bank.measure` returns.
    """
    titles = [f"{title}, times {factor}" for title in parts for factor in FACTORS]
    print("\nChange of the mean points lost if a constant of the rule is larger by a factor\n")
    print(f"| constant | {' | '.join(titles)} | largest share of one task |\n" + "|---" * (2 + len(titles)) + "|")
    usual = {title: lose(rows, Calibration()) for title, rows in parts.items()}
    for name in [*(field.name for field in fields(Calibration)), *OF_THE_MODULE]:
        changes = {factor: [] for factor in FACTORS}
        for title, rows in parts.items():
            for factor in FACTORS:
                with scale(name, factor) as calibration:
                    changes[factor].append(lose(rows, calibration) - usual[title])
        cells = [f"{changes[factor][i].mean():+.2f}" for i in range(len(parts)) for factor in FACTORS]
        tasks = [task.name for rows in parts.values() for task, *_ in rows]
        print(f"| {name} | {' | '.join(cells)} | {find_share(changes, tasks)} |")


def lose(rows, calibration):
    """Returns the points that each task loses, as a mean over seeds."""
    found = [[points_lost(task, grid, advise(s, calibration)) for s in sweeps[SWEEP]] for task, grid, sweeps, _ in rows]
    return np.mean(found, axis=1)


@contextlib.contextmanager
def scale(name, factor):
    """Changes one constant for a while. Yields the calibration to use."""
    if name in OF_THE_MODULE:
        with mock.patch.multiple(recommendation, **OF_THE_MODULE[name](factor)):
            yield Calibration()
    else:
        yield replace(Calibration(), **{name: factor * getattr(Calibration, name)})


def find_share(changes, tasks):
    """Returns in words the largest share that one task has in the sum of all changes, regardless of their signs."""
    shares = {}
    for factor, parts in changes.items():
        sizes = np.abs(np.concatenate(parts))
        if sizes.sum():
            shares[sizes.max() / sizes.sum()] = f"{tasks[sizes.argmax()]}, times {factor}"
    return f"{100 * max(shares):.0f} % ({shares[max(shares)]})" if shares else "nothing changed"
