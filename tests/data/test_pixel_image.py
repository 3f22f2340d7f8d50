import copy
import gc
import pickle

import numpy as np
import pytest
from PIL import Image, ImageDraw

from minilearner.data.image_modes import as_input_image
from minilearner.data.pixel_image import PixelImage, pack_pixels, view_pixels

MODES = {"L": (5, 7), "RGB": (5, 7, 3), "RGBA": (5, 7, 4)}


def noise(mode):
    return np.random.default_rng(0).integers(0, 256, MODES[mode], dtype=np.uint8)


@pytest.mark.parametrize("mode", MODES)
def test_a_view_has_the_pixels_of_the_image(mode):
    pixels = noise(mode)
    np.testing.assert_array_equal(pack_pixels(view_pixels(Image.fromarray(pixels)), mode), pixels)


def test_a_view_of_rgb_is_the_memory_of_the_image():
    image = Image.fromarray(noise("RGB"))
    view = view_pixels(image)
    image.putpixel((2, 1), (1, 2, 3))
    is_shared = view[1, 2, :3].tolist() == [1, 2, 3]
    assert is_shared == hasattr(image, "__arrow_c_array__")  # since Pillow 11.2


def test_a_view_outlives_its_image():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    view = view_pixels(Image.fromarray(pixels))
    gc.collect()
    others = [Image.new("RGB", (400, 300)) for _ in range(20)]  # would take the memory if it were free
    np.testing.assert_array_equal(view[..., :3], pixels)
    assert len(others) == 20


def test_an_image_in_several_pieces_of_memory_is_copied():
    image = Image.new("RGB", (2500, 2000), (1, 2, 3))  # 20 MB, and Pillow's pieces have 16
    view = view_pixels(image)
    assert view.shape[:2] == (2000, 2500)
    assert view[1999, 2499, :3].tolist() == [1, 2, 3]


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_an_array_is_the_array_until_pillow_needs_it(mode):
    pixels = noise(mode)
    image = PixelImage(pixels, mode)
    seen = np.asarray(image)
    assert np.shares_memory(seen, pixels)
    assert not seen.flags.writeable
    assert (image.mode, image.size) == (mode, (7, 5))


@pytest.mark.parametrize(
    "use",
    [
        lambda image: image.crop((1, 1, 4, 3)),
        lambda image: image.resize((9, 9)),
        lambda image: image.convert("RGBA"),
        lambda image: image.transpose(Image.Transpose.ROTATE_90),
        lambda image: image.copy(),
        copy.deepcopy,
        lambda image: pickle.loads(pickle.dumps(image)),
        lambda image: Image.blend(image, image, 0.5),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_pillow_treats_it_as_any_image(use, mode):
    pixels = noise(mode)
    got, expected = use(PixelImage(pixels, mode)), use(Image.fromarray(pixels))
    np.testing.assert_array_equal(np.asarray(got), np.asarray(expected))
    assert (got.mode, got.size) == (expected.mode, expected.size)


@pytest.mark.parametrize("mode", MODES)
def test_drawing_changes_the_image_and_not_the_array(mode):
    pixels = noise(mode)
    before, image = pixels.copy(), PixelImage(pixels, mode)
    seen = np.asarray(image)
    ImageDraw.Draw(image).point((2, 1), fill="white")
    image.putpixel((3, 1), 0 if mode == "L" else (0, 0, 0))
    image.load()[4, 1] = 0 if mode == "L" else (0, 0, 0)
    assert np.asarray(image)[1, 2].min() == 255
    assert np.asarray(image)[1, 3:5].flatten()[:3].max() == 0
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(seen, before)


def test_it_is_an_input_as_it_is():
    image = PixelImage(noise("RGB"), "RGB")
    assert as_input_image(image) is image
