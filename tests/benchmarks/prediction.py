"""Measures prediction with a trained model: the time for one image, and the passes and memory of interpretation.

    python tests/benchmarks/prediction.py [--rounds 15] [--items 50000] [--classes 1000]

`predict` of a JPEG file takes turns with plain torchvision, each in its own process: decode, resize, crop, normalise,
and one forward pass of ResNet-18 at 128 pixels. The figures are median CPU times of one thread. Interpretation reads
the predictions of a model that only looks them up, so all growth of memory is due to interpretation.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rows import readme_row
from torch import nn
from torchvision import transforms
from torchvision.models import resnet18
from turns import by_turns, ratio_text, seconds

from minilearner.models.heads import create_head, cut_model, num_features
from minilearner.vision.all import ClassificationInterpretation, DataLoaders, Learner
from minilearner.vision.image_loaders import ImageDataLoaders
from minilearner.vision.normalize import imagenet_stats
from minilearner.vision.resize import Resize
from minilearner.vision.vision_learner import vision_learner


def predict_one(folder, rounds):
    rng = np.random.default_rng(0)
    for i in range(12):
        small = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        small.resize((480, 360), Image.Resampling.BICUBIC).save(folder / f"{'ab'[i % 2]}_{i}.jpg", quality=90)
    files = sorted(folder.iterdir())
    times = by_turns({make.__name__: (make, files) for make in (by_hand, predict)}, rounds, warm_up=2)
    hand, ours = (statistics.median(times[name]) * 1e3 for name in ("by_hand", "predict"))
    print("| predict of one JPEG file, ResNet-18, 128 px | preprocessing and a forward pass by hand | ratio |")
    pairs = ratio_text(times["predict"], times["by_hand"])
    print(f"|---|---|---|\n| {ours:.2f} ms | {hand:.2f} ms | {pairs} |\n")
    others = f"preprocessing and a forward pass by hand {hand:.1f} ms (ratio of pairs {pairs})"
    readme_row("`predict` of one JPEG file, ResNet-18, 128 px", f"{ours:.1f} ms", others)


def by_hand(files):
    body = cut_model(resnet18())
    model = nn.Sequential(body, create_head(num_features(body), 2)).eval()
    steps = [transforms.Resize(128), transforms.CenterCrop(128), transforms.ToTensor()]
    prepared = transforms.Compose([*steps, transforms.Normalize(*imagenet_stats)])

    def predict_once():
        with torch.no_grad():
            return model(prepared(Image.open(files[0]).convert("RGB"))[None]).softmax(1)[0]

    return partial(typical_seconds, predict_once)


def predict(files):
    dls = ImageDataLoaders.from_name_re(files[0].parent, files, r"(.)_\d+.jpg$", bs=4, item_tfms=Resize(128), seed=0)
    learn = vision_learner(dls, resnet18, pretrained=False, device="cpu")
    return partial(typical_seconds, partial(learn.predict, files[0]))


def typical_seconds(predict):
    """Returns the median CPU seconds of five calls. In the first, the caches still hold the other contender's data."""
    return statistics.median(seconds(predict, time.process_time) for _ in range(5))


class LookUp(nn.Module):
    """Returns scores that depend on the number of the item alone."""

    def __init__(self, n_classes):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.n_classes, self.calls = n_classes, 0

    def forward(self, x):
        self.calls += 1
        number = x[:, :1] * torch.arange(1, self.n_classes + 1)
        return torch.frac(number * 0.618034) * 3 + self.weight


def interpretation(n_items, n_classes):
    x = torch.arange(n_items, dtype=torch.float32)[:, None]
    y = torch.arange(n_items) % n_classes
    dls = DataLoaders.from_arrays((x[:64], y[:64]), (x, y), bs=64, vocab=range(n_classes), device="cpu")
    learn = Learner(dls, LookUp(n_classes), nn.CrossEntropyLoss(), device="cpu")
    with learn.no_bar():
        next(learn.predict_batches())  # allocates what every pass needs before memory is measured
        learn.model.calls, before = 0, peak_mb(reset=True)
        began = time.perf_counter()
        interp = ClassificationInterpretation.from_learner(learn)
        interp.top_losses(9)
        interp.most_confused(2)
        took = time.perf_counter() - began
    passes = learn.model.calls / len(dls.valid)
    kept = sum(array.nbytes for array in vars(interp).values() if isinstance(array, np.ndarray))
    print(
        f"| interpretation of {n_items:,} items, {n_classes} classes | passes | memory over the model | kept arrays |"
    )
    grown = peak_mb() - before
    print(f"|---|---|---|---|\n| {took:.1f} s | {passes:.2f} | {grown:.0f} MB | {kept / 1e6:.1f} MB |")
    what = f"interpretation of {n_items:,} items, {n_classes:,} classes"
    readme_row(what, f"{passes:.3g} pass{'' if passes == 1 else 'es'}, {grown:.0f} MB over the model")


def peak_mb(*, reset=False):
    """Returns the peak memory of this process since the last reset. Linux only."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"rounds": 15, "items": 50_000, "classes": 1000}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}\n")
    with tempfile.TemporaryDirectory() as folder:
        predict_one(Path(folder), args.rounds)
    interpretation(args.items, args.classes)


if __name__ == "__main__":
    main()
