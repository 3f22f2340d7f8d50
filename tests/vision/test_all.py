import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import minilearner
from minilearner.vision import all as everything
from minilearner.vision.refused import REFUSED

ON_TOP = {
    "F",
    "Image",
    "Path",
    "array",
    "math",
    "os",
    "pd",
    "random",
    "models",
    "nn",
    "np",
    "partial",
    "plt",
    "re",
    "torch",
}
ON_TOP |= {f"resnet{depth}" for depth in (18, 34, 50, 101, 152)}


def test_the_star_import_brings_exactly_its_all():
    tree = ast.parse(Path(everything.__file__).read_text())
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    } - {"*", "REFUSED", "TYPE_CHECKING"}
    assert sorted(everything.__all__) == sorted({*minilearner.__all__, *imported, *REFUSED})
    assert all(hasattr(everything, name) for name in everything.__all__)
    assert imported >= ON_TOP


def test_completion_offers_what_the_star_import_brings_but_no_refused_name():
    assert dir(everything) == sorted(set(everything.__all__) - set(REFUSED))


@pytest.mark.slow
def test_the_star_import_changes_nothing_else():
    program = """
import pathlib, random, warnings
import torch, torch.utils.data, torchvision, torchvision.models, safetensors.torch, PIL.Image  # not ours
before = repr(pathlib.Path("a")), list(warnings.filters), random.getstate(), set(vars(pathlib.Path))
from minilearner.vision.all import *
assert before == (repr(pathlib.Path("a")), list(warnings.filters), random.getstate(), set(vars(pathlib.Path)))
import sys
assert Path("a").ls and isinstance(Path("a"), pathlib.Path)
assert not {"matplotlib", "pandas", "sklearn", "scipy", "IPython", "numpy.ma"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_pyplot_is_loaded_when_it_is_first_used():
    import matplotlib.pyplot

    assert everything.plt.figure is matplotlib.pyplot.figure
    assert "savefig" in dir(everything.plt)
    with pytest.raises(AttributeError, match="no attribute 'sow'"):
        everything.plt.sow()


def test_pandas_is_loaded_when_it_is_first_used_and_said_how_to_get_if_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match=r"pandas is not installed. Write `pip install pandas`.*from_csv"):
        everything.pd.DataFrame({})
    monkeypatch.setitem(sys.modules, "pandas", json)
    assert everything.pd.dumps is json.dumps
