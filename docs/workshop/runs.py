"""All pages' code, run in processes of their own, and the outcomes inserted below the blocks."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from includes import ROOT
from outcomes import RUNNABLE
from snippets import find_scene, find_snippets

__all__ = ["PageRuns", "run_pages"]

CACHE = ROOT / ".docs_cache"
_BLOCK = re.compile(rf"^```(?:{'|'.join(RUNNABLE)})(?P<words> [\w ]+)?\n.*?^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class PageRuns:
    """What the code of one page printed and drew."""

    page: str
    folder: Path
    outcomes: list[dict[str, Any]]

    @property
    def figures(self) -> list[Path]:
        """The files of all figures."""
        return [self.folder / name for outcome in self.outcomes for name in outcome["figures"].values()]

    def uri(self, figure: Path) -> str:
        """Returns where a figure stands in the site."""
        return f"figures/{self.page.removesuffix('.md')}/{figure.name}"

    def insert(self, markdown: str) -> str:
        """Returns the page with the outcome of each block below it."""
        outcomes = iter(self.outcomes)
        return _BLOCK.sub(lambda found: found[0] + self._show(next(outcomes), found["words"] or ""), markdown)

    def _show(self, outcome: dict[str, Any], words: str) -> str:
        kind = ".outcome .message" if "raises" in words else ".outcome"
        parts = [f"```{{ .text {kind} }}\n{outcome['text']}\n```"] if outcome["text"] else []
        up = "../" * self.page.count("/")
        for theme, name in outcome["figures"].items():
            target = f"{up}{self.uri(self.folder / name)}#only-{theme}"
            parts.append(f"![The figure that this code draws]({target}){{ loading=lazy }}")
        return "".join(f"\n\n{part}" for part in parts)


def run_pages(pages: dict[str, str]) -> dict[str, PageRuns]:
    """Runs the code of the pages that have a scene, as many at once as there are processors.

    What ran before with the same code, of the page and of this folder, is taken from `.docs_cache`.

    Raises:
        RuntimeError: the code of a page failed.
    """
    scenes = {page: scene for page, text in pages.items() if (scene := find_scene(text))}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = pool.map(lambda page: _run(page, pages[page], scenes[page]), scenes)
        return dict(zip(scenes, runs, strict=True))


def _run(page: str, text: str, scene: str) -> PageRuns:
    code = [snippet.code for snippet in find_snippets(text, page) if snippet.language in RUNNABLE]
    workshop = [Path(__file__).with_name(name).read_text("utf-8") for name in ("outcomes.py", "scenes.py")]
    digest = hashlib.sha256("\0".join([scene, *code, *workshop]).encode()).hexdigest()
    folder = CACHE / page.removesuffix(".md").replace("/", "_") / digest[:16]
    if not (folder / "outcomes.json").exists():
        command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("outcomes.py"))]
        command += [str(ROOT / "docs" / page), "--scene", scene, "--output", str(folder)]
        environment = {**os.environ, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"The code of {page} failed:\n{done.stderr[-4000:]}")
    return PageRuns(page, folder, json.loads((folder / "outcomes.json").read_text(encoding="utf-8")))
