"""Turns the code in docstrings, which is written for `help`, into Markdown for the pages of the reference."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

__all__ = ["FencedCode", "fence_code"]


class FencedCode(griffe.Extension):
    """Fences the code in every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fence_code(obj.docstring.value)


def fence_code(text: str) -> str:
    """Returns a docstring with fences around the code below a line that ends in "::", and around lines after ">>>"."""
    lines, fenced = text.split("\n"), []
    while lines:
        line = lines.pop(0)
        if line.rstrip().endswith("::"):
            fenced += [re.sub(r"^(\s*)Example::$", r"\1**Example**", line).replace("::", ":"), ""]
            fenced += _fence(_take_indented(lines, len(_indent_of(line))), _indent_of(line), "python")
        elif line.lstrip().startswith(">>>"):
            code = [line]
            while lines and lines[0].strip():
                code.append(lines.pop(0))
            fenced += _fence(code, _indent_of(line), "pycon")
        else:
            fenced.append(line)
    return "\n".join(fenced)


def _indent_of(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _take_indented(lines: list[str], indent: int) -> list[str]:
    """Takes the lines off the front that are blank, or indented by more than `indent`."""
    taken = []
    while lines and (not lines[0].strip() or len(_indent_of(lines[0])) > indent):
        taken.append(lines.pop(0))
    return taken


def _fence(code: list[str], indent: str, language: str) -> list[str]:
    body = textwrap.dedent("\n".join(code)).strip("\n").split("\n")
    return [f"{indent}```{language}", *[f"{indent}{line}".rstrip() for line in body], f"{indent}```", ""]
