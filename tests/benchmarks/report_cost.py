#!/usr/bin/env python3
"""Measures what a report costs beyond the pass of predictions: 10,000 items, 100 classes, images of 64 pixels.

    python tests/benchmarks/report_cost.py

Prints the time, the memory beyond that of the predictions, and the size of the page; exit status 1 beyond 10 seconds,
500 MB or 5 MB.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from minilearner import ClassificationInterpretation, DataLoaders, Learner, accuracy

N_ITEMS, N_CLASSES, SIDE = 10_000, 100, 64


def main() -> int:
    learn = make_learner()
    start = time.perf_counter()
    interp = ClassificationInterpretation.from_learner(learn)
    predicted, before = time.perf_counter(), peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        size = interp.report(Path(folder) / "report.html").stat().st_size / 1e6
    seconds, memory = time.perf_counter() - predicted, peak_mb() - before
    print(f"{N_ITEMS:,} items, {N_CLASSES} classes: predictions {predicted - start:.1f} s, then")
    print(f"report {seconds:.1f} s (at most 10), {memory:.0f} MB more (at most 500), page {size:.2f} MB (at most 5)")
    return int(seconds > 10 or memory > 500 or size > 5)


def make_learner() -> Learner:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (N_ITEMS, 3, SIDE, SIDE), generator=g, dtype=torch.uint8)
    y = torch.randint(N_CLASSES, (N_ITEMS,), generator=g)
    vocab = [f"class {i}" for i in range(N_CLASSES)]
    dls = DataLoaders.from_arrays((x[:640], y[:640]), (x, y), vocab=vocab, seed=1, device="cpu")
    convolutions = [nn.Conv2d(3, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4)]
    learn = Learner(dls, nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(512, N_CLASSES)), metrics=accuracy)
    with learn.no_logging():
        learn.fit(1)
    return learn


def peak_mb() -> float:
    """Returns the most memory that the process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
