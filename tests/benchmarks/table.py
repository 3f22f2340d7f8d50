"""All benchmarks of speed, one after another, as one Markdown table with machine, versions and date.

    python tests/benchmarks/table.py speed.md [--readme] [--bank] [--quick]

Each runs in a process of its own, with the interpreter that runs this: take one where the peers are installed
(`pip install ".[peers]"`), and leave the machine alone meanwhile. The file holds the table of all rows, then what each
benchmark printed, and is written anew as soon as one more has ended. What a benchmark lacks (a peer, pictures, trained
weights) it says itself; one that fails keeps the rows that it had, says why, and makes the whole end with status 1.

`--readme` puts the table into README.md, where none failed. `--bank` also scores the learning rates that sweeps
recommend, up to an hour, for README's second table; without it that one stays as it is. `--quick` takes fewer rounds,
to see that all run; such figures are not for README.
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
from rows import HEAD, told_apart

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"


class Benchmark(NamedTuple):
    what: str
    script: str
    quick: tuple = ()
    """Options of a quick run."""
    full: tuple = ()
    """Options of a run that counts."""
    starter: tuple = ()
    """What Python runs the script by."""


BENCHMARKS = [
    Benchmark("A training step of a tiny net", "overhead.py", ("--steps", "200", "--rounds", "3")),
    Benchmark("Batches in memory, shift and flip", "pipeline.py", ("--items", "5000", "--rounds", "2")),
    Benchmark("`aug_transforms` on whole batches", "augmentation.py", ("--batches", "3", "--rounds", "2")),
    Benchmark("Batches from JPEG files", "input_path.py", ("--pictures", "200", "--rounds", "1")),
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
        ("--size", "64", "--epochs", "1", "--pictures", "90", "--seeds", "1", "--tasks", "fashion"),
        ("--size", "96", "--epochs", "3", "--pictures", "450", "--seeds", "3"),
    ),
    Benchmark("The frozen phase of fine-tuning", "frozen.py", ("--steps", "1", "--rounds", "2"), ("--seeds", "3")),
    Benchmark("Predicting with a trained model", "prediction.py", ("--rounds", "3", "--items", "5000")),
    Benchmark("How cost grows", "growth.py", ("--rounds", "2")),
    Benchmark(
        "Two processes beside torch's own DDP",
        "processes.py",
        ("--turns", "2"),
        ("--turns", "5"),
        starter=("-m", "torch.distributed.run", "--nproc-per-node", "2"),
    ),
]
BANK = Benchmark("Learning rates", "lr_bank.py", ("--seeds", "1", "--only", "wine", "--held-out"), ("--held-out",))
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
        with_tables(README, dict.fromkeys(parts, ""))  # raises now what would be raised at the end
    tables, failed = measured(parts, args.file, args.quick)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    if args.readme:
        README.write_text(with_tables(README, tables), encoding="utf-8")


def measured(parts, file, quick):
    """Returns the table of each of `parts`, and which benchmarks failed. After each, all that there is is written."""
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
    """Returns the rows for README, the section as Markdown, and whether the benchmark ran to its end."""
    command = [sys.executable, *benchmark.starter, HERE / benchmark.script, *options]
    env = {**os.environ, "OMP_NUM_THREADS": "1"} if benchmark.starter else None
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    rows, text = told_apart(done.stdout)
    parts = [f"## {benchmark.what}", as_markdown(text)]
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["it was killed"]
        parts.append(f"failed with status {done.returncode}: {reason[0]}")
    return rows, "\n\n".join(parts), not done.returncode


def with_tables(file, tables):
    """Returns the text of `file` with each table between the comments of its mark, and all else as it was."""
    text = file.read_text(encoding="utf-8")
    for mark, table in tables.items():
        begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            sys.exit(f"{file.name} must have one line {begin}, and one line {end} after it.")
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}"
    return text


def as_markdown(text):
    """Markdown stays; columns made with spaces are shown as they are."""
    return text if "\n|" in text else f"```\n{text}\n```"


def version_of(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor():
    told = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in told.read_text().splitlines() if line.startswith("model name")]
        if told.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
