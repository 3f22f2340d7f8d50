"""Compares a training step in several processes with torch's own wrappers, in a loop written by hand.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 tests/benchmarks/processes.py [--turns 15] [--only MLP]

"ddp" is compared with `DistributedDataParallel`, and "fsdp" with `fully_shard` of the same layers. Both rivals train
the same model on the same batches and take turns in the same two processes, so that a busy machine slows both alike. A
setting that minilearner makes for the whole process therefore helps both. minilearner exchanges more: with the
gradients the number of items and the mean loss of all processes, and after each step the statistics of batch norm. For
each model the script prints the median time of a step, by the clock and of the processor, and the median ratios of the
turns. If other programs use the processors too, trust the processor's time: it leaves out the waiting.
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
from turns import ratio_text

from minilearner import MLP, DataLoaders, Learner, MiniGoogLeNet, processes
from minilearner.training.distributed import shard_model

BS = 64
MODELS = {  # name -> (how it is trained, a function that makes it, the steps of a turn)
    "MLP": ("ddp", lambda: MLP((784, 300, 100, 10)), 100),
    "MiniGoogLeNet": ("ddp", lambda: MiniGoogLeNet(10), 8),
    "sharded MLP": ("fsdp", lambda: MLP((784, 300, 300, 10)), 40),
}
RIVALS = {"ddp": DistributedDataParallel, "fsdp": lambda model: shard_model(model, "cpu")}


def by_hand(model, batches, strategy):
    """Returns a function that trains one epoch in a plain loop. The network is wrapped before the clock starts."""
    network = RIVALS[strategy](model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def epoch():
        network.train()
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()

    return epoch


def ours(model, batches, strategy):
    learn = Learner(
        DataLoaders(batches), model, nn.CrossEntropyLoss(), torch.optim.SGD, 0.01, strategy=strategy, device="cpu"
    )

    def epoch():
        with learn.no_logging():
            learn.fit(1)

    return epoch


def seconds(epoch):
    """Returns how long an epoch took by the clock, and the processor's time, which all processes share equally."""
    processes.wait()
    start, of_processor = time.perf_counter(), time.process_time()
    epoch()
    of_processor = time.process_time() - of_processor
    processes.wait()
    return time.perf_counter() - start, processes.add_up([of_processor])[0] / processes.count()


def compare(name, turns):
    strategy, make, n_batches = MODELS[name]
    torch.manual_seed(0)
    n = n_batches * processes.count() * BS
    x, y = torch.randn(n, 1, 28, 28), torch.randint(10, (n,))
    every = list(zip(x.split(BS), y.split(BS), strict=True))
    own = every[processes.rank() :: processes.count()]
    rivals = ours(make(), every, strategy), by_hand(make(), own, strategy)
    for epoch in rivals:
        seconds(epoch)
    turns_of_each = [[seconds(epoch) for epoch in rivals] for _ in range(turns)]
    if not processes.is_first():
        return
    cells = []
    for kind, unit in enumerate(("", " of the processor")):
        times = [[1000 * turn[kind] / n_batches for turn in pair] for pair in turns_of_each]
        mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
        pairs = ratio_text(*zip(*times, strict=True))
        print(f"{name}: {mine:.2f} ms a step{unit}, by hand {theirs:.2f} ms; ratio {pairs}", flush=True)
        cells.append((mine, theirs, pairs))
    (mine, theirs, pairs), (_, _, of_processor) = cells
    what = f"a step of {name} in {processes.count()} processes, batches of {BS} each"
    rival = {"ddp": "torch's DDP by hand", "fsdp": "torch's `fully_shard` by hand"}[strategy]
    beside = f"{rival} {theirs:.1f} ms (ratio of pairs {pairs}, of processor time {of_processor})"
    readme_row(what, f"{mine:.1f} ms", beside)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--only", choices=MODELS, help="one of the models")
    args = parser.parse_args()
    for name in [args.only] if args.only else MODELS:
        compare(name, args.turns)


if __name__ == "__main__":
    processes.join()
    main()
