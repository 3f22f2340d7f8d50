"""Compares with fastai the time to the same error, and the error after the same time.

    python tests/benchmarks/time_to_error.py [--tasks stamps fashion digits scratch] [--seeds 3] [--ours 1 3 6]

fastai trains as its users write it, for `--epochs`. minilearner trains the same model on the same images with the same
transforms, for each number of epochs in `--ours`, with ``precision="auto"`` and everything else by default. With
"options", for each number in `--options`, it also has `ProgressiveResize()`, and ``train_bn=False`` if the body is
trained, so that the frozen phase needs no gradients of the body. Three
tasks fine-tune a trained EfficientNet-Lite0, see `transfer.py`, which also says what is needed. The fourth, "scratch",
trains a small convolutional network from random weights on 5,000 images of Fashion-MNIST of 28 pixels.

Each run has its own process, and the contenders take turns. Times are processor seconds of the process and its workers,
which a busy machine changes little, and wall seconds. Ratios are medians over seeds, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import transfer
from rows import readme_row
from turns import ratio, ratio_text

TUNED, SCRATCH = ("stamps", "fashion", "digits"), "scratch"
N_SCRATCH, BS_SCRATCH, LR_SCRATCH = 5000, 64, 3e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=[*TUNED, SCRATCH], choices=[*TUNED, SCRATCH])
    parser.add_argument("--ours", type=int, nargs="*", default=[1, 3, 6], help="epochs of minilearner")
    parser.add_argument("--options", type=int, nargs="*", default=[1, 3, 6], help="epochs of minilearner with options")
    transfer.add_options(parser, size=96, images=450)
    args = parser.parse_args()
    if args.one:
        kind, seed, folder = args.one
        print(json.dumps(choose_run(kind, Path(folder).name)(Path(folder), int(seed), args, kind)))
        return
    tasks = args.tasks if transfer.weights_are_here() else [task for task in args.tasks if task == SCRATCH]
    with tempfile.TemporaryDirectory() as place:
        for task in tasks:
            folder = Path(place) / task
            images = ("fashion", N_SCRATCH) if task == SCRATCH else (task, args.images)
            if transfer.write_images(images[0], folder, images[1]):
                report(task, folder, args)


def choose_run(kind: str, task: str) -> Any:
    if task == SCRATCH:
        return scratch_by_fastai if kind == "fastai" else scratch_by_minilearner
    return transfer.by_fastai if kind == "fastai" else transfer.by_minilearner


def report(task: str, folder: Path, args: argparse.Namespace) -> None:
    contenders = [("fastai", args.epochs)]
    contenders += [(kind, n) for kind, each in (("minilearner", args.ours), ("options", args.options)) for n in each]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {contender: [] for contender in contenders}
    for seed in range(args.seeds):
        for kind, epochs in contenders if seed % 2 == 0 else contenders[::-1]:
            settings = argparse.Namespace(**{**vars(args), "epochs": epochs})
            found[kind, epochs].append(transfer.run(__file__, kind, seed, folder, settings))
    peers = found["fastai", args.epochs]
    what = describe(task, folder, args)
    print(f"\n{what}\n\n| | error | processor | beside fastai | wall | beside fastai |\n|---|---|---|---|---|---|")
    for (kind, epochs), rows in found.items():
        cells = [f"{mean_error(rows):.3f}"]
        for clock in ("processor", "seconds"):
            cells += [f"{statistics.median(row[clock] for row in rows):.1f} s", spread(rows, peers, clock)]
        print(f"| {kind}, {epochs} epochs ({rows[0]['how']}) | {' | '.join(cells)} |", flush=True)
    conclude(what, found, peers, args)


def conclude(what: str, found: dict[tuple[str, int], list[dict[str, Any]]], peers: Any, args: Any) -> None:
    """Prints the cheapest of ours that is as good as fastai, and the best of ours that is as cheap."""
    ours = [rows for (kind, _), rows in found.items() if kind != "fastai"]
    theirs = mean_error(peers)
    as_good = [rows for rows in ours if mean_error(rows) <= theirs]
    cheapest = min(as_good, key=lambda rows: middle_ratio(rows, peers, "processor"), default=None)
    soonest = f"{spread(cheapest, peers, 'processor')} of the time" if cheapest else "not reached"
    as_cheap = [rows for rows in ours if middle_ratio(rows, peers, "processor") <= 1]
    best = min((mean_error(rows) for rows in as_cheap), default=float("nan"))
    readme_row(f"{what}: to fastai's error; error in fastai's time", f"{soonest}; {best:.3f}", f"fastai {theirs:.3f}")


def describe(task: str, folder: Path, args: argparse.Namespace) -> str:
    n = len(list(folder.glob("*.*")))
    if task == SCRATCH:
        return f"a small CNN from scratch on {n:,} images of Fashion-MNIST, {args.seeds} seeds"
    return f"fine-tuning EfficientNet-Lite0 on {n} {transfer.CONTENTS[task]}, {args.size} px, {args.seeds} seeds"


def mean_error(rows: list[dict[str, Any]]) -> float:
    return statistics.mean(row["error"] for row in rows)


def middle_ratio(rows: list[dict[str, Any]], peers: list[dict[str, Any]], clock: str) -> float:
    return ratio([row[clock] for row in rows], [peer[clock] for peer in peers])


def spread(rows: list[dict[str, Any]], peers: list[dict[str, Any]], clock: str) -> str:
    """Returns the median of the ratios of pairs with the smallest and the largest: "0.21 (0.20 to 0.23)"."""
    return ratio_text([row[clock] for row in rows], [peer[clock] for peer in peers])


def small_network() -> Any:
    """Returns four convolutions with batch norm, from 3 to 128 channels, and a linear layer for 10 classes."""
    from torch import nn

    layers: list[nn.Module] = []
    for n_in, n_out in ((3, 16), (16, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def scratch_by_fastai(folder: Path, seed: int, args: argparse.Namespace, kind: str) -> dict[str, Any]:
    import warnings

    warnings.filterwarnings("ignore")
    from fastai.vision.all import ImageDataLoaders, Learner, Normalize, error_rate, set_seed

    set_seed(seed)
    dls = ImageDataLoaders.from_name_re(
        folder, sorted(folder.iterdir()), r"(.+)_\d+\.\w+$", valid_pct=0.33, seed=7, bs=BS_SCRATCH, num_workers=2,
        batch_tfms=Normalize.from_stats(transfer.MEAN, transfer.STD, cuda=False),
    )  # fmt: skip
    learn = Learner(dls, small_network(), metrics=error_rate)
    with learn.no_bar(), learn.no_logging():
        times = transfer.measure(lambda: learn.fit_one_cycle(args.epochs, LR_SCRATCH))
        return {"error": float(learn.validate()[1]), **times, "how": "fp32"}


def scratch_by_minilearner(folder: Path, seed: int, args: argparse.Namespace, kind: str) -> dict[str, Any]:
    from minilearner.vision.all import ImageDataLoaders, Learner, Normalize, ProgressiveResize, error_rate, set_seed

    set_seed(seed)
    dls = ImageDataLoaders.from_name_re(
        folder, sorted(folder.iterdir()), r"(.+)_\d+\.\w+$", valid_pct=0.33, seed=7, bs=BS_SCRATCH,
        batch_tfms=Normalize.from_stats(transfer.MEAN, transfer.STD),
    )  # fmt: skip
    cbs = ProgressiveResize() if kind == "options" else None
    learn = Learner(dls, small_network(), metrics=error_rate, precision="auto", cbs=cbs)
    with learn.no_logging():
        times = transfer.measure(lambda: learn.fit_one_cycle(args.epochs, LR_SCRATCH))
        how = learn.recorder.runs[-1].settings["precision"]
        return {"error": learn.validate()[1], **times, "how": how}


if __name__ == "__main__":
    main()
