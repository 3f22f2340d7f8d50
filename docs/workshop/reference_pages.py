"""The pages of the reference: every public name, from its docstring, on one page for each part of the package."""

from __future__ import annotations

import sys
from collections import defaultdict
from functools import cache

from includes import ROOT

sys.path.insert(0, str(ROOT / "tests" / "house"))

import reference

__all__ = ["find_names", "write_reference"]

HEAD = """`from minilearner.vision.all import *` brings all of these names, and `from minilearner import NAME` most of
them. Each leads to its docstring, which `help(NAME)` shows as well.
"""


@cache
def find_names() -> dict[str, str]:
    """Returns each public name of ours with the path that mkdocstrings knows its object by."""
    found = {}
    for name in reference.public_names():
        if (owner := reference.find_owner(name)) is not None:
            value = getattr(reference.everything, name)
            found[name] = f"{owner.__name__}.{getattr(value, '__qualname__', name)}"
    return found


@cache
def write_reference() -> dict[str, tuple[str, str]]:
    """Returns the pages: path -> title and Markdown."""
    parts: dict[str, list[str]] = defaultdict(list)
    for name, path in find_names().items():
        parts[path.split(".")[1]].append(name)
    foreign = ", ".join(f"`{name}`" for name in reference.public_names() if name not in find_names())
    lists = [f"## {part}\n\n{_write_list(parts[part])}\n" for part in sorted(parts)]
    index = f"{HEAD}\n" + "\n".join(lists) + f"\n## From other libraries\n\n{foreign}\n"
    pages = {f"reference/{part}.md": (part, _write_docstrings(parts[part])) for part in sorted(parts)}
    return {"reference/index.md": ("All names", index), **pages}


def _write_list(names: list[str]) -> str:
    rows = [
        f"| [`{name}`][{find_names()[name]}] | {reference.first_sentence(reference.find_docstring(name))} |"
        for name in names
    ]
    return "| name | what it does |\n|---|---|\n" + "\n".join(rows)


def _write_docstrings(names: list[str]) -> str:
    """Returns what makes mkdocstrings show each object once, with its other names above it."""
    others: dict[str, list[str]] = defaultdict(list)
    for name in names:
        path = find_names()[name]
        others[path] += [name] if name != path.split(".")[-1] else []
    return "\n\n".join(
        f"::: {path}" + "".join(f"\n\nAlso known as `{name}`." for name in also) for path, also in others.items()
    )
