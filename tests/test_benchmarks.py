"""The table of all benchmarks: what was measured is kept, whatever fails after it."""

import importlib.util
import sys
from pathlib import Path

import pytest


def table():
    spec = importlib.util.spec_from_file_location("table", Path(__file__).parent / "benchmarks/table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_benchmark_that_fails_keeps_its_rows_and_is_told(tmp_path, monkeypatch):
    (tmp_path / "good.py").write_text("print('fast')")
    (tmp_path / "bad.py").write_text("import os\nprint('one row', flush=True)\nos._exit(3)")
    module, file = table(), tmp_path / "speed.md"
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(module, "BENCHMARKS", {"Worse": ("bad.py", []), "Well": ("good.py", [])})
    monkeypatch.setattr(sys, "argv", ["table.py", str(file)])
    with pytest.raises(SystemExit, match="Worse"):
        module.main()
    text = file.read_text()
    assert "one row" in text and "status 3" in text and "fast" in text
