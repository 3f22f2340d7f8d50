"""Measures how long an epoch of MiniGoogLeNet on Fashion-MNIST takes, and how much of that is the trainer's overhead.

    python tests/benchmarks/epoch_time.py [--bs 128] [--steps 6] [--rounds 5] [--compile]

The modes are fp32, and fp32 and bf16 with channels_last; `--compile` adds each of them compiled. In each mode a
hand-written loop and minilearner take turns, each in its own process with its own shifted and flipped 32-pixel batches.
The figures are medians over rounds, scaled up to the updates of an epoch. bf16 is measured if `precision="auto"`
chooses it.
"""

import argparse
import itertools
import os
import platform
import statistics
from contextlib import nullcontext
from functools import partial

import torch
from pipeline import GridSampleLoop
from rows import readme_row
from torch.nn import functional as F
from turns import by_turns, ratio_text, seconds

from minilearner import DataLoaders, Learner, MiniGoogLeNet, fashion_mnist
from minilearner.runtime import default_device
from minilearner.sources.fashion import load_fashion_mnist
from minilearner.training.auto_precision import choose_precision
from minilearner.vision.fashion_mnist import resize_images

SGD = partial(torch.optim.SGD, lr=1e-2, momentum=0.9)


class FirstBatches:
    """Yields the first batches of a loader, in every pass."""

    def __init__(self, loader, n):
        self.loader, self.n = loader, n

    def __iter__(self):
        return itertools.islice(self.loader, self.n)

    def __len__(self):
        return self.n


def raw(bs, steps, channels_last, bf16, compile):
    data, device = load_fashion_mnist(), default_device()
    images, labels = torch.from_numpy(data.train_images).to(device), torch.from_numpy(data.train_labels).to(device)
    loader = FirstBatches(GridSampleLoop(resize_images(images, size=32), labels, bs), steps)
    torch.manual_seed(0)
    model = MiniGoogLeNet(10).to(device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = SGD(model.parameters())
    if compile:
        model = torch.compile(model)

    def epoch():
        model.train()
        for x, y in loader:
            with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
                pred = model(x)
            F.cross_entropy(pred.float(), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    return partial(seconds, epoch)


def ours(bs, steps, channels_last, bf16, compile):
    train = FirstBatches(fashion_mnist(bs=bs, seed=0).train, steps)
    torch.manual_seed(0)
    model = MiniGoogLeNet(10)
    if channels_last and not bf16:  # what precision="auto" does if bf16 is slow
        model = model.to(memory_format=torch.channels_last)
    precision = "bf16" if bf16 else "fp32"
    learn = Learner(DataLoaders(train, vocab=range(10)), model, opt_func=SGD, precision=precision, compile=compile)

    def epoch():
        with learn.no_logging():
            learn.fit(1)

    return partial(seconds, epoch)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bs", type=int, default=128)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also measure compiled runs; they start slowly")
    args = parser.parse_args()
    device, updates = default_device(), len(load_fashion_mnist().train_labels) // args.bs
    modes = {"fp32": (False, False, False), "fp32, channels_last": (True, False, False)}
    if choose_precision(MiniGoogLeNet(10), device).precision == "bf16":
        modes["bf16, channels_last"] = (True, True, False)
    if args.compile:
        modes |= {f"{name}, compiled": (*mode[:2], True) for name, mode in modes.items()}
    print(f"{platform.machine()}, {os.cpu_count()} cores, {device}, torch {torch.__version__}; batch {args.bs},")
    print(f"{args.steps} updates a round, medians of {args.rounds} rounds, for {updates} updates an epoch\n")
    print(f"{'':32} {'raw loop':>12} {'minilearner':>12} {'ratio':>21}")
    for name, mode in modes.items():
        makers = {make.__name__: (make, args.bs, args.steps, *mode) for make in (raw, ours)}
        times = by_turns(makers, args.rounds)
        by_hand, mine = (statistics.median(times[who]) / args.steps * updates for who in ("raw", "ours"))
        pairs = ratio_text(times["ours"], times["raw"])
        print(f"{name:32} {by_hand:10.0f} s {mine:10.0f} s {pairs:>21}")
        peers = f"raw loop {by_hand:.0f} s (ratio of pairs {pairs})"
        readme_row(f"an epoch of MiniGoogLeNet, {name}", f"{mine:.0f} s", peers)


if __name__ == "__main__":
    main()
