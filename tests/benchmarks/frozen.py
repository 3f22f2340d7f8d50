"""The frozen phase of fine-tuning: norm layers that learn (fastai's way), `train_bn=False`, and `precompute`.

    python tests/benchmarks/frozen.py [--size 96] [--bs 32] [--steps 3] [--rounds 5] [--seeds 0] [--epochs 2]

First a step's time, CPU seconds of one thread (so that a busy machine tells little), by turns with a hand-written loop
whose body has no gradient; medians. ResNet-18 untrained, and EfficientNet-Lite0 where `transfer.py`'s packages are.
Then whole frozen phases of one and of three epochs over data that nothing augments, each with its validation.
With `--seeds`: the error rate after one frozen epoch and `--epochs` unfrozen ones on `transfer.py`'s stamps, both ways;
and without augmentation, three frozen epochs, all three ways.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import torch
import transfer
from torch.nn import functional as F
from torchvision.models import resnet18

from minilearner.vision.all import (
    Callback,
    DataLoaders,
    ImageDataLoaders,
    Normalize,
    Resize,
    aug_transforms,
    error_rate,
    set_seed,
    vision_learner,
)


def ours(arch, data, train_bn):
    learn = frozen_learner(arch, data, train_bn)

    def epoch():
        with learn.no_logging():
            learn.fit(1, 1e-3)

    return epoch


def raw(arch, data):
    body, head = frozen_learner(arch, data, False).model
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)

    def epoch():
        body.eval()
        head.train()
        for x, y in data:
            with torch.no_grad():
                features = body(x)
            F.cross_entropy(head(features), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def frozen_learner(arch, data, train_bn):
    dls = data if isinstance(data, DataLoaders) else DataLoaders(data, vocab=range(10))
    learn = vision_learner(dls, arch(), pretrained=False, train_bn=train_bn, normalize=False, device="cpu", seed=0)
    learn.freeze()
    return learn


def step_times(name, arch, args):
    g = torch.Generator().manual_seed(0)
    shape = (args.bs, 3, args.size, args.size)
    data = [(torch.rand(shape, generator=g), torch.randint(10, (args.bs,), generator=g)) for _ in range(args.steps)]
    epochs = [ours(arch, data, True), ours(arch, data, False), raw(arch, data)]
    times = [[], [], []]
    for number in range(args.rounds + 1):
        for epoch, column in zip(epochs, times):
            began = time.process_time()
            epoch()
            if number:  # the first warms up
                column.append((time.process_time() - began) / args.steps * 1e3)
    norms, resting, by_hand = map(statistics.median, times)
    print(f"| {name} | {norms:.0f} ms | {resting:.0f} ms | {norms / resting:.2f} | {by_hand:.0f} ms |")


def stage_times(name, arch, args):
    g, n = torch.Generator().manual_seed(0), args.steps * args.bs
    x, y = torch.rand((n, 3, args.size, args.size), generator=g), torch.randint(10, (n,), generator=g)
    dls = DataLoaders.from_arrays((x, y), (x[: n // 4], y[: n // 4]), bs=args.bs, vocab=range(10), seed=0)
    for n_epochs in (1, 3):
        times = {"norms learn": [], "train_bn=False": [], "precompute": []}
        for number in range(args.rounds + 1):
            for how, column in times.items():
                learn = frozen_learner(arch, dls, how == "norms learn")
                began = time.process_time()
                with learn.no_logging(), learn.precompute() if how == "precompute" else nullcontext():
                    learn.fit(n_epochs, 1e-3)
                if number:
                    column.append(time.process_time() - began)
        norms, resting, features = map(statistics.median, times.values())
        print(f"| {name}, {n_epochs} | {norms:.2f} s | {resting:.2f} s ({norms / resting:.2f}) ", end="")
        print(f"| {features:.2f} s ({norms / features:.2f}) |", flush=True)


def errors(args):
    print("\n| stamps | error rate by seed | mean | frozen phase, with its validation |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "stamps"
        transfer.write_stamps(folder, 0)
        for augment in (True, False):
            for how in ("train_bn=True", "train_bn=False", *([] if augment else ["precompute"])):
                found = [fine_tuned(folder, seed, how, augment, args) for seed in range(args.seeds)]
                rates, seconds = zip(*found)
                what = f"{how}, {'augmented' if augment else 'not augmented'}"
                print(f"| {what} | {' '.join(f'{rate:.4f}' for rate in rates)} | {statistics.mean(rates):.4f} ", end="")
                print(f"| {statistics.median(seconds):.1f} s |", flush=True)


def fine_tuned(folder, seed, how, augment, args):
    set_seed(seed)
    plain = Normalize.from_stats(transfer.MEAN, transfer.STD)
    dls = ImageDataLoaders.from_name_re(
        folder, sorted(folder.iterdir()), r"(.+)_\d+\.\w+$", valid_pct=0.33, seed=7, bs=args.bs,
        item_tfms=Resize(args.size * 5 // 4) if augment else Resize(args.size, "squish"),
        batch_tfms=[*aug_transforms(size=args.size), plain] if augment else plain,
    )  # fmt: skip
    learn = vision_learner(dls, transfer.trained_body(), metrics=error_rate, train_bn=how == "train_bn=True")
    with learn.no_logging():
        learn.validate()  # pictures are decoded here, into the cache
        next(iter(dls.train))
        unfrozen = When()
        learn.fine_tune(args.epochs, freeze_epochs=1 if augment else 3, precompute=how == "precompute", cbs=unfrozen)
        return learn.validate()[1], unfrozen.seconds


class When(Callback):
    """How long it takes from here to the first step of the second run: the frozen phase."""

    def __init__(self):
        self.began, self.n_runs, self.seconds = time.perf_counter(), 0, 0.0

    def before_fit(self, run):
        self.n_runs += 1
        if self.n_runs == 2:
            self.seconds = time.perf_counter() - self.began


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"size": 96, "bs": 32, "steps": 3, "rounds": 5, "seeds": 0, "epochs": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}, {args.size} px\n")
    print("| frozen step | norms learn | train_bn=False | times as fast | raw loop, body without gradient |")
    print("|---|---|---|---|---|", flush=True)
    step_times("ResNet-18", lambda: resnet18(), args)
    try:
        step_times("EfficientNet-Lite0", transfer.trained_body, args)
    except ImportError:
        print("\nefficientnet_lite_pytorch is not installed.")
    print("\n| frozen phase, epochs | norms learn | train_bn=False (times as fast) | precompute |\n|---|---|---|---|")
    stage_times("ResNet-18", lambda: resnet18(), args)
    with suppress(ImportError):
        stage_times("EfficientNet-Lite0", transfer.trained_body, args)
    if args.seeds:
        errors(args)


if __name__ == "__main__":
    main()
