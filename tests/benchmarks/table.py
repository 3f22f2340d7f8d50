"""Runs all speed benchmarks, one after another, and writes one Markdown table with machine, versions and date.

    python tests/benchmarks/table.py speed.md [--readme] [--bank] [--quick]

Each benchmark runs in its own process, with the interpreter that runs this script. Use one in which the peers are
installed (`pip install ".[peers]"`), and leave the machine alone while it runs. The file holds the table of all rows,
and then the output of each benchmark. It is written again after each benchmark. A benchmark prints what it lacks (a
peer, images, trained weights). If one fails, the file keeps its rows so far and the reason, and the script ends with
status 1.

`--readme` puts the table into the README.md of this folder if no benchmark failed, and the rows that people choose by
into the project's README.md. `--bank` also scores the learning rates that sweeps recommend, for the second table; this
takes up to an hour. Without it, that table stays as it is. `--quick` takes fewer rounds, to check that everything runs;
its figures are not for a README.
"""

import argparse
import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from rows import HEAD, split_rows

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
README = HERE.parents[1] / "README.md"
CHOSEN = (
    "a training step of a tiny net",
    "images of 160 px a second",
    "JPEG files of 420 px",
    "an epoch of MiniGoogLeNet, fp32, channels_last |",
    "fine-tuning a trained EfficientNet-Lite0 on 352",
    "error points",
)
"""How the rows of the project's README begin."""


class Benchmark(NamedTuple):
    what: str
    script: str
    quick: tuple = ()
    """Options for a quick run."""
    full: tuple = ()
    """Options for a full run."""
    starter: tuple = ()
    """Options for Python that start the script."""


PROCESSES = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
BENCHMARKS = [
    Benchmark("A training step of a tiny net", "overhead.py", ("--steps", "200", "--rounds", "3")),
    Benchmark(
        "Two processes beside torch's own DDP",
        "processes.py",
        ("--turns", "2"),
        ("--turns", "9"),
        starter=PROCESSES,
    ),
    Benchmark("Batches in memory, shift and flip", "pipeline.py", ("--items", "5000", "--rounds", "2")),
    Benchmark("`aug_transforms` on whole batches", "augmentation.py", ("--batches", "3", "--rounds", "2")),
    Benchmark("Batches from JPEG files", "input_path.py", ("--images", "200", "--rounds", "1")),
    Benchmark(
        "Image files and the limit of the machine",
        "image_limit.py",
        ("--rounds", "2", "--only", "jpeg"),
        ("--rounds", "12"),
    ),
    Benchmark("Import, start-up, and an epoch's own cost", "startup.py", ("--files", "10000", "--rounds", "2")),
    Benchmark(
        "An epoch of MiniGoogLeNet",
        "epoch_time.py",
        ("--steps", "2", "--rounds", "1"),
        ("--rounds", "3", *(["--compile"] if shutil.which("g++") else [])),
    ),
    Benchmark(
        "Fine-tuning beside fastai",
        "transfer.py",
        ("--size", "64", "--epochs", "1", "--images", "90", "--seeds", "1", "--tasks", "fashion"),
        ("--size", "96", "--epochs", "3", "--images", "450", "--seeds", "3"),
    ),
    Benchmark(
        "The time to the same error",
        "time_to_error.py",
        ("--size", "64", "--epochs", "1", "--seeds", "1", "--tasks", "scratch", "--ours", "1", "--options"),
        ("--size", "64", "--ours", "2", "6", "--options"),
    ),
    Benchmark('What `precision="auto"` chooses', "precision.py", ("--rounds", "1", "--bs", "8"), ("--rounds", "7")),
    Benchmark("What five minutes give", "five_minutes.py", ("--minutes", "1")),
    Benchmark("The frozen phase of fine-tuning", "frozen.py", ("--steps", "1", "--rounds", "2"), ("--seeds", "3")),
    Benchmark("Predicting with a trained model", "prediction.py", ("--rounds", "3", "--items", "5000")),
    Benchmark("How cost grows", "growth.py", ("--rounds", "2")),
    Benchmark("How much memory work takes", "memory.py", ("--items", "20000", "--rounds", "1")),
    Benchmark(
        "Simulated devices on a slow link",
        "scaling.py",
        ("--rounds", "1", "--gigabits", "2"),
        starter=PROCESSES,
    ),
]
BANK = Benchmark("Learning rates", "lr_bank.py", ("--seeds", "1", "--only", "wine", "--unseen"), ("--unseen",))
PACKAGES = ("torch", "torchvision", "fastai", "pytorch-lightning", "skorch", "keras", "timm")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="where to write")
    parser.add_argument("--readme", action="store_true")
    parser.add_argument("--bank", action="store_true")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.readme and args.quick:
        parser.error("--readme takes the figures of a full run: leave out --quick")
    parts = {"speed": BENCHMARKS} | ({"learning rates": [BANK]} if args.bank else {})
    if args.readme:
        with_tables(PAGE, dict.fromkeys(parts, ""))  # if a page lacks its comments, fail now and not at the end
        with_tables(README, {"figures": ""})
    tables, failed = run_all(parts, args.file, args.quick)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    if args.readme:
        PAGE.write_text(with_tables(PAGE, tables), encoding="utf-8")
        README.write_text(with_tables(README, {"figures": choose_rows(PAGE)}), encoding="utf-8")


def run_all(parts, file, quick):
    """Runs all benchmarks. Returns the table of each part, and which benchmarks failed. Writes the file after each."""
    tables, sections, failed = {}, [], []
    for mark, benchmarks in parts.items():
        lines = [heading(), HEAD]
        for benchmark in benchmarks:
            print(f"{benchmark.script} ...", file=sys.stderr, flush=True)
            rows, section, is_good = run(benchmark, benchmark.quick if quick else benchmark.full)
            lines += rows
            sections.append(section)
            failed += [] if is_good else [benchmark.what]
            tables[mark] = "\n".join(lines)
            file.write_text("\n\n".join(["# Speed", *tables.values(), *sections]) + "\n", encoding="utf-8")
    return tables, failed


def heading():
    versions = ", ".join(f"{name} {version}" for name in PACKAGES if (version := version_of(name)))
    today = datetime.datetime.now(datetime.timezone.utc).date()
    machine = f"{processor()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    return f"{today}; {machine}, Python {platform.python_version()}; {versions}\n"


def run(benchmark, options):
    """Returns the rows for README, the section as Markdown, and whether the benchmark succeeded."""
    command = [sys.executable, *benchmark.starter, HERE / benchmark.script, *options]
    env = {**os.environ, "OMP_NUM_THREADS": "1"} if benchmark.starter else None
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    rows, text = split_rows(done.stdout)
    parts = [f"## {benchmark.what}", as_markdown(text)]
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["it was killed"]
        parts.append(f"failed with status {done.returncode}: {reason[0]}")
    return rows, "\n\n".join(parts), not done.returncode


def with_tables(file, tables):
    """Returns the text of `file` with each table put between the comments that mark its place."""
    text = file.read_text(encoding="utf-8")
    for mark, table in tables.items():
        begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            sys.exit(f"{file.name} must have one line {begin}, and one line {end} after it.")
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}"
    return text


def choose_rows(page):
    """Returns the table of the rows that the project's README shows."""
    lines = page.read_text(encoding="utf-8").splitlines()
    rows = [[line for line in lines if line.startswith(f"| {start}")] for start in CHOSEN]
    if odd := [start for start, found in zip(CHOSEN, rows, strict=True) if len(found) != 1]:
        sys.exit(f"{page.name} must have one row that begins with {odd[0]!r}.")
    return "\n".join([HEAD, *(row for (row,) in rows)])


def as_markdown(text):
    """Returns Markdown as it is, and puts any other text into a code block."""
    return text if "\n|" in text else f"```\n{text}\n```"


def version_of(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor():
    file = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in file.read_text().splitlines() if line.startswith("model name")]
        if file.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
