"""The star import loads no more modules than before, and those that crept in are named."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("star_import", Path(__file__).parent / "star_import.py")
star_import = importlib.util.module_from_spec(spec)
spec.loader.exec_module(star_import)
LISTED = star_import.LIST.read_text(encoding="utf-8").split()


@pytest.mark.slow
def test_the_star_import_loads_no_module_that_crept_in():
    loaded = star_import.load()
    assert "minilearner.vision.all" in loaded and star_import.find_faults(loaded, LISTED) == []


def test_what_writes_reports_is_not_in_the_list():
    assert not [name for name in LISTED if "pages." in name or name.endswith("sections")]


def test_a_module_of_another_library_is_named_at_once():
    assert star_import.find_faults([*LISTED, "click"], LISTED) == ["click is loaded: import it where it is used"]


def test_new_modules_of_ours_are_named_when_there_are_too_many(monkeypatch):
    loaded = [*LISTED, "minilearner.pages.page"]
    assert star_import.find_faults(loaded, LISTED) == []
    n = sum(name.startswith("minilearner") for name in loaded)
    monkeypatch.setattr(star_import, "MOST", n - 1)
    (fault,) = star_import.find_faults(loaded, LISTED)
    assert fault.startswith(f"minilearner.pages.page is loaded, one of {n} modules of ours, where {n - 1} are allowed")
