"""Measures what it costs to save every 100 steps: MiniGoogLeNet on Fashion-MNIST at 32 pixels, batches of 64.

    python tests/benchmarks/checkpoint_cost.py [--steps 200] [--every 100] [--rounds 3]

Runs with and without `Checkpoint` take turns in one process, over the same batches. The script prints the medians and
their ratio, which is noisy on a busy machine. It also times each save inside the run, and prints the median as a share
of the time of the steps between two saves. The goal is 3 % at most.
"""

import argparse
import itertools
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from minilearner import Checkpoint, DataLoaders, Learner, MiniGoogLeNet, fashion_mnist, set_seed
from minilearner.runtime import default_device


class FirstBatches:
    """Yields the first batches of a loader, in every pass."""

    def __init__(self, loader, n):
        self.loader, self.n = loader, n

    def __iter__(self):
        return itertools.islice(itertools.cycle(self.loader), self.n)

    def __len__(self):
        return self.n


def time_saves():
    """Returns a list to which each save adds its seconds, for taking the state and writing it."""
    original, several = Checkpoint._save, []

    def save(self, run, **where):
        if run.dls.device.type == "cuda":
            torch.cuda.synchronize()  # work still in the queue belongs to the steps
        start = time.perf_counter()
        original(self, run, **where)
        several.append(time.perf_counter() - start)

    Checkpoint._save = save
    return several


def seconds(dls, checkpoint):
    set_seed(0)
    learn = Learner(dls, MiniGoogLeNet(10))
    start = time.perf_counter()
    with learn.no_logging(), learn.no_bar():
        learn.fit(1, checkpoint=checkpoint)
    if dls.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    saves = time_saves()
    whole = fashion_mnist(bs=64, seed=0)
    dls = DataLoaders(FirstBatches(whole.train, args.steps), vocab=whole.vocab)
    seconds(DataLoaders(FirstBatches(whole.train, 3), vocab=whole.vocab), None)
    times = {"without": [], "with": []}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            times["without"].append(seconds(dls, None))
            times["with"].append(seconds(dls, Checkpoint(Path(folder), every_steps=args.every)))
            size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    medians = {name: statistics.median(several) for name, several in times.items()}
    save, step = statistics.median(saves), medians["without"] / args.steps
    report = {
        "machine": f"{platform.machine()}, {default_device()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "seconds of a step": round(step, 4),
        "seconds of a save": round(save, 4),
        "megabytes": round(size / 1e6, 1),
        "saves": len(saves),
        "ratio of the medians": round(medians["with"] / medians["without"], 4),
        f"share of the saves, every {args.every} steps": f"{save / (args.every * step):.2%}",
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
