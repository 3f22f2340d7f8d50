"""Every name that users can import exists, has a docstring of its own, and is documented."""

import importlib.util
from pathlib import Path

import pytest

import minilearner
from minilearner.vision import all as everything

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("reference", ROOT / "tests" / "house" / "reference.py")
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)

API = (ROOT / "minilearner" / "API.md").read_text(encoding="utf-8")
OURS = [name for name in reference.public_names() if reference.find_owner(name)]


@pytest.mark.parametrize("door", [minilearner, everything], ids=["minilearner", "vision.all"])
def test_every_public_name_exists_once(door):
    assert [name for name in door.__all__ if not hasattr(door, name)] == []
    assert len(set(door.__all__)) == len(door.__all__)


@pytest.mark.parametrize("name", OURS)
def test_every_public_name_has_a_docstring_of_its_own(name):
    first, *_ = reference.find_docstring(name).split("\n")
    assert first.strip(), f"{name} has no docstring"
    assert first.rstrip().endswith((".", ":", "?")), f"the first line of {name}'s docstring is no sentence: {first}"


def test_every_public_name_is_documented():
    assert [name for name in reference.public_names() if f"`{name}`" not in API] == []


def test_a_class_does_not_borrow_its_docstring(monkeypatch):
    class Silent(minilearner.EMA):
        pass

    monkeypatch.setattr(everything, "EMA", Silent)
    assert reference.find_docstring("EMA") == ""
