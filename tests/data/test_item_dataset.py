"""How a dataset of items reads them: in groups that take little memory, before they are transformed."""

import weakref
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from minilearner.data.data_plan import Read
from minilearner.data.item_dataset import ItemDataset
from minilearner.data.item_transforms import ItemPipeline, SplitTransform
from minilearner.vision.image_block import ImageBlock
from minilearner.vision.resize import Resize


@pytest.fixture(autouse=True)
def one_thread():
    """Lets one thread read all items, so that their order is known."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 255, (20, 30 + i, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    return sorted(tmp_path.iterdir())


class Noted(ImageBlock):
    """Notes what it reads."""

    in_threads = True

    def __init__(self, log):
        super().__init__()
        self.log = log

    def read_reduced(self, source, reduce_to):
        self.log.append(("read", int(source.stem)))
        return super().read_reduced(source, reduce_to)


class NotedResize(Resize):
    """Notes the widths of the images that it prepares: 30 plus the number of the file."""

    in_threads = True
    log = []

    def prepare(self, item):
        self.log.append(("transform", item.width - 30))
        return super().prepare(item)


@pytest.fixture
def noted(images):
    """Returns a function that reads images, and returns what was done, in its order."""

    def fetch(keys, started=None, may_be_grouped=True):
        NotedResize.log.clear()
        block = Noted(NotedResize.log)
        block.in_threads = may_be_grouped
        dataset = ItemDataset(images, Read((block,)), ItemPipeline(NotedResize(16)), cache=False)
        dataset.fetch(keys, started and partial(started, NotedResize.log))
        return list(NotedResize.log)

    return fetch


def both(*positions):
    return [(stage, i) for stage in ("read", "transform") for i in positions]


def test_several_items_are_read_before_they_are_transformed(noted, monkeypatch):
    monkeypatch.setattr("minilearner.data.item_dataset._MOST_TOGETHER", 3)
    assert noted([(i, 0) for i in range(5)]) == both(0, 1, 2) + both(3, 4)


def test_large_items_are_transformed_as_soon_as_they_are_read(noted, monkeypatch):
    monkeypatch.setattr("minilearner.data.item_dataset._BYTES_TOGETHER", 20 * 34 * 4)
    assert noted([(i, 0) for i in range(4)]) == both(0, 1) + both(2, 3)
    monkeypatch.setattr("minilearner.data.item_dataset._BYTES_TOGETHER", 1)
    assert noted([(0, 0), (1, 0)]) == both(0) + both(1)


def test_items_that_may_depend_on_the_order_are_read_one_by_one(noted):
    assert noted([(0, 0), (1, 0)], may_be_grouped=False) == both(0) + both(1)


def test_whoever_names_the_item_of_a_dead_worker_hears_of_each_before_it_is_read_and_transformed(noted):
    seen = noted([(0, 0), (1, 0)], started=lambda log, position: log.append(("start", position)))
    assert seen == [
        *(("start", 0), ("read", 0), ("start", 1), ("read", 1)),
        *(("start", 0), ("transform", 0), ("start", 1), ("transform", 1)),
    ]


class ReadSquares:
    """Makes an image for each item, and counts how many of them are in memory then."""

    in_threads = True

    def __init__(self):
        self.made, self.counts = [], []

    def __call__(self, i):
        image = Image.new("RGB", (64, 64))
        self.made.append(weakref.ref(image))
        self.counts.append(sum(made() is not None for made in self.made))
        return image


@pytest.mark.parametrize("n_together", [1, 3])
def test_no_image_of_the_group_before_is_in_memory_while_the_next_is_read(n_together, monkeypatch):
    monkeypatch.setattr("minilearner.data.item_dataset._BYTES_TOGETHER", n_together * 64 * 64 * 4)
    read = ReadSquares()
    ItemDataset(range(7), read, ItemPipeline(Resize(16)), cache=False).fetch([(i, 0) for i in range(7)])
    assert read.counts == [1 + i % n_together for i in range(7)]


def test_sparse_tensors_can_be_items():
    def read(i):
        return (torch.eye(3) * i).to_sparse()

    x = ItemDataset([1.0, 2.0], read, ItemPipeline(torch.Tensor.to_dense)).fetch([(0, 0), (1, 0)]).x
    assert torch.equal(x, torch.stack([torch.eye(3), 2 * torch.eye(3)]))


class Own:
    """An item of the user's, whose `nbytes` is no number."""

    def __init__(self, log, i):
        log.append(("read", i))
        self.i = i

    def nbytes(self):
        return 4


class Unpack(SplitTransform):
    """Makes a tensor of the user's item."""

    in_threads, finishing = True, "none"

    def __init__(self, log):
        self.log = log

    def prepare(self, item):
        self.log.append(("transform", item.i))
        return torch.tensor(item.i)


def test_items_of_unknown_size_are_read_one_by_one():
    log = []
    read = partial(Own, log)
    read.in_threads = True
    ItemDataset([0, 1], read, ItemPipeline(Unpack(log)), cache=False).fetch([(0, 0), (1, 0)])
    assert log == both(0) + both(1)
