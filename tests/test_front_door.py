"""`import minilearner` is quick: torch and the rest come when the first name is read, and then nothing is missing."""

import pkgutil
import subprocess
import sys

import pytest

import minilearner


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_package_loads_no_large_library():
    code = (
        "import sys, minilearner; print(minilearner.__version__, *{'torch', 'numpy', 'PIL', 'tqdm'} & {*sys.modules})"
    )
    assert run(code) == [minilearner.__version__]


def test_a_name_a_module_and_the_star_are_there_at_once():
    code = (
        "import minilearner; print(minilearner.valley.__name__, minilearner.metrics.__name__);"
        "from minilearner import *; print(Learner.__name__)"
    )
    assert run(code) == ["valley", "minilearner.metrics", "Learner"]


def test_dir_lists_the_public_names_alone():
    assert dir(minilearner) == sorted(minilearner.__all__)


def test_no_public_name_hides_a_module():
    modules = {module.name for module in pkgutil.iter_modules(minilearner.__path__)}
    assert not modules & set(minilearner.__all__)


@pytest.mark.parametrize("name", ["Lerner", "_Learner", "__wrapped__"])
def test_a_misspelt_name_raises(name):
    with pytest.raises(AttributeError, match=f"module 'minilearner' has no attribute '{name}'"):
        getattr(minilearner, name)


def test_a_module_alone_knows_all_registered_names():
    code = (
        "from minilearner.registry import describe; from minilearner.vision.augment import Flip;"
        "print(describe(Flip(), 'the transform')['name'])"
    )
    assert run(code) == ["Flip"]
