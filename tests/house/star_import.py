#!/usr/bin/env python3
"""Lists the modules that `from minilearner.vision.all import *` loads beyond torch and torchvision.

    python tests/house/star_import.py write      writes them to star_import.txt, one a line
    python tests/house/star_import.py compare    names those that are not in star_import.txt

Each module makes the first line of every notebook a little slower. The package's own may number `MOST`; `compare` then
names those that came since the list was written. A module of another library must be in the list at once.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MOST = 285
"""How many modules of its own the star import may load."""

LIST = Path(__file__).parent / "star_import.txt"

PROGRAM = """
import sys
import torch, torchvision
before = set(sys.modules)
from minilearner.vision.all import *
print("loaded", *sorted({*sys.modules} - before))
"""


def load() -> list[str]:
    """Returns the names of the modules that the star import loads, from a fresh process."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()[1:]


def find_faults(loaded: list[str], listed: list[str]) -> list[str]:
    """Returns a line for each module of another library that is new, and for each of our own if there are too many."""
    new = [name for name in loaded if name not in listed]
    ours = [name for name in loaded if _is_ours(name)]
    faults = [f"{name} is loaded: import it where it is used" for name in new if not _is_ours(name)]
    if len(ours) > MOST:
        most = f"one of {len(ours)} modules of ours, where {MOST} are allowed"
        faults += [f"{name} is loaded, {most}: import it where it is used" for name in new if _is_ours(name)]
    return faults


def _is_ours(name: str) -> bool:
    return name.split(".")[0] == "minilearner"


def main() -> int:
    (mode,) = sys.argv[1:]
    loaded = load()
    if mode == "write":
        LIST.write_text("".join(f"{name}\n" for name in loaded), encoding="utf-8")
        print(f"{len(loaded)} modules written to {LIST}")
        return 0
    faults = find_faults(loaded, LIST.read_text(encoding="utf-8").split())
    print(*faults, f"{len(loaded)} modules loaded", sep="\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
