"""What type checkers say of scripts as users write them: nothing, except on the lines that expect an error."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import snippets

import minilearner
from minilearner.vision import all as everything
from minilearner.vision.refused import REFUSED

ROOT = Path(minilearner.__file__).parents[1]
SCRIPTS = {path.name: path.read_text() for path in sorted((Path(__file__).parent / "scripts").glob("*.py"))}


def python_of(document: str) -> str:
    """Returns the Python blocks of a document as one script."""
    return "\n".join(snippet.code for snippet in snippets.python_of(ROOT / document))


def call(checker: str, folder: Path, *options: str) -> str:
    """Returns what a checker writes about the scripts in a folder, which reads minilearner as an installed package."""
    names = sorted(path.name for path in folder.glob("*.py"))
    command = [sys.executable, "-m", checker, *options, *names]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def ask_mypy(folder: Path, *options: str) -> dict[tuple[str, int], str]:
    # torch leaves `Tensor.backward` untyped
    shown = ["--no-pretty", "--hide-error-context", "--no-color-output", "--untyped-calls-exclude", "torch"]
    said = call(
        "mypy", folder, "--strict", "--config-file=", "--cache-dir", str(ROOT / ".mypy_cache/scripts"), *shown, *options
    )
    found = re.findall(r"^([\w.]+):(\d+): error: (.*)", said, re.MULTILINE)
    return {(name, int(line)): message for name, line, message in found}


def ask_pyright(folder: Path) -> dict[tuple[str, int], str]:
    said = json.loads(call("pyright", folder, "--outputjson", "--pythonpath", sys.executable))
    return {
        (Path(found["file"]).name, found["range"]["start"]["line"] + 1): found["message"]
        for found in said["generalDiagnostics"]
        if found["severity"] == "error"
    }


def write_all(folder: Path) -> set[tuple[str, int]]:
    """Writes all scripts into a folder, and returns the lines that expect an error."""
    scripts = {
        **SCRIPTS,
        "readme.py": python_of("README.md"),
        "guide.py": "# mypy: allow-untyped-defs, allow-untyped-calls\n" + python_of("examples/README.md"),
        "star.py": "\n".join(
            [
                "from minilearner.vision.all import *",
                *(f"print({name})" for name in sorted(set(everything.__all__) - set(REFUSED))),
                *(f"print({name})  # error expected" for name in sorted(REFUSED)),
            ]
        ),
        "module.py": "\n".join(
            [
                "import minilearner as ml",
                *(f"print(ml.{name})" for name in (*minilearner.__all__, "__version__")),
                "ml.acuracy  # error expected",
            ]
        ),
    }
    for name, script in scripts.items():
        (folder / name).write_text(script)
    lines = ((name, line, text) for name, script in scripts.items() for line, text in enumerate(script.split("\n"), 1))
    return {(name, line) for name, line, text in lines if text.endswith("# error expected")}


@pytest.mark.slow
@pytest.mark.parametrize("ask", [ask_mypy, ask_pyright])
def test_checkers_report_the_wrong_lines_of_scripts_and_no_other(tmp_path, ask):
    expected = write_all(tmp_path)
    found = ask(tmp_path)
    unexpected = {place: message for place, message in found.items() if place not in expected}
    assert not unexpected, f"reported, but right: {unexpected}"
    assert not expected - found.keys(), f"wrong, but not reported: {sorted(expected - found.keys())}"
