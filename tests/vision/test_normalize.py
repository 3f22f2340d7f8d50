import numpy as np
import pytest
import torch

from minilearner.data.batch_transforms import BatchTransform, Pipeline
from minilearner.vision.erasing import RandomErasing
from minilearner.vision.normalize import Normalize, cifar_stats, imagenet_stats, mnist_stats


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_normalizing_and_decoding():
    x = torch.rand(4, 3, 5, 5)
    normalize = Normalize.from_stats([0.4, 0.5, 0.6], [0.1, 0.2, 0.3])
    expected = torch.stack([(x[:, i] - m) / s for i, (m, s) in enumerate([(0.4, 0.1), (0.5, 0.2), (0.6, 0.3)])], dim=1)
    torch.testing.assert_close(normalize(x, rng()), expected)
    torch.testing.assert_close(normalize.decode(normalize(x, rng())), x)
    assert not normalize.train_only and isinstance(normalize, BatchTransform)


def test_wrong_statistics_raise():
    with pytest.raises(ValueError, match=r"the same length. Received: mean=\[0.5\]"):
        Normalize.from_stats([0.5], [0.1, 0.2])
    with pytest.raises(ValueError, match=r"`std` must be positive and finite. Received: std=0"):
        Normalize.from_stats(0.5, 0)
    with pytest.raises(ValueError, match=r"has 3 channels. Received: x of shape \(2, 1, 4, 4\)"):
        Normalize.from_stats([0.5] * 3, [0.5] * 3)(torch.rand(2, 1, 4, 4), rng())


@pytest.mark.parametrize(("stats", "channels"), [(imagenet_stats, 3), (cifar_stats, 3), (mnist_stats, 1)])
def test_well_known_statistics_fit_their_channels(stats, channels):
    x = torch.rand(2, channels, 4, 4)
    mean, std = (torch.tensor(part).view(-1, 1, 1) for part in stats)
    torch.testing.assert_close(Normalize.from_stats(*stats)(x, rng()), (x - mean) / std)


def test_normalizing_comes_before_erasing_wherever_it_is_in_the_list():
    normalize, erasing = Normalize.from_stats(*mnist_stats), RandomErasing()
    assert Pipeline([erasing, normalize]).steps(training=True) == (normalize, erasing)


@pytest.mark.parametrize(
    "of",
    [
        list,
        tuple,
        np.array,
        torch.tensor,
        lambda v: torch.tensor(v).view(1, -1, 1, 1),
        lambda v: np.array(v, dtype=np.float32).reshape(-1, 1, 1),
        lambda v: [torch.tensor(x) for x in v],
    ],
)
@pytest.mark.parametrize("make", [Normalize, Normalize.from_stats])
def test_statistics_come_in_any_form(make, of):
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]
    tfm, x = make(of(mean), of(std)), torch.rand(2, 3, 4, 4)
    wanted = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(tfm(x, None), wanted)
    torch.testing.assert_close(tfm.decode(tfm(x, None)), x)


@pytest.mark.parametrize("wrong", ["abc", ["0.5"], [None], [[0.5], [0.1, 0.2]], 1j])
def test_statistics_that_are_no_numbers_are_refused(wrong):
    with pytest.raises(TypeError, match="`std` must be a number, or numbers for the channels"):
        Normalize(0.5, wrong)
    for values in ([0.5, float("nan"), 0.1], torch.tensor([0.5, -1.0, 0.1]), np.zeros(3)):
        with pytest.raises(ValueError, match="`std` must be positive and finite"):
            Normalize([0.5] * 3, values)
