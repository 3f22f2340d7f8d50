"""Every bad file only raises one of our errors, with little memory and time, and without unpickling."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")


@pytest.mark.slow
def test_every_damaged_file_is_refused_by_every_reader(tmp_path):
    script = Path(__file__).with_name("hostile.py")
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["failures"] == []
    assert report["seen"] == []  # nothing was unpickled, imported, compiled or run
    assert report["counts"]["checkpoint tensors"] > 500 and report["counts"]["manifest"] > 400
    assert report["counts"]["load"] > 5000 and report["counts"]["load_learner"] > 5000
