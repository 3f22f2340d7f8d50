"""Measures the largest amount of memory that work takes, each time in a process of its own.

    python tests/benchmarks/memory.py [--items 1000000]

What a process has after its imports, and before the work, does not count. "Training" compares `Learner.fit` with a raw
loop over the same batches, model and optimizer. The rows of predictions and of interpretation say what an item adds:
they compare a tenth of the items with all of them, which come as a stream that nobody keeps. The rows of loaders say
how many bytes an item takes, apart from the list of paths or the arrays, which the caller has.

The C library keeps freed memory for the next tensor, so what a process has at its peak depends on the order in which
tensors come and go. A second row therefore compares what torch itself has allocated at the peak.
"""

import argparse
import gc
import os
import platform
import resource
import statistics
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rows import readme_row
from torch import nn
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile
from turns import Contender, ratio_text

from minilearner import MLP, ClassificationInterpretation, DataLoaders, Learner, accuracy
from minilearner.vision.image_loaders import ImageDataLoaders

MB = 1e6
BATCHES, BS, WIDTH = 12, 256, 3072


class Peak:
    """Measures how far the resident memory of this process rises inside the `with` block, in bytes."""

    def __enter__(self):
        gc.collect()
        self.start = self.most = _resident()
        self.is_over = False
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_over = True
        self.thread.join()
        self.rise = self.most - self.start

    def _watch(self):
        while not self.is_over:
            self.most = max(self.most, _resident())
            time.sleep(0.002)


def _resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def batches_of(n_items):
    torch.manual_seed(0)
    x, y = torch.randn(n_items, 784), torch.arange(n_items) % 10
    return list(zip(x.split(BS), y.split(BS), strict=True))


def wide_net():
    torch.manual_seed(0)
    return MLP((784, WIDTH, WIDTH, 10))


def load_what_optimizers_need():
    """Makes an optimizer: torch then loads 870 modules, with 150 MB, that belong to neither contender."""
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])


def train_by_hand():
    load_what_optimizers_need()
    batches, model = batches_of(BATCHES * BS), wide_net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def run():
        with Peak() as peak:
            for _ in range(2):
                for x, y in batches:
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(x), y).backward()
                    optimizer.step()
        return peak.rise

    return run


def train_ours():
    load_what_optimizers_need()
    learn = Learner(
        DataLoaders(batches_of(BATCHES * BS)), wide_net(), nn.CrossEntropyLoss(), torch.optim.Adam, device="cpu"
    )

    def run():
        with learn.no_logging(), Peak() as peak:
            learn.fit(2, 1e-3)
        return peak.rise

    return run


def allocated(make):
    """Returns a function that returns the largest number of bytes that torch has allocated during the work."""

    def run():
        work = make()
        with warnings.catch_warnings(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            warnings.simplefilter("ignore")  # of memory from before
            work()
        events = _walk(seen.profiler.kineto_results.experimental_event_tree())
        sizes = [(e.start_time_ns, e.extra_fields.alloc_size) for e in events if e.tag == _EventType.Allocation]
        return max(np.cumsum([size for _, size in sorted(sizes, key=lambda pair: pair[0])]))

    return run


def _walk(events):
    for event in events:
        yield event
        yield from _walk(event.children)


class Stream:
    """A loader that makes its batches when they are asked for, and keeps none."""

    batch_size = 1000

    def __init__(self, n_items, n_classes):
        self.n, self.n_classes = n_items // self.batch_size, n_classes

    def __len__(self):
        return self.n

    def __iter__(self):
        rng = torch.Generator().manual_seed(0)
        for _ in range(self.n):
            yield (
                torch.randn(self.batch_size, 8, generator=rng),
                torch.randint(self.n_classes, (self.batch_size,), generator=rng),
            )


def stream_learner(n_items, n_classes):
    stream = Stream(n_items, n_classes)
    dls = DataLoaders(Stream(1000, n_classes), stream)
    return Learner(dls, nn.Linear(8, n_classes), nn.CrossEntropyLoss(), metrics=accuracy, device="cpu")


def peak_of(work, n_items, n_classes):
    def run():
        learn = stream_learner(n_items, n_classes)
        with learn.no_logging(), Peak() as peak:
            kept = work(learn)
        del kept
        return peak.rise

    return run


def interpret(learn):
    return ClassificationInterpretation.from_learner(learn)


def validate(learn):
    return learn.validate()


def predict(learn):
    return learn.get_preds()


def predict_batches(learn):
    for _ in learn.predict_batches():
        pass


def predict_arrays(n_items):
    """Measures `get_preds` where the loader knows how many items there are."""

    def run():
        x, y = torch.zeros(n_items, 8), torch.arange(n_items) % 10
        dls = DataLoaders.from_arrays((x, y), (x, y), bs=1000, seed=0, device="cpu")
        learn = Learner(dls, nn.Linear(8, 10), device="cpu")
        with learn.no_logging(), Peak() as peak:
            kept = learn.get_preds()
        del kept
        return peak.rise

    return run


def loaders_of_files(n_items):
    def run():
        with tempfile.TemporaryDirectory() as folder:
            for label in range(10):
                (Path(folder) / str(label)).mkdir()
                Image.new("RGB", (16, 16)).save(Path(folder) / str(label) / "0.png")
            paths = [f"{folder}/{i % 10}/0.png" for i in range(n_items)]  # a string of its own for each item
            labels = [str(i % 10) for i in range(n_items)]
            with Peak() as peak:
                dls = ImageDataLoaders.from_lists(folder, paths, labels, seed=0, num_workers=0, bs=64, item_tfms=None)
                next(iter(dls.train))
        return peak.rise / n_items

    return run


def loaders_of_arrays(n_items):
    def run():
        x, y = np.zeros((n_items, 4), np.uint8), np.arange(n_items) % 10
        with Peak() as peak:
            dls = DataLoaders.from_arrays((x, y), (x[:64], y[:64]), bs=64, seed=0, device="cpu")
            next(iter(dls.train))
        return peak.rise / n_items

    return run


def measure(make, *args):
    with Contender(make, *args) as contender:
        return contender()


def row(what, ours, others=""):
    print(f"| {what} | {ours} | {others} |", flush=True)
    readme_row(what, ours, others)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}\n\n| | | |\n|---|---|---|"
    )
    pairs = [(measure(train_ours), measure(train_by_hand)) for _ in range(args.rounds)]
    ours, by_hand = (statistics.median(column) / MB for column in zip(*pairs, strict=True))
    row(
        "memory of training: the largest rise",
        f"{ours:.0f} MB",
        f"raw loop {by_hand:.0f} MB (ratio of pairs {ratio_text(*zip(*pairs, strict=True))})",
    )
    mine, theirs = (measure(allocated, make) / MB for make in (train_ours, train_by_hand))
    row("what torch has allocated at the peak of training", f"{mine:.2f} MB", f"raw loop {theirs:.2f} MB")
    few, many = args.items // 10, args.items
    rises = [measure(predict_arrays, n) for n in (few, many)]
    what = f"memory of get_preds over {many:,} items in memory: largest rise"
    row(
        what,
        f"{rises[1] / MB:.0f} MB",
        f"{(rises[1] - rises[0]) / (many - few):.1f} bytes an item; what it returns: 56",
    )
    works = (
        (validate, "0"),
        (predict_batches, "0"),
        (interpret, "at most 20"),
        (predict, "it returns 56, and joins a stream of unknown length at the end"),
    )
    for work, wanted in works:
        rises = [measure(peak_of, work, n, 10) for n in (few, many)]
        what = f"memory of {work.__name__} over {many:,} streamed items: largest rise"
        row(what, f"{rises[1] / MB:.0f} MB", f"{(rises[1] - rises[0]) / (many - few):.1f} bytes an item; {wanted}")
    for work in (validate, interpret):
        rise = measure(peak_of, work, 20_000, 10_000)
        row(f"memory of {work.__name__}, 20,000 items of 10,000 classes: largest rise", f"{rise / MB:.0f} MB")
    row(f"loaders over {many:,} files: memory", f"{measure(loaders_of_files, many):.0f} bytes an item")
    row(f"loaders over {10 * many:,} items in memory", f"{measure(loaders_of_arrays, 10 * many):.0f} bytes an item")


if __name__ == "__main__":
    main()
