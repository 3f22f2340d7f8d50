"""The version comes from one place, and every extra does something that CI tests."""

import importlib
import re
import sys
from pathlib import Path

import pytest

import minilearner

ROOT = Path(__file__).parents[2]
tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
FOR_DEVELOPERS = {"test", "dev"}


def test_the_version_stands_in_the_package_alone():
    assert PROJECT["project"]["dynamic"] == ["version"] and "version" not in PROJECT["project"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "minilearner.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", minilearner.__version__)


@pytest.mark.parametrize("extra", sorted(EXTRAS.keys() - FOR_DEVELOPERS))
def test_an_extra_is_named_where_its_library_is_missed_and_tested_with_it(extra):
    code = "\n".join(path.read_text() for path in ROOT.glob("minilearner/**/*.py"))
    assert f"minilearner[{extra}]" in code, "no code asks for it"
    installed = [*EXTRAS["dev"], *re.findall(r"pip install .*", (ROOT / ".ci/extras").read_text())]
    tested = {name for line in installed for names in re.findall(r"\[([\w,]+)\]", line) for name in names.split(",")}
    assert extra in tested, "CI does not install it"


def test_each_python_is_named_alike_and_tested_before_a_release():
    named = [line.split(" :: ")[-1] for line in PROJECT["project"]["classifiers"] if "Python :: 3." in line]
    assert named == ["3.10", "3.11", "3.12", "3.13"]
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"
    workflow = (ROOT / ".github/workflows/release.yml").read_text()
    assert re.findall(r"python-version: \[(.*)\]", workflow) == [", ".join(f'"{version}"' for version in named)]
    assert PROJECT["tool"]["ruff"]["target-version"] == "py310" and PROJECT["tool"]["mypy"]["python_version"] == "3.10"
