"""All benchmarks of speed, one after another, as one Markdown table with machine, versions and date.

    python tests/benchmarks/table.py [speed.md] [--quick]

Each runs in a process of its own, with the interpreter that runs this: take one where the peers are installed
(`pip install ".[peers]"`), and leave the machine alone meanwhile. `--quick` takes fewer rounds, to see that all run.
What a benchmark lacks (a peer, pictures, trained weights) it says itself. Each section is written as soon as it is
measured; one that fails keeps the rows that it had, says why, and makes the whole end with status 1.
"""

import argparse
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

HERE = Path(__file__).parent
BENCHMARKS = {
    "A training step of a tiny net": ("overhead.py", ["--steps", "200", "--rounds", "3"]),
    "Batches in memory, shift and flip": ("pipeline.py", ["--items", "5000", "--rounds", "2"]),
    "`aug_transforms` on whole batches": ("augmentation.py", ["--batches", "3", "--rounds", "2"]),
    "Batches from JPEG files": ("input_path.py", ["--rounds", "1"]),
    "Import, start-up, and an epoch's own cost": ("startup.py", ["--files", "10000", "--rounds", "2"]),
    "An epoch of MiniGoogLeNet": ("epoch_time.py", ["--steps", "2", "--rounds", "1"]),
    "The frozen phase of fine-tuning": ("frozen.py", ["--steps", "1", "--rounds", "2"]),
    "Asking a trained model": ("asking.py", ["--rounds", "3", "--items", "5000"]),
    "How cost grows": ("growth.py", ["--rounds", "2"]),
}
PACKAGES = ("torch", "torchvision", "fastai", "pytorch-lightning", "skorch", "keras", "timm")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="where to write; on the screen by default")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    with nullcontext(sys.stdout) if args.file is None else args.file.open("w", encoding="utf-8") as table:
        print(heading(), file=table, flush=True)
        failed = [what for what, how in BENCHMARKS.items() if not section(what, *how, args.quick, table)]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def heading():
    versions = ", ".join(f"{name} {version}" for name in PACKAGES if (version := version_of(name)))
    today = datetime.datetime.now(datetime.timezone.utc).date()
    return (
        f"# Speed, {today}\n\n{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}; {versions}\n"
    )


def section(what, script, quick_options, quick, table):
    """Returns whether the benchmark ran to its end."""
    print(f"{script} ...", file=sys.stderr, flush=True)
    command = [sys.executable, HERE / script, *(quick_options if quick else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    print(f"## {what}\n\n{as_markdown(done.stdout.strip())}\n", file=table)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["it was killed"]
        print(f"failed with status {done.returncode}: {reason[0]}\n", file=table)
    table.flush()
    return not done.returncode


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
