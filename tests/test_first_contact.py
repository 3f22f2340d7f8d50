"""What a new user meets when something on the machine is missing: one or two sentences, with the way out."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from minilearner import DataLoaders, DownloadError, Learner, URLs, untar_data
from minilearner.vision.all import resnet18
from minilearner.vision.pretrained import local_file

ROOT = Path(__file__).parents[1]

MISSING = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchvision":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
"""

OTHER_PAIR = "raise RuntimeError('operator torchvision::nms does not exist')"


def run(code, folder):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("prepare", "import_torchvision", "message"),
    [
        (MISSING, "", r"torchvision, which is not installed\. .*: `pip install torch torchvision`"),
        ("", OTHER_PAIR, r"does not fit this torch .*nms does not exist.*`pip install --force-reinstall torch torch"),
    ],
)
def test_torch_without_its_torchvision_says_how_to_install_both(tmp_path, prepare, import_torchvision, message):
    if import_torchvision:
        (tmp_path / "torchvision").mkdir()
        (tmp_path / "torchvision/__init__.py").write_text(import_torchvision)
    done = run(f"{prepare}\nfrom minilearner.vision.all import *", tmp_path)
    lines = done.stderr.splitlines()
    assert re.search(rf"^ImportError: .*{message}", lines[-1])
    assert sum(line.startswith("  File ") for line in lines) <= 4
    assert run(f"{prepare}\nimport minilearner", tmp_path).returncode == 0


def test_an_older_python_is_named_before_anything_is_imported(tmp_path):
    code = f"import sys; sys.version_info = (3, 9, 18); exec(open({str(ROOT / 'minilearner/__init__.py')!r}).read())"
    last = run(code, tmp_path).stderr.splitlines()[-1]
    assert last.startswith("ImportError: minilearner needs Python 3.10 or later. Received: Python 3.9.")


@pytest.fixture
def no_folder(tmp_path):
    """A path below a file, which nobody can make a folder of, not even root."""
    (tmp_path / "file").touch()
    return tmp_path / "file" / "home"


def test_a_home_that_cannot_be_written_names_the_variable_for_another(no_folder, monkeypatch):
    monkeypatch.delenv("MINILEARNER_OFFLINE", raising=False)
    monkeypatch.setenv("MINILEARNER_HOME", str(no_folder))
    monkeypatch.setenv("TORCH_HOME", str(no_folder))
    with pytest.raises(DownloadError, match=r"nothing can be saved in .*home/data \(.*\)\..*variable MINILEARNER_HOME"):
        untar_data(URLs.MNIST_TINY)
    from torchvision.models import get_model_weights

    with pytest.raises(DownloadError, match=r"nothing can be saved in .*checkpoints .*variable TORCH_HOME"):
        local_file(get_model_weights(resnet18).DEFAULT)


@pytest.mark.parametrize("write", [Learner.save, Learner.export])
def test_a_model_for_a_folder_that_cannot_be_made_names_the_argument(no_folder, write):
    dls = DataLoaders.from_arrays((torch.rand(8, 4), torch.arange(8) % 2), bs=4)
    with pytest.raises(ValueError, match=r"`file` must name a file in a folder that can be written\. Received: file="):
        write(Learner(dls, nn.Linear(4, 2)), no_folder / "model.safetensors")
