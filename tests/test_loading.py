"""`learn.export` and `load_learner` restore the same bits from one file, and refuse every wrong file."""

import copy
import json
import pickle
import subprocess
import sys
import textwrap
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset
from torchvision import models

from minilearner import (
    MLP,
    BatchTransform,
    Category,
    DataError,
    DataLoaders,
    FileFormatError,
    Learner,
    MiniGoogLeNet,
    Normalize,
    Regression,
    load_learner,
    register,
    tensor_file,
)
from minilearner.data.items import get_image_files
from minilearner.data.targets import MultiCategory
from minilearner.losses import (
    CrossEntropyLossFlat,
    FocalLoss,
    FocalLossFlat,
    LabelSmoothingCrossEntropy,
    LabelSmoothingCrossEntropyFlat,
)
from minilearner.models.xresnet import xresnet18
from minilearner.vision.augment import aug_transforms
from minilearner.vision.fashion_mnist import fashion_mnist
from minilearner.vision.image_loaders import ImageDataLoaders
from minilearner.vision.resize import Resize
from minilearner.vision.vision_learner import vision_learner


@register
class Shifted(BatchTransform):
    """A user's transform that holds a tensor."""

    train_only = False

    def __init__(self, by, times=1.0):
        self.by, self.times = by, times

    def __call__(self, x, rng):
        return x + self.by * self.times


@register
def doubled(x, factor=2):
    return x * factor


@register
class OwnNet(nn.Module):
    """A user's model."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 3))

    def forward(self, x):
        return self.layers(x)


@pytest.fixture
def learner(blobs, tmp_path):
    def make(model=None, batch_tfms=None, loss_func=None, **options):
        torch.manual_seed(0)
        dls = DataLoaders.from_arrays(*blobs, bs=16, seed=0, batch_tfms=batch_tfms, device="cpu", **options)
        return Learner(dls, model or MLP((2, 8, 3)), loss_func, path=tmp_path, device="cpu")

    return make


@pytest.fixture
def images(tmp_path):
    """Six image files of two classes and several sizes."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(6):
        pixels = rng.integers(0, 256, (40 + 5 * i, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{'cat' if i % 2 else 'dog'}_{i}.png")
    return sorted(folder.glob("*.png"))


def test_a_model_of_arrays_predicts_the_same_bits(learner, blobs):
    learn = learner(batch_tfms=Normalize.from_stats([0.1, 0.2], [1.5, 2.5]), vocab=["a", "b", "c"])
    with learn.no_logging():
        learn.fit(1)
    loaded = load_learner(learn.export())
    x = blobs[1][0]
    preds, other = (one.get_preds(dl=one.dls.test_dl(x))[0] for one in (learn, loaded))
    assert torch.equal(preds, other)
    assert loaded.predict(x[3])[0] == learn.predict(x[3])[0] and loaded.dls.vocab == ("a", "b", "c")


def test_minigooglenet_on_fashion_predicts_the_same_bits_from_raw_images(tmp_path):
    learn = Learner(fashion_mnist(download=False, bs=32), MiniGoogLeNet(10), path=tmp_path, device="cpu")
    loaded = load_learner(learn.export(), device="cpu")
    raw = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    preds, other = (one.get_preds(dl=one.dls.test_dl(raw))[0] for one in (learn, loaded))
    assert preds.shape == (5, 10) and torch.equal(preds, other)
    assert loaded.predict(Image.fromarray(raw[0, 0].numpy())).label == learn.predict(raw[0]).label


def pets(files, **options):
    return ImageDataLoaders.from_name_re(
        files[0].parent,
        files,
        r"(.+)_\d+\.png$",
        seed=1,
        item_tfms=Resize(40),
        bs=2,
        num_workers=0,
        device="cpu",
        **options,
    )


def test_a_vision_learner_predicts_the_same_bits_from_paths_images_and_tensors(images, tmp_path):
    dls = pets(
        images, batch_tfms=[*aug_transforms(size=32, min_scale=0.75), Normalize.from_stats([0.5] * 3, [0.2] * 3)]
    )
    learn = vision_learner(dls, models.resnet18, pretrained=False, path=tmp_path, device="cpu", n_in=3, ps=0.3)
    loaded = load_learner(learn.export("pets.safetensors"), device="cpu")
    preds, other = (one.get_preds(dl=one.dls.test_dl(images))[0] for one in (learn, loaded))
    assert torch.equal(preds, other) and loaded.dls.vocab == ("cat", "dog")
    with Image.open(images[0]) as image:
        for item in (images[0], str(images[0]), image, np.asarray(image)):
            assert torch.equal(loaded.predict(item).probabilities, learn.predict(images[0]).probabilities)
    augmented, again = (one.tta(dl=one.dls.test_dl(images), n=2)[0] for one in (learn, loaded))
    assert torch.equal(augmented, again) and not torch.equal(augmented, preds)


ARCHITECTURES = [
    (models.regnet_y_400mf, {}),
    pytest.param(models.vit_b_16, {"lin_ftrs": []}, marks=pytest.mark.slow),
    (models.googlenet, {"concat_pool": False}),
    (models.resnet18, {"cut": -3, "n_in": 1, "bn_final": True}),
]


@pytest.mark.parametrize(("arch", "options"), ARCHITECTURES, ids=lambda value: getattr(value, "__name__", ""))
def test_architectures_of_torchvision_are_rebuilt_without_their_weights(arch, options, tmp_path):
    n_in = options.get("n_in", 3)
    size = 224 if arch is models.vit_b_16 else 64
    x = torch.rand(4, n_in, size, size, generator=torch.Generator().manual_seed(0))
    dls = DataLoaders.from_arrays((x, [0, 1, 2, 1]), bs=2, seed=0, device="cpu")
    learn = vision_learner(dls, arch, pretrained=False, path=tmp_path, device="cpu", **options)
    loaded = load_learner(learn.export(), device="cpu")
    assert repr(loaded.model) == repr(learn.model)
    assert torch.equal(loaded.predict(x[0]).probabilities, learn.predict(x[0]).probabilities)


def test_a_model_of_timm_is_rebuilt_without_its_weights(tmp_path):
    pytest.importorskip("timm", reason="the extra timm")
    x = torch.rand(4, 3, 64, 64)
    dls = DataLoaders.from_arrays((x, [0, 1, 2, 1]), bs=2, seed=0, device="cpu")
    learn = vision_learner(dls, "convnext_atto", pretrained=False, path=tmp_path, device="cpu")
    loaded = load_learner(learn.export(), device="cpu")
    assert torch.equal(loaded.predict(x[0]).probabilities, learn.predict(x[0]).probabilities)


def test_your_own_model_is_passed_in(learner):
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    learn = learner(net)
    with learn.no_logging():
        learn.fit(1)
    path = learn.export()
    fresh = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    loaded = load_learner(path, model=fresh)
    assert torch.equal(loaded.predict([1.0, 2.0])[2], learn.predict([1.0, 2.0])[2])
    with pytest.raises(FileFormatError, match=r"does not say how to build its model.*model=Sequential\(\.\.\.\)"):
        load_learner(path)
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(FileFormatError, match=r"export\.safetensors.*do not fit its model: 9 missing.*0\.weight"):
        load_learner(path, model=nn.Sequential(nn.Sequential(fresh)))
    assert all(torch.equal(t, before[name]) for name, t in fresh.state_dict().items())


def test_a_model_that_was_changed_after_it_was_made_is_not_taken_for_another(learner):
    changed = MLP((2, 8, 3))
    changed[2] = nn.Tanh()
    with pytest.raises(FileFormatError, match="its layers are not those that MLP builds from its arguments"):
        load_learner(learner(changed).export())


def test_your_own_registered_parts_come_back(learner):
    tfms = [Shifted(torch.tensor([1.0, 2.0])), doubled, partial(doubled, factor=3)]
    learn = learner(OwnNet(5), batch_tfms=tfms)
    loaded = load_learner(learn.export())
    assert isinstance(loaded.model, OwnNet)
    assert torch.equal(loaded.predict([1.0, 2.0])[2], learn.predict([1.0, 2.0])[2])


class Unregistered(Shifted):
    """A class that no file can name."""


class Opaque:
    """A label that is neither text nor a number."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_tfms": lambda x: x * 2}, r"batch transform .*<lambda> is not registered.*@minilearner\.register"),
        ({"batch_tfms": Unregistered(1)}, "batch transform Unregistered is not registered"),
        ({"batch_tfms": Shifted(Opaque())}, "'by'.* is a Opaque, which is not data"),
        ({"item_tfms": lambda x: x * 2}, "item transform .*<lambda> is not registered"),
        ({"vocab": [Opaque(), Opaque(), Opaque()]}, "vocabulary must be text or numbers.*Opaque"),
    ],
)
def test_what_no_file_can_name_is_refused_at_export_and_nothing_is_written(learner, tmp_path, options, message):
    with pytest.raises(TypeError, match=message):
        learner(**options).export()
    assert not list(tmp_path.iterdir())


def test_augmentation_that_cannot_be_named_is_left_out(learner):
    class Noise(BatchTransform):
        def __call__(self, x, rng):
            return x + torch.randn(x.shape, generator=rng)

    learn = learner(batch_tfms=[Noise(), doubled])
    assert torch.equal(load_learner(learn.export()).predict([1.0, 2.0])[2], learn.predict([1.0, 2.0])[2])


@pytest.mark.parametrize(
    ("target", "y", "label"),
    [
        (MultiCategory(["x", "y", "z"], thresh=0.3), np.eye(3, dtype=np.float32)[[0, 1, 2, 0]], list),
        (Regression(3), np.ones((4, 3), np.float32), list),
        (Category([10, 20, 30]), np.array([0, 1, 2, 0]), int),
    ],
)
def test_targets_come_back(tmp_path, target, y, label):
    x = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    dls = DataLoaders.from_arrays((x, y), bs=2, seed=0, target=target, device="cpu")
    learn = Learner(dls, MLP((2, 3)), path=tmp_path, device="cpu")
    loaded = load_learner(learn.export(), device="cpu")
    assert loaded.dls.target == target and type(loaded.predict(x[0]).label) is label
    assert loaded.predict(x[0]).label == learn.predict(x[0]).label


def test_loaders_of_a_foreign_dataset_predict_arrays(tmp_path):
    x, y = torch.rand(6, 2), torch.tensor([0, 1, 2] * 2)
    learn = Learner(DataLoaders(TensorDataset(x, y), bs=2, seed=0), MLP((2, 3)), path=tmp_path, device="cpu")
    loaded = load_learner(learn.export(), device="cpu")
    assert torch.equal(*(one.get_preds(dl=one.dls.test_dl(x))[0] for one in (learn, loaded)))


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1),
        LabelSmoothingCrossEntropy(0.2),
        FocalLoss(1.5),
        CrossEntropyLossFlat(torch.tensor([1.0, 2.0, 3.0]), axis=1, label_smoothing=0.1),
        LabelSmoothingCrossEntropyFlat(0.2),
        FocalLossFlat(1.5),
        torch.nn.functional.cross_entropy,
    ],
)
def test_known_losses_come_back(learner, blobs, loss):
    learn = learner(loss_func=loss)
    loaded = load_learner(learn.export())
    assert loaded.validate(dl=loaded.dls.test_dl(blobs[1])) == learn.validate()


def test_an_unknown_loss_is_missed_only_if_it_is_needed(learner, blobs):
    loaded = load_learner(learner(loss_func=lambda pred, y: pred.sum() * 0).export())
    assert loaded.predict([1.0, 2.0])[1] in (0, 1, 2)
    with pytest.raises(DataError, match="does not describe its loss"):
        loaded.validate(dl=loaded.dls.test_dl(blobs[1]))


@pytest.mark.parametrize("ask", ["fit", "fit_one_cycle", "lr_find", "get_preds", "validate", "summary"])
def test_there_is_nothing_to_train_on(learner, ask):
    loaded = load_learner(learner().export())
    with pytest.raises(ValueError, match="loaded from .*export.safetensors, and has no data of its own"):
        getattr(loaded, ask)(*([1] if "fit" in ask else []))


def test_a_loaded_learner_is_exported_again_to_the_same_content(learner):
    path = learner(batch_tfms=doubled).export()
    again = load_learner(path, device="cpu").export("again.safetensors")
    first, second = (tensor_file.TensorFile(p, ("export",)).content("data/") for p in (path, again))
    assert first == second


def test_the_precision_and_the_layout_come_back(tmp_path):
    x = torch.rand(4, 3, 8, 8)
    dls = DataLoaders.from_arrays((x, [0, 1, 0, 1]), bs=2, seed=0, device="cpu")
    net = OwnConv()
    learn = Learner(dls, net, path=tmp_path, device="cpu", precision="bf16")
    loaded = load_learner(learn.export(), device="cpu")
    assert loaded.precision == "bf16" and loaded.model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(loaded.predict(x[0])[2], learn.predict(x[0])[2])


@register
class OwnConv(nn.Module):
    """A convolution and a mean."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


def test_a_file_of_a_newer_version_says_so(learner, monkeypatch):
    monkeypatch.setattr(tensor_file, "FORMAT", tensor_file.FORMAT + 1)
    path = learner().export()
    monkeypatch.undo()
    with pytest.raises(
        FileFormatError, match=r"export\.safetensors: .*newer version of minilearner.*format 2.*Upgrade"
    ):
        load_learner(path)


def test_a_file_of_another_torch_loads(learner, monkeypatch):
    monkeypatch.setattr("minilearner.saving.export._version", lambda package: "9.9")
    assert load_learner(learner().export()).predict([1.0, 2.0])


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b"", bytes.swapcase]
)
def test_a_damaged_file_is_named(learner, damage):
    path = learner().export()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FileFormatError, match=str(path)):
        load_learner(path)


def test_a_file_of_weights_is_no_export(learner):
    with pytest.raises(FileFormatError, match="it is a file of 'weights', not minilearner's export"):
        load_learner(learner().save("w"))


def in_another_process(code, path):
    code = f"import sys, minilearner\n{textwrap.dedent(code)}"
    return subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout


def test_names_are_looked_up_in_this_process_and_never_imported(learner, tmp_path):
    path = learner(OwnNet(4)).export()
    out = in_another_process(
        """
        try:
            minilearner.load_learner(sys.argv[1])
        except minilearner.FileFormatError as error:
            print(error)
        """,
        path,
    )
    assert "the model 'OwnNet' is not registered here" in out


def test_loading_a_plain_model_does_not_load_torchvision(learner):
    path = learner().export()
    code = """
        minilearner.load_learner(sys.argv[1]).predict([1.0, 2.0])
        print('torchvision' in sys.modules)
        """
    assert in_another_process(code, path).strip() == "False"


def test_a_huge_model_in_a_small_file_takes_no_memory(learner, tmp_path):
    path = learner(MLP((2, 3))).export()
    file = tensor_file.TensorFile(path, ("export",))
    content = file.content("data/")
    content["architecture"]["arguments"]["sizes"] = (1 << 20, 1 << 20, 3)
    tensor_file.write_tensor_file(path, "export", content, file.tensors(), prefix="data/")
    with pytest.raises(FileFormatError, match="do not fit its model"):
        load_learner(path)


def test_what_a_file_says_is_readable_json(learner):
    with open(learner().export(), "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert {"minilearner", "version", "content"} <= header["__metadata__"].keys()
    assert "MLP" in header["__metadata__"]["content"]


def test_a_missing_file_says_where_export_writes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*gone.safetensors\. .*`learn.path`"):
        load_learner(tmp_path / "gone.safetensors")


def test_a_missing_file_names_the_one_that_was_meant(learner, tmp_path):
    written = learner().export("birds.safetensors")
    with pytest.raises(FileNotFoundError, match=rf"`learn.export` wrote {written}\.$"):
        load_learner("elsewhere/birds.safetensors")
    for name in ("birds.pkl", "brids.safetensors"):
        with pytest.raises(FileNotFoundError, match=r"Did you mean 'birds.safetensors'\?$"):
            load_learner(tmp_path / name)


def test_an_export_may_have_the_name_of_a_pickle_and_is_none(learner, tmp_path, capsys):
    learn = learner()
    path = learn.export("birds.pkl")
    assert capsys.readouterr().err.endswith("birds.pkl, in the safetensors format and not as a pickle\n")
    loaded = load_learner(path, cpu=True)
    assert str(loaded.device) == "cpu" and torch.equal(
        loaded.get_preds(dl=[blob_batch()])[0], learn.get_preds(dl=[blob_batch()])[0]
    )
    with pytest.raises(ValueError, match="`cpu` and `device` both say where to predict"):
        load_learner(path, cpu=True, device="cpu")


def blob_batch():
    return torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(5).long()


def test_a_pickle_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "fastai.pkl").write_bytes(pickle.dumps({"a": 1}, protocol=2))
    torch.save({"a": torch.zeros(2)}, tmp_path / "torch.pth")
    for name in ("fastai.pkl", "torch.pth"):
        with pytest.raises(FileFormatError, match=rf"{name}: it is a pickle.*learn.load\('weights'\)"):
            load_learner(tmp_path / name)


def test_what_fastai_expects_in_second_place_is_refused_with_ours(tmp_path):
    learn = Learner(DataLoaders.from_arrays((torch.rand(8, 4), torch.arange(8) % 2), bs=4), nn.Linear(4, 2))
    file = learn.save(tmp_path / "weights")
    with pytest.raises(TypeError, match="`with_opt` must be True or False. Received: with_opt='cpu'"):
        learn.load(file, "cpu")
    with pytest.raises(
        TypeError, match=r"`model` must be a torch module. Received: bool. Write load_learner\(path, cpu=True\)"
    ):
        load_learner(file, True)


def test_a_loaded_learner_scores_items_with_given_labels(pets, tmp_path):
    files = get_image_files(pets)
    labels = [file.name.rpartition("_")[0] for file in files]
    dls = ImageDataLoaders.from_lists(pets, files, labels, item_tfms=Resize(8), bs=8, seed=0)
    learn = vision_learner(dls, xresnet18, pretrained=False)
    learn.model.eval()
    loaded = load_learner(learn.export(tmp_path / "pets.safetensors"))
    dl = loaded.dls.test_dl(files, labels=labels, num_workers=0)
    expected = learn.get_preds(dl=learn.dls.test_dl(files, labels=labels), with_loss=True)
    found = loaded.get_preds(dl=dl, with_loss=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert [dls.vocab[n] for n in found.targets.tolist()] == labels
    with pytest.raises(DataError, match="`labels` must have one label for each of 30 items. Received: 29."):
        loaded.dls.test_dl(files, labels=labels[1:])
    with pytest.raises(DataError, match=r"Birman_0.jpg'\) \('cat'\). The classes are"):
        loaded.dls.test_dl(files, labels=["cat", *labels[1:]])
    with pytest.raises(ValueError, match="Give `labels`, one for each item"):
        loaded.dls.test_dl(files, with_labels=True)
