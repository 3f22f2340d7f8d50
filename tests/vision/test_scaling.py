"""NumPy scales images to torch's bits."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from minilearner.vision.scaling import scale_pixels


def by_torch(pixels, size):
    batch = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    return interpolate(batch, size[::-1], mode="bilinear", antialias=True).permute(0, 2, 3, 1)[0].numpy()


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="torch itself has other bits there")
@pytest.mark.parametrize("high", [2, 256])
def test_it_gives_the_bits_of_torch(high):
    rng = np.random.default_rng(high)
    for _ in range(60):
        height, width, *size = rng.integers(1, 200, 4).tolist()
        pixels = rng.integers(0, high, (height, width, int(rng.choice([1, 3, 4]))), dtype=np.uint8) * (
            255 // (high - 1)
        )
        np.testing.assert_array_equal(scale_pixels(pixels, tuple(size)), by_torch(pixels, tuple(size)))


def test_grey_needs_no_channels():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14), dtype=np.uint8)
    np.testing.assert_array_equal(scale_pixels(pixels, (5, 4)), scale_pixels(pixels[..., None], (5, 4))[..., 0])


def test_an_even_image_stays_even():
    assert np.all(scale_pixels(np.full((31, 17, 3), 200, np.uint8), (224, 7)) == 200)
