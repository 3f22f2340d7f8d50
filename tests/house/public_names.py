#!/usr/bin/env python3
"""Writes down every public name with its signature, or compares with what was written down before.

    PYTHONPATH=REPO python public_names.py write names.json
    PYTHONPATH=REPO python public_names.py compare names.json      exit status 1 if a name was lost or changed

Public are the names in `minilearner.__all__` and `minilearner.vision.all.__all__`, and of each class the methods and
properties without a leading underscore, with their parameters, kinds and defaults. New names are listed, not refused.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from typing import Any


def signature(thing: Any) -> str:
    try:
        text = str(inspect.signature(thing))
    except (TypeError, ValueError):
        return type(thing).__name__
    return re.sub(r"minilearner\.[\w.]+\.|<function (\S+) at 0x[0-9a-f]+>| at 0x[0-9a-f]+", r"\1", text)


def members(cls: type) -> dict[str, str]:
    found = {}
    for name in dir(cls):
        owner = next((base for base in cls.__mro__ if name in vars(base)), cls)
        if not name.startswith("_") and (owner.__module__ or "").startswith(
            "minilearner"
        ):  # not what torch's bases have
            value = inspect.getattr_static(cls, name)
            found[name] = "property" if isinstance(value, property) else signature(getattr(cls, name))
    return found


def snapshot() -> dict[str, str]:
    names: dict[str, str] = {}
    for door in ("minilearner", "minilearner.vision.all"):
        module = importlib.import_module(door)
        for name in module.__all__:
            thing = getattr(module, name)
            names[f"{door}.{name}"] = signature(thing)
            if isinstance(thing, type):
                names |= {f"{door}.{name}.{member}": text for member, text in members(thing).items()}
    return names


def find_differences(before: dict[str, str], now: dict[str, str]) -> tuple[list[str], list[str]]:
    """Returns the names that were lost, and those whose signature changed."""
    lost = sorted(set(before) - set(now))
    changed = sorted(name for name in set(before) & set(now) if before[name] != now[name])
    return lost, changed


def main() -> int:
    mode, path = sys.argv[1:]
    now = snapshot()
    if mode == "write":
        with open(path, "w", encoding="utf-8") as file:
            json.dump(now, file, indent=1, sort_keys=True)
        print(f"{len(now)} names written to {path}")
        return 0
    with open(path, encoding="utf-8") as file:
        before = json.load(file)
    lost, changed = find_differences(before, now)
    for name in lost:
        print(f"lost     {name}{before[name]}")
    for name in changed:
        print(f"changed  {name}: {before[name]} -> {now[name]}")
    for name in sorted(set(now) - set(before)):
        print(f"new      {name}")
    print(f"{len(before)} names before, {len(now)} now, {len(lost)} lost, {len(changed)} changed")
    return int(bool(lost or changed))


if __name__ == "__main__":
    raise SystemExit(main())
