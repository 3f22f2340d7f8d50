"""Compares the throughput with several processes on a slow link, which is simulated, with a model of it.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 4 tests/benchmarks/scaling.py [--gigabits 1] [--rounds 5]
    python tests/benchmarks/scaling.py --paper

The loop, DDP and the exchange of losses are real, on gloo. The device and the link sleep, so that two cores serve four
processes: each of `LAYERS` layers sleeps in its passes, and each bucket of gradients sleeps on its way, one after the
other, as if it had `GRADIENTS` / `LAYERS` bytes. A step takes

    forward + max(backward + X / LAYERS, backward / LAYERS + X) + small exchanges
    X = 2 (N - 1) / N * GRADIENTS / bandwidth + buckets * latency

The first bucket leaves after the backward pass of one layer, and the last one only after that of all layers. A ring
all-reduce sends 2 (N - 1) / N of the bytes through each link. `--paper` prints the model for up to 512 GPUs. There
nothing is measured.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
import torch.distributed as dist
from rows import readme_row
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from minilearner import DataLoaders, Learner, processes

LAYERS, FORWARD, BACKWARD = 8, 0.4, 0.8  # seconds of all layers
GRADIENTS = 80e6  # bytes
WIDTH, BS, STEPS = 128, 16, 5


class Sleep(torch.autograd.Function):
    """Takes the time of a layer."""

    @staticmethod
    def forward(ctx, x):
        time.sleep(FORWARD / LAYERS)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(BACKWARD / LAYERS)
        return gradient.clone()


class SlowNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))

    def forward(self, x):
        for layer in self.layers:
            x = layer(Sleep.apply(x))
        return x


def wrap(seconds, link, model):
    """Wraps a model in DDP with a bucket for each layer, which stays for some seconds on the only link."""
    own = sum(p.numel() * p.element_size() for p in model.layers[0].parameters())
    wrapped = DistributedDataParallel(model, bucket_cap_mb=own / 2**20)

    def send(_, bucket):
        arrived, buffer = torch.futures.Future(), bucket.buffer()
        work = dist.all_reduce(buffer.div_(processes.count()), async_op=True)
        share = sum(p.numel() for p in bucket.parameters()) * buffer.element_size() / own

        def arrive():
            work.wait()
            time.sleep(seconds / LAYERS * share)
            arrived.set_result(buffer)

        link.submit(arrive)
        return arrived

    wrapped.register_comm_hook(None, send)
    return wrapped


def exchange_seconds(n, gradients, bandwidth):
    return 2 * (n - 1) / n * gradients / bandwidth


def step_seconds(forward, backward, exchange, n_buckets):
    return forward + max(backward + exchange / n_buckets, backward / n_buckets + exchange)


def measure(bandwidth, rounds):
    n = processes.count()
    exchange = exchange_seconds(n, GRADIENTS, bandwidth)
    torch.manual_seed(0)
    x = torch.randn(n * STEPS * BS, WIDTH)
    with ThreadPoolExecutor(1) as link:
        dls = DataLoaders(list(zip(x.split(BS), x.split(BS), strict=True)))
        strategy = partial(wrap, exchange, link) if n > 1 else "auto"
        learn = Learner(dls, SlowNet(), nn.MSELoss(), torch.optim.SGD, device="cpu", strategy=strategy)
        times = []
        with learn.no_logging():
            for _ in range(rounds + 1):
                processes.wait()
                began = time.perf_counter()
                learn.fit(1, 1e-3)
                times.append((time.perf_counter() - began) / STEPS)
    found, expected = statistics.median(times[1:]), step_seconds(FORWARD, BACKWARD, exchange, LAYERS)
    if processes.is_first():
        what = f"a step of {n} simulated devices on a link of {8e-9 * bandwidth:g} Gbit/s, 80 MB of gradients"
        line = f"model {1e3 * expected:.0f} ms; {n * BS / found:.0f} items a second, model {n * BS / expected:.0f}"
        print(f"{what}: {1e3 * found:.0f} ms, {line}", flush=True)
        readme_row(what, f"{1e3 * found:.0f} ms", line)


PAPER = {"ResNet-50": (102e6, 5, 0.05, 0.10), "ViT-B/16": (346e6, 14, 0.12, 0.24)}
"""Name -> bytes of fp32 gradients, buckets of 25 MB, and the assumed seconds of the two passes."""
LATENCY = 20e-6  # seconds for one hop


def paper():
    print("| | link | 8 | 32 | 128 | 512 GPUs |\n|---|---|---|---|---|---|")
    for name, (gradients, n_buckets, forward, backward) in PAPER.items():
        for gigabits in (10, 100, 400):
            cells = []
            for n in (8, 32, 128, 512):
                hops = 2 * math.log2(n) * LATENCY  # of a tree, which NCCL uses for small messages
                exchange = exchange_seconds(n, gradients, gigabits * 1e9 / 8) + n_buckets * hops
                took = step_seconds(forward, backward, exchange, n_buckets) + 2 * hops
                cells.append(f"{100 * (forward + backward) / took:.0f} %")
            print(f"| {name} | {gigabits} Gbit/s | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabits", type=float, nargs="*", default=[0.5, 2], help="bandwidths of the simulated link")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--paper", action="store_true")
    args = parser.parse_args()
    if args.paper:
        paper()
        return
    processes.join()
    for gigabits in args.gigabits:
        measure(gigabits * 1e9 / 8, args.rounds)


if __name__ == "__main__":
    main()
