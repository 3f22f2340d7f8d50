from dataclasses import replace

import pytest
import torch

from minilearner.data import batch_transforms
from minilearner.data.batch_transforms import Pipeline, in_unit_range, run_steps
from minilearner.vision import geometry, resampling
from minilearner.vision.augment import Dihedral, Flip, Rotate, Warp, Zoom
from minilearner.vision.crops import RandomResizedCropBatch
from minilearner.vision.geometry import Geometric, Resized, Sampling, as_size
from minilearner.vision.lighting import Brightness, Contrast, Hue, Saturation
from minilearner.vision.normalize import Normalize
from minilearner.vision.shift import RandomShift


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


class QuarterTurn(Geometric):
    axis_aligned = False

    def draw_onto(self, maps, size, rng):
        maps[:, :, :2] = maps[:, :, :2] @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])


def test_transforms_of_users_are_resampled_and_fused():
    x = torch.rand(2, 3, 8, 8)
    turned = QuarterTurn()(x, rng())
    assert any(torch.allclose(turned, x.rot90(k, (2, 3)), atol=1e-5) for k in (1, 3))
    (fused,) = Pipeline([Flip(p=1), QuarterTurn()]).steps(training=True)
    torch.testing.assert_close(fused(x, rng()), QuarterTurn()(x.flip(-1), rng()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [None, 24, 9])
@pytest.mark.parametrize(
    "transform", [Rotate(p=1), Warp(p=1), Zoom(p=1), Dihedral(p=1), RandomShift(), RandomShift(whole_pixels=True)]
)
def test_uint8_gives_exactly_the_result_of_floats_in_the_unit_range(transform, size, monkeypatch):
    monkeypatch.setattr(resampling, "_POSITIONS_AT_ONCE", 600)  # a few images at a time, as with larger images
    x = torch.randint(0, 256, (5, 20, 20, 3), dtype=torch.uint8, generator=rng()).permute(0, 3, 1, 2)
    steps = Pipeline(replace(transform, size=size)).steps(training=True)
    (step,) = steps
    assert torch.equal(run_steps(steps, x, rng()), step(x.float() / 255, rng()))


COLOURS = [Brightness(), Contrast(), Saturation(), Hue(), Normalize.from_stats([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("moves", [Warp(size=8), RandomShift(), RandomShift(whole_pixels=True)])
def test_pixel_changes_in_place_give_exactly_the_result_of_separate_steps(moves, dtype, monkeypatch):
    monkeypatch.setattr(resampling, "_POSITIONS_AT_ONCE", 130)
    monkeypatch.setattr(batch_transforms, "_VALUES_AT_ONCE", 1600)
    # 768 or 192 values per image: torch uses other functions for values left over after vectors of 8 or 16.
    x = torch.randint(0, 256, (5, 3, 16, 16), generator=rng()).to(dtype)
    x = x if dtype == torch.uint8 else x / 255
    kept, one_rng = x.clone(), rng()
    expected = in_unit_range(x)
    for step in (moves, *COLOURS):
        expected = step(expected, one_rng)
    actual = run_steps((moves, *COLOURS), x, rng())
    assert actual.dtype == expected.dtype and torch.equal(actual, expected) and torch.equal(x, kept)


def test_normalizing_after_a_move_turns_halves_into_float32():
    x = torch.rand(2, 3, 8, 8).half()
    actual = run_steps((Flip(p=1), COLOURS[-1]), x, rng())
    assert actual.dtype == torch.float32 and torch.equal(actual, COLOURS[-1](x.flip(-1), rng()))


class Halved(Normalize):
    def __call__(self, x, rng):
        return x / 2


class Doubled(Flip):
    def __call__(self, x, rng):
        return x * 2


def test_a_subclass_with_its_own_call_runs_it():
    x = torch.rand(2, 3, 8, 8)
    halved = Halved(*(torch.tensor([value]) for value in (0.5, 0.2)))
    assert torch.equal(run_steps((Flip(p=1), halved), x, rng()), x.flip(-1) / 2)
    assert torch.equal(run_steps((Doubled(), Normalize(halved.mean, halved.std)), x, rng()), (x * 2 - 0.5) / 0.2)


def test_pixel_changes_do_not_change_the_input_if_nothing_is_resized():
    x = torch.rand(2, 3, 8, 8)
    kept = x.clone()
    actual = run_steps((Resized(Sampling((8, 8))), COLOURS[-1]), x, rng())
    assert torch.equal(x, kept) and torch.equal(actual, COLOURS[-1](x, rng()))


def smooth(n):
    """Returns images without edges, on which two interpolations lose little."""
    down, right = torch.meshgrid(torch.linspace(0, 3, 64), torch.linspace(0, 3, 64), indexing="ij")
    return (down.sin() * (right + 0.3).cos()).expand(n, 1, 64, 64).contiguous()


def test_every_kind_fuses_into_one_interpolation(monkeypatch):
    calls = []

    def counted(*args, **how):
        calls.append(how)
        return resample(*args, **how)

    resample = geometry.resample
    monkeypatch.setattr(geometry, "resample", counted)
    x = torch.rand(3, 1, 20, 24)
    kinds = [Flip(), Dihedral(), Warp(), RandomShift(), Rotate(), Zoom(), RandomResizedCropBatch(16, 0.5)]
    assert Pipeline(kinds)(x, rng(), training=True).shape == (3, 1, 16, 16)
    assert len(calls) == 1


@pytest.mark.parametrize("names", ["wrz", "zrw", "rwz", "cwr", "rcw"])
def test_fused_transforms_equal_one_after_another(names):
    kinds = {
        "w": Warp(0.1, p=1),
        "r": Rotate(20, p=1),
        "z": Zoom(1.2, 1.5, p=1),
        "c": RandomResizedCropBatch((40, 50), 0.3, max_scale=0.5),
    }
    batch_transforms, x, generator = [kinds[name] for name in names], smooth(4), rng()
    (fused,) = Pipeline(batch_transforms).steps(training=True)
    apart = x
    for transform in batch_transforms:
        apart = transform(apart, generator)
    once = fused(x, rng())
    assert once.shape == apart.shape
    middle = (..., slice(16, 24), slice(20, 30))  # away from the borders, which are reflected only once if fused
    torch.testing.assert_close(once[middle], apart[middle], atol=5e-3, rtol=0)


def test_a_choice_also_applies_to_adjacent_transforms_that_leave_it_open():
    (fused,) = Pipeline([RandomShift(), Rotate(pad_mode="zeros", mode="nearest"), Flip(size=8)]).steps(training=True)
    assert fused.sampling == Sampling((8, 8), "nearest", "zeros", True)


def test_enlargements_by_zooms_and_crops_multiply():
    (fused,) = Pipeline([Zoom(1, 2), RandomResizedCropBatch(8, 0.25, (1, 1)), Rotate()]).steps(training=True)
    assert fused.least_scale == 0.25


def test_contradicting_transforms_take_separate_interpolations():
    assert len(Pipeline([Rotate(), Zoom(pad_mode="border")]).steps(training=True)) == 2
    assert len(Pipeline([Rotate(size=8), Zoom(size=9)]).steps(training=True)) == 2


def test_transforms_fuse_wherever_they_are_in_the_list():
    pipeline = Pipeline([Flip(), lambda x: x * 2, RandomShift()])
    fused, _ = pipeline.steps(training=True)
    assert repr(fused) == f"{Flip()} + {RandomShift()}"


def test_validation_resizes_once_and_training_to_the_same_size():
    x = torch.rand(2, 1, 12, 12)
    pipeline = Pipeline([Flip(size=8), Rotate(size=8), Zoom(size=8)])
    (resized,) = pipeline.steps(training=False)
    assert isinstance(resized, Resized)
    torch.testing.assert_close(resized(x, rng()), Rotate(p=0, size=8)(x, rng()), atol=1e-6, rtol=0)
    assert pipeline(x, rng(), training=True).shape == (2, 1, 8, 8)


def test_images_of_the_right_size_are_returned_unchanged():
    x = torch.rand(2, 1, 8, 8)
    (resized,) = Pipeline(Rotate(size=8)).steps(training=False)
    assert resized(x, rng()) is x


def test_the_result_of_an_image_depends_on_the_generator_and_not_on_other_images():
    x = torch.rand(6, 1, 16, 16)
    kinds = [Warp(p=1), Rotate(p=1), Zoom(p=1)]
    (fused,) = Pipeline(kinds).steps(training=True)
    other = torch.cat([x[:1], torch.rand(5, 1, 16, 16)])
    assert torch.equal(fused(x, rng())[0], fused(other, rng())[0])


def test_a_size_is_a_number_or_a_pair():
    assert as_size(3) == (3, 3) and as_size((3, 4)) == (3, 4) and as_size(None) is None
    with pytest.raises(ValueError, match=r"`size` must be.*Received: size=\(3,\)"):
        as_size((3,))
