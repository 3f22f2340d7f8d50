import random
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from minilearner.data.item_dataset import ItemDataset
from minilearner.data.item_transforms import ItemPipeline
from minilearner.vision.resize import (
    CropPad,
    PadMode,
    RandomCrop,
    RandomResizedCrop,
    RatioResize,
    Resize,
    ResizeMethod,
    resize_image,
)


def ramp(width, height):
    """Returns an image whose red rises to the right and green downwards, which shows where a window was."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8))


def noise(width, height, mode="RGB"):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)


def rngs(n=200):
    return [random.Random(i) for i in range(n)]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1"])
@pytest.mark.parametrize("size", [(30, 20), (100, 15), (7, 90), (64, 48)])
def test_resampling_equals_that_of_pillow_within_a_grey_level(mode, size):
    image = noise(64, 48, mode)
    got = resize_image(image, size)
    expected = image.resize(size, Image.Resampling.BILINEAR)
    assert got.size == size and got.mode == mode
    assert np.abs(np.asarray(got).astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_crop_takes_the_largest_window_in_the_middle_or_anywhere_along_the_longer_side():
    image = ramp(100, 50)
    assert np.array_equal(Resize(50)(image, None), image.crop((25, 0, 75, 50)))
    lefts = {Resize(50)(image, rng).getpixel((0, 0)) for rng in rngs(500)}
    assert {left for left, _, _ in lefts} == set(range(51)) and {upper for _, upper, _ in lefts} == {0}


def test_a_size_is_height_and_width():
    assert Resize((20, 30))(noise(64, 64), None).size == (30, 20)
    assert RandomResizedCrop((20, 30))(noise(64, 64), random.Random(0)).size == (30, 20)


@pytest.mark.parametrize("size", [(1, 1), (3, 1000), (1000, 3), (31, 33), (499, 333)])
@pytest.mark.parametrize("method", ["crop", "pad", "squish"])
def test_every_image_gets_the_size(size, method):
    for rng in (None, *rngs(3)):
        assert Resize((24, 36), method)(noise(*size), rng).size == (36, 24)


def test_squish_keeps_every_corner():
    image = ramp(200, 100)
    assert np.array_equal(Resize(50, ResizeMethod.Squish)(image, random.Random(0)), resize_image(image, (50, 50)))


@pytest.mark.parametrize(("pad_mode", "above"), [("zeros", (0, 0)), ("border", (0, 0)), (PadMode.Reflection, (1, 2))])
def test_pad_keeps_the_whole_image_and_fills_around_it(pad_mode, above):
    image = ramp(40, 20)
    got = np.asarray(Resize(40, "pad", pad_mode)(image, None))
    assert np.array_equal(got[10:30], image)
    expected = [0, 0] if pad_mode == "zeros" else [5, above[0]]
    assert got[9, 5, :2].tolist() == expected
    assert got[8, 5, 1] == above[1]
    uppers = {tuple(np.asarray(Resize(40, "pad", "zeros")(image, rng))[:, 1, 0].nonzero()[0][[0]]) for rng in rngs()}
    assert {upper for (upper,) in uppers} == set(range(21))


@pytest.mark.parametrize(("size", "whole"), [(128, 152), (160, 184), (192, 224), (224, 256), (256, 296)])
def test_validation_of_random_resized_crop_squishes_to_the_sizes_of_fastai_and_cuts_the_middle(size, whole):
    image = noise(300, 200)
    got = RandomResizedCrop(size)(image, None)
    margin = (whole - size) // 2
    expected = resize_image(image, (whole, whole)).crop((margin, margin, margin + size, margin + size))
    assert np.array_equal(got, expected)


def test_random_parts_are_inside_and_have_allowed_shares_and_ratios():
    transform = RandomResizedCrop(64, min_scale=0.3, ratio=(0.5, 2.0))
    boxes = np.array([transform.part((300, 200), rng) for rng in rngs(2000)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share, ratio = widths * heights / 60000, widths / heights
    assert boxes.min() == 0 and boxes[:, 2].max() == 300 and boxes[:, 3].max() == 200
    assert 0.29 < share.min() < 0.31 and 0.49 < ratio.min() < 0.53 and 1.9 < ratio.max() < 2.02
    assert share.max() > 0.9


def test_if_no_part_fits_the_largest_allowed_central_one_is_taken():
    transform = RandomResizedCrop(8, min_scale=1.0, ratio=(1.0, 1.0))
    assert transform.part((100, 20), random.Random(0)) == (40, 0, 60, 20)
    assert transform.part((20, 100), random.Random(0)) == (0, 40, 20, 60)


def test_images_are_scaled_down_first_only_if_no_part_loses_pixels():
    transform = RandomResizedCrop(64, min_scale=0.25, ratio=(1.0, 1.0))
    assert transform.reduce_to == (128, 128)
    assert transform.prepare(noise(500, 300)).size == (213, 128)
    assert transform.prepare(noise(127, 500)).size == (127, 500)


def test_crop_pad_always_cuts_and_pads_around_the_middle():
    image = ramp(20, 4)
    for rng in (None, random.Random(0)):
        got = np.asarray(CropPad(10)(image, rng))
        assert np.array_equal(got[3:7], np.asarray(image)[:, 5:15])
        assert not got[:3].any() and not got[7:].any()
    assert np.array_equal(np.asarray(CropPad(10, PadMode.Border)(image, None))[9], np.asarray(image)[3, 5:15])


def test_random_crop_takes_any_window_in_training_and_the_middle_in_validation():
    image = ramp(14, 12)
    corners = Counter(RandomCrop(10)(image, rng).getpixel((0, 0))[:2] for rng in rngs(500))
    assert set(corners) == {(x, y) for x in range(5) for y in range(3)}
    assert RandomCrop(10)(image, None).getpixel((0, 0)) == (2, 1, 0)
    assert RandomCrop((30, 5))(image, random.Random(0)).size == (5, 30)


def test_ratio_resize_sets_the_longer_side():
    assert RatioResize(50)(noise(200, 100), None).size == (50, 25)
    assert RatioResize(50)(noise(3, 1000), random.Random(0)).size == (1, 50)


@pytest.mark.parametrize(
    "transform",
    [Resize(24), Resize(24, "pad"), Resize(24, "squish"), RandomResizedCrop(24), CropPad(24), RandomCrop(24)],
)
def test_an_image_decoded_smaller_never_has_to_be_enlarged(transform):
    image = noise(400, 300)
    if transform.reduce_to is None:
        return
    assert transform.reduce_to[0] >= 24
    smallest = noise(*transform.reduce_to)
    prepared = transform.prepare(smallest)
    assert prepared.width <= smallest.width and prepared.height <= smallest.height
    assert transform(image, None).size == (24, 24)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Resize(0),
            r"`size` must be a whole number of pixels, at least 1, or \(height, width\). Received: size=0",
        ),
        (lambda: Resize((3, 4, 5)), "`size`"),
        (lambda: Resize(8, "crob"), r"`method` must be one of 'crop', 'pad', 'squish'. Did you mean 'crop'\?"),
        (lambda: Resize(8, pad_mode="mirror"), "`pad_mode` must be one of 'zeros', 'border', 'reflection'"),
        (lambda: RandomResizedCrop(8, min_scale=0), "`min_scale` must be positive"),
        (lambda: RandomResizedCrop(8, ratio=(2, 1)), "`ratio` must be two positive numbers"),
        (lambda: RandomResizedCrop(8, val_xtra=-1), "`val_xtra`"),
        (lambda: CropPad(8, "mirror"), "`pad_mode`"),
        (lambda: RatioResize(0), "`max_sz` must be at least 1"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "transform",
    [Resize(8), Resize(8, "pad"), Resize(8, "squish"), RandomResizedCrop(8), CropPad(8), RandomCrop(8), RatioResize(8)],
)
def test_a_tensor_raises_and_the_error_says_what_to_do(transform):
    with pytest.raises(TypeError, match="takes a Pillow image. Received: a Tensor"):
        transform(torch.zeros(3, 9, 9), None)


@pytest.mark.parametrize("name", ["NEAREST", "BICUBIC", "LANCZOS"])
def test_other_resampling_is_done_by_pillow_and_is_the_argument_of_fastai(name):
    resample = Image.Resampling[name]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (31, 40, 3), np.uint8))
    wanted = np.asarray(image.resize((16, 16), resample))
    for given in (resample, (resample, Image.Resampling.NEAREST), int(resample)):
        assert np.array_equal(Resize(16, "squish", "zeros", given)(image, None), wanted)
    whole = image.resize((24, 24), resample).crop((4, 4, 20, 20))
    assert np.array_equal(RandomResizedCrop(16, 0.1, (3 / 4, 4 / 3), resample, 0.14, 1.0)(image, None), whole)


def test_a_resampling_that_pillow_does_not_know_raises():
    for given in ("bicubic", 17, ()):
        with pytest.raises(ValueError, match="`resamples` must be one or two of .*BICUBIC.* Received: resamples="):
            Resize(16, resamples=given)


THIN = [(8000, 2), (2, 8000), (1, 1_000_000), (1_000_000, 1)]


@pytest.mark.parametrize("size", THIN)
@pytest.mark.parametrize("rng", [None, random.Random(0)])
def test_the_work_for_long_thin_images_is_bounded(size, rng):
    transforms = [Resize(64, method) for method in ("crop", "pad", "squish")]
    transforms += [RandomCrop(64), CropPad(64), RandomResizedCrop(64), RatioResize(64)]
    transforms += [Resize(64, "squish", resamples=Image.Resampling.BICUBIC)]
    image = Image.new("RGB", size, "red")
    for transform in transforms:
        tracemalloc.start()
        made = transform(image, rng)
        assert made.size == (64, 64) or isinstance(transform, RatioResize)
        most = 16 * 3 * max(size[0] * size[1], 64 * 64)
        assert tracemalloc.get_traced_memory()[1] < most
        tracemalloc.stop()
        prepared = transform.prepare(image)
        assert prepared.width * prepared.height <= 4 * max(size[0] * size[1], 64 * 64)


def test_a_thin_image_gives_the_part_that_scaling_first_would_give():
    pixels = np.repeat(np.arange(100, dtype=np.uint8)[None, :, None] * 2, 2, axis=0).repeat(3, axis=2)
    made = np.asarray(Resize(8)(Image.fromarray(pixels), None))
    assert made.shape == (8, 8, 3)
    assert abs(made.mean() - pixels[:, 49:51].mean()) < 1.5  # the middle
    starts = {np.asarray(Resize(8)(Image.fromarray(pixels), random.Random(i))).mean() // 10 for i in range(40)}
    assert len(starts) > 10  # anywhere


def test_a_thin_image_is_cut_from_the_cache_as_from_the_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3000, 3), np.uint8)
    for tfm in (Resize(8), RandomCrop(8)):
        data = ItemDataset([Image.fromarray(pixels)] * 3, lambda image: image, ItemPipeline(tfm), cache=True)
        data.open_store()
        keys = [(0, 4), (1, 4), (2, None)]
        first = data.fetch(keys)
        data.keep(first.fresh)
        assert torch.equal(data.fetch(keys).x, first.x) and first.x.shape == (3, 3, 8, 8)
        assert torch.equal(first.x[0], data[0, 4])
