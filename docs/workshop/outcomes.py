#!/usr/bin/env python3
"""Runs the code of one page as a reader would, block by block, and keeps what each block prints and draws.

    python docs/workshop/outcomes.py PAGE --scene photos --output FOLDER

writes `outcomes.json` and the figures into FOLDER. A block marked `python` or `bash` must run, and one marked
`python raises` must raise an error. Python blocks share their names. What a block prints stands below it on the page,
then the figure that it leaves open. The last statement of such a block must draw it, and runs once more for the dark
theme.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from scenes import set_scene
from snippets import Snippet, find_snippets

__all__ = ["RUNNABLE"]

RUNNABLE = ("python", "bash")
THEMES = {
    "light": ("default", "#ffffff"),
    "dark": ("dark_background", "#1e2129"),  # the ground of the site's dark pages
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--scene", required=True, help="a name in scenes.py")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    text = args.page.read_text(encoding="utf-8")
    snippets = [one for one in find_snippets(text, str(args.page)) if one.language in RUNNABLE]
    output = args.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    choose_theme("light")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        set_scene(args.scene, Path(folder))
        names: dict[str, Any] = {"__name__": "__main__"}
        outcomes = [run(snippet, names, output, i) for i, snippet in enumerate(snippets)]
    (output / "outcomes.json").write_text(json.dumps(outcomes), encoding="utf-8")


def run(snippet: Snippet, names: dict[str, Any], output: Path, i: int) -> dict[str, Any]:
    """Runs a block, and returns what it printed and the names of the figures that it left open: one for each theme."""
    if snippet.language == "bash":
        return {"text": run_shell(snippet), "figures": {}}
    text, figures = run_python(snippet, names), {}
    if is_figure_open():
        figures["light"] = save_figure(output / f"{i}_light.webp")
        choose_theme("dark")
        run_last_statement(snippet, names)
        if not is_figure_open():
            raise AssertionError(f"{snippet.page}, line {snippet.line}: the last statement must draw the figure.")
        figures["dark"] = save_figure(output / f"{i}_dark.webp")
        choose_theme("light")
    return {"text": text, "figures": figures}


def run_python(snippet: Snippet, names: dict[str, Any]) -> str:
    printed, raises = io.StringIO(), "raises" in snippet.words
    try:
        with contextlib.redirect_stdout(printed):
            snippet.run(names)
    except Exception as error:
        if not raises:
            raise
        return f"{printed.getvalue()}{type(error).__name__}: {error}"
    if raises:
        raise AssertionError(f"{snippet.page}, line {snippet.line}: the code raises nothing.")
    return printed.getvalue().strip("\n")


def run_last_statement(snippet: Snippet, names: dict[str, Any]) -> None:
    last = ast.unparse(ast.parse(snippet.code).body[-1])
    with contextlib.redirect_stdout(io.StringIO()):
        Snippet(snippet.page, snippet.line, "python", last).run(names)


def run_shell(snippet: Snippet) -> str:
    """Runs commands with this Python's environment in front of the path, and returns their standard output."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", f"{SHELL}\n{snippet.code}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{snippet.page}, line {snippet.line}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout.strip("\n")


SHELL = f'minilearner() {{ "{sys.executable}" -m minilearner "$@"; }}'
"""The command as this environment has it, whether it is installed or only on the path of imports."""


def choose_theme(theme: str) -> None:
    import matplotlib.pyplot as plt

    style, ground = THEMES[theme]
    plt.close("all")
    plt.style.use(["default", style])
    plt.rcParams.update({"figure.facecolor": ground, "axes.facecolor": ground, "savefig.facecolor": ground})


def is_figure_open() -> bool:
    import matplotlib.pyplot as plt

    return bool(plt.get_fignums())


def save_figure(file: Path) -> str:
    import matplotlib.pyplot as plt

    plt.gcf().savefig(file, dpi=120, pil_kwargs={"quality": 88})
    plt.close("all")
    return file.name


if __name__ == "__main__":
    main()
