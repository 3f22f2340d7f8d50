"""Measures how good the rate of a finder is: the error points it loses on real tasks to the best of 19 peak rates.

    python tests/benchmarks/lr_bank.py [--seeds 3] [--only WORDS ...] [--unseen] [--sensitivity] [--auto-steps N ...]
        [--again]

The bank trains each task of `lr_tasks.py`, `lr_varied_tasks.py`, `lr_fresh_tasks.py` and `lr_later_tasks.py` with
`fit_one_cycle` at each rate and seed. If a rate costs the first seed more than 8 points, the other seeds do not try it.
These errors, and the suggestions of the peers' own finders, are kept in `lr_bank.json`. They are computed again only if
they are missing or the task has changed; our own sweeps run every time. A rate between two points of the grid is scored
by interpolation over its logarithm. A finder that suggests nothing is scored at 1e-3, the default of the Learner. The
seed decides weights and order.

The rule was tuned with the tasks of `TASKS` and `VARIED`. With `--unseen`, the script also scores those of `UNSEEN` and
`FRESH`, which were trained and scored for the first time when the rule stood. `UNSEEN` was looked at for a later rule,
with which `FRESH` was worse, so it was not taken. `LATER` are recurrent and plain convolutional nets. The factor for
LSTM layers was made with its five LSTMs under adaptive steps and the three of the other sets.

It prints the mean and the worst loss over tasks (each task is a mean over seeds), the spread of the suggestion over
seeds (standard deviation in decades), and how often there was no suggestion. The best of 19 noisy errors is too low by
chance; "best rate of the other seeds" says by how much. Then it prints the same with the constants of the rule
calibrated without the task at hand. Seconds are the processor's, as a mean over `TIMED`; they are measured again if our
sweeps take other steps. The table of README has all rules, with spread and steps as means over all tasks. With
`--sensitivity`, `lr_sensitivity.py` also says how much each constant matters, from the same sweeps. `--auto-steps` adds
sweeps of "auto" with other numbers of steps. The bank needs the packages of the dependency groups `peers` and `bank`
and of the extra `test`, and Debian's `tuxpaint-stamps-default`.
"""

import argparse
import hashlib
import json
import time
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from lr_fresh_tasks import FRESH
from lr_later_tasks import LATER
from lr_peers import FINDERS, PEERS, peers, silence
from lr_sensitivity import advise, print_sensitivity
from lr_tasks import TASKS, points_lost
from lr_varied_tasks import UNSEEN, VARIED
from rows import readme_row, readme_table

from minilearner.fitting.rates import sweep_rates
from minilearner.lr_finder.recommendation import Calibration
from minilearner.lr_finder.sweep import short_sweep
from minilearner.training.optimizers import is_adaptive

KEPT = Path(__file__).with_suffix(".json")
KTRAIN = "ktrain's rule on our curve"
CONSTANTS = "best constant per optimizer, in hindsight"
OTHER_SEEDS = "best rate of the other seeds"
TIMED = (
    "wine MLP AdamW bs16",
    "approval MLP SGD bs32",
    "digit properties CNN-BN Adam bs64",
    "digits LSTM rows Adam bs32",
)
SWEEPS = {"100 steps": 100, '"auto"': None}
"""Name -> the number of steps of `lr_find`, None for the sweep of "auto", or changes of the latter's settings."""
CALIBRATIONS = [
    Calibration(plain=plain, bare=bare, adaptive=adaptive)
    for plain, bare, adaptive in product((0.65, 0.8, 1), (0.4, 0.5, 0.65), (0.5, 0.65, 0.8))
]


def fingerprint(task, what, *depends):
    """Returns a digest that changes if the task does, or what else the result depends on."""
    (x, y), _ = task.data()
    parts = task.name, what, x.shape, y.shape, str(task.model()), task.bs, task.epochs, task.loss, task.ratio, task.opt
    parts += tuple(part for part in (task.first, task.cbs, *depends) if part is not None)
    plain = [getattr(part, "__name__", None) or str(part).split(" at 0x")[0] for part in parts]
    return hashlib.sha256(repr(plain).encode()).hexdigest()[:12]


class Store:
    """Keeps results by task and seed in one JSON file, and writes it after each new one."""

    def __init__(self, path, again):
        self.path = path
        self.values = {} if again or not path.exists() else json.loads(path.read_text())

    def get(self, task, what, seed, compute, *depends):
        """Returns the result, computed if it is missing, or if the task or what else it `depends` on has changed."""
        name = f"{task.name} | {what} | seed {seed} | "
        key = name + fingerprint(task, what, *depends)
        if key not in self.values:
            start = time.perf_counter()
            self.values = {kept: value for kept, value in self.values.items() if not kept.startswith(name)}
            self.values[key] = compute()
            lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(self.values.items())]
            self.path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
            print(f"{key}: {time.perf_counter() - start:.0f} s", flush=True)
        return self.values[key]


def errors(task, seed, first):
    """Returns the error at each rate of the grid, None for rates at which the first seed lost over 8 points."""
    found = []
    for k, lr in enumerate(task.grid):
        if first is not None and first[k] > min(first) + 8:
            found.append(None)
            continue
        learn = task.learner(seed)
        valid, learn.dls.valid = learn.dls.valid, None  # to validate after each epoch would only cost time
        with learn.no_logging():
            learn.fit_one_cycle(task.epochs, task.rate(lr))
            learn.dls.valid = valid
            found.append(round(task.error(learn), 3))
    return found


def grids_of(store, task, seeds):
    """Returns the errors as an array (seeds, rates)."""
    first = store.get(task, "grid", 0, partial(errors, task, 0, None))
    later = [store.get(task, "grid", seed, partial(errors, task, seed, first)) for seed in range(1, seeds)]
    return np.array([first, *later], dtype=float)


def floor(grids):
    """Returns the points that each seed loses with the rate that is best for the other seeds. No rule can lose less.

    The lowest of 19 noisy errors is too low by chance. In a mean over several seeds, by which rules are scored, this
    matters less, so the result is an upper bound of what noise alone costs.
    """
    if len(grids) < 2:
        return np.nan
    tried = grids[:, np.isfinite(grids).all(axis=0)]
    others = [np.delete(tried, i, 0).mean(axis=0) for i in range(len(tried))]
    return np.mean([own[other.argmin()] - own.min() for own, other in zip(tried, others, strict=True)])


def ours(task, seed, how):
    """Returns our sweep of a task; `how` is as in `SWEEPS`."""
    learn = task.learner(seed, **({"lr": slice(task.ratio, 1.0)} if task.ratio else {}))
    with learn.no_logging():
        if isinstance(how, int):
            return learn.lr_find(num_it=how, show_plot=False, suggest_funcs=None)
        context = learn._context()
        settings = replace(short_sweep(context.new_run().optimizer), **(how or {}))
        return sweep_rates(context, settings, momentum=learn.moms[1])


def ktrain(sweep):
    """Returns what ktrain's `estimate_lr` reads off a curve: a fifth of the rate of the lowest smoothed loss."""
    return float(sweep.lrs[np.nanargmin(sweep.smoothed)]) / 5 if np.isfinite(sweep.smoothed).any() else None


def time_finders(task):
    """Returns the processor seconds of each finder. Each runs twice, and the second run counts."""
    finders = {f"minilearner, {name}": partial(ours, task, 0, how) for name, how in SWEEPS.items()}
    finders |= {name: partial(find, task, 0) for name, find in FINDERS.items()}
    found = {}
    for name, find in finders.items():
        for _ in range(2):
            start = time.process_time()
            with silence():
                find()
            found[name] = round(time.process_time() - start, 3)
    return found


def mean_seconds(store):
    """Returns name of the rule -> the mean seconds of its finder over `TIMED`."""
    found = [
        store.get(task, "seconds", 0, partial(time_finders, task), describe_sweeps(task))
        for task in FRESH
        if task.name in TIMED
    ]
    means = {name: np.mean([one[name] for one in found]) for name in found[0]}
    means |= {name: means["fastai"] for name in PEERS if name.startswith("fastai")}
    return means | {KTRAIN: means["minilearner, 100 steps"]}


def describe_sweeps(task):
    """Returns what our sweeps of a task cost depends on: how many steps each takes, of which settings."""
    sweeps = {name: ours(task, 0, how) for name, how in SWEEPS.items()}
    return str([(name, len(sweep.losses), sorted(sweep.settings.items())) for name, sweep in sweeps.items()])


def measure(store, tasks, seeds, how):
    """Returns for each task its grid, our sweeps, and the suggestions of every rule, one for each seed.

    `how` is as in `SWEEPS`. Also returns, for each task, what noise alone costs.
    """
    rows, noise = [], []
    for task in tasks:
        sweeps = {name: [ours(task, seed, one) for seed in range(seeds)] for name, one in how.items()}
        rules = {
            f"minilearner, {name}": [None if np.isnan(s.recommended) else s.recommended for s in found]
            for name, found in sweeps.items()
        }
        theirs = [store.get(task, "peers", seed, partial(peers, task, seed)) for seed in range(seeds)]
        rules |= {KTRAIN: [ktrain(sweep) for sweep in sweeps["100 steps"]]}
        rules |= {name: [found[name] for found in theirs] for name in PEERS}
        grids = grids_of(store, task, seeds)
        noise.append(floor(grids))
        rows.append((task, np.nanmean(grids, axis=0), sweeps, rules))
    return rows, np.array(noise)


def score(rows, rule):
    points = [np.mean([points_lost(task, grid, lr) for lr in rules[rule]]) for task, grid, _, rules in rows]
    found = [[np.log10(lr) for lr in rules[rule] if lr] for *_, rules in rows]
    spread = np.mean([np.std(logs) for logs in found if logs]) if any(found) else np.nan
    return np.array(points), spread, sum(lr is None for *_, rules in rows for lr in rules[rule])


def best_constants(rows):
    """Returns the points lost by the best single rate for each kind of optimizer, chosen in hindsight."""
    points = []
    kinds = [adapts(task) for task, *_ in rows]
    for kind in (True, False):
        own = [(task, grid) for (task, grid, *_), is_kind in zip(rows, kinds, strict=True) if is_kind is kind]
        table = np.array([[points_lost(task, grid, lr) for task, grid in own] for lr in 10 ** np.arange(-4, 1, 0.05)])
        points += list(table[table.mean(1).argmin()]) if own else []
    return np.array(points)


def adapts(task):
    return is_adaptive(task.learner(0)._context().new_run().optimizer)


def left_out(rows, name):
    """Returns the points lost with the constants that suit the other tasks best, and the best constants for all."""
    table = np.array(
        [
            [np.mean([points_lost(t, g, advise(s, c)) for s in sweeps[name]]) for t, g, sweeps, _ in rows]
            for c in CALIBRATIONS
        ]
    )
    own = [table[np.delete(table, i, 1).mean(1).argmin(), i] for i in range(len(rows))]
    return np.array(own), CALIBRATIONS[table.mean(1).argmin()]


def coverage(rows, name):
    """Returns the share of sweeps whose interval contains a rate within half a point of the best."""
    hits = [
        any(s.interval[0] <= lr <= s.interval[1] for lr in task.grid[grid <= grid.min() + 0.5])
        for task, grid, sweeps, _ in rows
        for s in sweeps[name]
        if s.interval
    ]
    return np.mean(hits)


def print_for_readme(parts, seconds):
    """Prints a row for the project's README, and the table of all rules: mean and worst points lost in each part.

    Args:
        parts: words that describe the tasks -> their rows and what noise alone costs. The project's row has the first.
        seconds: name of a rule -> the seconds of its finder.
    """
    (what, (first, _)), *_ = parts.items()
    cells = {rule: describe(score(first, rule)[0]) for rule in first[0][3]}
    others = f"fastai's minimum {cells['fastai minimum']}, valley {cells['fastai valley']}; "
    others += "; ".join(f"{name} {cells[name]}" for name in PEERS[-2:])
    points = "error points that the recommended rate of a sweep loses to the best of 19"
    readme_row(f"{points}, {what}: mean, worst", cells["minilearner, 100 steps"], others)
    head = ("points lost: mean, worst", *parts, "spread, decades", "steps", "seconds")
    every = [row for rows, _ in parts.values() for row in rows]
    table = [
        (
            rule,
            *(describe(score(rows, rule)[0]) for rows, _ in parts.values()),
            f"{score(every, rule)[1]:.2f}",
            count_steps(every, rule),
            f"{seconds[rule]:.2f}" if rule in seconds else "",
        )
        for rule in cells
    ]
    constants = [describe(best_constants(rows)) for rows, _ in parts.values()]
    noise = [describe(noise) for _, noise in parts.values()]
    table += [(CONSTANTS, *constants, "0", "", ""), (OTHER_SEEDS, *noise, "", "", "")]
    readme_table(head, table)


def describe(points):
    """Returns the mean and the worst in words."""
    return ", ".join(f"{value:.1f}" if value < 10 else f"{value:.0f}" for value in (points.mean(), points.max()))


def count_steps(rows, rule):
    """Returns the mean number of steps that our sweep took, or the most that the finder takes."""
    name = "100 steps" if rule == KTRAIN else rule.removeprefix("minilearner, ")
    if name not in rows[0][2]:
        return "100"  # the default of all peers
    return f"{np.mean([len(sweep.losses) for *_, sweeps, _ in rows for sweep in sweeps[name]]):.0f}"


def show(title, rows, noise, seconds):
    print(f"\n{title}\n")
    print(
        "| rule | mean points lost | worst | spread, decades | none | steps | seconds |\n|---|---|---|---|---|---|---|"
    )
    for rule in rows[0][3]:
        points, spread, none = score(rows, rule)
        cost = f"{count_steps(rows, rule)} | {seconds[rule]:.2f}" if rule in seconds else f"{count_steps(rows, rule)} |"
        print(f"| {rule} | {points.mean():.2f} | {points.max():.1f} | {spread:.2f} | {none} | {cost} |")
    constants = best_constants(rows)
    print(f"| {CONSTANTS} | {constants.mean():.2f} | {constants.max():.1f} | 0 | 0 | | |")
    print(f"| {OTHER_SEEDS} | {noise.mean():.2f} | {noise.max():.1f} | | | | |")
    print("\n| task | best error | " + " | ".join(rows[0][3]) + " |\n|" + "---|" * (2 + len(rows[0][3])))
    for row in rows:
        cells = " | ".join(f"{score([row], rule)[0][0]:.1f}" for rule in row[3])
        print(f"| {row[0].name} | {row[1].min():.1f} | {cells} |")
    print()
    for name in rows[0][2]:
        own, best = left_out(rows, name)
        print(
            f"{name}: {best} would be best for all; with constants calibrated without the "
            f"task at hand, {own.mean():.2f} points are lost in the mean, {own.max():.1f} at worst. The interval holds "
            f"a rate within half a point of the best in {100 * coverage(rows, name):.0f} % of sweeps."
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], help="only tasks whose names contain one of these words")
    parser.add_argument("--unseen", action="store_true", help="also the tasks that were not looked at while tuning")
    parser.add_argument("--sensitivity", action="store_true", help="also how much each constant of the rule matters")
    parser.add_argument("--auto-steps", nargs="+", type=int, default=[], help='also such numbers of steps for "auto"')
    parser.add_argument("--again", action="store_true", help="ignore the results kept in lr_bank.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # nets that diverge or die compute with denormal numbers, 20 times slower
    store = Store(KEPT, args.again)
    seconds = mean_seconds(store)  # first, because a missing package should end the script now, not after an hour
    sweeps = SWEEPS | {f'"auto" in at most {n} steps': {"num_it": n} for n in args.auto_steps}
    parts = {
        "{} tasks not looked at while the rule was made": UNSEEN,
        "{} smaller tasks, added later": FRESH,
        "{} tasks with recurrent and plain convolutional nets, added last": LATER,
        "{} tasks with which the rule was made": [*TASKS, *VARIED],
    }
    if not args.unseen:
        *_, last = parts
        parts = {last: parts[last]}
    measured = {}
    for words, tasks in parts.items():
        chosen = [task for task in tasks if not args.only or any(word in task.name for word in args.only)]
        if chosen:
            title = words.format(len(chosen))
            measured[title] = measure(store, chosen, args.seeds, sweeps)
            show(title, *measured[title], seconds)
    if measured:
        print_for_readme(measured, seconds)
    if measured and args.sensitivity:
        print_sensitivity({title: rows for title, (rows, _) in measured.items()})


if __name__ == "__main__":
    main()
