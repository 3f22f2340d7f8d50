import pytest
import torch
import torch.nn.functional as F

from minilearner.data.transforms import BatchTransform, Pipeline
from minilearner.vision.augment import Flip, Geometric, Normalize, RandomShift, resample


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def maps_of(transform, x, seed=0):
    maps = torch.eye(2, 3).repeat(len(x), 1, 1)
    transform.draw_onto(maps, tuple(x.shape[2:]), rng(seed))
    return maps


def shifted_by_hand(picture, down, right):
    """Each output pixel (i, j) is picture[i + down, j + right], the border repeated."""
    h, w = picture.shape[-2:]
    rows = [min(max(i + down, 0), h - 1) for i in range(h)]
    columns = [min(max(j + right, 0), w - 1) for j in range(w)]
    return picture[:, rows][:, :, columns]


def by_grid_sample(x, maps):
    """torch's own resampling, its grid built pixel by pixel with align_corners=True."""
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
def test_a_whole_pixel_shift_copies_bits(shape):
    x, shift = torch.rand(shape), RandomShift(0.2, whole_pixels=True)
    offsets = maps_of(shift, x)[:, :, 2].int().tolist()
    expected = torch.stack([shifted_by_hand(picture, *offset) for picture, offset in zip(x, offsets, strict=True)])
    assert torch.equal(shift(x, rng()), expected)
    assert len({tuple(offset) for offset in offsets}) > 1


@pytest.mark.parametrize("shape", SHAPES)
def test_flips_copy_bits(shape):
    x = torch.rand(shape)
    assert torch.equal(Flip(p=1)(x, rng()), x.flip(-1))
    assert torch.equal(Flip(p=0)(x, rng()), x)


def test_each_picture_has_its_own_flip():
    x = torch.rand(200, 1, 4, 4)
    flipped = [torch.equal(a, b) for a, b in zip(Flip()(x, rng()), x.flip(-1), strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(Flip()(x, rng()), x, strict=True)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True))
    assert 70 < sum(flipped) < 130


def test_each_picture_has_its_own_shift_within_the_fraction():
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


def test_p_is_the_part_of_pictures_that_move():
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


def test_three_geometric_transforms_fuse_but_not_across_another():
    pipeline = Pipeline([Flip(), RandomShift(), Flip(), Normalize.from_stats(0.5, 0.5), Flip()])
    assert len(pipeline.steps(training=True)) == 2
    assert len(pipeline.steps(training=False)) == 1


class QuarterTurn(Geometric):
    axis_aligned = False

    def draw_onto(self, maps, size, rng):
        maps[:, :, :2] = maps[:, :, :2] @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])


def test_other_maps_are_resampled_too_and_fuse():
    x = torch.rand(2, 3, 8, 8)
    turned = QuarterTurn()(x, rng())
    assert any(torch.allclose(turned, x.rot90(k, (2, 3)), atol=1e-5) for k in (1, 3))
    (fused,) = Pipeline([Flip(p=1), QuarterTurn()]).steps(training=True)
    torch.testing.assert_close(fused(x, rng()), QuarterTurn()(x.flip(-1), rng()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_way_of_resampling_gives_the_same_picture(shape):
    x = torch.rand(shape)
    maps = maps_of(RandomShift(0.2), x)
    torch.testing.assert_close(resample(x, maps), resample(x, maps, axis_aligned=True), atol=1e-5, rtol=0)


@pytest.mark.parametrize("transform", [RandomShift(), RandomShift(whole_pixels=True), RandomShift(p=0.5), Flip()])
def test_the_same_seed_gives_the_same_bits_and_nothing_global_moves(transform):
    x = torch.rand(16, 1, 16, 16)
    before, kept = torch.get_rng_state().clone(), x.clone()
    assert torch.equal(transform(x, rng(3)), transform(x, rng(3)))
    assert not torch.equal(transform(x, rng(3)), transform(x, rng(4)))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, kept)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"`fraction` must be between 0 and 1. Received: fraction=1.5"):
        RandomShift(1.5)
    with pytest.raises(ValueError, match=r"`p` must be between 0 and 1. Received: p=-1"):
        Flip(-1)
    with pytest.raises(ValueError, match=r"less than one whole pixel of a 8 x 8 picture"):
        RandomShift(0.1, whole_pixels=True)(torch.rand(1, 1, 8, 8), rng())
    with pytest.raises(ValueError, match=r"takes pictures.*shape \(4, 784\)"):
        Flip()(torch.rand(4, 784), rng())


def test_normalising_and_its_undoing():
    x = torch.rand(4, 3, 5, 5)
    normalize = Normalize.from_stats([0.4, 0.5, 0.6], [0.1, 0.2, 0.3])
    expected = torch.stack([(x[:, i] - m) / s for i, (m, s) in enumerate([(0.4, 0.1), (0.5, 0.2), (0.6, 0.3)])], dim=1)
    torch.testing.assert_close(normalize(x, rng()), expected)
    torch.testing.assert_close(normalize.decode(normalize(x, rng())), x)
    assert not normalize.train_only and isinstance(normalize, BatchTransform)


def test_wrong_statistics_are_refused():
    with pytest.raises(ValueError, match=r"one length. Received: mean=\[0.5\]"):
        Normalize.from_stats([0.5], [0.1, 0.2])
    with pytest.raises(ValueError, match=r"`std` must be positive. Received: std=0"):
        Normalize.from_stats(0.5, 0)
    with pytest.raises(ValueError, match=r"has 3 channels. Received: x of shape \(2, 1, 4, 4\)"):
        Normalize.from_stats([0.5] * 3, [0.5] * 3)(torch.rand(2, 1, 4, 4), rng())
