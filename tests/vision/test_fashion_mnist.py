"""`fashion_mnist` prints the source of its data, and resizes images once."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from minilearner import fashion_mnist
from minilearner.sources import fashion
from minilearner.vision.fashion_mnist import resize_images


@pytest.fixture
def sample(monkeypatch, tmp_path):
    """Imitates a machine without network and without the Debian package."""
    monkeypatch.setenv("MINILEARNER_OFFLINE", "1")
    monkeypatch.setattr(fashion, "_SYSTEM_FOLDER", tmp_path / "absent")


def test_the_sample_is_announced_and_is_balanced(sample, capsys):
    dls = fashion_mnist(seed=0)
    assert (dls.train.n_items, dls.valid.n_items, dls.c) == (5000, 1000, 10)
    _, y = dls.train.items(range(5000))
    assert torch.bincount(y).tolist() == [500] * 10
    assert capsys.readouterr().err.count("\n") > 2


def test_batches_are_floats_of_the_given_size(sample):
    x, y = fashion_mnist(size=28, bs=16, augment=False, seed=0).one_batch()
    assert (x.shape, x.dtype, y.dtype) == ((16, 1, 28, 28), torch.float32, torch.int64)
    assert x.min() >= 0 and 0.9 < x.max() <= 1


def test_only_training_images_are_augmented(sample):
    plain, shifted = fashion_mnist(augment=False, seed=0), fashion_mnist(seed=0)
    assert torch.equal(next(iter(plain.valid))[0], next(iter(shifted.valid))[0])
    assert not torch.equal(plain.one_batch()[0], shifted.one_batch()[0])


def test_resizing_is_bilinear_and_keeps_uint8():
    images = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    expected = F.interpolate(images.float(), (32, 32), mode="bilinear").round()
    assert torch.equal(resize_images(images, 32).float(), expected)
    assert resize_images(images, 32).dtype == torch.uint8
    torch.testing.assert_close(resize_images(images.float() / 255, 32) * 255, expected, atol=0.51, rtol=0)


def test_new_images_are_resized_like_training_images(sample):
    x, _ = next(iter(fashion_mnist(seed=0).test_dl(np.zeros((3, 1, 28, 28), dtype=np.uint8))))
    assert x.shape == (3, 1, 32, 32)


def test_a_size_of_zero_raises():
    with pytest.raises(ValueError, match="`size` must be at least 1. Received: size=0"):
        fashion_mnist(size=0)
