import numpy as np
import pytest
import torch
from PIL import Image

from minilearner import Learner
from minilearner.data.dataset import ItemDataset
from minilearner.data.item_loader import ItemLoader
from minilearner.data.item_transforms import ItemPipeline
from minilearner.data.loaders import DataLoaders
from minilearner.vision.augment import Flip, Normalize
from minilearner.vision.images import open_image
from minilearner.vision.transforms import Resize


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(10):
        Image.fromarray(rng.integers(0, 255, (20, 30 + i, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    return sorted(tmp_path.iterdir())


def loader(pictures, **options):
    dataset = ItemDataset(pictures, open_image, ItemPipeline(Resize(16)), seed=1)
    return ItemLoader(dataset, torch.arange(len(pictures)) % 2, bs=4, seed=1, batch_tfms=Flip(), **options)


def test_batches_do_not_depend_on_the_number_of_workers(pictures):
    alone, helped = (loader(pictures, shuffle=True, training=True, num_workers=n) for n in (0, 2))
    for _ in range(2):
        for (x, y), (wx, wy) in zip(alone, helped, strict=True):
            assert torch.equal(x, wx) and torch.equal(y, wy)


def test_epochs_differ_and_a_pass_can_start_in_the_middle(pictures):
    first, second = (list(one) for one in [loader(pictures, shuffle=True, training=True)] * 2)
    assert not torch.equal(first[0][0], second[0][0])
    tail = list(loader(pictures, shuffle=True, training=True).iterate(1))
    assert len(tail) == 2 and all(torch.equal(a[0], b[0]) for a, b in zip(first[1:], tail, strict=True))


def test_validation_takes_the_middle_and_moves_no_global_generator(pictures):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    (x, _), *_ = loader(pictures)
    assert torch.equal(before, torch.get_rng_state())
    middle = np.asarray(Resize(16)(open_image(pictures[0]), None)).transpose(2, 0, 1)
    assert torch.equal(x[0], torch.tensor(middle) / 255)


def test_a_learner_trains_and_predicts_from_files(pictures):
    normalize = Normalize.from_stats([0.5] * 3, [0.25] * 3)
    plain = DataLoaders(loader(pictures, training=True, shuffle=True), loader(pictures), vocab=["a", "b"])
    dls = plain.with_batch_tfms(normalize)
    rng = torch.Generator()
    assert torch.equal(dls.one_batch(1)[0], normalize(plain.one_batch(1)[0], rng))
    learn = Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 2)), seed=0)
    learn.fit(1)
    preds, targets = learn.get_preds()
    assert targets.tolist() == [0, 1] * 5
    again, _ = learn.get_preds(dl=dls.test_dl(pictures))
    assert torch.equal(preds, again)


def test_picked_items_come_as_one_batch_read_as_in_validation(pictures):
    trained = loader(pictures, training=True, shuffle=True, num_workers=2)
    ((x, y),) = trained.picked([5, 0, 5])
    assert torch.equal(x, trained.items([5, 0, 5])[0]) and y.tolist() == [1, 0, 1]


def test_one_item_picked_twice_is_augmented_twice(pictures):
    ((x, _),) = loader(pictures).picked([0, 0]).augmented()
    assert not torch.equal(x[0], x[1])


def test_augmented_items_are_in_order_complete_and_drawn_by_number(pictures):
    trained = loader(pictures, training=True, shuffle=True, drop_last=True)
    first, again, other = (torch.cat([x for x, _ in trained.augmented(n)]) for n in (0, 0, 1))
    assert len(first) == 10 and torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.cat([y for _, y in trained.augmented()]), trained.y)


def test_other_item_transforms_augment_and_the_loader_keeps_its_own(pictures):
    plain = loader(pictures)
    ((x, _),) = plain.picked([0, 1]).augmented(item_tfms=Resize(8))
    assert x.shape == (2, 3, 8, 8)
    assert next(iter(plain))[0].shape == (4, 3, 16, 16)
