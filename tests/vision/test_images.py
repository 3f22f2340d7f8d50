import io
import os
import re
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from minilearner.data import image_modes
from minilearner.data.image_modes import as_mode
from minilearner.errors import DataError, FileFormatError
from minilearner.vision.image_block import as_image
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
    """Returns the paths of a good file, one damaged in the middle, an empty one, a text and a missing file."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8))
    image.save(tmp_path / "good.jpg")
    image.save(tmp_path / "cut.jpg", format="PNG")
    data = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2] + data[-12:])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    return [tmp_path / f"{name}.jpg" for name in ("good", "cut", "empty", "text", "missing")]


@pytest.mark.parametrize(
    ("which", "kind", "reason"),
    [
        (1, FileFormatError, "damaged or cut short"),
        (2, FileFormatError, "the file is empty"),
        (3, FileFormatError, "this is not an image .*12 bytes"),
        (4, DataError, "cannot be opened"),
    ],
)
def test_the_error_names_the_path_and_what_is_wrong(broken, which, kind, reason):
    with pytest.raises(kind, match=rf"{re.escape(str(broken[which]))}.*{reason}"):
        open_image(broken[which])


def test_verifying_headers_finds_non_images_and_decoding_finds_damaged_files(broken):
    headers = verify_images(broken, "headers", on_unreadable="skip")
    assert headers.readable == broken[:2] and len(headers.unreadable) == 3
    decoded = verify_images(broken, "decode", on_unreadable="skip", n_threads=2)
    assert decoded.readable == broken[:1]
    assert str(decoded).startswith("1 readable, 4 unreadable: ") and str(decoded).endswith("; ...")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif"])
def test_verifying_headers_finds_a_copy_that_was_interrupted(tmp_path, name):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    image.save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    assert verify_images([tmp_path / name], "headers").sizes == [(64, 64)]
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileFormatError, match=rf"{name}: the image is damaged or cut short"):
        verify_images([tmp_path / name], "headers", on_unreadable="raise")
    (tmp_path / name).write_bytes(whole + b"what a camera adds" * 10)
    assert verify_images([tmp_path / name], "headers").sizes == [(64, 64)]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.bmp", "a.webp", "a.tif"])
def test_verifying_returns_the_bad_files_as_a_list_to_delete(tmp_path, name):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    good, bad = tmp_path / f"good-{name}", tmp_path / name
    for path in (good, bad):
        image.save(path)
    assert verify_images([good, bad]) == []
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    failed = verify_images([good, bad])
    assert failed == [bad] and "cut short" in failed.unreadable[0][1]
    failed.map(Path.unlink)
    assert not bad.exists() and good.exists()


def test_verifying_raises_with_a_count_and_three_examples(broken):
    with pytest.raises(FileFormatError, match=r"4 of 5 images cannot be read: .*cut.*empty.*text.*skip") as raised:
        verify_images(broken, "decode", on_unreadable="raise")
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


def png(width, height, depth, kind, rows, transparent=b""):
    """Returns a PNG made by hand, since Pillow writes only some depths."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    hidden = chunk(b"tRNS", transparent) if transparent else b""
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + hidden + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def tiff(bits, photometric, data, width, height, sample_format=1):
    """Returns a TIFF made by hand, since Pillow writes only some depths."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 278: height, 279: len(data)}
    tags[277] = 3 if photometric == 2 else 1
    tags[339] = sample_format
    data += b"\0" * (len(data) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("data", "grey"),
    [
        (png(2, 1, 1, 0, b"\0\x40", b"\0\0"), [255, 255]),
        (png(2, 1, 1, 0, b"\0\x40", b"\0\1"), [0, 255]),
        (png(4, 1, 2, 0, b"\0\x1b", b"\0\1"), [0, 255, 170, 255]),
        (png(2, 1, 4, 0, b"\0\x3a", b"\0\3"), [255, 170]),
        (png(4, 1, 8, 0, bytes([0, 0, 100, 200, 255]), b"\0\x64"), [0, 255, 200, 255]),
        (png(3, 1, 16, 0, b"\0" + struct.pack(">3H", 1000, 1001, 65535), struct.pack(">H", 1000)), [255, 4, 255]),
    ],
)
def test_the_transparent_grey_of_a_png_is_white_at_every_depth(data, grey):
    assert np.asarray(open_image(io.BytesIO(data), "L")).tolist() == [grey]
    alpha = np.asarray(open_image(io.BytesIO(data), "RGBA"))[0, :, 3].tolist()
    assert alpha.count(0) == 1 and alpha.count(255) == len(grey) - 1


@pytest.mark.parametrize("first", [(1, 2, 3), (1000, 2000, 3000), (10, 20, 200)])
def test_the_transparent_colour_of_a_png_is_white(first):
    depth = 8 if first == (1, 2, 3) else 16
    values = [*first, 40, 50, 60] if depth == 8 else [*first, 10280, 12850, 15420]
    rows = b"\0" + (bytes(values) if depth == 8 else struct.pack(">6H", *values))
    data = png(2, 1, depth, 2, rows, struct.pack(">3H", *first))
    assert np.asarray(open_image(io.BytesIO(data))).tolist() == [[[255] * 3, [40, 50, 60]]]


@pytest.mark.parametrize(
    ("data", "grey"),
    [
        (tiff(16, 1, struct.pack("<3H", 0, 40000, 65535), 3, 1), [0, 156, 255]),
        (tiff(16, 0, struct.pack("<3H", 0, 40000, 65535), 3, 1), [255, 99, 0]),  # 0 is white
        (tiff(12, 1, bytes([0x00, 0x08, 0x00, 0xFF, 0xF0, 0x00]), 4, 1), [0, 128, 255, 0]),
        (tiff(32, 1, struct.pack("<3I", 0, 10, 255), 3, 1), [0, 10, 255]),
        (b"P5 2 1 65535\n" + struct.pack(">2H", 20000, 65535), [78, 255]),
        (b"P5 2 1 4095\n" + struct.pack(">2H", 2048, 4095), [128, 255]),
    ],
)
def test_wide_grey_is_scaled_by_the_depth_of_its_file(data, grey):
    assert np.asarray(open_image(io.BytesIO(data), "L")).tolist() == [grey]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(16, 1, struct.pack("<2h", -5, 400), 2, 1, 2), "32-bit integers from -5 to 400 .*open_image.*'I'"),
        (tiff(32, 1, struct.pack("<2I", 0, 256), 2, 1), "32-bit integers from 0 to 256"),
        (tiff(32, 1, struct.pack("<2f", 0, 1), 2, 1, 3), "floats as pixels.*open_image.*'F'"),
        (tiff(16, 1, struct.pack("<2H", 0, 255), 2, 1), "16 bits per pixel, but its largest value is 255"),
    ],
)
def test_pixels_without_a_known_range_are_refused_by_name(tmp_path, data, reason):
    path = tmp_path / "wide.tif"
    path.write_bytes(data)
    pattern = reason.replace("'", '"')
    for mode in ("L", "RGB", "RGBA"):
        with pytest.raises(DataError, match=rf"wide\.tif: .*{pattern}"):
            open_image(path, mode)
    assert open_image(path, "F").getextrema()[1] in (400, 256, 1, 255)
    found = verify_images([path], "decode", on_unreadable="skip")
    assert re.search(pattern, found.unreadable[0][1])
    is_known_from_its_header = "16 bits" not in reason
    assert bool(verify_images([path], "headers").unreadable) == is_known_from_its_header


def test_sixteen_bits_that_are_nearly_black_cause_one_warning(monkeypatch):
    monkeypatch.setattr(image_modes, "_WARNED", threading.Event())
    data = tiff(16, 1, struct.pack("<2H", 0, 4000), 2, 1)
    with pytest.warns(UserWarning, match="no value above 4000 of 65535") as seen:
        assert np.asarray(open_image(io.BytesIO(data), "L")).tolist() == [[0, 16]]
        open_image(io.BytesIO(data), "L")
    assert len(seen) == 1


def png_of_colour(green):
    return png(1, 1, 16, 2, b"\0" + struct.pack(">3H", green, green, green))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_colour_that_are_nearly_black_cause_a_warning_that_names_the_file(
    tmp_path, monkeypatch, suffix
):
    monkeypatch.setattr(image_modes, "_WARNED", threading.Event())
    path = tmp_path / f"dim.{suffix}"
    path.write_bytes(png_of_colour(4095) if suffix == "png" else tiff(16, 2, struct.pack("<3H", 9, 4095, 9), 1, 1))
    with pytest.warns(UserWarning, match=rf"dim\.{suffix} has 16 bits per channel and no value above 4095 of 65535"):
        assert open_image(path).getpixel((0, 0))[1] == 15


@pytest.mark.parametrize("value", [0, 4096, 65535])
def test_sixteen_bits_of_colour_need_no_warning_if_they_are_bright_or_all_black(monkeypatch, value):
    monkeypatch.setattr(image_modes, "_WARNED", threading.Event())
    assert open_image(io.BytesIO(png_of_colour(value))).getpixel((0, 0))[1] == value >> 8


@pytest.mark.parametrize("mode", ["LAB", "CMYK", "HSV", "YCbCr", "RGBX"])
def test_colour_spaces_show_their_colours_in_every_mode(tmp_path, mode):
    rgb = np.array([[[200, 10, 30], [0, 128, 0], [128, 128, 128]]], np.uint8)
    source = Image.fromarray(rgb)
    if mode == "LAB":
        source = ImageCms.profileToProfile(
            source, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    else:
        source = source.convert(mode)
    grey = rgb @ np.array([0.299, 0.587, 0.114])
    assert np.abs(np.asarray(as_mode(source, "RGB")).astype(int) - rgb).max() <= 5
    assert np.abs(np.asarray(as_mode(source, "L")) - grey).max() <= 5
    assert np.asarray(as_mode(source, "RGBA"))[..., 3].min() == 255


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_what_never_ends_is_refused_and_not_waited_for(tmp_path, make):
    path = tmp_path / "x.jpg"
    make(path)
    for read in (open_image, image_size):
        with pytest.raises(FileFormatError, match=r"x\.jpg: it is a (named pipe|device), not a file"):
            read(path)
    assert "not a file" in verify_images([path], on_unreadable="skip").unreadable[0][1]


def test_an_image_beyond_pillows_limit_is_reported_with_the_way_to_allow_it(tmp_path, monkeypatch):
    Image.new("L", (20, 20)).save(tmp_path / "scan.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for read in (open_image, image_size, lambda path: as_image(path.read_bytes())):
        with pytest.raises(DataError, match=r"larger than Pillow allows .*400 pixels.*MAX_IMAGE_PIXELS = None"):
            read(tmp_path / "scan.png")
    assert "MAX_IMAGE_PIXELS" in verify_images([tmp_path / "scan.png"], on_unreadable="skip").unreadable[0][1]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert open_image(tmp_path / "scan.png").size == (20, 20)


def test_a_long_text_in_a_png_is_not_called_damage(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("note", "x" * 3_000_000, zip=True)
    Image.new("L", (2, 2)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(DataError, match=r"a\.png: a text in the PNG is longer than Pillow allows.*MAX_TEXT_CHUNK"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"\0\0\0\x18ftypheic", "It is HEIC: run `pip install 'minilearner[heif]'`"),
        (b"\0\0\0\x0cJXL \r\n", "It is JPEG XL: run `pip install pillow-jxl-plugin`"),
        (b"<!DOCTYPE html><html>", "text that begins with '<!DOCTYPE html><html'"),
    ],
)
def test_what_is_no_image_for_pillow_is_named_with_the_way_to_read_it(tmp_path, head, message):
    (tmp_path / "a.jpg").write_bytes(head + bytes(20))
    with pytest.raises(FileFormatError, match=rf"a\.jpg: .*{re.escape(message)}"):
        open_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("mode", ["L", "I;16", "RGBA", "CMYK", "P"])
def test_a_tiff_that_pillow_would_map_into_memory_is_turned_right(tmp_path, mode, orientation):
    values = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
    source = Image.fromarray(values)
    source = Image.fromarray(values.astype(np.uint16) * 257) if mode == "I;16" else source.convert(mode)
    source.save(tmp_path / "plain.tif")
    exif = Image.Exif()
    exif[0x0112] = orientation
    source.save(tmp_path / "turned.tif", exif=exif)
    how = [Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90]
    wanted = open_image(tmp_path / "plain.tif").transpose(how[orientation - 5])
    assert np.array_equal(open_image(tmp_path / "turned.tif"), wanted)
    assert np.array_equal(as_image(Image.open(tmp_path / "turned.tif")), wanted)
