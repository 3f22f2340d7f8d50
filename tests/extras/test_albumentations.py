"""albumentations' own transforms run as item transforms."""

import pickle
import random

import albumentations as A
import numpy as np
import pytest
import torch
from PIL import Image

from minilearner.data.item_transforms import ItemPipeline
from minilearner.vision.all import DataBlock, ImageDataLoaders, Learner, Resize, accuracy, aug_transforms, nn

pytestmark = pytest.mark.filterwarnings("default")  # the library's own warnings are no concern of ours


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(24):
        folder = tmp_path / "photos" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40 + i, 60, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


AUGMENT = A.Compose(
    [
        A.RandomResizedCrop(size=(32, 32), scale=(0.3, 1)),
        A.HorizontalFlip(p=0.5),
        A.OneOf([A.RandomBrightnessContrast(p=1), A.GaussNoise(p=1)], p=0.8),
    ]
)


def image(height=50, width=40):
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def loaders(photos, tfms, **options):
    return ImageDataLoaders.from_folder(photos, valid_pct=0.25, seed=1, item_tfms=tfms, bs=6, device="cpu", **options)


def test_a_composition_trains(photos):
    learn = Learner(
        loaders(photos, AUGMENT, num_workers=0),
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)),
        metrics=accuracy,
    )
    with learn.no_logging():
        learn.fit(1, 1e-3)
    assert learn.dls.one_batch()[0].shape == (6, 3, 32, 32)
    assert learn.predict(photos / "a" / "0.png")[0] in ("a", "b")


def test_training_is_the_librarys_own_and_validation_the_whole_image_at_that_size():
    pipeline, rng = ItemPipeline(AUGMENT), random.Random(3)
    state = rng.getstate()
    made = pipeline(image(), rng)
    rng.setstate(state)
    random.seed(rng.getrandbits(32))
    AUGMENT.set_random_seed(random.getrandbits(32))
    assert (np.asarray(made) == AUGMENT(image=np.asarray(image()))["image"]).all()
    whole = A.Resize(32, 32)(image=np.asarray(image()))["image"]
    assert (np.asarray(pipeline(image(), None)) == whole).all()


def test_the_number_of_workers_changes_no_bit(photos):
    xs = [list(loaders(photos, AUGMENT, num_workers=n).train)[-1][0] for n in (0, 2)]
    assert torch.equal(*xs)


def test_validation_keeps_what_has_no_chance_and_drops_the_rest():
    chances = [A.Rotate(p=1), A.RandomCrop(20, 16), A.ToGray(p=0.5), A.Sequential([A.CenterCrop(10, 10)], p=1)]
    pipeline = ItemPipeline([A.Resize(30, 30), *chances])
    expected = A.Compose([A.Resize(30, 30), A.CenterCrop(20, 16), A.CenterCrop(10, 10)])(image=np.asarray(image()))
    assert (np.asarray(pipeline(image(), None)) == expected["image"]).all()
    assert ItemPipeline(A.HorizontalFlip(p=1))(image(), None).size == (40, 50)


def test_floats_and_tensors_arrive_with_channels_in_front():
    normalized = ItemPipeline([A.Resize(8, 8), A.Normalize(), A.HorizontalFlip(p=1)])(image(), random.Random(0))
    assert normalized.shape == (3, 8, 8) and normalized.dtype == torch.float32
    with_tensor = ItemPipeline(A.Compose([A.Resize(8, 8), A.Normalize(), A.ToTensorV2()]))(image(), None)
    assert with_tensor.shape == (3, 8, 8)
    assert ItemPipeline([A.Resize(30, 30), Resize(8)])(image(), None).size == (8, 8)
    grey = ItemPipeline(A.Resize(8, 8))(image().convert("L"), None)
    assert grey.mode == "L" and grey.size == (8, 8)


def test_it_goes_along_with_transforms_of_ours_and_to_another_process(photos):
    dls = loaders(photos, [Resize(40), AUGMENT], batch_tfms=aug_transforms(size=24))
    assert dls.one_batch()[0].shape == (6, 3, 24, 24)
    pipeline = pickle.loads(pickle.dumps(ItemPipeline(AUGMENT)))
    assert pipeline(image(), None).size == (32, 32)


def test_as_batch_transforms_they_are_refused():
    with pytest.raises(TypeError, match="cannot run albumentations' Compose: .* Give it as `item_tfms`"):
        DataBlock(batch_tfms=AUGMENT)
    with pytest.raises(TypeError, match=r"Received the class HorizontalFlip: write HorizontalFlip\(\.\.\.\)"):
        DataBlock(item_tfms=A.HorizontalFlip)
