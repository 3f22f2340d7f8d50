"""The table of benchmarks keeps finished results if a later benchmark fails, and contenders report their errors."""

import importlib
import operator
import os
import sys
from functools import partial
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
README = """# before

<!-- speed -->
| old |
<!-- end of speed -->
between
<!-- learning rates -->
| kept |
<!-- end of learning rates -->
after
"""


@pytest.fixture
def benchmark(monkeypatch):
    """Returns a function that imports a script of the folder by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in ("table", "rows", "turns"):
        sys.modules.pop(name, None)


@pytest.fixture
def run(benchmark, tmp_path, monkeypatch):
    """Runs table.py with made-up benchmarks, name -> code. Returns the file it wrote, README, and the error message."""

    def run(codes, *options, readme=README):
        table = benchmark("table")
        for i, code in enumerate(codes.values()):
            (tmp_path / f"{i}.py").write_text(code)
        (tmp_path / "README.md").write_text(readme)
        monkeypatch.setattr(table, "HERE", tmp_path)
        (tmp_path / "project.md").write_text("<!-- figures -->\n\n<!-- end of figures -->\n")
        monkeypatch.setattr(table, "PAGE", tmp_path / "README.md")
        monkeypatch.setattr(table, "README", tmp_path / "project.md")
        monkeypatch.setattr(table, "CHOSEN", ("a step",))
        monkeypatch.setattr(table, "BENCHMARKS", [table.Benchmark(what, f"{i}.py") for i, what in enumerate(codes)])
        monkeypatch.setattr(table, "BANK", table.Benchmark("Bank", "0.py"))
        monkeypatch.setattr(sys, "argv", ["table.py", str(tmp_path / "speed.md"), *options])
        message = None
        try:
            table.main()
        except SystemExit as error:
            message = str(error)
        file = tmp_path / "speed.md"
        return file.read_text() if file.exists() else None, (tmp_path / "README.md").read_text(), message

    return run


GOOD = "print('fast')\nprint('README | a step | 3 µs | raw 2 µs |')"
BAD = "import os\nprint('one row\\nREADME | half | 1 | |', flush=True)\nos._exit(3)"


def test_a_benchmark_that_fails_keeps_its_rows_and_is_reported(run):
    text, readme, message = run({"Worse": BAD, "Well": GOOD}, "--readme")
    assert "Worse" in message and "Well" not in message
    assert "one row" in text and "status 3" in text and "fast" in text and "\n| half | 1 | |\n" in text
    assert readme == README


def test_the_rows_of_all_benchmarks_make_one_table_before_the_details(run):
    text, readme, message = run({"Well": GOOD, "Too": GOOD.replace("a step", "an epoch")})
    assert message is None and readme == README
    rows = "| | minilearner | others |\n|---|---|---|\n| a step | 3 µs | raw 2 µs |\n| an epoch | 3 µs | raw 2 µs |\n"
    assert text.index(rows) < text.index("## Well\n\n```\nfast\n```\n\n## Too") and "README |" not in text


def test_the_readme_gets_the_table_and_otherwise_stays_the_same(run):
    _, readme, _ = run({"Well": GOOD}, "--readme")
    before, rest = readme.split("<!-- speed -->")
    table, after = rest.split("<!-- end of speed -->")
    assert before == README.split("<!-- speed -->")[0] and after == README.split("<!-- end of speed -->")[1]
    assert "old" not in table and table.endswith(
        "\n\n| | minilearner | others |\n|---|---|---|\n| a step | 3 µs | raw 2 µs |\n\n"
    )


def test_the_bank_has_its_own_table(run):
    _, readme, _ = run({"Well": GOOD}, "--readme", "--bank")
    _, rest = readme.split("<!-- learning rates -->")
    assert "kept" not in readme and "| a step | 3 µs | raw 2 µs |\n\n<!-- end of learning rates -->\nafter\n" in rest


def test_a_readme_without_its_comments_is_refused_before_anything_is_measured(run):
    text, readme, message = run({"Well": GOOD}, "--readme", readme="# no table\n")
    assert "<!-- speed -->" in message and text is None and readme == "# no table\n"


def test_the_page_has_the_comments_and_the_readme_its_chosen_rows(benchmark):
    table = benchmark("table")
    assert "| here |" in table.with_tables(table.PAGE, {"speed": "| here |", "learning rates": ""})
    assert table.with_tables(table.README, {"figures": table.choose_rows(table.PAGE)}) == table.README.read_text()


def test_the_project_readme_gets_the_chosen_rows(run, tmp_path):
    run({"Well": GOOD, "Too": GOOD.replace("a step", "an epoch")}, "--readme")
    text = (tmp_path / "project.md").read_text()
    assert "| a step | 3 µs | raw 2 µs |" in text and "an epoch" not in text


def test_the_error_of_a_contender_has_its_own_traceback(benchmark):
    with (
        pytest.raises(RuntimeError, match=r"(?s)run\(\).*ZeroDivisionError: division by zero"),
        benchmark("turns").Contender(partial, operator.truediv, 1, 0) as contender,
    ):
        contender()


@pytest.mark.slow
def test_contenders_run_in_separate_processes_and_missing_packages_are_left_out(benchmark, capsys):
    makers = {"here": (partial, os.getpid), "elsewhere": (importlib.import_module, "no_such_peer")}
    ((name, pids),) = benchmark("turns").by_turns(makers, rounds=2).items()
    assert name == "here" and len(pids) == 2 and len({*pids, os.getpid()}) == 2
    assert "elsewhere: not installed (ModuleNotFoundError: No module named 'no_such_peer')" in capsys.readouterr().out
