"""simplejpeg and imagecodecs themselves, which `.ci/extras` installs: whatever they decode has Pillow's bytes."""

import io
import pickle
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngInfo

from minilearner.data import fast_decoders
from minilearner.errors import DataError
from minilearner.vision.all import ImageDataLoaders, Resize, get_image_files, open_image

TURNED = Image.Exif()
TURNED[0x0112] = 6
KINDS = {
    "JPEG": [{"subsampling": n, "quality": quality} for n in range(3) for quality in (30, 95)]
    + [{"progressive": True}, {"exif": TURNED}, {"icc_profile": b"x" * 300}, {"restart_marker_rows": 2}],
    "PNG": [{}, {"exif": TURNED}, {"compress_level": 0}, {"icc_profile": b"x" * 50}],
    "WEBP": [{}, {"lossless": True}, {"exif": TURNED}, {"icc_profile": b"x" * 40}],
}
MODES = {"JPEG": ("L", "RGB"), "PNG": ("L", "RGB", "RGBA"), "WEBP": ("RGB",)}
PLAIN = [(form, mode, how) for form, modes in MODES.items() for mode in modes for how in KINDS[form]]


def make(form, mode, how, size=(150, 190)):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 4), dtype=np.uint8))
    file = io.BytesIO()
    noise.resize(size, Image.Resampling.BICUBIC).convert(mode).save(file, form, **how)
    return file.getvalue()


@pytest.fixture
def read(monkeypatch):
    """Returns a function of a file's bytes -> what `open_image` makes of it: with the fast decoders, or without."""

    def result(coded, fast, mode="RGB", reduce_to=None):
        with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            if not fast:
                patch.setattr(fast_decoders, "_find_decoder", lambda form: None)
            try:
                image = open_image(io.BytesIO(coded), mode, reduce_to=reduce_to)
            except DataError as e:
                return type(e), str(e), list(map(str, warned))
            seen = image.mode, image.size, image.format, image.info, dict(image.getexif())
            return np.asarray(image).tobytes(), seen, [str(one.message) for one in warned]

    return result


@pytest.mark.parametrize("form", fast_decoders._FORMATS.values(), ids=lambda form: form.decoded.__name__)
def test_each_decoder_is_installed_and_agrees_with_pillow(form):
    assert fast_decoders._find_decoder(form) is not None


@pytest.mark.parametrize(("form", "mode", "how"), PLAIN)
def test_a_plain_file_is_decoded_faster_to_the_same_bytes_and_facts(form, mode, how, read):
    coded = make(form, mode, how)
    with Image.open(io.BytesIO(coded)) as image:
        assert fast_decoders.decode_faster(image) is not None
    for wanted in ("L", "RGB", "RGBA"):
        for reduce_to in (None, (150, 190), (64, 64), (30, 20), (10, 10)):
            assert read(coded, True, wanted, reduce_to) == read(coded, False, wanted, reduce_to)


@pytest.mark.parametrize(
    ("form", "mode", "how"),
    [
        ("JPEG", "CMYK", {}),
        ("PNG", "LA", {}),
        ("PNG", "P", {}),
        ("PNG", "P", {"transparency": 7}),
        ("PNG", "RGB", {"transparency": (3, 4, 5)}),
        ("PNG", "1", {}),
        ("PNG", "I;16", {}),
        ("WEBP", "RGBA", {}),
        ("GIF", "RGB", {}),
    ],
)
def test_pillow_decodes_other_kinds(form, mode, how, read):
    if mode == "I;16":
        file = io.BytesIO()
        Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16).save(file, form)
        coded = file.getvalue()
    else:
        coded = make(form, mode, how)
    with Image.open(io.BytesIO(coded)) as image:
        assert fast_decoders.decode_faster(image) is None
    assert read(coded, True) == read(coded, False)


@pytest.mark.parametrize("subsampling", ["440", "411"])
def test_pillow_decodes_jpegs_with_rare_sampling(subsampling, read):
    from simplejpeg import encode_jpeg

    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    coded = encode_jpeg(pixels, colorsubsampling=subsampling)
    with Image.open(io.BytesIO(coded)) as image:
        assert fast_decoders.decode_faster(image) is None
    assert read(coded, True) == read(coded, False)


@pytest.mark.parametrize("transform", range(4))
def test_an_adobe_marker_means_the_same(transform, read):
    coded = make("JPEG", "RGB", {})
    marker = b"\xff\xee\x00\x0eAdobe\x00\x64\x80\x00\x00\x00" + bytes([transform])
    for marked in (coded[:2] + marker + coded[2:], coded[:2] + marker + coded[20:]):  # with JFIF, and without
        assert read(marked, True) == read(marked, False)


@pytest.mark.parametrize("form", KINDS)
@pytest.mark.parametrize("how", range(4))
def test_damaged_files_give_the_same_pixels_or_the_same_error(form, how, read):
    rng = random.Random(how)
    wholes = [make(form, mode, kind, (70, 50)) for mode in MODES[form] for kind in KINDS[form]]
    for _ in range(60):
        coded = bytearray(rng.choice(wholes))
        at = rng.randrange(len(coded))
        if how == 0:
            del coded[at:]
        elif how == 1:
            del coded[at : at + rng.choice((1, 2, 50))]
        else:
            coded[at if how == 2 else at % 700] = rng.randrange(256)
        damaged = mend_checksums(bytes(coded)) if form == "PNG" and rng.random() < 0.7 else bytes(coded)
        assert read(damaged, True) == read(damaged, False)


def mend_checksums(coded):
    """Returns a damaged PNG whose chunks have the right checksums again, so that the damage is found later."""
    at, mended = 8, coded[:8]
    while at + 12 <= len(coded):
        (length,) = struct.unpack_from(">I", coded, at)
        if at + 12 + length > len(coded):
            break
        chunk = coded[at : at + 8 + length]
        mended += chunk + struct.pack(">I", zlib.crc32(chunk[4:]))
        at += 12 + length
    return mended + coded[at:]


def test_truncated_files_are_read_if_pillow_may(read, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for form in ("JPEG", "PNG"):
        coded = make(form, "RGB", {})[:-3000]
        assert read(coded, True) == read(coded, False)
        assert isinstance(read(coded, True)[0], bytes)


def test_a_decoder_that_disagrees_is_not_used():
    form = fast_decoders._FORMATS[JpegImageFile]
    decode = fast_decoders._find_decoder(form)

    def find():
        return lambda coded, image: decode(coded, image) ^ 1

    wrong = fast_decoders._Format(find, form.is_plain, form.decoded, form.probes)
    assert fast_decoders._find_decoder(wrong) is None


@pytest.mark.parametrize("form", KINDS)
def test_the_image_knows_its_file_and_pillow_treats_it_as_its_own(form, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(make(form, "RGB", {}))
    image = open_image(path)
    with Image.open(path) as expected:
        assert isinstance(image, type(expected))
        assert image.filename == expected.filename
        for use in (
            lambda image: image.crop((1, 1, 40, 30)),
            lambda image: image.convert("L"),
            lambda image: image.resize((9, 9)),
            lambda image: image.copy(),
            lambda image: pickle.loads(pickle.dumps(image)),
        ):
            np.testing.assert_array_equal(np.asarray(use(open_image(path))), np.asarray(use(expected)))
    image.putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize("form", KINDS)
def test_batches_of_the_first_epoch_and_from_the_cache_have_the_same_bits(form, tmp_path, monkeypatch):
    for i in range(8):
        (tmp_path / f"{'ab'[i % 2]}{i}.{form.lower()}").write_bytes(make(form, "RGB", {}, (60 + i, 50)))

    def batches():
        how = {"valid_pct": 0.25, "seed": 1, "bs": 2, "item_tfms": Resize(32), "num_workers": 0, "device": "cpu"}
        dls = ImageDataLoaders.from_name_func(tmp_path, get_image_files(tmp_path), lambda name: name[0], **how)
        return [x.numpy().tobytes() for _ in range(2) for x, _ in dls.train]

    fast = batches()
    monkeypatch.setattr(fast_decoders, "_find_decoder", lambda form: None)
    assert fast == batches()


def test_the_texts_of_a_png_are_known():
    texts, file = PngInfo(), io.BytesIO()
    texts.add_text("Author", "Ada")
    Image.new("RGB", (20, 20)).save(file, "PNG", pnginfo=texts)
    image = open_image(file)
    assert isinstance(image, fast_decoders.PngPixels) and image.text == {"Author": "Ada"}
