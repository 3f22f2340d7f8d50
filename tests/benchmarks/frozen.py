"""The frozen phase of fine-tuning: with norm layers that learn (fastai's way), and with `train_bn=False`.

    python tests/benchmarks/frozen.py [--size 96] [--bs 32] [--steps 3] [--rounds 5] [--seeds 0] [--epochs 2]

First a step's time, CPU seconds of one thread (so that a busy machine tells little), by turns with a hand-written loop
whose body has no gradient; medians. ResNet-18 untrained, and EfficientNet-Lite0 where `transfer.py`'s packages are.
With `--seeds`: the error rate after one frozen epoch and `--epochs` unfrozen ones on `transfer.py`'s stamps, both ways.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transfer
from torch.nn import functional as F
from torchvision.models import resnet18

from minilearner.vision.all import (
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
    dls = DataLoaders(data, vocab=range(10))
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


def errors(args):
    print("\n| stamps | error rate by seed | mean | frozen epoch, with its validation |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "stamps"
        transfer.write_stamps(folder, 0)
        found = {
            train_bn: [fine_tuned(folder, seed, train_bn, args) for seed in range(args.seeds)]
            for train_bn in (True, False)
        }
    for train_bn, rows in found.items():
        rates, seconds = zip(*rows)
        print(
            f"| train_bn={train_bn} | {' '.join(f'{rate:.4f}' for rate in rates)} | {statistics.mean(rates):.4f} ",
            end="",
        )
        print(f"| {statistics.median(seconds):.1f} s |", flush=True)


def fine_tuned(folder, seed, train_bn, args):
    set_seed(seed)
    dls = ImageDataLoaders.from_name_re(
        folder, sorted(folder.iterdir()), r"(.+)_\d+\.\w+$", valid_pct=0.33, seed=7, bs=args.bs,
        item_tfms=Resize(args.size * 5 // 4),
        batch_tfms=[*aug_transforms(size=args.size), Normalize.from_stats(transfer.MEAN, transfer.STD)],
    )  # fmt: skip
    learn = vision_learner(dls, transfer.trained_body(), metrics=error_rate, train_bn=train_bn)
    with learn.no_logging():
        learn.validate()  # pictures are decoded here, into the cache
        learn.fine_tune(args.epochs)
        return learn.validate()[1], learn.recorder.runs[0].epochs[-1]["time_seconds"]


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
    if args.seeds:
        errors(args)


if __name__ == "__main__":
    main()
