"""Batch transforms can be called outside a loader, as in fastai's documentation."""

import pytest
import torch

from minilearner.vision.all import (
    Brightness,
    Flip,
    Normalize,
    RandomErasing,
    Rotate,
    Saturation,
    Warp,
    Zoom,
    aug_transforms,
)


@pytest.fixture
def x():
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "transform",
    [
        Flip(p=1.0),
        Rotate(40, p=1.0),
        Zoom(1.5, 1.8, p=1.0),
        Warp(0.4, p=1.0),
        Brightness(0.5, p=1.0),
        Saturation(0.9, p=1.0),
        RandomErasing(p=1.0, sl=0.2),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_it_draws_from_the_global_generator_and_validation_leaves_images_alone(transform, x):
    before = x.clone()
    torch.manual_seed(0)
    first, second = transform(x, split_idx=0), transform(x)
    torch.manual_seed(0)
    assert torch.equal(transform(x), first) and torch.equal(x, before) and not torch.equal(first, x)
    assert second.shape == x.shape and torch.equal(transform(x, split_idx=1), x)


def test_what_validation_does_is_done_there(x):
    assert torch.equal(Flip(p=1.0)(x), x.flip(3))
    assert Flip(size=8)(x, split_idx=1).shape == (6, 3, 8, 8)
    normalize = Normalize.from_stats([0.5] * 3, [0.5] * 3)
    assert torch.equal(normalize(x, split_idx=1), normalize(x)) and torch.equal(normalize(x), (x - 0.5) / 0.5)


def test_fused_transforms_run_by_hand(x):
    (*_, last) = aug_transforms(size=12)
    assert last(x).shape[:2] == (6, 3)
