"""An ONNX file predicts in an environment with onnxruntime, NumPy and Pillow alone. `.ci/extras` makes it."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from odd_images import write_odd_images
from PIL import Image
from torch import nn

from minilearner import Learner, Normalize
from minilearner.vision.all import ImageDataLoaders, Resize, aug_transforms

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-onnx" / "bin" / "python"

SCRIPT = """
import importlib.util, json, sys
from minilearner.onnx_model import OnnxModel

assert importlib.util.find_spec("torch") is None
model = OnnxModel(sys.argv[1])
for name in sys.argv[2:]:
    label, number, probabilities = model.predict(name)
    print(json.dumps([label, number, probabilities.tolist(), model.prepare(name).tobytes().hex()]))
"""


@pytest.mark.parametrize("batch_tfms", [[], aug_transforms(size=32, min_scale=0.75)])
def test_it_predicts_what_the_learner_predicts(tmp_path, batch_tfms):
    rng = np.random.default_rng(0)
    for i, label in enumerate(["cat", "dog"] * 3):
        (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(
            tmp_path / "photos" / label / f"{i}.png"
        )
    normalize = Normalize.from_stats([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    dls = ImageDataLoaders.from_folder(
        tmp_path / "photos",
        valid_pct=0.4,
        item_tfms=Resize(48),
        batch_tfms=[*batch_tfms, normalize],
        bs=2,
        device="cpu",
    )
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 2))
    learn = Learner(dls, model, path=tmp_path, device="cpu")
    files = write_odd_images(tmp_path / "odd")
    command = [PYTHON, "-c", SCRIPT, learn.export("m.onnx"), *files]
    made = subprocess.run(list(map(str, command)), capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert made.returncode == 0, made.stderr
    for file, line in zip(files, made.stdout.splitlines(), strict=True):
        label, number, probabilities, given = json.loads(line)
        expected = learn.predict(file)
        assert (label, number) == (expected[0], int(expected[1])), file
        np.testing.assert_allclose(probabilities, expected[2].numpy(), atol=1e-5)
        unit = normalize.decode(learn.dls.test_dl([file]).one_batch()[0])[0].numpy()
        difference = np.frombuffer(bytes.fromhex(given), np.float32).reshape(unit.shape) - unit
        assert np.abs(difference).max() < 1e-6, file  # of normalising and back
