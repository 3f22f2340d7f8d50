#!/usr/bin/env python3
"""Writes what the pages about the code say, from the code: the public names, and the callbacks in their order.

python tests/house/reference.py write      writes minilearner/API.md and the table in minilearner/README.md
python tests/house/reference.py check      names the pages that are stale; exit status 1 if there are any
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import minilearner
from minilearner.training.callback import Callback
from minilearner.vision import all as everything
from minilearner.vision.refused import REFUSED

PACKAGE = Path(__file__).parents[2] / "minilearner"
API, ARCHITECTURE = PACKAGE / "API.md", PACKAGE / "README.md"
BEGIN, END = "<!-- callbacks: written by tests/house/reference.py -->\n", "<!-- end of callbacks -->"
HEAD = """# The public names

`from minilearner import NAME` works for a name in bold, `from minilearner.vision.all import *` brings all of them.
`help(NAME)` shows the rest of each docstring. This page is written by `python tests/house/reference.py write`.
"""


def modules() -> Iterator[ModuleType]:
    """Imports every module of the package, in the order of their names."""
    for found in pkgutil.walk_packages(minilearner.__path__, "minilearner."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def public_names() -> list[str]:
    """Returns what people can use; not the names that only say what to use instead."""
    return sorted({*minilearner.__all__, *everything.__all__} - set(REFUSED), key=lambda name: (name.lower(), name))


@functools.cache
def body_of(module: ModuleType) -> list[ast.stmt]:
    return ast.parse(inspect.getsource(module)).body


def find_owner(name: str) -> ModuleType | None:
    """Returns the module of ours that defines a public name; None if another library does."""
    value = getattr(everything, name)
    if isinstance(value, type) or inspect.isfunction(value):
        owner = value.__module__
        return importlib.import_module(owner) if owner.startswith("minilearner.") else None
    if inspect.ismodule(value):
        return None
    return next((module for module in modules() if find_constant_docstring(module, name) is not None), None)


def find_constant_docstring(module: ModuleType, name: str) -> str | None:
    """Returns the string below an assignment to `name` in a module, which documents a constant."""
    for statement, below in itertools.pairwise(body_of(module)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            return str(below.value.value) if is_text else None
    return None


def find_docstring(name: str) -> str:
    """Returns the docstring that a public name of ours has itself, not one that a class inherits; "" if it has none."""
    value = getattr(everything, name)
    if isinstance(value, type):
        return vars(value).get("__doc__") or ""
    if inspect.isfunction(value):
        return value.__doc__ or ""
    owner = find_owner(name)
    return (owner and find_constant_docstring(owner, name)) or ""


def first_sentence(text: str) -> str:
    """Returns a docstring's first line, ready for a cell of a table."""
    return text.strip().split("\n")[0].replace("|", "\\|").replace("``", "`").strip()


def write_api() -> str:
    rows: dict[str, list[str]] = {}
    foreign = []
    for name in public_names():
        owner = find_owner(name)
        if owner is None:
            foreign.append(f"`{name}`")
            continue
        shown = f"**`{name}`**" if name in minilearner.__all__ else f"`{name}`"
        floor = owner.__name__.split(".")[1]
        rows.setdefault(floor, []).append(f"| {shown} | {link(owner)} | {first_sentence(find_docstring(name))} |")
    head = "| name | file | what it does |\n|---|---|---|\n"
    sections = [f"## {floor}\n\n{head}" + "\n".join(rows[floor]) for floor in sorted(rows)]
    return HEAD + "\n" + "\n\n".join(sections) + f"\n\n## From other libraries\n\n{', '.join(foreign)}\n"


def link(module: ModuleType) -> str:
    path = module.__name__.removeprefix("minilearner.").replace(".", "/") + ".py"
    return f"[{path}]({path})"


def callbacks() -> list[type[Callback]]:
    """Returns the callbacks of the package in the order in which they act; bases without a public name are left out."""
    names = {module.__name__ for module in modules()}
    found: set[type[Callback]] = set()
    waiting = [Callback]
    while waiting:
        derived = [cls for cls in waiting.pop().__subclasses__() if cls.__module__ in names]
        found.update(derived)
        waiting += derived
    shown = [cls for cls in found if not cls.__name__.startswith("_")]
    return sorted(shown, key=lambda cls: (cls.order, cls.__name__))


def write_callbacks() -> str:
    rows = ["| order | callback | file | part of the step |", "|---|---|---|---|"]
    for cls in callbacks():
        file = link(sys.modules[cls.__module__])
        rows.append(f"| {cls.order:g} | `{cls.__name__}` | {file} | {'yes' if cls.part_of_step else 'no'} |")
    return "\n".join(rows) + "\n"


def write_architecture() -> str:
    """Returns the page about the architecture with the table of callbacks written anew."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + write_callbacks() + "\n" + END + rest.split(END)[1]


PAGES: dict[Path, Callable[[], str]] = {API: write_api, ARCHITECTURE: write_architecture}


def find_stale() -> list[Path]:
    """Returns the pages that say something else than the code."""
    return [page for page, write in PAGES.items() if not page.exists() or page.read_text(encoding="utf-8") != write()]


def main(arguments: list[Any]) -> int:
    if arguments not in (["write"], ["check"]):
        print(__doc__)
        return 2
    stale = find_stale()
    for page in stale:
        if arguments == ["write"]:
            page.write_text(PAGES[page](), encoding="utf-8")
        print(
            f"{page}: {'written' if arguments == ['write'] else 'stale; run `python tests/house/reference.py write`'}"
        )
    return int(bool(stale) and arguments == ["check"])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
