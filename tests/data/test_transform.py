import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image

from minilearner.data.batch_transforms import IntToFloatTensor
from minilearner.data.categorize import Categorize, MultiCategorize
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.items import get_image_files
from minilearner.data.tensor_types import TensorCategory, TensorImage
from minilearner.data.transform import Pipeline, RandTransform, ToTensor, Transform
from minilearner.errors import DataError
from minilearner.vision.image_block import PILImage, PILImageBW
from minilearner.vision.image_loaders import ImageDataLoaders
from minilearner.vision.normalize import Normalize
from minilearner.vision.resize import Resize


class Double(Transform):
    def encodes(self, x: int):
        return x * 2

    def decodes(self, x: int):
        return x // 2


class Invert(Transform):
    split_idx = 0

    def encodes(self, image: PILImage):
        return Image.fromarray(255 - np.asarray(image))


class Scale(Transform):
    order = 99.5

    def setups(self, loader):
        self.n = len(loader.one_batch()[0])

    def encodes(self, x: TensorImage):
        assert type(x) is TensorImage
        return x * 2

    def decodes(self, x: TensorImage):
        return x / 2


def test_a_transform_works_on_its_type_and_on_parts_of_tuples():
    double = Double()
    assert (double(3), double("a"), double((3, "a")), double.decode(6)) == (6, "a", (6, "a"), 3)
    assert Transform(len)("abc") == 3 and Transform(len).decode(3) == 3 and repr(double) == "Double"
    assert pickle.loads(pickle.dumps(double))(1) == 2
    only = Transform(abs, split_idx=1)
    assert (only(-1, split_idx=1), only(-1, split_idx=0), only(-1)) == (1, -1, -1)


def test_two_encodes_in_one_class_are_refused():
    with pytest.raises(TypeError, match="a Transform has one `encodes`, which may be for one type or for a union"):

        class Two(Transform):
            def encodes(self, x: int):
                return x

            def encodes(self, x: str):  # noqa: F811
                return x


def test_a_pipeline_runs_by_order_sets_up_and_goes_back():
    class Shift(Transform):
        order = -1

        def setups(self, items):
            self.least = min(items)

        def encodes(self, x):
            return x - self.least

        def decodes(self, x):
            return x + self.least

    both = Pipeline([Double(), Shift()])
    both.setup([5, 3])
    assert (
        both(4) == 2 and both.decode(2) == 4 and repr(both) == "Pipeline: Shift -> Double" and both[1].name == "Double"
    )
    assert Pipeline()(4) == 4 and Pipeline([Invert()], split_idx=1)(4) == 4


def test_a_random_transform_draws_before_it_runs():
    flip = RandTransform(p=0.5, enc=lambda x: -x)
    random.seed(0)
    assert {flip(1, split_idx=0) for _ in range(20)} == {-1, 1} and flip(1, split_idx=1) == 1


def test_transforms_run_in_loaders_on_their_split(pets):
    made = {}
    for name, tfms in (("plain", []), ("inverted", [Invert()])):
        files = get_image_files(pets)
        made[name] = ImageDataLoaders.from_name_re(
            pets, files, r"(.+)_\d+.jpg$", seed=0, bs=4, item_tfms=[Resize(8, "squish"), *tfms, ToTensor()]
        )
    plain, inverted = made.values()
    assert torch.allclose(inverted.train.one_batch()[0], 1 - plain.train.one_batch()[0], atol=1e-6)
    assert torch.equal(inverted.valid.one_batch()[0], plain.valid.one_batch()[0])


def test_a_batch_transform_is_set_up_and_undone(pets):
    files = get_image_files(pets)
    plain, scaled = (
        ImageDataLoaders.from_name_re(pets, files, r"(.+)_\d+.jpg$", seed=0, bs=4, item_tfms=Resize(8), batch_tfms=tfms)
        for tfms in (None, [Scale(), IntToFloatTensor()])
    )
    x = scaled.valid.one_batch()[0]
    assert torch.equal(x, plain.valid.one_batch()[0] * 2) and type(x) is torch.Tensor
    assert torch.equal(scaled.valid.decode(x), plain.valid.one_batch()[0])
    assert scaled.train.batch_tfms.transforms[0].f.transform.n == 4


def test_a_transform_of_targets_is_refused_in_loaders():
    class OfTargets(Transform):
        def encodes(self, y: TensorCategory):
            return y

    arrays = torch.rand(8, 1, 2, 2), torch.arange(8) % 2
    with pytest.raises(TypeError, match="OfTargets is for TensorCategory, and `item_tfms` and `batch_tfms` get inputs"):
        DataLoaders.from_arrays(arrays, bs=4, batch_tfms=OfTargets())
    with pytest.raises(TypeError, match="belongs to `get_y`. Received among `batch_tfms`"):
        DataLoaders.from_arrays(arrays, bs=4, batch_tfms=Categorize())


def test_an_image_becomes_a_tensor():
    image = PILImage.create(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    x = ToTensor()(image)
    assert type(x) is TensorImage and torch.equal(x.as_subclass(torch.Tensor)[:, 0, 1], torch.tensor([3, 4, 5]).byte())
    assert ToTensor()(PILImageBW.create(image)).shape == (1, 2, 2) and ToTensor()("text") == "text"
    assert IntToFloatTensor()(torch.tensor([255], dtype=torch.uint8)).tolist() == [1.0]


def test_names_of_classes_become_numbers_and_back():
    one = Categorize()
    one.setup(["dog", "cat", "dog"])
    assert one.vocab == ["cat", "dog"] and one("dog") == 1 and one.decode(torch.tensor(0)) == "cat"
    with pytest.raises(DataError, match="'cot' is no class. Did you mean 'cat'"):
        one("cot")
    assert Categorize(["b", "a"], add_na=True)("zebra") == 0
    several = MultiCategorize()
    several.setup([["b"], ["a", "b"]])
    assert several(["b", "a"]).tolist() == [1, 0] and several.decode([0, 1]) == ["a", "b"]
    with pytest.raises(ValueError, match="Categorize has no classes yet"):
        Categorize()("a")


def test_normalize_measures_a_batch_of_the_training_set():
    x = (
        torch.randn(500, 3, 4, 4) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
        + torch.tensor([0.0, 5.0, -1.0])[:, None, None]
    )
    arrays = x, torch.arange(500) % 2
    first, again = (DataLoaders.from_arrays(arrays, arrays, bs=500, seed=s, batch_tfms=Normalize()) for s in (0, 1))
    (transform,) = first.train.batch_tfms.transforms
    assert torch.allclose(transform.mean, x.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(transform.std, x.std((0, 2, 3)) + 1e-7)
    assert repr(first.train.batch_tfms) == repr(again.train.batch_tfms) == repr(first.valid.batch_tfms)
    seen = first.valid.one_batch()[0]
    assert seen.mean().abs() < 1e-5 and abs(seen.std() - 1) < 1e-3
    later = DataLoaders.from_arrays(arrays, bs=500).with_batch_tfms(Normalize())
    assert torch.allclose(later.one_batch()[0].mean((0, 2, 3)), torch.zeros(3), atol=1e-5)


def test_normalize_without_statistics_says_so():
    with pytest.raises(ValueError, match=r"Normalize\(\) has no statistics before loaders are built"):
        Normalize()(torch.rand(2, 3, 4, 4))
    with pytest.raises(ValueError, match="Give `mean` and `std`, or neither. Received: mean=0.5, std=None"):
        Normalize(0.5)


def test_a_resize_works_alone():
    image = PILImage.create(np.random.default_rng(0).integers(0, 255, (8, 20, 3), np.uint8))
    resize = Resize(8)
    assert isinstance(resize(image), PILImage) and resize(image).size == (8, 8)
    assert resize(image, split_idx=1).tobytes() == resize(image, None).tobytes()
    assert len({resize(image).tobytes() for _ in range(20)}) > 1
