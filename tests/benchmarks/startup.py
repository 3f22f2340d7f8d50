"""What must pass before the first step: the import, the loaders over many files, and an epoch's own cost.

    python tests/benchmarks/startup.py [--files 100000] [--rounds 5]

Import: CPU seconds of fresh processes by turns: of minilearner once torch and torchvision are there, as it comes and
after a garbage collection, and of those two. (What they load brings a full collection near, which looks at some 340,000
objects of theirs; the next two thousand objects, whosever they are, set it off.)

Files: a few small pictures under many names (hard links), by `ImageDataLoaders.from_folder`, then a training batch of
64; fewer than one in a thousand are opened. Epoch: training passes over 1 and 41 batches in memory; what is left when
the batches' time is taken off.
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
IMPORTS = {  # what was done before, and what is timed
    "`from minilearner.vision.all import *` beyond torch and torchvision": (OTHERS, OURS),
    "the same where Python has just collected garbage": (f"{OTHERS}, gc; gc.collect()", OURS),
    "`from fastai.vision.all import *` beyond them": (OTHERS, "from fastai.vision.all import *"),
    "`import pytorch_lightning` beyond them": (OTHERS, "import pytorch_lightning"),
    "torch and torchvision themselves": ("", OTHERS),
}


def importing(rounds):
    times = {name: [] for name in IMPORTS}
    with tempfile.TemporaryDirectory() as scratch:  # byte code is kept there, as an installation keeps it
        env = {**os.environ, "PYTHONPYCACHEPREFIX": scratch}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        for number in range(rounds + 1):
            for name, (before, line) in IMPORTS.items():
                code = f"import time\n{before}\nbegan = time.process_time()\n{line}\nprint(time.process_time() - began)"
                done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
                if done.returncode and "No module named" not in done.stderr:
                    raise RuntimeError(done.stderr)
                if number and not done.returncode:  # the first compiles
                    times[name].append(float(done.stdout))
    told = {name: f"{statistics.median(column):.2f} s" for name, column in times.items() if column}
    for name in times:
        row(name, f"{told[name]} of CPU" if name in told else "not installed")
    ours, collected, *others = IMPORTS
    peers = {"fastai": others[0], "Lightning": others[1]}
    beside = ", ".join(f"{peer} {told[name]}" for peer, name in peers.items() if name in told)
    readme_row(f"{ours}, CPU time", told[ours], beside)
    readme_row(collected, told[collected])


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
    parser.add_argument("--files", type=int, default=100_000, help="a hundred classes, so some thousands at least")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}\n\n| | |\n|---|---|")
    importing(args.rounds)
    epoch_constant(args.rounds)
    many_files(args.files, args.rounds)


if __name__ == "__main__":
    main()
