"""Every public name and signature that was written down is there still."""

import subprocess
import sys
from pathlib import Path

HOUSE = Path(__file__).parent


def test_no_public_name_is_lost_or_changed():
    command = [sys.executable, HOUSE / "public_names.py", "compare", HOUSE / "names.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
