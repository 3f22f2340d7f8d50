"""Compares what five minutes give: the README's first command, and fastai on the same data with the same network.

    python tests/benchmarks/five_minutes.py [--minutes 5] [--rounds 1]

Both train MiniGoogLeNet on Fashion-MNIST, from the start of Python to the test accuracy on all 10,000 test images, and
plan how many training images fit into the time, from a few timed updates. Both find a rate by a sweep and train one
cycle at it, with the same augmentation. They take turns, each in its own process. fastai runs as its users write it, in
fp32 and at the rate of its `valley`; minilearner is `examples/fashion_mnist.py` as it stands.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from rows import readme_row

EXAMPLE = Path(__file__).parents[2] / "examples" / "fashion_mnist.py"
BS, SWEEP_STEPS, TEST_IMAGES = 32, 60, 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--output", type=Path, help="where to keep the figures of the example")
    parser.add_argument("--contender", choices=("fastai",), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        print(json.dumps(train_with_fastai(60 * args.minutes)))
        return
    contenders = {"minilearner": partial(run_example, output=args.output), "fastai": run_fastai}
    results: dict[str, list[dict]] = {name: [] for name in contenders}
    for number in range(args.rounds):
        for name, run in contenders.items():
            began = time.perf_counter()
            result = {**run(args.minutes, number), "wall": time.perf_counter() - began}
            results[name].append(result)
            print(f"{name}: {result}", flush=True)
    ours, theirs = (statistics.median(one["accuracy"] for one in results[name]) for name in contenders)
    seconds = [statistics.median(one["wall"] for one in results[name]) for name in contenders]
    readme_row(
        f"Fashion-MNIST, everything from the start in {args.minutes:g} minutes: test accuracy (time)",
        f"{ours:.1%} ({seconds[0]:.0f} s)",
        f"fastai {theirs:.1%} ({seconds[1]:.0f} s)",
    )


def run_example(minutes: float, seed: int, *, output: Path | None) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        options = ["--minutes", f"{minutes:g}", "--seed", str(42 + seed), "--output", str(output or folder)]
        out = subprocess.run(
            [sys.executable, str(EXAMPLE), *options], capture_output=True, text=True, check=True
        ).stdout
    accuracy = float(re.search(r"Test accuracy on [\d,]+ images: ([\d.]+)%", out)[1]) / 100
    images = int(re.search(r"train MiniGoogLeNet on ([\d,]+) of", out)[1].replace(",", ""))
    return {"accuracy": accuracy, "images": images}


def run_fastai(minutes: float, seed: int) -> dict:
    command = [sys.executable, str(Path(__file__).resolve()), "--contender", "fastai", "--minutes", f"{minutes:g}"]
    with tempfile.TemporaryDirectory() as folder:  # a sweep of fastai's leaves files behind
        out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout
    return json.loads(out.splitlines()[-1])


def train_with_fastai(seconds: float) -> dict:
    """Returns what fastai's own `lr_find` and `fit_one_cycle` reach within so many seconds of this process."""
    began = time.perf_counter() - time.process_time()
    import torch
    from fastai.vision.all import (
        CrossEntropyLossFlat,
        DataLoader,
        DataLoaders,
        Learner,
        accuracy,
        set_seed,
    )
    from torch.nn import functional as F
    from torch.utils.data import Subset, TensorDataset

    from minilearner import MiniGoogLeNet
    from minilearner.sources.fashion import load_fashion_mnist

    data = load_fashion_mnist(None)

    def tensors(images, labels):
        x = F.interpolate(torch.as_tensor(images).reshape(-1, 1, 28, 28).float() / 255, (32, 32), mode="bilinear")
        return TensorDataset(x, torch.as_tensor(labels).long())

    def shift_and_flip(batch):
        """Shifts images by up to a tenth and flips half of them, as the example does."""
        x, y = batch
        theta = torch.eye(2, 3).repeat(len(x), 1, 1)
        theta[:, 0, 0] -= 2 * torch.randint(2, (len(x),))
        theta[:, :, 2] = (torch.rand(len(x), 2) * 2 - 1) * 0.2
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False), y

    train = tensors(data.train_images, data.train_labels)
    valid = tensors(data.valid_images, data.valid_labels)

    def learner(n_train: int, n_test: int) -> Learner:
        set_seed(42)
        options = {"shuffle": True, "drop_last": True, "after_batch": shift_and_flip}
        loaders = [
            DataLoader(Subset(train, range(n_train)), bs=BS, num_workers=0, **options),
            DataLoader(Subset(valid, range(n_test)), bs=2 * BS, num_workers=0),
        ]
        return Learner(DataLoaders(*loaders), MiniGoogLeNet(10), CrossEntropyLossFlat(), metrics=accuracy)

    learn = learner(320, 320)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-8)  # the first updates are slower
        start = time.perf_counter()
        learn.fit(1, 1e-8)
        epoch = time.perf_counter() - start
        start = time.perf_counter()
        learn.validate()
        testing = (time.perf_counter() - start) / 320
    training = epoch / 320 - testing
    fixed = time.perf_counter() - began + SWEEP_STEPS * BS * training + TEST_IMAGES * testing
    fits = max(1000, int((seconds - fixed) / training))
    learn = learner(min(fits, len(train)), TEST_IMAGES)
    with learn.no_bar(), learn.no_logging():
        rate = learn.lr_find(num_it=SWEEP_STEPS, show_plot=False).valley
        learn.fit_one_cycle(max(1, fits // len(train)), rate)
    return {"accuracy": float(learn.recorder.values[-1][-1]), "images": min(fits, len(train)), "rate": rate}


if __name__ == "__main__":
    main()
