import pytest
import torch
import torch.nn.functional as F

from minilearner.data.batch_transforms import Pipeline
from minilearner.vision.augment import Dihedral, Flip, Rotate, Warp, Zoom, aug_transforms
from minilearner.vision.crops import RandomResizedCropBatch
from minilearner.vision.lighting import Brightness, Contrast
from minilearner.vision.shift import RandomShift


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def maps_of(transform, x, seed=0):
    maps = torch.eye(2, 3).repeat(len(x), 1, 1)
    transform.draw_onto(maps, tuple(x.shape[2:]), rng(seed))
    return maps


def shifted_by_hand(image, down, right):
    """Returns the image with output pixel (i, j) = image[i + down, j + right], repeating the border."""
    h, w = image.shape[-2:]
    rows = [min(max(i + down, 0), h - 1) for i in range(h)]
    columns = [min(max(j + right, 0), w - 1) for j in range(w)]
    return image[:, rows][:, :, columns]


def by_grid_sample(x, maps):
    """torch's resampling, with its grid built pixel by pixel for align_corners=True."""
    h, w = x.shape[2:]
    i, j = torch.meshgrid(torch.arange(h) - (h - 1) / 2, torch.arange(w) - (w - 1) / 2, indexing="ij")
    position = torch.stack([i, j, torch.ones_like(i)])
    rows, columns = torch.einsum("bkp,phw->bkhw", maps.double(), position.double()).unbind(1)
    grid = torch.stack([columns * 2 / (w - 1), rows * 2 / (h - 1)], dim=-1)
    return F.grid_sample(x.double(), grid, padding_mode="border", align_corners=True).float()


SHAPES = [(6, 1, 32, 32), (6, 3, 20, 13), (2, 1, 70, 66)]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_interpolated_shift_equals_grid_sample(shape):
    x, shift = torch.rand(shape), RandomShift(0.2)
    maps = maps_of(shift, x)
    assert maps[:, :, 2].frac().abs().max() > 0.01
    torch.testing.assert_close(shift(x, rng()), by_grid_sample(x, maps), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_whole_pixel_shift_copies_exact_pixels(shape):
    x, shift = torch.rand(shape), RandomShift(0.2, whole_pixels=True)
    offsets = maps_of(shift, x)[:, :, 2].int().tolist()
    expected = torch.stack([shifted_by_hand(image, *offset) for image, offset in zip(x, offsets, strict=True)])
    assert torch.equal(shift(x, rng()), expected)
    assert len({tuple(offset) for offset in offsets}) > 1


@pytest.mark.parametrize("shape", SHAPES)
def test_flips_copy_exact_pixels(shape):
    x = torch.rand(shape)
    assert torch.equal(Flip(p=1)(x, rng()), x.flip(-1))
    assert torch.equal(Flip(p=0)(x, rng()), x)


def test_each_image_has_its_own_flip():
    x = torch.rand(200, 1, 4, 4)
    flipped = [torch.equal(a, b) for a, b in zip(Flip()(x, rng()), x.flip(-1), strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(Flip()(x, rng()), x, strict=True)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True))
    assert 70 < sum(flipped) < 130


def test_each_image_has_its_own_shift_within_the_fraction():
    maps = maps_of(RandomShift(0.1), torch.rand(2000, 1, 30, 50))
    down, right = maps[:, 0, 2], maps[:, 1, 2]
    assert 2.9 < down.max() <= 3 and -3 <= down.min() < -2.9
    assert 4.9 < right.max() <= 5 and -5 <= right.min() < -4.9
    assert len(down.unique()) > 1900


def test_whole_shifts_are_equally_likely():
    down = maps_of(RandomShift(0.1, whole_pixels=True), torch.rand(7000, 1, 30, 30))[:, 0, 2]
    values, counts = down.unique(return_counts=True)
    assert values.tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert counts.min() > 850


def test_p_is_the_share_of_images_that_move():
    moved = maps_of(RandomShift(0.1, p=0.25), torch.rand(4000, 1, 30, 30))[:, :, 2].ne(0).any(1)
    assert 0.2 < moved.float().mean() < 0.3


@pytest.mark.parametrize("whole", [True, False])
def test_a_shift_and_a_flip_are_one_resampling(whole):
    x = torch.rand(8, 1, 16, 16)
    shift, flip = RandomShift(0.2, whole_pixels=whole), Flip()
    (fused,) = Pipeline([shift, flip]).steps(training=True)
    generator = rng()
    apart = flip(shift(x, generator), generator)
    torch.testing.assert_close(fused(x, rng()), apart, atol=1e-6 if not whole else 0, rtol=0)


def test_a_flip_before_a_shift_composes_in_that_order():
    x = torch.rand(8, 1, 16, 16)
    (fused,) = Pipeline([Flip(), RandomShift(0.2, whole_pixels=True)]).steps(training=True)
    generator = rng()
    expected = RandomShift(0.2, whole_pixels=True)(Flip()(x, generator), generator)
    assert torch.equal(fused(x, rng()), expected)


@pytest.mark.parametrize(
    "transform",
    [
        RandomShift(),
        RandomShift(whole_pixels=True),
        RandomShift(p=0.5),
        Flip(),
        Dihedral(),
        Rotate(),
        Zoom(),
        Warp(),
        RandomResizedCropBatch(16),
    ],
)
def test_the_same_seed_gives_the_same_result_and_global_generators_are_unused(transform):
    x = torch.rand(16, 1, 16, 16)
    before, kept = torch.get_rng_state().clone(), x.clone()
    assert torch.equal(transform(x, rng(3)), transform(x, rng(3)))
    assert not torch.equal(transform(x, rng(3)), transform(x, rng(4)))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, kept)


def test_dihedral_copies_exact_pixels_in_all_eight_symmetries_about_equally():
    x = torch.rand(1, 3, 6, 6).repeat(800, 1, 1, 1)
    eight = [turned.rot90(k, (1, 2)) for turned in (x[0], x[0].flip(-1)) for k in range(4)]
    counts = [sum(torch.equal(image, one) for image in Dihedral(p=1)(x, rng())) for one in eight]
    assert sum(counts) == 800
    assert min(counts) > 70


def test_p_leaves_some_images_unchanged():
    x = torch.rand(1, 1, 8, 8).repeat(1000, 1, 1, 1)
    for transform in (Rotate(p=0.25), Zoom(p=0.25)):
        same = torch.isclose(transform(x, rng()), x, atol=1e-5).flatten(1).all(1)
        assert 0.7 < same.float().mean() < 0.8
    warped = torch.isclose(Warp(p=0.25)(x, rng()), x, atol=1e-5).flatten(1).all(1)
    assert 0.75**2 - 0.05 < warped.float().mean() < 0.75**2 + 0.05  # each direction draws its own number


@pytest.mark.parametrize("make", [Rotate, Zoom, Warp, RandomShift, Dihedral, Flip])
def test_every_image_draws_its_own_numbers_unless_batch_shares_them(make):
    x = torch.rand(1, 1, 12, 12).repeat(40, 1, 1, 1)
    assert len({tuple(image.flatten().tolist()) for image in make()(x, rng())}) > 1
    shared = make(batch=True, p=1)(x, rng())
    torch.testing.assert_close(shared, shared[:1].expand_as(shared), atol=1e-6, rtol=0)


def test_angles_zooms_and_positions_stay_in_their_ranges():
    x = torch.rand(3000, 1, 10, 10)
    angles = torch.asin(maps_of(Rotate(30, p=1), x)[:, 1, 0]).rad2deg()
    assert 29 < angles.max() <= 30.001 and -30.001 <= angles.min() < -29
    zoomed = maps_of(Zoom(0.5, 2, p=1), x)
    factors = 1 / zoomed[:, 0, 0]
    assert 0.5 <= factors.min() < 0.51 and 1.99 < factors.max() <= 2.001
    assert (zoomed[:, :, 2].abs() <= (1 - zoomed[:, 0, :1]).abs() * 4.5 + 1e-4).all()


def test_rotate_and_zoom_compose_to_the_product():
    x, generator = torch.rand(5, 1, 9, 9), rng()
    (fused,) = Pipeline([Rotate(p=1), Zoom(p=1)]).steps(training=True)
    turned = torch.eye(3).repeat(5, 1, 1)
    zoomed = turned.clone()
    Rotate(p=1).draw_onto(turned, (9, 9), generator)
    Zoom(p=1).draw_onto(zoomed, (9, 9), generator)
    torch.testing.assert_close(maps_of(fused, x), (turned @ zoomed)[:, :2])


def test_aug_transforms_returns_the_list_of_fastai():
    assert [type(t) for t in aug_transforms()] == [Flip, Warp, Rotate, Zoom, Brightness, Contrast]
    flip, warp, rotate, zoom, brightness, contrast = aug_transforms(
        2.0, True, True, 5.0, 0.9, 1.3, 0.1, 0.15, 0.6, 0.5, None, (20, 30), "bicubic", "border", False, True
    )
    assert isinstance(flip, Dihedral)
    assert (warp.magnitude, rotate.max_deg, zoom.min_zoom, zoom.max_zoom) == (0.3, 10, 0.9, 1.3)
    assert warp.p == rotate.p == zoom.p == 0.6 and brightness.p == contrast.p == 0.5
    assert brightness.max_lighting == contrast.max_lighting == 0.2
    assert all(t.batch for t in (flip, warp, rotate, zoom, brightness, contrast))
    assert (rotate.size, rotate.mode, rotate.pad_mode, rotate.align_corners) == ((20, 30), "bicubic", "border", False)


def test_aug_transforms_leaves_out_zeros_and_adds_extra_transforms():
    extra = RandomShift()
    found = aug_transforms(do_flip=False, max_rotate=0, max_zoom=1, max_lighting=0, max_warp=0, xtra_tfms=extra)
    assert found == [extra]
    *_, crop = aug_transforms(size=16, min_scale=0.5)
    assert crop == RandomResizedCropBatch(16, 0.5, (1, 1))


@pytest.mark.parametrize("min_scale", [1, 0.5])
def test_aug_transforms_are_one_interpolation_and_one_pass_of_light(min_scale):
    pipeline = Pipeline(aug_transforms(size=16, min_scale=min_scale))
    assert len(pipeline.steps(training=True)) == 2
    x = torch.rand(3, 3, 20, 24)
    assert pipeline(x, rng(), training=True).shape == (3, 3, 16, 16)
    assert pipeline(x, rng(), training=False).shape == (3, 3, 16, 16)


def test_validation_is_only_resized():
    x = torch.rand(3, 3, 20, 24)
    assert torch.equal(Pipeline(aug_transforms())(x, rng(), training=False), x)
    resized = Pipeline(aug_transforms(size=(10, 12), align_corners=False))(x, rng(), training=False)
    torch.testing.assert_close(resized, F.interpolate(x, (10, 12), mode="bilinear"), atol=1e-5, rtol=0)


def test_wrong_arguments_raise():
    with pytest.raises(ValueError, match=r"`fraction` must be in \[0, 1\]. Received: fraction=1.5"):
        RandomShift(1.5)
    with pytest.raises(ValueError, match=r"`p` must be in \[0, 1\]. Received: p=-1"):
        Flip(-1)
    with pytest.raises(ValueError, match=r"less than one pixel of a 8 x 8 image"):
        RandomShift(0.1, whole_pixels=True)(torch.rand(1, 1, 8, 8), rng())
    with pytest.raises(ValueError, match=r"takes images.*shape \(4, 784\)"):
        Flip()(torch.rand(4, 784), rng())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Warp(0.5), r"`magnitude` must be in \[0, 0.5\). Received: magnitude=0.5"),
        (lambda: Zoom(1.2, 1.1), r"`min_zoom` must not exceed `max_zoom`. Received: min_zoom=1.2, max_zoom=1.1"),
        (lambda: Rotate(-1), r"`max_deg` must be finite and not negative. Received: max_deg=-1"),
        (lambda: Rotate(p=2), r"`p` must be in \[0, 1\]. Received: p=2"),
        (lambda: Dihedral(p=2), r"`p` must be in \[0, 1\]. Received: p=2"),
        (lambda: Rotate(pad_mode="reflect"), r"`pad_mode` must be one of.*Did you mean 'reflection'.*'reflect'"),
        (lambda: Rotate(mode="linear"), r"`mode` must be one of 'bilinear', 'nearest', 'bicubic'"),
        (lambda: Flip(size=0), r"`size` must be.*Received: size=0"),
        (
            lambda: aug_transforms(min_scale=0.5),
            r"`min_scale` needs a `size` to crop to. Received: min_scale=0.5, size=None",
        ),
    ],
)
def test_arguments_out_of_range_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_repr_shows_the_arguments():
    assert repr(Rotate(5)) == "Rotate(max_deg=5, p=0.5)"
    assert repr(Flip(size=8)) == "Flip(p=0.5, size=(8, 8))"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mult": 3}, "`max_warp` times `mult` must be below 0.5. Received: max_warp=0.2, mult=3"),
        (
            {"mult": 5, "max_warp": 0},
            "`max_lighting` times `mult` must be below 1. Received: max_lighting=0.2, mult=5",
        ),
        ({"do_flip": False, "flip_vert": True}, "`flip_vert` needs `do_flip`"),
    ],
)
def test_the_error_names_arguments_that_contradict_each_other(given, message):
    with pytest.raises(ValueError, match=message):
        aug_transforms(**given)
