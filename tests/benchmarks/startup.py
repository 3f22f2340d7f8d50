"""Measures the time before the first step: the import, loaders over many files, and the overhead of an epoch.

    python tests/benchmarks/startup.py [--files 100000] [--rounds 5]

Import: CPU seconds in fresh processes, in turns, of minilearner after torch and torchvision, and of those two. The
import of minilearner is timed with and without a garbage collection before it, and also together with a first epoch.
Torch and torchvision create some 340,000 objects, so a full collection is due soon. Our import puts it off, which
would be no gain if the next lines paid for it. The modules that each import loads are counted too;
`tests/house/star_import.py` keeps ours from growing.

Files: a few small images under many names (hard links), with `ImageDataLoaders.from_folder`, and then a training batch
of 64. The header of each file is read, to find those that are no images. Epoch: training passes over 1 and over 41
batches in memory; the difference gives the time of a batch, and the rest is the overhead.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from rows import readme_row
from torch import nn

from minilearner.vision.all import DataLoaders, Learner, accuracy
from minilearner.vision.image_loaders import ImageDataLoaders
from minilearner.vision.resize import Resize

OTHERS, OURS = "import torch, torchvision", "from minilearner.vision.all import *"
FIRST_LINES = """
x, y = torch.randn(640, 8), torch.randint(3, (640,))
learn = Learner(DataLoaders.from_arrays((x, y), (x, y), bs=64), nn.Sequential(nn.Linear(8, 3)), metrics=accuracy)
with learn.no_logging(): learn.fit(1)
"""
IMPORTS = {  # row -> (the code before the clock starts, the code that is timed)
    "`from minilearner.vision.all import *` beyond torch and torchvision": (OTHERS, OURS),
    "the same with loaders, a learner and a first epoch of 10 batches": (OTHERS, OURS + FIRST_LINES),
    "the same where Python has just collected garbage": (f"{OTHERS}, gc; gc.collect()", OURS),
    "`from fastai.vision.all import *` beyond them": (OTHERS, "from fastai.vision.all import *"),
    "`import pytorch_lightning` beyond them": (OTHERS, "import pytorch_lightning"),
    "torch and torchvision themselves": ("", OTHERS),
}
PROGRAM = """
import sys, time
{before}
loaded = len(sys.modules)
began = time.process_time()
{line}
print(time.process_time() - began, len(sys.modules) - loaded)
"""


def time_imports(rounds):
    times, modules = {name: [] for name in IMPORTS}, {}
    with tempfile.TemporaryDirectory() as scratch:  # for byte code, which an installed package keeps too
        env = {**os.environ, "PYTHONPYCACHEPREFIX": scratch}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        for number in range(rounds + 1):
            for name, (before, line) in IMPORTS.items():
                code = PROGRAM.format(before=before, line=line)
                done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
                if done.returncode and "No module named" not in done.stderr:
                    raise RuntimeError(done.stderr)
                if number and not done.returncode:  # the first round compiles
                    seconds, modules[name] = done.stdout.split()
                    times[name].append(float(seconds))
    cells = {name: f"{statistics.median(column):.2f} s" for name, column in times.items() if column}
    for name in times:
        row(name, f"{cells[name]} of CPU, {modules[name]} modules" if name in cells else "not installed")
    ours, first_lines, collected, *others = IMPORTS
    peers = {"fastai": others[0], "Lightning": others[1]}
    beside = ", ".join(f"{peer} {cells[name]}" for peer, name in peers.items() if name in cells)
    readme_row(f"{ours}, CPU time", cells[ours], beside)
    readme_row(first_lines, cells[first_lines])
    readme_row(collected, cells[collected])
    beside = ", ".join(f"{peer} {modules[name]}" for peer, name in peers.items() if name in cells)
    readme_row("modules that it loads beyond torch and torchvision", modules[ours], beside)


def many_files(n, rounds):
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for label in range(100):
            of_label = folder / f"images/class {label}"
            of_label.mkdir(parents=True)
            Image.new("RGB", (48, 32), (label, 0, 0)).save(of_label / "0.jpg")
            for i in range(1, n // 100):
                os.link(of_label / "0.jpg", of_label / f"{i}.jpg")
        built, first = zip(*(start_up(folder / "images") for _ in range(rounds)))
    what, took = f"loaders over {n:,} files, and their first batch", [*map(statistics.median, (built, first))]
    row(what, f"{took[0]:.2f} + {took[1]:.2f} s")
    readme_row(what, f"{sum(took):.1f} s")


def start_up(folder):
    began = time.perf_counter()
    dls = ImageDataLoaders.from_folder(folder, valid_pct=0.2, seed=0, bs=64, item_tfms=Resize(32), num_workers=0)
    built = time.perf_counter()
    next(iter(dls.train))
    return built - began, time.perf_counter() - built


def epoch_constant(rounds):
    learners = [short_learner(n) for n in (1, 41)]
    times = [[], []]
    for number in range(rounds + 1):
        for learn, column in zip(learners, times):
            with learn.no_logging():
                began = time.perf_counter()
                learn.fit(10)
            if number:
                column.append((time.perf_counter() - began) / 10)
    one, many = map(statistics.median, times)
    what, took = (
        "an epoch beyond its batches, in memory, with a validation",
        f"{1e3 * (one - (many - one) / 40):.1f} ms",
    )
    row(what, took)
    readme_row(what, took)


def short_learner(n):
    x, y = torch.randn(64 * n, 32), torch.randint(10, (64 * n,))
    dls = DataLoaders.from_arrays((x, y), (x[:64], y[:64]), bs=64, seed=0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    return Learner(dls, model, opt_func=torch.optim.SGD, metrics=accuracy, device="cpu")


def row(what, figure):
    print(f"| {what} | {figure} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000, help="files in 100 classes; at least some thousands")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}\n\n| | |\n|---|---|")
    time_imports(args.rounds)
    epoch_constant(args.rounds)
    many_files(args.files, args.rounds)


if __name__ == "__main__":
    main()
