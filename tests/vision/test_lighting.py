import math

import pytest
import torch

from minilearner.data import batch_transforms
from minilearner.data.batch_transforms import Pipeline
from minilearner.vision import lighting
from minilearner.vision.lighting import Brightness, Contrast, Hue, Lighting, LogitMap, Saturation


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


class Fixed(Lighting):
    """Applies a given map to every image."""

    mixes_channels = True

    def __init__(self, scale, grey, offset):
        self.parts = (torch.tensor(scale)[:, None], torch.tensor(grey)[:, None], torch.tensor(offset)[:, None])

    def draw(self, n, rng):
        return LogitMap(*self.parts)


def image():
    x = torch.linspace(0, 7, 12).sin().view(2, 3, 1, 2) * 0.45 + 0.5
    x[0, 0, 0, 0], x[1, :, 0, 1] = 0, 1
    return x


# fastai 2.8.12's setup_aug_tfms of Brightness(draw=[.6, .45]), Contrast(draw=[1.2, .8]) and Saturation(draw=[.7, 1.3]),
# all with p=1, on image().
FASTAI_LIGHT = [0.0, 0.89513, 0.82051, 0.96252, 0.56948, 0.7466, 0.25742, 1.0, 0.09565, 1.0, 0.60308, 1.0]

# fastai 2.8.12's Hue(p=1, draw=[.9, 1.08]) on image(): turns by -0.1 and 0.08 of the circle.
FASTAI_HUE = [0.0, 0.92449, 0.93016, 0.81601, 0.19456, 0.4819, 0.43631, 1.0, 0.08185, 1.0, 0.53616, 1.0]


def test_brightness_contrast_and_saturation_in_one_pass_give_the_values_of_fastai():
    zeros, bright = [0.0, 0.0], [math.log(0.6 / 0.4), math.log(0.45 / 0.55)]
    parts = [Fixed([1.0, 1.0], zeros, bright), Fixed([1.2, 0.8], zeros, zeros), Fixed([0.7, 1.3], [0.3, -0.3], zeros)]
    (once,) = Pipeline(parts).steps(training=True)
    torch.testing.assert_close(once(image(), rng()).flatten(), torch.tensor(FASTAI_LIGHT), atol=2e-5, rtol=0)


def test_hue_gives_the_values_of_fastai():
    turned = lighting._turn_hue(image(), torch.tensor([-0.1, 0.08])[:, None, None])
    torch.testing.assert_close(turned.flatten(), torch.tensor(FASTAI_HUE), atol=2e-5, rtol=0)


@pytest.mark.parametrize("kinds", [[Brightness(), Contrast()], [Saturation(), Brightness(), Contrast(), Saturation()]])
def test_adjacent_transforms_are_one_pass_with_the_same_result(kinds):
    x, generator = torch.rand(6, 3, 5, 5) * 0.9 + 0.05, rng()
    (once,) = Pipeline(kinds).steps(training=True)
    apart = x
    for kind in kinds:
        apart = kind(apart, generator)
    torch.testing.assert_close(once(x, rng()), apart, atol=1e-5, rtol=0)


def test_hue_comes_last_so_that_the_rest_is_one_pass():
    first, second = Pipeline([Brightness(), Hue(), Saturation()]).steps(training=True)
    assert repr(first) == f"{Brightness()} + {Saturation()}" and second == Hue()


def test_brightness_moves_mid_grey_within_its_range():
    x = torch.full((4000, 1, 1, 1), 0.5)
    y = Brightness(0.2, p=0.75)(x, rng()).flatten()
    assert 0.4 <= y.min() < 0.402 and 0.598 < y.max() <= 0.6001
    assert 0.23 < (y == 0.5).float().mean() < 0.27


def test_contrast_multiplies_logits_within_its_range():
    x = torch.full((4000, 1, 1, 1), 0.7)
    factors = torch.logit(Contrast(0.2, p=1)(x, rng())).flatten() / torch.logit(torch.tensor(0.7))
    assert 0.799 <= factors.min() < 0.802 and 1.247 < factors.max() <= 1.251
    assert 0.49 < (factors < 1).float().mean() < 0.51 + 0.02


def test_saturation_keeps_grey_and_moves_colour():
    grey, colour = torch.full((8, 3, 2, 2), 0.3), torch.tensor([0.8, 0.4, 0.2]).view(1, 3, 1, 1).repeat(8, 1, 2, 2)
    torch.testing.assert_close(Saturation(p=1)(grey, rng()), grey, atol=1e-4, rtol=0)
    assert (Saturation(p=1)(colour, rng()) - colour).abs().amax((1, 2, 3)).min() > 1e-4


def test_hue_rotates_within_its_range_and_keeps_brightest_and_darkest_values():
    x = torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1).repeat(3000, 1, 1, 1)
    y = Hue(0.1, p=1)(x, rng())
    torch.testing.assert_close(y.amax(1), x.amax(1))
    torch.testing.assert_close(y.amin(1), x.amin(1))
    turns = (y[:, 1] - y[:, 2]).flatten() / 0.8 / 6  # from red towards green; negative: towards blue
    assert -0.1001 <= turns.min() < -0.099 and 0.11 < turns.max() <= 0.1112


@pytest.mark.parametrize("kind", [Brightness, Contrast, Saturation, Hue])
def test_a_large_batch_is_changed_a_few_images_at_a_time(kind, monkeypatch):
    x = torch.rand(7, 3, 4, 4)
    whole = kind()(x, rng())
    monkeypatch.setattr(batch_transforms, "_VALUES_AT_ONCE", 100)
    assert torch.equal(kind()(x, rng()), whole)


@pytest.mark.parametrize("kind", [Brightness, Contrast, Saturation, Hue])
def test_each_image_draws_its_own_numbers_and_global_generators_are_unused(kind):
    x = (torch.rand(1, 3, 2, 2) * 0.8 + 0.1).repeat(30, 1, 1, 1)
    kept, state = x.clone(), torch.get_rng_state().clone()
    y = kind(p=1)(x, rng())
    assert len(y.flatten(1).unique(dim=0)) > 20
    assert torch.equal(y, kind(p=1)(x, rng())) and not torch.equal(y, kind(p=1)(x, rng(1)))
    assert torch.equal(x, kept) and torch.equal(torch.get_rng_state(), state)
    shared = kind(p=1, batch=True)(x, rng())
    torch.testing.assert_close(shared, shared[:1].expand_as(shared))
    assert not torch.allclose(shared, x)


@pytest.mark.parametrize("kind", [Brightness, Contrast, Saturation, Hue])
def test_validation_and_p_of_zero_change_nothing(kind):
    x = torch.rand(4, 3, 3, 3)
    assert Pipeline(kind()).steps(training=False) == ()
    torch.testing.assert_close(kind(p=0)(x, rng()), x, atol=1e-6, rtol=0)


def test_wrong_arguments_and_images_raise():
    with pytest.raises(ValueError, match=r"`max_lighting` must be in \[0, 1\). Received: max_lighting=1"):
        Contrast(1)
    with pytest.raises(ValueError, match=r"`max_hue` must be in \[0, 1\). Received: max_hue=1"):
        Hue(1)
    with pytest.raises(ValueError, match=r"`p` must be in \[0, 1\]. Received: p=2"):
        Brightness(p=2)
    for colour in (Saturation(), Hue()):
        with pytest.raises(ValueError, match=r"takes \(batch, 3, height, width\). Received: x of shape \(2, 1, 4, 4\)"):
            colour(torch.rand(2, 1, 4, 4), rng())
