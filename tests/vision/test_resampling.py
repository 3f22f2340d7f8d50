import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from minilearner.vision.maps import compose, half_sides, perspective, rotation, scale_onto, window, zoom_matrix
from minilearner.vision.resampling import PAD_MODES, resample


def identity(n, rows=2):
    return torch.eye(rows, 3).repeat(n, 1, 1)


def affine(n, seed=0):
    """Returns random affine maps that rotate, shear and shift by a few pixels."""
    maps = identity(n)
    maps += torch.randn(n, 2, 3, generator=torch.Generator().manual_seed(seed)) * torch.tensor([0.2, 0.2, 2.0])
    return maps


def flat(n, seed=0):
    """Returns random maps without rotation or shear."""
    maps = affine(n, seed)
    maps[:, 0, 1] = maps[:, 1, 0] = 0
    return maps


def by_affine_grid(x, maps, size, mode, pad_mode, align_corners):
    """Resamples as torch does: theta over (horizontal, vertical), where 1 is half a side."""
    (vertical, horizontal), (down, right) = (half_sides(s, align_corners) for s in (tuple(x.shape[2:]), size))
    theta = torch.empty(len(x), 2, 3)
    for row, (source, unit) in enumerate([(1, horizontal), (0, vertical)]):
        theta[:, row] = maps[:, source][:, [1, 0, 2]] * torch.tensor([right, down, 1.0]) / unit
    grid = F.affine_grid(theta, [len(x), x.shape[1], *size], align_corners=align_corners)
    return F.grid_sample(x, grid, mode=mode, padding_mode=pad_mode, align_corners=align_corners)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("pad_mode", PAD_MODES)
@pytest.mark.parametrize("size", [(14, 17), (11, 9)])
@pytest.mark.parametrize("make", [affine, flat])
def test_it_equals_affine_grid_and_grid_sample(make, size, pad_mode, align_corners):
    x, maps = torch.rand(4, 2, 14, 17), make(4)
    expected = by_affine_grid(x, maps, size, "bilinear", pad_mode, align_corners)
    how = {"size": size, "pad_mode": pad_mode, "align_corners": align_corners, "axis_aligned": make is flat}
    torch.testing.assert_close(resample(x, maps, **how), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("mode", ["nearest", "bicubic"])
def test_other_modes_equal_grid_sample(mode):
    x, maps = torch.rand(3, 1, 15, 15), affine(3)
    expected = by_affine_grid(x, maps, (15, 15), mode, "border", False)
    torch.testing.assert_close(resample(x, maps, mode=mode), expected, atol=2e-5, rtol=0)


def test_many_images_in_parts_give_the_same_result():
    x, maps = torch.rand(70, 1, 70, 70), affine(70)
    apart = torch.cat([resample(x[i : i + 1], maps[i : i + 1]) for i in range(70)])
    torch.testing.assert_close(resample(x, maps), apart, atol=1e-6, rtol=0)


@pytest.mark.parametrize("align_corners", [True, False])
def test_whole_pixels_reflect_by_copying(align_corners):
    x, maps = torch.arange(6.0).view(1, 1, 1, 6).repeat(1, 1, 6, 1), identity(1)
    maps[:, 1, 2] = 2
    moved = resample(x, maps, pad_mode="reflection", align_corners=align_corners, axis_aligned=True, whole=True)
    assert moved[0, 0, 0].tolist() == ([2, 3, 4, 5, 4, 3] if align_corners else [2, 3, 4, 5, 5, 4])


@pytest.mark.parametrize("degrees", [10.0, -33.0])
def test_a_rotation_is_the_inverse_of_torchvision(degrees):
    x = torch.rand(1, 3, 20, 31)
    turned = resample(x, rotation(torch.tensor([degrees])), pad_mode="zeros")
    expected = TF.rotate(x, -degrees, interpolation=InterpolationMode.BILINEAR)
    torch.testing.assert_close(turned, expected, atol=2e-5, rtol=0)


def test_a_perspective_moves_the_corners_as_documented():
    x, v, h = torch.rand(1, 3, 21, 21), 0.15, -0.1
    maps = perspective(torch.tensor([v]), torch.tensor([h]), half_sides((21, 21), True))
    ends = [(-1 - v, -1 - h), (1 + v, -1 + h), (1 - v, 1 - h), (-1 + v, 1 + h)]  # (right, down), clockwise
    starts = [[0.5, 0.5], [20.5, 0.5], [20.5, 20.5], [0.5, 20.5]]  # centres of pixels, as torchvision counts
    ends = [[10 * right + 10.5, 10 * down + 10.5] for right, down in ends]
    expected = TF.perspective(x, starts, ends, interpolation=InterpolationMode.BILINEAR)
    torch.testing.assert_close(resample(x, maps, pad_mode="zeros"), expected, atol=1e-4, rtol=0)


def test_behind_a_horizon_in_the_image_the_same_side_continues():
    x = torch.linspace(0, 1, 16).expand(1, 1, 16, 16).contiguous()
    maps = perspective(torch.tensor([0.45]), torch.tensor([0.45]), half_sides((16, 16), True))
    out = resample(x, maps, pad_mode="border", align_corners=True)
    assert out[0, 0, -1, -1] == 1  # the divisor is negative there: without the limit, the left side would reappear


def image(*shape):
    n = torch.Size(shape).numel()
    return torch.linspace(0, 7, n).sin().view(shape) * 0.45 + 0.5


# fastai 2.8.12's setup_aug_tfms of Warp(draw_x=[.1, -.15], draw_y=[.2, .05]), Flip(draw=[1, 0]), Rotate(draw=[10, -7])
# and Zoom(draw=[1.2, 1.1], draw_x=[.3, .8], draw_y=[.9, .4]), all with p=1, size=(3, 4) and its defaults otherwise, on
# image(2, 1, 8, 8). fastai applies the perspective before the affine parts, whatever their order in the list.
FASTAI = [
    [0.83052, 0.76209, 0.69345, 0.62999, 0.88141, 0.92926, 0.94496, 0.91736, 0.59132, 0.46194, 0.60897, 0.7598],
    [0.22973, 0.23837, 0.14601, 0.08319, 0.05847, 0.08675, 0.13635, 0.18864, 0.58572, 0.63678, 0.67786, 0.7109],
]

# The same on image(2, 1, 6, 8) with align_corners=False, and zooms about the centre (draw_x=draw_y=.5): elsewhere,
# fastai rotates the zoom's position in a square frame, whatever the image's aspect.
FASTAI_WIDE = [
    [0.83802, 0.75476, 0.67084, 0.58992, 0.91681, 0.94532, 0.90497, 0.84514, 0.54812, 0.74136, 0.85998, 0.93698],
    [0.26264, 0.15866, 0.08977, 0.05426, 0.05238, 0.09406, 0.15194, 0.21763, 0.36971, 0.46592, 0.54966, 0.6211],
]


@pytest.mark.parametrize(
    ("size", "align_corners", "at", "expected"),
    [((8, 8), True, [[0.8, -0.4], [-0.2, 0.6]], FASTAI), ((6, 8), False, [[0.0, 0.0], [0.0, 0.0]], FASTAI_WIDE)],
)
def test_all_geometry_together_gives_the_pixels_of_fastai(size, align_corners, at, expected):
    maps, halves = identity(2, rows=3), half_sides(size, align_corners)
    compose(maps, perspective(torch.tensor([0.2, 0.05]), torch.tensor([0.1, -0.15]), halves))
    compose(maps, torch.diag_embed(torch.tensor([[1.0, -1, 1], [1, 1, 1]])))
    compose(maps, rotation(torch.tensor([10.0, -7])))
    compose(maps, zoom_matrix(torch.tensor([1.2, 1.1]), torch.tensor(at), halves))
    scale_onto(maps, size, (3, 4), align_corners)
    out = resample(image(2, 1, *size), maps, size=(3, 4), pad_mode="reflection", align_corners=align_corners)
    torch.testing.assert_close(out.view(2, -1), torch.tensor(expected), atol=1e-5, rtol=0)


def test_a_window_gives_the_crop_of_fastai():
    # fastai 2.8.12: RandomResizedCropGPU((2, 3)) with tl = (1, 3) and cp_size = (6, 5), on image(1, 1, 8, 10).
    expected = torch.tensor([[0.91109, 0.93692, 0.94907], [0.20979, 0.27496, 0.34719]])
    maps = window(torch.tensor([[6.0, 5.0]]), torch.tensor([[1.0, 3.0]]), (8, 10), (2, 3), True)
    out = resample(image(1, 1, 8, 10), maps[:, :2], size=(2, 3), align_corners=True, least_scale=0.5)
    torch.testing.assert_close(out[0, 0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("align_corners", [True, False])
def test_images_that_shrink_a_lot_are_averaged_first(align_corners):
    stripes = (torch.arange(64) % 2).float().expand(1, 1, 64, 64).contiguous()
    maps = identity(1)
    scale_onto(maps, (64, 64), (16, 16), align_corners)
    smooth = resample(stripes, maps, size=(16, 16), align_corners=align_corners)
    torch.testing.assert_close(smooth, torch.full_like(smooth, 0.5), atol=0.01, rtol=0)
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64).contiguous()
    inside = resample(ramp, maps, size=(16, 16), align_corners=align_corners)[..., 2:-2]
    expected = F.interpolate(ramp, (16, 16), mode="bilinear", align_corners=align_corners)[..., 2:-2]
    torch.testing.assert_close(inside, expected, atol=1e-4, rtol=0)


def test_a_zoom_that_undoes_the_shrinking_keeps_every_pixel():
    stripes = (torch.arange(64) % 2).float().expand(1, 1, 64, 64).contiguous()
    kept = resample(stripes, identity(1), size=(16, 16), least_scale=0.25)
    assert torch.equal(kept, stripes[:, :, 24:40, 24:40])
