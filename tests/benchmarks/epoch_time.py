"""How long an epoch of MiniGoogLeNet on Fashion-MNIST takes, and what of it is the trainer's.

    python tests/benchmarks/epoch_time.py [--bs 128] [--steps 6] [--rounds 5] [--compile]

In each mode (fp32; fp32 and bf16 with channels_last; with `--compile` each again, compiled) a hand-written loop and
minilearner take turns in one process over the same augmented 32-pixel batches; medians of rounds, scaled up to the
updates of an epoch. bf16 is measured where the hardware computes it.
"""

import argparse
import itertools
import os
import platform
import statistics
import time
from contextlib import nullcontext
from functools import partial

import torch
from torch.nn import functional as F

from minilearner import DataLoaders, Learner, MiniGoogLeNet, fashion_mnist
from minilearner.runtime import default_device, resolve_precision

SGD = partial(torch.optim.SGD, lr=1e-2, momentum=0.9)


class FirstBatches:
    """The first batches of a loader, anew each time."""

    def __init__(self, loader, n):
        self.loader, self.n = loader, n

    def __iter__(self):
        return itertools.islice(self.loader, self.n)

    def __len__(self):
        return self.n


def raw(loader, device, *, channels_last, bf16, compile):
    torch.manual_seed(0)
    model = MiniGoogLeNet(10).to(device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = SGD(model.parameters())
    if compile:
        model = torch.compile(model)

    def run():
        model.train()
        for x, y in loader:
            with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
                pred = model(x)
            F.cross_entropy(pred.float(), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def ours(loader, device, *, channels_last, bf16, compile):
    torch.manual_seed(0)
    model = MiniGoogLeNet(10)
    if channels_last and not bf16:  # what precision="auto" does where bf16 is slow
        model = model.to(memory_format=torch.channels_last)
    precision = "bf16" if bf16 else "fp32"
    dls = DataLoaders(loader, vocab=range(10))
    learn = Learner(dls, model, opt_func=SGD, precision=precision, device=device, compile=compile)

    def run():
        with learn.no_logging():
            learn.fit(1)

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bs", type=int, default=128)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also compiled; needs minutes before its first step")
    args = parser.parse_args()
    device = default_device()
    train = fashion_mnist(bs=args.bs, seed=0).train
    loader = FirstBatches(train, args.steps)
    modes = {"fp32": (False, False, False), "fp32, channels_last": (True, False, False)}
    if resolve_precision("auto", device) == "bf16":
        modes["bf16, channels_last"] = (True, True, False)
    if args.compile:
        modes |= {f"{name}, compiled": (*mode[:2], True) for name, mode in modes.items()}
    print(f"{platform.machine()}, {os.cpu_count()} cores, {device}, torch {torch.__version__}; batch {args.bs},")
    print(f"{args.steps} updates a round, medians of {args.rounds} rounds, for {len(train)} updates an epoch\n")
    print(f"{'':32} {'raw loop':>12} {'minilearner':>12} {'ratio':>7}")
    for name, (channels_last, bf16, compile) in modes.items():
        runs = [make(loader, device, channels_last=channels_last, bf16=bf16, compile=compile) for make in (raw, ours)]
        times = [[], []]
        for number in range(args.rounds + 1):
            for run, column in zip(runs, times):
                began = time.perf_counter()
                run()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if number:  # the first warms up
                    column.append((time.perf_counter() - began) / args.steps * len(train))
        ratio = statistics.median(b / a for a, b in zip(*times))
        a, b = map(statistics.median, times)
        print(f"{name:32} {a:10.0f} s {b:10.0f} s {ratio:7.3f}")


if __name__ == "__main__":
    main()
