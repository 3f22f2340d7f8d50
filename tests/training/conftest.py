"""Fixtures that run scripts alone in the test's process, and with torchrun in several processes."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def import_script(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def torchrun():
    def run(script, n, *arguments, **environment):
        command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", script.__file__, *arguments]
        set_to = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), **environment}
        arguments = [sys.executable, *map(str, command)]
        return subprocess.run(arguments, env=set_to, capture_output=True, text=True, timeout=240)

    return run


@pytest.fixture(scope="session")
def reports():
    """Reads what each of n processes has written."""
    return lambda folder, n: [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(n)]


@pytest.fixture(scope="session")
def script_named():
    return import_script
