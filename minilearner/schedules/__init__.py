"""Schedules: pure functions that say what a rate, or any other hyperparameter, is at a moment of training.

Each schedule uses one of three clocks:

- *progress*, a number in [0, 1]: `linear` to `warmup_stable_decay`. They hold their last value past the end.
- the *epoch*, counted from 0: `step_decay`, `multi_step`, `exponential_decay`, `time_based_decay`.
- the *step*, counted in optimizer updates from 0: `inverse_sqrt` and the cyclical rates.

All take a float or a NumPy array, and keep no state. So you can draw a schedule before training, and a resumed run
needs to know only where it is. Callbacks apply schedules to an optimizer.

`clocks` says what a schedule is. `pieces` go from one value to another, and `phases` join them for a whole training.
`decays` fall with the epoch, and `cycles` climb and fall with the step.
"""

from minilearner.schedules.clocks import FloatArray, Schedule
from minilearner.schedules.cycles import cyclic, exp_range, triangular, triangular2
from minilearner.schedules.decays import exponential_decay, inverse_sqrt, multi_step, step_decay, time_based_decay
from minilearner.schedules.phases import flat_cosine, one_cycle, sgdr, warmup, warmup_stable_decay
from minilearner.schedules.pieces import chain, constant, cosine, exponential, linear, polynomial

__all__ = [
    "FloatArray",
    "Schedule",
    "chain",
    "constant",
    "cosine",
    "cyclic",
    "exp_range",
    "exponential",
    "exponential_decay",
    "flat_cosine",
    "inverse_sqrt",
    "linear",
    "multi_step",
    "one_cycle",
    "polynomial",
    "sgdr",
    "step_decay",
    "time_based_decay",
    "triangular",
    "triangular2",
    "warmup",
    "warmup_stable_decay",
]
