"""Runs a few kills of the matrix. CI runs two hundred in a separate step."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_run_killed_anywhere_ends_on_the_same_bits():
    script = Path(__file__).with_name("kill_matrix.py")
    done = subprocess.run(
        [sys.executable, script, "--kills", "14", "--no-every-call"], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["kills"] >= 14


@pytest.mark.slow
def test_the_comparison_can_fail():
    """A checkpoint that leaves something out, here the generators, must be noticed."""
    script = Path(__file__).with_name("kill_matrix.py")
    done = subprocess.run(
        [sys.executable, script, "--kills", "40", "--no-every-call", "--forget", "rng"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode != 0
    assert re.search("AssertionError: .* killed at .* is not", done.stderr), done.stderr[-3000:]
