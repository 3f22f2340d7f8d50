"""iPhone photos with pillow-heif itself, which `.ci/extras` installs. Nothing needs to be registered."""

import subprocess
import sys

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from minilearner.errors import FileFormatError
from minilearner.vision.all import MLP, ImageDataLoaders, Learner, Resize, get_image_files, open_image


@pytest.fixture
def photos(tmp_path):
    """Eight photos of two classes, one of them in HEIC files."""
    rng = np.random.default_rng(0)
    for i in range(8):
        image = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((64, 48))
        path = tmp_path / ("phone" if i % 2 else "camera") / (f"{i}.HEIC" if i % 2 else f"{i}.jpg")
        path.parent.mkdir(exist_ok=True)
        if i % 2:
            pillow_heif.from_pillow(image).save(path, quality=90)
        else:
            image.save(path)
    return tmp_path


def test_heic_files_are_listed_and_read_without_a_call(photos):
    code = """
import sys
from minilearner.vision.all import *
dls = ImageDataLoaders.from_folder(sys.argv[1], valid_pct=0.5, seed=1, bs=4, item_tfms=Resize(32), num_workers=2)
print(*dls.vocab, sum(len(x) for x, _ in dls.valid), dls.one_batch()[0].shape[-1])
"""
    done = subprocess.run([sys.executable, "-c", code, photos], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["camera", "phone", "4", "32"] and "left out" not in done.stderr


def test_a_heic_photo_has_its_pixels(photos):
    path = photos / "phone" / "1.HEIC"
    wanted = np.asarray(pillow_heif.open_heif(path).to_pillow().convert("RGB"))
    assert np.array_equal(open_image(path), wanted)


def test_a_damaged_heic_photo_is_called_damaged(photos):
    path = photos / "phone" / "1.HEIC"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FileFormatError, match=r"1\.HEIC: (?!.*pip install)"):
        open_image(path)


def test_a_loader_lists_both_kinds(photos):
    assert len(get_image_files(photos)) == 8
    assert len(ImageDataLoaders.from_folder(photos, valid_pct=0.5, seed=1, bs=2).train_ds) == 4


def test_an_onnx_file_reads_heic_without_torch(photos, tmp_path):
    """In a process of its own, where nothing has taught Pillow the format."""
    dls = ImageDataLoaders.from_folder(photos, valid_pct=0.5, seed=1, bs=2, item_tfms=Resize(32), device="cpu")
    path = photos / "phone" / "1.HEIC"
    learn = Learner(dls, MLP((3 * 32 * 32, 2)), device="cpu")
    model = learn.export(tmp_path / "m.onnx")
    code = """
import sys
from minilearner.onnx_model import OnnxModel
model = OnnxModel(sys.argv[1])
print(model.predict(sys.argv[2]).label, model.predict(open(sys.argv[2], "rb").read()).label)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code, model, path], capture_output=True, text=True)
    assert done.stdout.split() == [learn.predict(path)[0]] * 2, done.stderr
