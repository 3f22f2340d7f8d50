#!/usr/bin/env python3
"""Checks what the wheel and the source distribution in a folder hold.

    python tests/house/package_files.py dist            exit status 1, and a line for each fault
    python tests/house/package_files.py dist v0.2.0     the version must also be that of this tag

The wheel must hold the package's modules and data, and nothing else. The source distribution must also hold every file
that the repository has, since the tests and the examples need them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]

DATA = re.compile(r"minilearner/(py\.typed|sources/fashion_sample\.[\w.-]+|pages/report\.[\w.]+)$")
"""The files of the package that are not modules."""

NOT_SHIPPED = {".gitignore"}


def find_faults(wheel: Iterable[str], source: Iterable[str], repository: Iterable[str]) -> list[str]:
    """Returns what is missing and what is too much, from the names of the files."""
    tracked = set(repository) - NOT_SHIPPED
    package = {name for name in tracked if name.startswith("minilearner/")}
    wanted = {name for name in package if name.endswith(".py") or DATA.match(name)}
    shipped = {name for name in wheel if ".dist-info/" not in name}
    return [
        *(f"the wheel lacks {name}" for name in sorted(wanted - shipped)),
        *(f"the wheel should not hold {name}" for name in sorted(shipped - wanted)),
        *(f"the source distribution lacks {name}" for name in sorted(tracked - set(source))),
    ]


def main() -> int:
    folder, tag = Path(sys.argv[1]), (sys.argv[2:] or [""])[0]
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    version = wheel.name.split("-")[1]
    with tarfile.open(source) as archive:
        in_source = [name.split("/", 1)[-1] for name in archive.getnames()]
    in_repository = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    faults = find_faults(zipfile.ZipFile(wheel).namelist(), in_source, in_repository.stdout.splitlines())
    if tag and tag != f"v{version}":
        faults.append(f"the tag is {tag}, but `__version__` is {version}")
    print("\n".join(faults) or f"{wheel.name} and {source.name}: no file is missing or too much")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
