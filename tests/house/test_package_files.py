"""Files that the wheel or the source distribution lacks, or should not hold, are named."""

import importlib.util
from pathlib import Path

spec = importlib.util.spec_from_file_location("package_files", Path(__file__).parent / "package_files.py")
package_files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package_files)

REPOSITORY = [
    ".gitignore",
    "README.md",
    "minilearner/README.md",
    "minilearner/__init__.py",
    "minilearner/pages/report.css",
    "minilearner/py.typed",
    "tests/test_trees.py",
]
PACKAGE = ["minilearner/__init__.py", "minilearner/pages/report.css", "minilearner/py.typed"]
WHEEL = [*PACKAGE, "minilearner-1.dist-info/RECORD"]


def test_a_wheel_of_modules_and_data_and_a_source_distribution_of_everything_are_right():
    assert package_files.find_faults(WHEEL, REPOSITORY[1:], REPOSITORY) == []


def test_files_that_are_missing_or_too_much_are_named():
    wheel = ["minilearner/README.md", "minilearner/__init__.py", "minilearner/py.typed", "tests/test_trees.py"]
    assert package_files.find_faults(wheel, REPOSITORY[1:-1], REPOSITORY) == [
        "the wheel lacks minilearner/pages/report.css",
        "the wheel should not hold minilearner/README.md",
        "the wheel should not hold tests/test_trees.py",
        "the source distribution lacks tests/test_trees.py",
    ]
