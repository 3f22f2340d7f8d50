"""Measures the frozen phase of fine-tuning: norm layers that learn, as in fastai, `train_bn=False`, and `precompute`.

    python tests/benchmarks/frozen.py [--size 96] [--bs 32] [--steps 3] [--rounds 5] [--seeds 0] [--epochs 2]

First it measures one step, in turns with a hand-written loop whose body has no gradient, each in its own process. The
figures are median CPU seconds of one thread, which a busy machine changes little. The models are an untrained
ResNet-18, and EfficientNet-Lite0 if the packages for `transfer.py` are installed. Then it measures whole frozen phases
of one and three epochs, with validation but without augmentation, in turns too.

`--seeds` adds error rates on the stamps of `transfer.py`: after one frozen epoch and `--epochs` unfrozen ones, without
`precompute`, and after three frozen epochs without augmentation, in all three ways.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
import transfer
from rows import readme_row
from torch.nn import functional as F
from torchvision.models import resnet18
from turns import by_turns, seconds

from minilearner.models.heads import create_head, cut_model, num_features
from minilearner.vision.all import Callback, DataLoaders, Normalize, error_rate, set_seed
from minilearner.vision.augment import aug_transforms
from minilearner.vision.image_loaders import ImageDataLoaders
from minilearner.vision.resize import Resize
from minilearner.vision.vision_learner import vision_learner

HOWS = ("norms learn", "train_bn=False", "precompute")


def step(make, arch, args):
    """Returns a function that returns the CPU milliseconds of a frozen step."""
    g = torch.Generator().manual_seed(0)
    shape = (args.bs, 3, args.size, args.size)
    data = [(torch.rand(shape, generator=g), torch.randint(10, (args.bs,), generator=g)) for _ in range(args.steps)]
    epoch = make(arch, data)
    return lambda: seconds(epoch, time.process_time) / args.steps * 1e3


def ours(train_bn, arch, data):
    learn = frozen_learner(arch, DataLoaders(data, vocab=range(10)), train_bn)

    def epoch():
        with learn.no_logging():
            learn.fit(1, 1e-3)

    return epoch


def raw(arch, data):
    torch.manual_seed(0)
    body = cut_model(arch()).requires_grad_(False)
    head = create_head(num_features(body), 10)
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


def frozen_learner(arch, dls, train_bn):
    learn = vision_learner(dls, arch(), pretrained=False, train_bn=train_bn, normalize=False, device="cpu", seed=0)
    learn.freeze()
    return learn


def phases(how, arch, args):
    """Returns a function that returns the CPU seconds of frozen phases of one and three epochs, from fresh weights."""
    g, n = torch.Generator().manual_seed(0), args.steps * args.bs
    x, y = torch.rand((n, 3, args.size, args.size), generator=g), torch.randint(10, (n,), generator=g)
    dls = DataLoaders.from_arrays((x, y), (x[: n // 4], y[: n // 4]), bs=args.bs, vocab=range(10), seed=0)

    def phase(n_epochs):
        learn = frozen_learner(arch, dls, how == "norms learn")

        def fit():
            with learn.no_logging(), learn.precompute() if how == "precompute" else nullcontext():
                learn.fit(n_epochs, 1e-3)

        return seconds(fit, time.process_time)

    return lambda: (phase(1), phase(3))


def step_times(name, arch, args):
    makers = {"norms": partial(ours, True), "resting": partial(ours, False), "by hand": raw}
    times = by_turns({who: (step, make, arch, args) for who, make in makers.items()}, args.rounds)
    norms, resting, by_hand = map(statistics.median, times.values())
    print(f"| {name} | {norms:.0f} ms | {resting:.0f} ms | {norms / resting:.2f} | {by_hand:.0f} ms |")
    others = f"body without gradient by hand {by_hand:.0f} ms; norm layers that learn {norms:.0f} ms"
    readme_row(f"a frozen step of {name}, {args.size} px, one thread, `train_bn=False`", f"{resting:.0f} ms", others)


def phase_times(name, arch, args):
    times = by_turns({how: (phases, how, arch, args) for how in HOWS}, args.rounds)
    for i, n_epochs in enumerate((1, 3)):
        norms, resting, features = (statistics.median(pair[i] for pair in column) for column in times.values())
        print(f"| {name}, {n_epochs} | {norms:.2f} s | {resting:.2f} s ({norms / resting:.2f}) ", end="")
        print(f"| {features:.2f} s ({norms / features:.2f}) |", flush=True)
    what = f"a frozen phase of three epochs over {args.steps * args.bs} images, with `precompute`: {name}"
    others = f"`train_bn=False` alone {resting:.1f} s; norm layers that learn {norms:.1f} s"
    readme_row(what, f"{features:.1f} s", others)


def errors(args):
    print("\n| stamps | error rate by seed | mean | frozen phase, with its validation |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "stamps"
        transfer.write_stamps(folder, 0)
        means = {}
        for augment in (True, False):
            for how in HOWS[: 2 if augment else 3]:
                found = [fine_tune(folder, seed, how, augment, args) for seed in range(args.seeds)]
                rates, took = zip(*found)
                what = f"{how}, {'augmented' if augment else 'not augmented'}"
                print(f"| {what} | {' '.join(f'{rate:.4f}' for rate in rates)} | {statistics.mean(rates):.4f} ", end="")
                print(f"| {statistics.median(took):.1f} s |", flush=True)
                means[how] = statistics.mean(rates)
        n = len(list(folder.iterdir()))
        what = f"fine-tuning after it, {n} drawings and photos, not augmented, {args.seeds} seeds: error rate"
        others = f"`train_bn=False` alone {means[HOWS[1]]:.3f}; norm layers that learn {means[HOWS[0]]:.3f}"
        readme_row(what, f"{means[HOWS[2]]:.3f}", others)


def fine_tune(folder, seed, how, augment, args):
    set_seed(seed)
    plain = Normalize.from_stats(transfer.MEAN, transfer.STD)
    dls = ImageDataLoaders.from_name_re(
        folder, sorted(folder.iterdir()), r"(.+)_\d+\.\w+$", valid_pct=0.33, seed=7, bs=args.bs,
        item_tfms=Resize(args.size * 5 // 4) if augment else Resize(args.size, "squish"),
        batch_tfms=[*aug_transforms(size=args.size), plain] if augment else plain,
    )  # fmt: skip
    learn = vision_learner(dls, transfer.trained_body(), metrics=error_rate, train_bn=how == HOWS[0])
    with learn.no_logging():
        learn.validate()  # decodes the images into the cache
        next(iter(dls.train))
        unfrozen = When()
        learn.fine_tune(args.epochs, freeze_epochs=1 if augment else 3, precompute=how == "precompute", cbs=unfrozen)
        return learn.validate()[1], unfrozen.seconds


class When(Callback):
    """Measures the time from its creation to the start of the second run: the frozen phase."""

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
    archs = {"ResNet-18": resnet18}
    if transfer.weights_are_here():
        archs["EfficientNet-Lite0"] = transfer.trained_body
    print("| frozen step | norms learn | train_bn=False | times as fast | raw loop, body without gradient |")
    print("|---|---|---|---|---|", flush=True)
    for name, arch in archs.items():
        step_times(name, arch, args)
    print("\n| frozen phase, epochs | norms learn | train_bn=False (times as fast) | precompute |\n|---|---|---|---|")
    for name, arch in archs.items():
        phase_times(name, arch, args)
    if args.seeds and len(archs) > 1 and transfer.STAMPS.is_dir():
        errors(args)


if __name__ == "__main__":
    main()
