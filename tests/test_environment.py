"""What a bug report needs to know about a machine."""

import json

import torch

import minilearner
from minilearner.environment import describe_environment
from minilearner.training.auto_precision import choose_precision


def test_versions_device_precision_and_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("MINILEARNER_HOME", str(tmp_path))
    monkeypatch.setenv("MINILEARNER_OFFLINE", "1")
    found = describe_environment("cpu")
    assert found.versions["torch"] == torch.__version__ and found.versions["minilearner"] == minilearner.__version__
    assert (found.device, found.n_threads, found.is_offline) == ("cpu", torch.get_num_threads(), True)
    choice = choose_precision(torch.nn.Conv2d(1, 1, 1), torch.device("cpu"))
    assert found.precision.startswith(choice.precision) and found.why == choice.why
    assert found.folders["data"] == str(tmp_path)
    assert json.loads(json.dumps(found.to_dict()))["versions"] == found.versions
    assert f"  torch: {torch.__version__}\n" in str(found) and "forbidden by MINILEARNER_OFFLINE" in str(found)
