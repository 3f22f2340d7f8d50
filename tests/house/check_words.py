#!/usr/bin/env python3
"""Checks the rules of this house that neither ruff nor mypy knows: sizes, names and words.

    python tests/house/check_words.py [PATH ...]      all files that git tracks, or those below the paths

Prints each place that breaks a rule; exit status 1 if there is one. To allow a case, add it to a list below with its
reason.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

MOST_LINES = 600
LONG_FILES: dict[str, str] = {
    "tests/test_learner.py": "the tests of every public call of the learner",
}
"""Path of a file that may be longer -> why it holds one idea all the same."""

WORDS = {
    r"(?<![a-z])told(?![a-z])": "says, raises or reports",
    r"(?<![a-z])tells(?![a-z])": "says, returns or raises",
    r"\bof several,|\bof several processes\b": "with several processes",
    r"(?<![a-z])asking(?![a-z])": "predicting, or what is asked for",
    r"picture": "image",
}
"""What we do not write, in small letters -> what we write."""

PUBLIC = [
    r"--pictures\b|\.pictures\b",  # the old name of an option of an example, and the suffix of image caches on disk
    r"\bpictures=|\bpictures:|`pictures`|\"pictures\"|= pictures$",  # ClassificationInterpretation(pictures=)
]
"""Public names that break a rule of words and stay, since people type them or disks hold them."""

NO_MODULES = {"utils", "common", "helpers", "manager"}

PARTICIPLES = re.compile(
    r"\w{3,}(ed|ing)|begun|broken|brought|built|bought|chosen|done|drawn|driven|fallen|felt|given|gone|grown|held|hidden|"
    r"kept|known|laid|lent|lost|made|meant|met|paid|proven|said|seen|sent|shown|spent|spoken|stood|sunk|taken|taught|"
    r"thought|thrown|told|torn|understood|won|worn|written"
)
VERBS_AND_NOUNS = re.compile(
    r"embed|exceed|feed|indeed|need|proceed|sched|seed|shed|speed|succeed|"
    r"anything|bring|embedding|ending|heading|listing|mapping|meaning|nothing|padding|pooling|ring|rounding|sampling|"
    r"setting|smoothing|spelling|spring|string|thing|training|warning"
)
"""Words that look like participles, and are verbs or nouns of the field."""
ALLOWED: dict[str, str] = dict.fromkeys(
    ("connection_made", "data_received", "connection_lost"), "asyncio calls a protocol's methods so"
)
"""Names of functions that look like participles and stay -> why. Public names are allowed by names.json."""
TRUTHS = ("is", "has", "can", "are", "was", "needs")  # `is_averaged` is a question, and well named


def tracked_files(paths: list[str]) -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *paths]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def check_text(path: str, text: str) -> Iterator[str]:
    """Checks a file's length, formatter comments and words."""
    lines = text.splitlines()
    if path.endswith(".py") and len(lines) > MOST_LINES and path not in LONG_FILES:
        yield f"{path}: {len(lines)} lines. Does it hold a second idea? Split it, or list it with its reason."
    for i, line in enumerate(lines, 1):
        if not path.startswith("tests/") and re.search(r"#\s*fmt:\s*(skip|off)", line):  # tests may lay out a table
            yield f"{path}:{i}: the formatter is switched off; write one parameter a line instead."
        plain = re.sub("|".join(PUBLIC), "", line).lower()
        for pattern, instead in WORDS.items():
            if found := re.search(pattern, plain):
                yield f"{path}:{i}: {found.group()!r}; write: {instead}."


def public_members() -> set[str]:
    names = json.loads((ROOT / "tests/house/names.json").read_text(encoding="utf-8"))
    return {name.rsplit(".", 1)[-1] for name in names}


def is_participle(word: str) -> bool:
    return bool(PARTICIPLES.fullmatch(word)) and not VERBS_AND_NOUNS.fullmatch(word)


def check_functions(path: str, text: str, public: set[str]) -> Iterator[str]:
    """Checks that the name of a function neither begins nor ends in a participle. Properties are values, and exempt."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.name in public or node.name in ALLOWED:
            continue
        if node.name.startswith("__"):
            continue
        if any("property" in ast.unparse(one) or ".setter" in ast.unparse(one) for one in node.decorator_list):
            continue
        words = node.name.strip("_").split("_")
        if words[0] not in TRUTHS and (is_participle(words[0]) or is_participle(words[-1])):
            yield f"{path}:{node.lineno}: `{node.name}` is named by a participle; name a function by a verb."


def check_modules(paths: list[str]) -> Iterator[str]:
    """Checks that each module's name occurs once, and says something."""
    seen: dict[str, str] = {}
    for path in sorted(paths):
        stem = Path(path).stem
        if stem.startswith("__"):
            continue
        if stem in NO_MODULES:
            yield f"{path}: the name says nothing about what the module holds."
        if stem in seen:
            yield f"{path}: {seen[stem]} has the same name; each module's name occurs once."
        seen[stem] = path


def check(files: dict[str, str], public: set[str]) -> list[str]:
    """Returns what breaks a rule. `files`: path below the repository -> text."""
    found = []
    for path, text in sorted(files.items()):
        found += check_text(path, text)
        if path.startswith("minilearner/") and path.endswith(".py"):
            found += check_functions(path, text, public)
    found += check_modules([path for path in files if path.startswith("minilearner/") and path.endswith(".py")])
    return found


def main() -> int:
    files = {}
    for path in tracked_files(sys.argv[1:]):
        name = path.relative_to(ROOT).as_posix()
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".ipynb"} and not name.startswith("tests/house/"):
            files[name] = path.read_text(encoding="utf-8")
    found = check(files, public_members())
    print("\n".join(found) or "sizes, names and words: no rule is broken")
    if found:
        print(f"{len(found)} places")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
