"""The code in Markdown pages: the blocks of a page, and how they run one after another as a reader would run them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Snippet", "find_scene", "find_snippets", "python_of", "run_snippets"]

_SCENE = re.compile(r"\A---\nscene: (\w+)\n---\n")
_FENCE = re.compile(r"^```(?P<language>\w+)(?: (?P<words>[\w ]+))?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Snippet:
    """One block of code in a page."""

    page: str
    """The path of the page, for messages."""
    line: int
    """The line of the page above the code."""
    language: str
    code: str
    words: tuple[str, ...] = ()
    """What stands behind the language, such as "raises"."""

    def run(self, names: dict[str, Any]) -> None:
        """Executes Python code in a namespace. Tracebacks show the line of the page."""
        exec(compile("\n" * self.line + self.code, self.page, "exec"), names)


def find_scene(text: str) -> str | None:
    """Returns the scene in which the code of a page runs: what its front matter says, which has nothing else."""
    front = _SCENE.match(text)
    return front and front[1]


def find_snippets(text: str, page: str) -> list[Snippet]:
    """Returns the blocks of code in a page, in their order."""
    snippets = []
    for found in _FENCE.finditer(text):
        line, words = text.count("\n", 0, found.start()) + 1, (found["words"] or "").split()
        snippets.append(Snippet(page, line, found["language"], found["code"], tuple(words)))
    return snippets


def python_of(file: Path) -> list[Snippet]:
    """Returns the Python code of a file."""
    snippets = find_snippets(file.read_text(encoding="utf-8"), file.name)
    return [snippet for snippet in snippets if snippet.language == "python"]


def run_snippets(snippets: Iterable[Snippet], names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Runs Python code block by block in one namespace, and returns the namespace."""
    names = {} if names is None else names
    for snippet in snippets:
        snippet.run(names)
    return names
