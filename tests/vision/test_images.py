import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from minilearner.errors import DataError, FileFormatError
from minilearner.vision.images import image_size, open_image, verify_images


@pytest.fixture
def corner():
    """Returns a red image, 12 wide and 8 high, with a blue square in the upper left corner."""
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[..., 0] = 255
    pixels[:4, :4] = (0, 0, 255)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_every_exif_orientation_comes_out_upright(corner, tmp_path, orientation, ending):
    T = Image.Transpose
    stored = [
        None,
        T.FLIP_LEFT_RIGHT,
        T.ROTATE_180,
        T.FLIP_TOP_BOTTOM,
        T.TRANSPOSE,
        T.ROTATE_90,
        T.TRANSVERSE,
        T.ROTATE_270,
    ]
    turned = corner if orientation == 1 else corner.transpose(stored[orientation - 1])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{ending}"
    turned.save(path, exif=exif)
    assert np.array_equal(open_image(path), corner)
    assert image_size(path) == (12, 8)


def test_damaged_exif_does_not_affect_the_pixels(corner, tmp_path):
    corner.save(tmp_path / "a.jpg", exif=b"Exif\x00\x00not a tiff header")
    assert open_image(tmp_path / "a.jpg").size == (12, 8)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    grey = np.array([[0, 257, 32896, 65535]], np.uint16)
    for ending in ("png", "tiff"):
        Image.fromarray(grey).save(tmp_path / f"grey.{ending}")
        assert np.asarray(open_image(tmp_path / f"grey.{ending}", "L")).tolist() == [[0, 1, 128, 255]]
        assert np.asarray(open_image(tmp_path / f"grey.{ending}"))[0, 2].tolist() == [128] * 3


def test_transparent_parts_become_white_and_semitransparent_ones_are_blended(tmp_path):
    pixels = np.array([[[255, 0, 0, 255], [0, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png")).tolist() == [[[255, 0, 0], [255] * 3, [127] * 3]]
    assert np.asarray(open_image(tmp_path / "a.png", "L")).tolist() == [[76, 255, 127]]
    assert np.array_equal(open_image(tmp_path / "a.png", "RGBA"), pixels)


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_a_transparent_palette_entry_becomes_white(tmp_path, ending):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    image.save(tmp_path / f"p.{ending}", transparency=0)
    assert np.asarray(open_image(tmp_path / f"p.{ending}")).tolist() == [[[255] * 3, [200, 100, 50]]]


def test_a_palette_with_graded_transparency_is_blended(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.putdata([0, 1])
    image.save(tmp_path / "p.png", transparency=bytes([0, 255]))
    assert np.asarray(open_image(tmp_path / "p.png")).tolist() == [[[255] * 3, [200, 100, 50]]]


def test_a_cmyk_jpeg_keeps_its_colours(corner, tmp_path):
    corner.convert("CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0)
    got = np.asarray(open_image(tmp_path / "a.jpg")).astype(int)
    assert np.abs(got - np.asarray(corner)).max() < 12


@pytest.mark.parametrize("mode", ["L", "1", "LA", "YCbCr", "I;16"])
def test_other_modes_give_three_channels(tmp_path, mode):
    source = Image.new("L", (3, 2), 255)
    image = Image.fromarray(np.full((2, 3), 65535, np.uint16)) if mode == "I;16" else source.convert(mode)
    image.save(tmp_path / "a.tiff")
    got = open_image(tmp_path / "a.tiff")
    assert got.mode == "RGB" and np.asarray(got).min() == 255


def test_float_pixels_raise(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match=r"a\.tiff: .*floats as pixels"):
        open_image(tmp_path / "a.tiff")


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def test_a_jpeg_is_decoded_smaller_but_never_below_what_is_needed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: upright, it is 400 wide and 300 high
    Image.new("RGB", (300, 400)).save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == (400, 300)
    assert open_image(tmp_path / "a.jpg", reduce_to=(200, 150)).size == (200, 150)
    assert open_image(tmp_path / "a.jpg", reduce_to=(201, 10)).size == (400, 300)
    assert open_image(tmp_path / "a.jpg", reduce_to=(60, 60)).size == (100, 75)


@pytest.fixture
def broken(tmp_path):
    """Returns the paths of a good, a truncated, an empty, a text and a missing file."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "good.jpg")
    data = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    return [tmp_path / f"{name}.jpg" for name in ("good", "cut", "empty", "text", "missing")]


@pytest.mark.parametrize(
    ("which", "kind", "reason"),
    [
        (1, FileFormatError, "damaged or cut short"),
        (2, FileFormatError, "the file is empty"),
        (3, FileFormatError, "12 bytes are not an image"),
        (4, DataError, "cannot be opened"),
    ],
)
def test_the_error_names_the_path_and_what_is_wrong(broken, which, kind, reason):
    with pytest.raises(kind, match=rf"{re.escape(str(broken[which]))}.*{reason}") as raised:
        open_image(broken[which])
    assert raised.value.__cause__ is not None


def test_verifying_headers_finds_non_images_and_decoding_finds_truncated_files(broken):
    headers = verify_images(broken, "headers", on_unreadable="skip")
    assert headers.readable == broken[:2] and len(headers.unreadable) == 3
    decoded = verify_images(broken, "decode", on_unreadable="skip", n_threads=2)
    assert decoded.readable == broken[:1]
    assert str(decoded).startswith("1 readable, 4 unreadable: ") and str(decoded).endswith("; ...")


def test_verifying_raises_with_a_count_and_three_examples(broken):
    with pytest.raises(FileFormatError, match=r"4 of 5 images cannot be read: .*cut.*empty.*text.*skip") as raised:
        verify_images(broken, "decode")
    assert "missing.jpg" not in str(raised.value)


def test_verify_checks_its_arguments(broken):
    with pytest.raises(ValueError, match=r"`how` must be one of 'headers', 'decode'. Did you mean 'headers'\?"):
        verify_images(broken, "header")
    with pytest.raises(ValueError, match="`on_unreadable`"):
        verify_images(broken, on_unreadable="ignore")
    with pytest.raises(ValueError, match="`n_threads` must be at least 1"):
        verify_images(broken, n_threads=0)


MEANWHILE = """
import linecache, sys, threading, time
import PIL.Image
from minilearner.runtime import map_in_threads
from minilearner.vision.images import open_image

begun = []

def lets_the_other_go_ahead(frame, event, _):
    if frame.f_code.co_name != "open" or frame.f_code.co_filename != PIL.Image.__file__:
        return None
    if ".copy()" in linecache.getline(frame.f_code.co_filename, frame.f_lineno):  # the formats it knows so far
        begun.append(threading.get_ident())
        time.sleep(0.3 if begun[0] != begun[-1] else 0)
    return lets_the_other_go_ahead

threading.settrace(lets_the_other_go_ahead)
map_in_threads(open_image, sys.argv[1:] * 2, 2)
assert len(set(begun)) == 2
"""


def test_a_rare_format_is_identified_while_another_thread_loads_it(corner, tmp_path):
    corner.save(tmp_path / "a.webp", lossless=True)
    (tmp_path / "a.webp").rename(tmp_path / "a.jpg")  # so Pillow tries all its formats
    done = subprocess.run([sys.executable, "-c", MEANWHILE, str(tmp_path / "a.jpg")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
