"""Without torch, an ONNX file predicts what the learner that wrote it predicts."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from odd_images import write_odd_images
from PIL import Image
from torch import nn

from minilearner import MLP, DataError, DataLoaders, FileFormatError, Learner, load_learner
from minilearner.losses import BCEWithLogitsLossFlat
from minilearner.onnx_model import OnnxModel
from minilearner.vision.all import (
    CategoryBlock,
    CropPad,
    DataBlock,
    ImageBlock,
    ImageDataLoaders,
    MultiCategoryBlock,
    Normalize,
    PILImageBW,
    RandomCrop,
    RandomResizedCrop,
    RegressionBlock,
    Resize,
    aug_transforms,
    get_image_files,
    parent_label,
)

ROOT = Path(__file__).parents[1]
NORMALIZE = Normalize.from_stats([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two folders of three images each."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i, label in enumerate(["cat", "dog"] * 3):
        (folder / label).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40 + i, 50, 3), dtype=np.uint8)).save(folder / label / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return write_odd_images(tmp_path_factory.mktemp("odd"))


def learner(dls, folder, n_out=2, channels=3):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, n_out)
    )
    return Learner(dls, model, path=folder, device="cpu")


def from_folder(photos, item_tfms, batch_tfms=()):
    return ImageDataLoaders.from_folder(
        photos, valid_pct=0.4, item_tfms=item_tfms, batch_tfms=[*batch_tfms, NORMALIZE], bs=2, seed=0, device="cpu"
    )


@pytest.fixture(scope="module")
def learn(photos, tmp_path_factory):
    return learner(from_folder(photos, Resize(32)), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def path(learn):
    return learn.export("m.onnx")


TRANSFORMS = {
    "crop": ((Resize(32),), ()),
    "pad": ((Resize((24, 40), "pad"),), ()),
    "squish": ((Resize(32, "squish", resamples=Image.Resampling.BICUBIC),), ()),
    "parts": ((RandomResizedCrop(32),), ()),
    "windows": ((CropPad((70, 60)), RandomCrop(32)), ()),
    "resized in batches": ((Resize(64),), aug_transforms(size=32)),
    "cropped in batches": ((Resize(64),), aug_transforms(size=32, min_scale=0.75)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMS)
def test_images_become_the_same_inputs_and_predictions(photos, odd, tmp_path, name):
    learn = learner(from_folder(photos, *TRANSFORMS[name]), tmp_path)
    model = OnnxModel(learn.export("m.onnx"))
    assert model.vocab == ("cat", "dog")
    for file in odd:
        label, number, probabilities = learn.predict(file)
        found = model.predict(file)
        assert (found.label, found.decoded) == (label, int(number)), file
        # The graph adds in another order than torch: a few units in the last place.
        np.testing.assert_allclose(found.probabilities, probabilities.numpy(), atol=1e-5)
        unit = NORMALIZE.decode(learn.dls.test_dl([file]).one_batch()[0])[0].numpy()
        assert np.abs(unit - model.prepare(file)).max() < 1e-6, file


def test_every_way_to_hand_over_an_image(learn, path, odd):
    model = OnnxModel(path)
    expected = model.prepare(odd[0])
    for item in (str(odd[0]), odd[0].read_bytes(), io.BytesIO(odd[0].read_bytes())):
        np.testing.assert_array_equal(model.prepare(item), expected)
    np.testing.assert_array_equal(learn.predict(odd[0].read_bytes())[2], learn.predict(odd[0])[2])
    with Image.open(odd[-1]) as image:
        np.testing.assert_array_equal(model.prepare(image), model.prepare(odd[-1]))


def test_batches(path, odd):
    model = OnnxModel(path)
    for one, alone in zip(model.predict_all(odd, bs=4), map(model.predict, odd), strict=True):
        assert one.label == alone.label
        np.testing.assert_allclose(one.probabilities, alone.probabilities, atol=1e-6)
    assert model.predict_all([]) == []


def test_a_loaded_learner_exports_the_same(learn, path, odd):
    own = OnnxModel(path)
    again = load_learner(learn.export("m.safetensors"), model=learn.model, device="cpu")
    other = OnnxModel(again.export("other.onnx"))
    np.testing.assert_array_equal(own.predict(odd[0]).probabilities, other.predict(odd[0]).probabilities)


def test_a_temperature(photos, odd, tmp_path):
    dls = from_folder(photos, Resize(32))
    learn = learner(dls.with_target(dls.target.with_temperature(0.5)), tmp_path)
    model = OnnxModel(learn.export("m.onnx"))
    np.testing.assert_allclose(model.predict(odd[0]).probabilities, learn.predict(odd[0])[2].numpy(), atol=1e-5)
    assert json.loads(metadata(tmp_path / "m.onnx")["minilearner"])["target"]["temperature"] == 0.5


@pytest.mark.parametrize(
    ("block", "labels", "n_out"),
    [
        (MultiCategoryBlock(), lambda path: [path.parent.name, "animal"], 3),
        (RegressionBlock(n_out=2), lambda path: [len(path.stem), 0.5], 2),
        (RegressionBlock(), lambda path: 0.5, 1),
        (CategoryBlock(), parent_label, 2),
    ],
)
def test_every_kind_of_label(photos, odd, tmp_path, block, labels, n_out):
    data = DataBlock((ImageBlock(PILImageBW), block), get_items=get_image_files, get_y=labels, item_tfms=Resize(24))
    learn = learner(data.dataloaders(photos, bs=2, seed=0, device="cpu"), tmp_path, n_out, channels=1)
    if isinstance(block, type(MultiCategoryBlock())):
        learn.loss_func = BCEWithLogitsLossFlat(thresh=0.45)
    model = OnnxModel(learn.export("m.onnx"))
    for file in odd[:4]:
        label, decoded, values = learn.predict(file)
        found = model.predict(file)
        np.testing.assert_allclose(found.probabilities, values.numpy(), atol=1e-5)
        np.testing.assert_allclose(np.asarray(found.decoded, np.float32), decoded.float().numpy().squeeze(), atol=1e-5)
        if isinstance(label, (float, list)) and not isinstance(next(iter(np.ravel(label)), 0.0), str):
            np.testing.assert_allclose(found.label, label, atol=1e-5)
        else:
            assert found.label == label


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_arrays(tmp_path, dtype):
    x = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8)).astype(dtype)
    dls = DataLoaders.from_arrays((x, np.arange(6) % 3), vocab=["a", "b", "c"], bs=2, seed=0, device="cpu")
    learn = Learner(dls, MLP((64, 3)), path=tmp_path, device="cpu")
    model = OnnxModel(learn.export("m.onnx"))
    label, number, probabilities = learn.predict(x[0])
    assert model.predict(x[0])[:2] == (label, int(number))
    np.testing.assert_allclose(model.predict(x[0]).probabilities, probabilities.numpy(), atol=1e-5)
    with pytest.raises(DataError, match=r"must be an array of shape \(1, 8, 8\)\. Received: shape \(8, 8\)"):
        model.prepare(x[0, 0])
    with pytest.raises(DataError, match=f"must be an array of {x.dtype}"):
        model.prepare(x[0].astype(np.float32 if dtype is np.uint8 else np.uint8))


def darken(image):
    return image.point(lambda value: value // 2)


def test_what_cannot_be_prepared_says_why(photos, odd, tmp_path):
    learn = learner(from_folder(photos, [Resize(32), darken]), tmp_path)
    model = OnnxModel(learn.export("m.onnx"))
    with pytest.raises(
        DataError, match=r"cannot say how to prepare an item: the item transform darken is not registered"
    ):
        model.predict(odd[0])
    assert model.run(np.zeros((2, 3, 32, 32), np.float32)).shape == (2, 2)


def test_files_that_are_no_images(path, tmp_path):
    model = OnnxModel(path)
    with pytest.raises(FileNotFoundError):
        model.predict(tmp_path / "missing.png")
    with pytest.raises(FileFormatError, match="a bytes: this is no image that can be read"):
        model.predict(b"hello")
    with pytest.raises(TypeError, match="must be a path, bytes, an open file or a Pillow image. Received: int"):
        model.predict(3)


def metadata(path):
    return {one.key: one.value for one in onnx.load(path).metadata_props}


def rewrite(path, change):
    """Changes what an ONNX file says about its inputs."""
    model = onnx.load(path)
    (entry,) = [one for one in model.metadata_props if one.key == "minilearner"]
    content = json.loads(entry.value)
    change(content)
    entry.value = json.dumps(content)
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(version=2), "newer version of minilearner wrote it"),
        (lambda c: c.pop("inputs"), "what it says about its inputs is damaged"),
        (lambda c: c["inputs"].update(mode="RGBX"), "there is no mode 'RGBX'"),
        (
            lambda c: c["inputs"].update(item_tfms=[{"name": "eval", "arguments": {}}]),
            "names the item transform 'eval'",
        ),
        (lambda c: c["inputs"]["item_tfms"][0]["arguments"].update(size=-1), "`size` must be"),
    ],
)
def test_damaged_files(path, tmp_path, change, message):
    damaged = tmp_path / "m.onnx"
    damaged.write_bytes(path.read_bytes())
    rewrite(damaged, change)
    with pytest.raises(FileFormatError, match=message):
        OnnxModel(damaged)


def test_foreign_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        OnnxModel(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(FileFormatError, match="onnxruntime cannot read it"):
        OnnxModel(tmp_path / "text.onnx")


WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "safetensors", "matplotlib", "sklearn"):
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Refuse())

from minilearner.onnx_model import OnnxModel

model = OnnxModel(sys.argv[1])
for name in sys.argv[2:]:
    print(model.prepare(name).tobytes().hex())
"""


def test_it_needs_no_torch(path, odd):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(path), *map(str, odd)]
    made = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)})
    assert made.returncode == 0, made.stderr
    here = OnnxModel(path)  # scales by torch
    assert made.stdout.split() == [here.prepare(file).tobytes().hex() for file in odd]
