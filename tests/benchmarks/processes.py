"""Compares a training step in several processes with torch's own `DistributedDataParallel`, written by hand.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 tests/benchmarks/processes.py [--turns 15]

Both train the same model on the same batches and take turns in the same two processes, so that a busy machine slows
both alike. A setting that minilearner makes for the whole process therefore helps both. minilearner exchanges more: at
each step the number of items and the mean loss of all processes, and after it the statistics of batch norm. For each
model the script prints the median time of a step and the median ratio of the turns.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from rows import readme_row
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from minilearner import MLP, DataLoaders, Learner, MiniGoogLeNet, processes

BS = 64
STEPS = {"MLP": 100, "MiniGoogLeNet": 8}  # in each turn
MODELS = {"MLP": lambda: MLP((784, 300, 100, 10)), "MiniGoogLeNet": lambda: MiniGoogLeNet(10)}


def by_hand(model, batches):
    """Returns a function that trains one epoch in a plain loop. The network is wrapped before the clock starts."""
    network = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def epoch():
        network.train()
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()

    return epoch


def ours(model, batches):
    learn = Learner(DataLoaders(batches), model, nn.CrossEntropyLoss(), torch.optim.SGD, 0.01)

    def epoch():
        with learn.no_logging():
            learn.fit(1)

    return epoch


def seconds(epoch):
    processes.wait()
    start = time.perf_counter()
    epoch()
    processes.wait()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    turns = parser.parse_args().turns
    for name, n_batches in STEPS.items():
        torch.manual_seed(0)
        n = n_batches * processes.count() * BS
        x, y = torch.randn(n, 1, 28, 28), torch.randint(10, (n,))
        every = list(zip(x.split(BS), y.split(BS), strict=True))
        own = every[processes.rank() :: processes.count()]
        rivals = ours(MODELS[name](), every), by_hand(MODELS[name](), own)
        for epoch in rivals:
            seconds(epoch)
        times = [[seconds(epoch) / n_batches * 1000 for epoch in rivals] for _ in range(turns)]
        mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(a / b for a, b in times)
        if processes.is_first():
            print(f"{name}: {mine:.2f} ms a step, by hand {theirs:.2f} ms; ratio {ratio:.3f}")
            what = f"a step of {name} in {processes.count()} processes, batches of {BS} each"
            readme_row(what, f"{mine:.1f} ms", f"torch's DDP by hand {theirs:.1f} ms (ratio of pairs {ratio:.3f})")


if __name__ == "__main__":
    processes.join()
    main()
