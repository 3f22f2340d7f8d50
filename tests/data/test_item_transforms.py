import random

import numpy as np
import pytest
import torch
from PIL import Image

from minilearner.data.batch_transforms import Pipeline
from minilearner.data.item_transforms import ItemPipeline, ItemTransform
from minilearner.errors import DataError
from minilearner.vision.augment import Flip, aug_transforms
from minilearner.vision.normalize import Normalize
from minilearner.vision.resize import RandomResizedCrop, Resize


def noise(width, height):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


class Mirrored(ItemTransform):
    def __call__(self, item, rng):
        return item if rng is None or rng.random() < 0.5 else item.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


@pytest.mark.parametrize(
    ("transforms", "prepared", "cuts"),
    [
        ([], (40, 30), True),
        ([Resize(10)], (13, 10), True),
        ([Resize(10, "squish"), Resize(5)], (5, 5), True),
        ([Resize(10), Mirrored()], (13, 10), False),
        ([Mirrored(), Resize(10)], (40, 30), False),
        ([RandomResizedCrop(10)], (40, 30), False),
        ([repr], (40, 30), False),
    ],
)
def test_a_pipeline_is_split_before_its_first_random_part(transforms, prepared, cuts):
    pipeline = ItemPipeline(transforms)
    image = noise(40, 30)
    assert pipeline.prepare(image).size == prepared
    assert (pipeline.window is not None) == cuts


@pytest.mark.parametrize("transforms", [[Resize(10)], [Resize(10), Mirrored()], [Mirrored(), RandomResizedCrop(10)]])
def test_both_parts_in_turn_are_the_transforms_in_turn(transforms):
    image, pipeline = noise(40, 30), ItemPipeline(transforms)
    for seed in range(5):
        expected, rng = image, random.Random(seed)
        for f in transforms:
            expected = f(expected, rng)
        assert np.array_equal(pipeline(image, random.Random(seed)), expected)


def test_the_size_that_is_enough_is_known_only_to_the_first_transform():
    assert ItemPipeline(Resize((10, 20))).reduce_to == (20, 10)
    assert ItemPipeline([Mirrored(), Resize(10)]).reduce_to is None
    assert ItemPipeline().reduce_to is None


def test_torchvisions_resize_can_be_cached_and_its_compose_is_taken_apart():
    v2 = pytest.importorskip("torchvision.transforms.v2")
    pipeline = ItemPipeline(v2.Compose([v2.Resize(10), v2.CenterCrop(8), v2.RandomHorizontalFlip()]))
    assert pipeline.prepare(noise(40, 30)).size == (8, 8)
    assert pipeline.preparation.startswith("Resize(size=[10]") and "CenterCrop" in pipeline.preparation


def test_what_is_no_instance_or_no_function_is_refused():
    with pytest.raises(TypeError, match=r"Received the class Resize: write Resize\("):
        ItemPipeline([Resize])
    with pytest.raises(TypeError, match="Received: 3"):
        ItemPipeline(3)


def test_a_transform_in_the_wrong_argument_is_refused():
    for misplaced in (Flip(), Normalize.from_stats([0.5], [0.5]), aug_transforms()):
        with pytest.raises(TypeError, match=r"belongs to `batch_tfms`. Received among `item_tfms`"):
            ItemPipeline(misplaced)
    with pytest.raises(TypeError, match=r"^Resize.* belongs to `item_tfms`. Received among `batch_tfms`"):
        Pipeline([Flip(), Resize(8)])
    for pipeline in (ItemPipeline, Pipeline):
        with pytest.raises(TypeError, match=r"function aug_transforms.*write aug_transforms\(\.\.\.\)"):
            pipeline(aug_transforms)


def test_arrays_of_bytes_are_images_whose_channels_come_first_at_the_end():
    image = noise(9, 6)
    pipeline = ItemPipeline([np.asarray, lambda x: x[:, ::-1], lambda x: x[:4]])
    finished = torch.as_tensor(pipeline(image, None))
    assert torch.equal(finished, torch.tensor(np.asarray(image)[:4, ::-1].copy()).permute(2, 0, 1))
    measured = np.ones((4, 6, 3), np.float32)
    assert ItemPipeline(lambda x: x)(measured, None).shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("given", "received"), [(lambda x: {"image": x}, r"dict: take its \['image'\]"), (print, "NoneType")]
)
def test_a_function_that_returns_no_image_is_reported(given, received):
    with pytest.raises(DataError, match=f"must return an image, an array or a tensor. Received: {received}"):
        ItemPipeline(given)(noise(4, 4), None)


def test_torchvision_transforms_vary_training_images_only_and_repeat_by_their_generator():
    v2 = pytest.importorskip("torchvision.transforms.v2")
    pipeline = ItemPipeline(
        v2.Compose([v2.Resize(20), v2.RandomHorizontalFlip(), v2.ColorJitter(0.5), v2.PILToTensor()])
    )
    image = noise(20, 20)
    assert torch.equal(pipeline(image, None), v2.functional.pil_to_tensor(image))
    first, again, other = (pipeline(image, random.Random(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_torchvision_transforms_that_decide_the_size_do_so_in_validation_without_chance():
    v2 = pytest.importorskip("torchvision.transforms.v2")
    image = noise(40, 30)
    for transform in (v2.RandomResizedCrop(16), v2.RandomCrop(16)):
        pipeline = ItemPipeline(transform)
        assert pipeline(image, None).size == pipeline(image, random.Random(0)).size == (16, 16)
        assert np.array_equal(pipeline(image, None), pipeline(image, None))


def test_item_transforms_leave_the_global_generators_alone():
    v2 = pytest.importorskip("torchvision.transforms.v2")
    pipeline = ItemPipeline([v2.RandomHorizontalFlip(), Resize(8)])
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    with pipeline.isolate_rng():
        pipeline(noise(9, 9), random.Random(3))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1]) and before[2] == random.getstate()
