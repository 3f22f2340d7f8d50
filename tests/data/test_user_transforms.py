import subprocess
import sys

import pytest
import torch
from torchvision import transforms as v1
from torchvision.transforms import v2

from minilearner.data.batch_transforms import Pipeline, train_only
from minilearner.data.memory_loader import MemoryLoader
from minilearner.errors import DataError
from minilearner.vision.erasing import RandomErasing


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


AUGMENTATION = [
    v2.RandomHorizontalFlip(p=1),
    v2.RandomApply([v2.Grayscale(3)], p=1),
    v2.RandomChoice([v2.RandomVerticalFlip(p=1)]),
    v2.RandomErasing(p=1),
    v2.RandomRotation((80, 100)),
    v2.RandomPerspective(p=1),
    v2.ColorJitter(brightness=(0.4, 0.5)),
    v2.RandAugment(magnitude=30, num_ops=8),
    v2.TrivialAugmentWide(),
    v2.AugMix(),
    v2.AutoAugment(),
    v2.ElasticTransform(),
    v2.GaussianBlur(3),
    v2.GaussianNoise(),
    v1.RandomHorizontalFlip(p=1),
    v1.ColorJitter(brightness=(0.4, 0.5)),
]


@pytest.mark.parametrize("transform", AUGMENTATION, ids=lambda t: type(t).__name__)
def test_torchvisions_augmentation_runs_in_training_alone(transform):
    x, pipeline = torch.rand(4, 3, 48, 48), Pipeline(transform)
    first = pipeline(x, rng(), training=True)
    assert first.shape == x.shape and torch.equal(first, pipeline(x, rng(), training=True))
    assert any(not torch.equal(pipeline(x, rng(i), training=True), x) for i in range(4))
    assert torch.equal(pipeline(x, rng(), training=False), x)


PREPARATION = [v2.Normalize([0.5] * 3, [0.5] * 3), v2.Resize(8), v2.CenterCrop(8), v2.GaussianBlur(3, sigma=1.0)]


@pytest.mark.parametrize("transform", PREPARATION, ids=lambda t: type(t).__name__)
def test_torchvisions_preparation_runs_in_both(transform):
    x, pipeline = torch.rand(4, 3, 16, 16), Pipeline(transform)
    assert torch.equal(pipeline(x, rng(), training=True), transform(x))
    assert torch.equal(pipeline(x, rng(), training=False), transform(x))


def test_a_random_resized_crop_is_the_whole_image_in_validation():
    x, pipeline = torch.rand(4, 3, 16, 20), Pipeline(v2.RandomResizedCrop(8))
    assert pipeline(x, rng(), training=True).shape == (4, 3, 8, 8)
    assert torch.equal(pipeline(x, rng(), training=False), v2.functional.resize(x, [8, 8]))


def test_a_random_crop_is_the_centre_in_validation():
    x, pipeline = torch.rand(4, 3, 16, 20), Pipeline(v2.RandomCrop((8, 6)))
    assert pipeline(x, rng(), training=True).shape == (4, 3, 8, 6)
    assert torch.equal(pipeline(x, rng(), training=False), x[:, :, 4:12, 7:13])


@pytest.mark.parametrize("container", [v2.Compose, v1.Compose, lambda parts: torch.nn.Sequential(*parts)])
def test_a_sequence_is_taken_apart(container):
    normalize = v2.Normalize([0.5] * 3, [0.5] * 3)
    pipeline = Pipeline(container([v2.RandomHorizontalFlip(p=1), v2.Compose([normalize])]))
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(pipeline(x, rng(), training=True), normalize(x.flip(-1)))
    assert torch.equal(pipeline(x, rng(), training=False), normalize(x))


class Doubled(v2.Transform):
    def transform(self, inpt, params):
        return inpt * 2


def test_a_function_receives_the_bytes_of_the_one_before_it():
    received = []
    noting = v2.Lambda(lambda x: received.append(x.dtype) or x)  # as `v2.JPEG`, which takes nothing but bytes
    x = torch.arange(48, dtype=torch.uint8).view(4, 3, 2, 2)
    tfms = [v2.ToDtype(torch.uint8, scale=True), noting, RandomErasing(p=0), noting]
    loader = MemoryLoader(x, batch_tfms=tfms, training=True)
    assert torch.equal(next(iter(loader))[0], x.float() / 255)
    assert torch.equal(next(iter(loader.augment(batch_tfms=v2.RandomVerticalFlip(1.0))))[0], x.flip(2).float() / 255)
    assert received == [torch.uint8] * 4  # erasing runs last: its order is 100


def test_a_transform_of_the_users_own_runs_in_both_unless_it_is_marked():
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(Pipeline(Doubled())(x, rng(), training=False), x * 2)
    assert Pipeline(train_only(Doubled())).steps(training=False) == ()


class Flipped(v2.RandomHorizontalFlip):
    pass


def test_a_subclass_of_augmentation_is_augmentation():
    assert Pipeline(Flipped()).steps(training=False) == ()


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (v2.PILToTensor(), r"`batch_tfms` cannot run torchvision's PILToTensor: it converts PIL images"),
        (v2.ToPILImage(), r"ToPILImage: it converts PIL images"),
        (v1.ToTensor(), r"ToTensor: it converts PIL images"),
        (v2.MixUp(num_classes=3), r"MixUp: it also mixes the targets"),
        (v2.Compose([v2.CutMix(num_classes=3)]), r"CutMix: it also mixes the targets"),
        (v2.FiveCrop(4), r"FiveCrop: it returns several images for one"),
    ],
)
def test_what_cannot_see_batches_is_refused_at_once(transform, message):
    with pytest.raises(TypeError, match=message):
        Pipeline(transform)


def test_a_failure_says_what_batch_transforms_receive():
    with pytest.raises(DataError, match=r"RandomCrop failed.*larger than.*Received: torch.float32 \(2, 3, 8, 8\)"):
        Pipeline(v2.RandomCrop(20))(torch.rand(2, 3, 8, 8), rng(), training=True)


def test_a_lambda_that_gives_no_batch_is_reported():
    with pytest.raises(DataError, match=r"Lambda returned no batch of the same length"):
        Pipeline(v2.Lambda(lambda x: x[0]))(torch.rand(2, 3, 8, 8), rng(), training=True)


def test_a_loader_gives_the_same_batches_whatever_else_is_drawn():
    x = torch.rand(8, 3, 8, 8)

    def batches():
        tfms = v2.Compose([v2.RandomResizedCrop(4), v2.ColorJitter(0.5)])
        return [b for b, _ in MemoryLoader(x, bs=4, seed=1, batch_tfms=tfms, training=True, device="cpu")]

    first = batches()
    torch.rand(5)
    assert all(torch.equal(a, b) for a, b in zip(first, batches()))


def test_pipelines_of_our_own_import_no_torchvision():
    code = (
        "import sys, minilearner\n"
        "from minilearner.data.batch_transforms import Pipeline, train_only\n"
        "from minilearner.vision.augment import aug_transforms\n"
        "Pipeline([*aug_transforms(size=8), train_only(lambda x: x)])\n"
        "print('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
