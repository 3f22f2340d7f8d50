"""Large imports collect no garbage, and leave the collector as it was."""

import gc
import subprocess
import sys

import pytest

from minilearner.lazy import import_large

COUNT = """
import gc
import torch, torchvision
full = []
gc.callbacks.append(lambda phase, info: full.append(info["generation"]))
from minilearner import Learner
print(full.count(2), gc.isenabled())
"""


def test_the_first_name_is_read_without_a_full_collection():
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True"]


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize("name", ["this_module_is_not_there", "json"])
def test_an_import_leaves_the_collector_as_it_was(is_on, name):
    was_on = gc.isenabled()
    (gc.enable if is_on else gc.disable)()
    try:
        if name == "json":
            import_large(name)
        else:
            with pytest.raises(ModuleNotFoundError):
                import_large(name)
        assert gc.isenabled() is is_on
    finally:
        (gc.enable if was_on else gc.disable)()
