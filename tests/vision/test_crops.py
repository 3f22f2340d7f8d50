import pytest
import torch

from minilearner.data.batch_transforms import Pipeline
from minilearner.vision.crops import RandomResizedCropBatch
from minilearner.vision.resampling import resample


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def windows(crop, n, size, seed=0):
    """Returns the drawn windows: (height, width), and (row, column) of their first pixel, both (n, 2)."""
    maps, out = torch.eye(2, 3).repeat(n, 1, 1), crop.size_after(size)
    crop.draw_onto(maps, size, rng(seed))
    sides = torch.stack([maps[:, 0, 0] * (out[0] - 1), maps[:, 1, 1] * (out[1] - 1)], dim=1) + 1
    return sides, maps[:, :, 2] - (sides - torch.tensor(size)) / 2


def test_windows_respect_area_aspect_and_image():
    size = (60, 80)
    sides, corner = windows(RandomResizedCropBatch(16, 0.2, (1.0, 2.0), max_scale=0.6), 2000, size)
    area, aspect = sides.prod(1) / 4800, sides[:, 1] / sides[:, 0]
    assert 0.19 < area.min() < 0.22 and 0.57 < area.max() < 0.62
    assert 0.95 < aspect.min() < 1.05 and 1.8 < aspect.max() < 2.1
    assert torch.allclose(sides, sides.round(), atol=1e-3) and torch.allclose(corner, corner.round(), atol=1e-3)
    assert (corner > -1e-3).all() and (corner + sides < torch.tensor(size) + 1e-3).all()
    assert len(corner.round().unique(dim=0)) > 500


def test_a_window_of_the_output_size_copies_its_pixels():
    x, crop = torch.rand(20, 2, 16, 16), RandomResizedCropBatch(8, 0.25, (1, 1), max_scale=0.25)
    _, corner = windows(crop, 20, (16, 16))
    expected = [p[:, i : i + 8, j : j + 8] for p, (i, j) in zip(x, corner.round().int().tolist())]
    torch.testing.assert_close(crop(x, rng()), torch.stack(expected), atol=1e-5, rtol=0)


def test_if_no_window_fits_the_largest_central_one_is_taken():
    sides, corner = windows(RandomResizedCropBatch(8, 1.0, (1, 1)), 3, (10, 40))
    assert sides.round().int().tolist() == [[10, 10]] * 3
    assert corner.round().int().tolist() == [[0, 15]] * 3


def test_batch_shares_one_window():
    sides, corner = windows(RandomResizedCropBatch(8, batch=True), 5, (32, 32))
    assert (sides == sides[0]).all() and (corner == corner[0]).all()


@pytest.mark.parametrize(("ratio", "shown"), [((3 / 4, 4 / 3), slice(0, 12)), ((1, 1), slice(1, 11))])
def test_validation_shows_the_middle(ratio, shown):
    x = torch.rand(2, 1, 10, 12)
    (middle,) = Pipeline(RandomResizedCropBatch(8, ratio=ratio)).steps(training=False)
    part = x[..., shown]
    maps = torch.zeros(2, 2, 3)
    maps[:, 0, 0], maps[:, 1, 1] = 9 / 7, (part.shape[3] - 1) / 7
    expected = resample(part, maps, size=(8, 8), align_corners=True)
    torch.testing.assert_close(middle(x, rng()), expected, atol=1e-5, rtol=0)


def test_valid_scale_is_the_share_of_each_side():
    x = torch.rand(1, 1, 16, 16)
    (middle,) = Pipeline(RandomResizedCropBatch(8, valid_scale=0.5)).steps(training=False)
    torch.testing.assert_close(middle(x, rng()), x[:, :, 4:12, 4:12], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_scale": 0}, r"`min_scale` must be in \(0, 1\]. Received: min_scale=0"),
        ({"max_scale": 1.5}, r"`max_scale` must be .* Received: max_scale=1.5"),
        ({"valid_scale": 0}, r"`valid_scale` must be in \(0, 1\]. Received: valid_scale=0"),
        ({"ratio": (2, 1)}, r"`ratio` must be two positive numbers, the smaller one first. Received: ratio=\(2, 1\)"),
        ({"mode": "area"}, r"`mode` must be one of"),
        ({"size": 0}, r"`size` must be"),
    ],
)
def test_arguments_out_of_range_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomResizedCropBatch(**{"size": 8, **arguments})
