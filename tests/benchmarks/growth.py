"""Measures how cost grows with items, classes, weights and steps, each at N, 2N and 4N.

    python tests/benchmarks/growth.py [--rounds 5]

For each quantity it prints the median CPU time of one thread, or the memory kept, and the slope of a line through the
logarithms. A slope of 1 means proportional growth, 0 means none. If a row says "flat", a slope clearly above 0 is a
fault. The second table measures one part of the library each, from splits to the report; its last line names the parts
that grow faster than their row allows. A matrix of all classes has as many cells as the square of their number. Some of
the slopes go into the table of README.
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

from minilearner import (
    MLP,
    Callback,
    ClassificationInterpretation,
    CSVLogger,
    DataLoaders,
    EarlyStopping,
    Learner,
    ReduceLROnPlateau,
    accuracy,
)
from minilearner.data.folds import split_folds
from minilearner.data.splits import RandomSplitter, StratifiedSplitter, TrainTestSplitter
from minilearner.data.vocabulary import build_vocabulary
from minilearner.plots.confusion import find_worst_classes, order_by_confusion
from minilearner.results.label_errors import find_label_errors
from minilearner.results.predictions import Predictions
from minilearner.saving.checkpoint_folder import CheckpointFolder
from minilearner.vision.fingerprints import _find_near
from minilearner.vision.image_loaders import ImageDataLoaders


def learner(*, items=2048, classes=10, width=64, bs=64):
    torch.manual_seed(0)
    x, y = torch.randn(items, 32), torch.arange(items) % classes
    dls = DataLoaders.from_arrays((x, y), (x, y), bs=bs, seed=0, vocab=range(classes), device="cpu")
    return Learner(dls, MLP([32, width, classes]), opt_func=torch.optim.SGD, metrics=accuracy, device="cpu")


def epoch(learn):
    learn.fit(1, 1e-3)


def interpret(learn):
    ClassificationInterpretation.from_learner(learn).top_losses(9)


def sweep(learn):
    learn.lr_find(num_it=20, show_plot=False)


def predict(learn):
    learn.predict(torch.zeros(32))


def kept_by_interpretation(learn):
    kept = vars(ClassificationInterpretation.from_learner(learn)).values()
    return sum(array.nbytes for array in kept if isinstance(array, np.ndarray))


def kept_by_recorder(learn):
    learn.fit(4, 1e-3)
    return learn.recorder.runs[-1].steps.nbytes


def written_by_checkpoints(epochs):
    """Counts the bytes that all checkpoints of a run of 64 batches an epoch write, without the weights."""
    learn, original = learner(items=4096), CheckpointFolder.save
    model, written = sum(p.nbytes for p in learn.model.parameters()), 0

    def save(store, *args):
        nonlocal written
        before = {path.stat().st_ino for path in store.path.rglob("*.*")}
        new = [path.stat() for path in original(store, *args).iterdir()]
        written += sum(file.st_size for file in new if file.st_ino not in before) - model  # a hard link is no new file

    CheckpointFolder.save = save
    try:
        with learn.no_logging(), tempfile.TemporaryDirectory() as folder:
            learn.fit(epochs, 1e-3, checkpoint=folder)
    finally:
        CheckpointFolder.save = original
    return written


TIMES = {
    "epoch and validation, by items": (epoch, {"items": 4096}, "1"),
    "interpretation, by items": (interpret, {"items": 16384}, "1"),
    "interpretation, by classes": (interpret, {"classes": 100}, "below 1"),
    "epoch, by width of the hidden layer": (epoch, {"width": 1024}, "at most 1"),
    "20 updates of lr_find, by items": (sweep, {"items": 4096}, "flat"),
    "20 updates of lr_find, by width": (sweep, {"width": 1024}, "at most 1"),
    "predict of one item, by items of the data": (predict, {"items": 4096}, "flat"),
}
BYTES = {
    "kept by interpretation, by items": (kept_by_interpretation, {"items": 16384}, "1"),
    "kept by interpretation, by classes": (kept_by_interpretation, {"classes": 256}, "2"),
    "kept by the recorder, by steps": (kept_by_recorder, {"items": 4096}, "1"),
}
WRITTEN = "written by all checkpoints beside the weights, by epochs"
README_ROWS = {
    WRITTEN: "what all checkpoints write beside the weights, bytes over epochs: slope",
    "epoch and validation, by items": "an epoch with validation, time over items at N, 2N, 4N: slope",
    "epoch, by width of the hidden layer": "an epoch, time over weights: slope",
    "predict of one item, by items of the data": "`predict` of one item, time over items of the data: slope",
    "interpretation, by items": "interpretation, time over items: slope",
    "kept by interpretation, by items": "what interpretation keeps, bytes over items: slope",
    "kept by the recorder, by steps": "what the recorder keeps, bytes over steps: slope",
}


def names(n, classes):
    return [f"class {i % classes}" for i in range(n)]


def probabilities(n, classes):
    torch.manual_seed(0)
    return torch.softmax(3 * torch.randn(n, classes), 1), torch.arange(n) % classes


def interpretation(n, classes):
    probs, y = probabilities(n, classes)
    return ClassificationInterpretation.from_predictions(Predictions(probs, y, vocab=tuple(names(classes, classes))))


def report(interp):
    with tempfile.TemporaryDirectory() as folder:
        interp.report(Path(folder) / "report.html", n_images=0)


def confusions(classes):
    rng = np.random.default_rng(0)
    counts = np.diag(np.full(classes, 10))
    np.add.at(counts, tuple(rng.integers(0, classes, (2, 20 * classes))), 1)
    return counts


def train(epochs, *, items=64, bs=64, layers=1, cbs=(), checkpoints=False):
    """Trains a new learner of one small batch an epoch, or of more."""
    torch.manual_seed(0)
    x, y = torch.randn(items, 8), torch.arange(items) % 4
    dls = DataLoaders.from_arrays((x, y), (x[:64], y[:64]), bs=bs, seed=0, device="cpu")
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(layers)))
    learn = Learner(dls, model, opt_func=torch.optim.SGD, metrics=accuracy, device="cpu")
    with learn.no_logging(), tempfile.TemporaryDirectory() as folder:
        learn.fit(epochs, 1e-3, cbs=[make(folder) for make in cbs], checkpoint=folder if checkpoints else None)


class Idle(Callback):
    def after_batch(self, run):
        pass


LOGGERS = (
    lambda folder: CSVLogger(Path(folder) / "history.csv"),
    lambda _: EarlyStopping(patience=10**6),
    lambda _: ReduceLROnPlateau(patience=10**6),
)
COSTS = {  # what -> (N, the largest slope, a function that makes for a size what is timed)
    "vocabulary, by items": (20_000, 1, lambda n: partial(vocabulary, names(n, 10))),
    "vocabulary, by classes": (5_000, 1, lambda n: partial(vocabulary, names(n, n))),
    "random split, by items": (400_000, 1, lambda n: partial(RandomSplitter(0.2, 0), range(n))),
    "stratified split, by items": (20_000, 1, lambda n: partial(StratifiedSplitter(), range(n), names(n, 10))),
    "stratified split, by classes": (1_000, 1, lambda n: partial(StratifiedSplitter(), range(5 * n), names(5 * n, n))),
    "stratified test split, by items": (
        20_000,
        1,
        lambda n: partial(TrainTestSplitter(stratify=True), range(n), names(n, 10)),
    ),
    "folds, by items": (20_000, 1, lambda n: partial(split_folds, torch.arange(n) % 10, n, 5, 0)),
    "loaders in memory, by items": (100_000, 1, lambda n: partial(loaders, torch.zeros(n, 8), torch.arange(n) % 10)),
    "loaders over files, by items": (10_000, 1, lambda n: partial(loaders_of_files, *many_paths(n))),
    "near duplicates among fingerprints, by images": (4_000, 1, lambda n: partial(_find_near, fingerprints(n))),
    "label errors, by items": (20_000, 1, lambda n: partial(label_errors, *probabilities(n, 10))),
    "label errors, by classes": (250, 1, lambda n: partial(label_errors, *probabilities(2_000, n))),
    "report, by items": (10_000, 1, lambda n: partial(report, interpretation(n, 10))),
    "report, by classes, each with 20 items": (60, 1, lambda n: partial(report, interpretation(20 * n, n))),
    "calibration, by items": (10_000, 1, lambda n: interpretation(n, 10).calibration),
    "precision and recall, by items": (10_000, 1, lambda n: interpretation(n, 10).precision_recall_curves),
    "scores of each class, by classes": (250, 2, lambda n: interpretation(4 * n, n).classification_report),
    "most confused, by classes": (250, 2, lambda n: partial(interpretation(4 * n, n).most_confused, 1)),
    "worst classes of a matrix, by classes": (250, 2, lambda n: partial(find_worst_classes, confusions(n), 20)),
    "order of a matrix, by classes": (100, 2, lambda n: partial(order_by_confusion, confusions(n))),
    "training, by epochs": (50, 1, lambda n: partial(train, n)),
    "training with loggers, by epochs": (25, 1, lambda n: partial(train, n, cbs=LOGGERS)),
    "training with checkpoints, by epochs": (10, 1, lambda n: partial(train, n, items=160, bs=8, checkpoints=True)),
    "training, by steps of an epoch": (250, 1, lambda n: partial(train, 1, items=2 * n, bs=2)),
    "training, by layers": (25, 1, lambda n: partial(train, 5, layers=n)),
    "training, by callbacks": (10, 1, lambda n: partial(train, 5, items=320, bs=8, cbs=[lambda _: Idle()] * n)),
}


def vocabulary(labels):
    build_vocabulary(None, labels, sort=True, add_na=False)


def loaders(x, y):
    next(iter(DataLoaders.from_arrays((x, y), (x, y), bs=64, seed=0).train))


FILES = tempfile.TemporaryDirectory()


def many_paths(n):
    """Returns a list of paths, which name ten files again and again, and a label for each."""
    for label in range(10):
        Image.new("RGB", (16, 16)).save(Path(FILES.name) / f"{label}.png")
    return [f"{FILES.name}/{i % 10}.png" for i in range(n)], names(n, 10)


def loaders_of_files(paths, labels):
    dls = ImageDataLoaders.from_lists(FILES.name, paths, labels, seed=0, num_workers=0, bs=64, item_tfms=None)
    next(iter(dls.train))


def fingerprints(n):
    return np.random.default_rng(0).integers(0, 256, (n, 8), dtype=np.uint8)


def label_errors(probs, given):
    find_label_errors(probs.numpy(), given.numpy(), names(probs.shape[1], probs.shape[1]))


def best_seconds(run, rounds):
    """Returns the shortest of some rounds, which a busy machine disturbs least."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return min(times)


def cost_row(what, n, most, make, rounds):
    """Prints the times at N, 2N and 4N, and their slope. Returns whether it is more than noise above `most`."""
    found = [best_seconds(make(factor * n), rounds) for factor in (1, 2, 4)]
    slope = np.polyfit(np.log([1, 2, 4]), np.log(found), 1)[0]
    cells = " | ".join(f"{1e3 * value:.1f} ms" for value in found)
    print(f"| {what} (N = {n:,}) | {cells} | {slope:.2f} | at most {most} |", flush=True)
    return slope > most + NOISE


NOISE = 0.2  # of a slope over three sizes


def seconds(act, options, rounds):
    learn = learner(**options)
    with learn.no_logging():
        act(learn)
        return statistics.median(time_once(act, learn) for _ in range(rounds))


def time_once(act, learn):
    began = time.process_time()
    act(learn)
    return time.process_time() - began


def count(act, options):
    learn = learner(**options)
    with learn.no_logging():
        return act(learn)


def row(what, options, expected, measure, unit):
    ((name, n),) = options.items()
    found = [measure({name: factor * n}) for factor in (1, 2, 4)]
    slope = np.polyfit(np.log([1, 2, 4]), np.log(found), 1)[0]
    cells = " | ".join(f"{value:,.0f} {unit}" if unit == "bytes" else f"{1e3 * value:.1f} ms" for value in found)
    print(f"| {what} (N = {n:,}) | {cells} | {slope:.2f} | {expected} |", flush=True)
    if what in README_ROWS:
        readme_row(README_ROWS[what], f"{slope:.2f}", "flat is 0" if expected == "flat" else "proportional is 1")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}\n")
    print("| | N | 2N | 4N | slope | wanted |\n|---|---|---|---|---|---|")
    for what, (act, options, expected) in TIMES.items():
        row(what, options, expected, lambda o, act=act: seconds(act, o, args.rounds), "s")
    for what, (act, options, expected) in BYTES.items():
        row(what, options, expected, lambda o, act=act: count(act, o), "bytes")
    row(WRITTEN, {"epochs": 50}, "1", lambda o: written_by_checkpoints(**o), "bytes")
    print("\n| | N | 2N | 4N | slope | wanted |\n|---|---|---|---|---|---|")
    steep = [what for what, cost in COSTS.items() if cost_row(what, *cost, args.rounds)]
    print(f"\nSteeper than wanted: {', '.join(steep) or 'nothing'}.")
    readme_row(
        f"{len(COSTS)} costs over items, classes, layers, steps, epochs, callbacks: steeper than wanted", len(steep)
    )


if __name__ == "__main__":
    main()
