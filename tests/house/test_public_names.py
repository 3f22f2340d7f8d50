"""Every public name and signature that was written down is there still."""

import importlib.util
import json
from pathlib import Path

HOUSE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("public_names", HOUSE / "public_names.py")
public_names = importlib.util.module_from_spec(spec)
spec.loader.exec_module(public_names)
NAMES = json.loads((HOUSE / "names.json").read_text(encoding="utf-8"))


def test_no_public_name_is_lost_or_changed():
    lost, changed = public_names.find_differences(NAMES, public_names.snapshot())
    assert lost == [] and changed == []


def test_a_lost_name_and_a_changed_signature_are_noticed():
    now = {name: text for name, text in NAMES.items() if name != "minilearner.EMA"}
    now["minilearner.SWA"] = "(lr)"
    assert public_names.find_differences(NAMES, now) == (["minilearner.EMA"], ["minilearner.SWA"])
