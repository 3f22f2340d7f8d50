"""A process of several ends without an abort, even if a thread of gloo still holds a tensor."""

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_process_ends_well_while_gloo_lets_go_of_the_last_tensors(script_named):
    command = [sys.executable, script_named("exit_script").__file__, "15"]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=paths, capture_output=True, text=True, timeout=240)
    assert ended.stdout.split() == ["30", "0"], ended.stderr
