import pytest
import torch

from minilearner.data.batch_transforms import Pipeline
from minilearner.vision.erasing import RandomErasing


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_each_image_has_its_own_rectangles_of_noise():
    x = torch.full((300, 3, 20, 30), 9.0)
    y = RandomErasing(p=0.5)(x, rng())
    erased = (y != 9).any(1)
    assert 0.4 < erased.flatten(1).any(1).float().mean() < 0.6
    assert len(erased[erased.flatten(1).any(1)].unique(dim=0)) > 100
    noise = y[y != 9]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    assert (y == 9).eq((y == 9).all(1, keepdim=True)).all()  # the same in all channels


def test_exactly_the_drawn_rectangle_is_erased():
    erasing, x = RandomErasing(p=1, max_count=2), torch.full((40, 1, 12, 16), 9.0)
    first, sides = erasing.draw(40, (12, 16), rng())
    expected = torch.zeros(40, 12, 16, dtype=torch.bool)
    for image, rectangles in enumerate(zip(first.tolist(), sides.tolist())):
        for (row, column), (height, width) in zip(*rectangles):
            expected[image, row : row + height, column : column + width] = True
    assert torch.equal(erasing(x, rng())[:, 0] != 9, expected)


def test_rectangles_respect_area_aspect_and_image():
    first, sides = RandomErasing(1, 0.1, 0.2, 0.5).draw(3000, (100, 100), rng())
    area, aspect = sides.prod(2) / 10_000, sides[:, :, 0] / sides[:, :, 1]
    assert 0.095 < area.min() < 0.105 and 0.195 < area.max() < 0.205
    assert 0.48 < aspect.min() < 0.52 and 1.92 < aspect.max() < 2.08
    assert first.min() == 0 and (first + sides).max() == 100


def test_several_rectangles_share_the_area():
    _, sides = RandomErasing(1, 0.2, 0.2, 1.0, max_count=3).draw(900, (100, 100), rng())
    counts = (sides > 0).all(2).sum(1)
    assert counts.bincount().tolist()[0] == 0 and (counts.bincount()[1:] > 250).all()
    torch.testing.assert_close(sides.prod(2).sum(1) / 10_000, torch.full((900,), 0.2), atol=0.02, rtol=0)


def test_a_rectangle_that_is_too_tall_is_cut_to_the_image():
    first, sides = RandomErasing(1, 0.9, 0.9, 0.1).draw(100, (10, 10), rng())
    assert (first >= 0).all() and (first + sides <= 10).all() and (sides > 0).all()


def test_the_same_seed_gives_the_same_result_and_the_input_does_not_change():
    x = torch.rand(8, 3, 16, 16)
    kept, state = x.clone(), torch.get_rng_state().clone()
    assert torch.equal(RandomErasing()(x, rng()), RandomErasing()(x, rng()))
    assert not torch.equal(RandomErasing()(x, rng()), RandomErasing()(x, rng(1)))
    assert torch.equal(x, kept) and torch.equal(torch.get_rng_state(), state)
    assert Pipeline(RandomErasing()).steps(training=False) == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 2}, r"`p` must be in \[0, 1\]. Received: p=2"),
        ({"sl": 0.5}, r"`sl` must not exceed `sh`. Received: sl=0.5, sh=0.3"),
        ({"min_aspect": 0}, r"`min_aspect` must be in \(0, 1\]. Received: min_aspect=0"),
        ({"max_count": 0}, r"`max_count` must be at least 1. Received: max_count=0"),
    ],
)
def test_wrong_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomErasing(**arguments)


def test_an_input_that_is_not_an_image_batch_raises():
    with pytest.raises(ValueError, match=r"takes images.*shape \(4, 784\)"):
        RandomErasing()(torch.rand(4, 784), rng())
