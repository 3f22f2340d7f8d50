"""Measures how cost grows with items, classes, weights and steps, each at N, 2N and 4N.

    python tests/benchmarks/growth.py [--rounds 5]

For each quantity it prints the median CPU time of one thread, or the memory kept, and the slope of a line through the
logarithms. A slope of 1 means proportional growth, 0 means none. If a row says "flat", a slope clearly above 0 is a
fault. Some of the slopes go into the table of README.
"""

import argparse
import os
import platform
import statistics
import time

import numpy as np
import torch
from rows import readme_row

from minilearner import MLP, ClassificationInterpretation, DataLoaders, Learner, accuracy


def learner(*, items=2048, classes=10, width=64, bs=64):
    torch.manual_seed(0)
    x, y = torch.randn(items, 32), torch.arange(items) % classes
    dls = DataLoaders.from_arrays((x, y), (x, y), bs=bs, seed=0, vocab=range(classes), device="cpu")
    return Learner(dls, MLP([32, width, classes]), opt_func=torch.optim.SGD, metrics=accuracy, device="cpu")


def epoch(learn):
    learn.fit(1, 1e-3)


def interpret(learn):
    ClassificationInterpretation.from_learner(learn).top_losses(9)


def sweep(learn):
    learn.lr_find(num_it=20, show_plot=False)


def predict(learn):
    learn.predict(torch.zeros(32))


def kept_by_interpretation(learn):
    kept = vars(ClassificationInterpretation.from_learner(learn)).values()
    return sum(array.nbytes for array in kept if isinstance(array, np.ndarray))


def kept_by_recorder(learn):
    learn.fit(4, 1e-3)
    return learn.recorder.runs[-1].steps.nbytes


TIMES = {
    "epoch and validation, by items": (epoch, {"items": 4096}, "1"),
    "interpretation, by items": (interpret, {"items": 16384}, "1"),
    "interpretation, by classes": (interpret, {"classes": 100}, "below 1"),
    "epoch, by width of the hidden layer": (epoch, {"width": 1024}, "at most 1"),
    "20 updates of lr_find, by items": (sweep, {"items": 4096}, "flat"),
    "20 updates of lr_find, by width": (sweep, {"width": 1024}, "at most 1"),
    "predict of one item, by items of the data": (predict, {"items": 4096}, "flat"),
}
BYTES = {
    "kept by interpretation, by items": (kept_by_interpretation, {"items": 16384}, "1"),
    "kept by interpretation, by classes": (kept_by_interpretation, {"classes": 256}, "2"),
    "kept by the recorder, by steps": (kept_by_recorder, {"items": 4096}, "1"),
}
README_ROWS = {
    "epoch and validation, by items": "an epoch with validation, time over items at N, 2N, 4N: slope",
    "epoch, by width of the hidden layer": "an epoch, time over weights: slope",
    "predict of one item, by items of the data": "`predict` of one item, time over items of the data: slope",
    "interpretation, by items": "interpretation, time over items: slope",
    "kept by interpretation, by items": "what interpretation keeps, bytes over items: slope",
    "kept by the recorder, by steps": "what the recorder keeps, bytes over steps: slope",
}


def seconds(act, options, rounds):
    learn = learner(**options)
    with learn.no_logging():
        act(learn)
        return statistics.median(time_once(act, learn) for _ in range(rounds))


def time_once(act, learn):
    began = time.process_time()
    act(learn)
    return time.process_time() - began


def count(act, options):
    learn = learner(**options)
    with learn.no_logging():
        return act(learn)


def row(what, options, expected, measure, unit):
    ((name, n),) = options.items()
    found = [measure({name: factor * n}) for factor in (1, 2, 4)]
    slope = np.polyfit(np.log([1, 2, 4]), np.log(found), 1)[0]
    cells = " | ".join(f"{value:,.0f} {unit}" if unit == "bytes" else f"{1e3 * value:.1f} ms" for value in found)
    print(f"| {what} (N = {n:,}) | {cells} | {slope:.2f} | {expected} |", flush=True)
    if what in README_ROWS:
        readme_row(README_ROWS[what], f"{slope:.2f}", "flat is 0" if expected == "flat" else "proportional is 1")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}\n")
    print("| | N | 2N | 4N | slope | wanted |\n|---|---|---|---|---|---|")
    for what, (act, options, expected) in TIMES.items():
        row(what, options, expected, lambda o, act=act: seconds(act, o, args.rounds), "s")
    for what, (act, options, expected) in BYTES.items():
        row(what, options, expected, lambda o, act=act: count(act, o), "bytes")


if __name__ == "__main__":
    main()
