"""Image modes x orientations x formats x ways in: the pixels are always those that NumPy computes from the values."""

import io
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch import nn

from minilearner import Learner
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.item_dataset import ItemDataset
from minilearner.vision.image_block import ImageBlock, PILImage, as_image
from minilearner.vision.image_loaders import ImageDataLoaders
from minilearner.vision.images import image_size, open_image, verify_images

SHAPE = (5, 7)

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def stored(mode, rng):
    """Returns an image in a mode, and the sRGB pixels (5, 7, 3) that it shows on white, computed without Pillow."""
    grey = rng.integers(0, 256, SHAPE)
    colour = rng.integers(0, 256, (*SHAPE, 3))
    alpha = rng.integers(0, 256, (*SHAPE, 1))
    light = np.repeat(grey[..., None], 3, axis=2)

    def image(values, as_mode=None):
        values = np.ascontiguousarray(values.astype(np.uint8))
        return Image.frombytes(as_mode or mode, values.shape[1::-1], values.tobytes())

    def on_white(values):
        return values * (alpha / 255) + 255 * (1 - alpha / 255)

    match mode:
        case "L":
            return image(grey), light
        case "RGB":
            return image(colour), colour
        case "LA":
            return image(np.concatenate([grey[..., None], alpha], 2)), on_white(light)
        case "RGBA":
            return image(np.concatenate([colour, alpha], 2)), on_white(colour)
        case "1":
            return Image.fromarray(grey > 127), np.where(light > 127, 255, 0)
        case "I":
            return Image.fromarray(grey.astype(np.int32)), light
        case "I;16":
            wide = rng.integers(0, 65536, SHAPE)
            wide[0, 0] = 65535
            return Image.fromarray(wide.astype(np.uint16)), np.repeat(wide[..., None] / 257, 3, axis=2)
        case "P":
            palette = rng.integers(0, 256, (256, 3))
            indices = image(grey)
            indices.putpalette(palette.astype(np.uint8).tobytes())
            return indices, palette[grey]
        case "CMYK":
            inks = np.concatenate([colour, alpha], 2)
            return image(inks), (255 - colour) * (255 - alpha) / 255


FORMATS = {
    "png": ("1", "L", "LA", "RGB", "RGBA", "P", "I;16"),
    "tif": ("1", "L", "LA", "RGB", "RGBA", "P", "I;16", "I", "CMYK"),
    "webp": ("RGB", "RGBA"),
}


def load(path):
    image = Image.open(path)
    image.load()
    return image


def ask_for_exif(path):
    image = Image.open(path)
    image.getexif()
    return image


SOURCES = {
    "text": str,
    "path": Path,
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "stream": lambda path: io.BytesIO(path.read_bytes()),
    "opened": Image.open,
    "loaded": load,
    "copied": lambda path: Image.open(path).copy(),
    "asked": ask_for_exif,
    "created": PILImage.create,
    "created from opened": lambda path: PILImage.create(Image.open(path)),
    "created twice": lambda path: PILImage.create(PILImage.create(path)),
    "turned by Pillow": lambda path: ImageOps.exif_transpose(Image.open(path)),
}

PILLOW_DECODES = ("loaded", "copied", "turned by Pillow")
"""Sources whose TIFFs Pillow 13 itself mixes up, in some modes, if they have to be turned by a quarter."""

READERS = {
    "as_image": as_image,
    "create": PILImage.create,
    "block": ImageBlock().read,
    "block, reduced": lambda source: ImageBlock().read_reduced(source, (3, 3)),
    "dataset": lambda source: ItemDataset([source], ImageBlock().read)[0, None].permute(1, 2, 0).numpy(),
    "own reader": lambda source: ItemDataset([source], PILImage.create)[0, None].permute(1, 2, 0).numpy(),
}


@contextmanager
def written(form, mode, orientation, seed):
    """Yields the path of an image file, and its pixels as they shall be seen before they are turned."""
    image, shown = stored(mode, np.random.default_rng(seed))
    exif = Image.Exif()
    exif[0x0112] = orientation
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"image.{form}"
        image.save(path, exif=exif, **({"lossless": True, "exact": True} if form == "webp" else {}))
        yield path, shown


@settings(max_examples=400, deadline=None)
@given(
    kind=st.sampled_from([(form, mode) for form, modes in FORMATS.items() for mode in modes]),
    orientation=st.integers(1, 8),
    source=st.sampled_from(sorted(SOURCES)),
    reader=st.sampled_from(sorted(READERS)),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_pixels_are_right_whatever_way_an_image_comes_in(kind, orientation, source, reader, seed):
    form, mode = kind
    assume(form != "tif" or orientation < 5 or source not in PILLOW_DECODES)
    with written(form, mode, orientation, seed) as (path, shown):
        wanted = UPRIGHT[orientation](shown)
        assert image_size(path) == wanted.shape[1::-1] == verify_images([path]).sizes[0]
        got = np.asarray(READERS[reader](SOURCES[source](path))).astype(int)
        assert np.abs(got - wanted).max() <= 1.01


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from([(form, mode) for form, modes in FORMATS.items() for mode in modes if mode != "CMYK"]),
    orientation=st.integers(1, 8),
    opened=st.sampled_from(["opened", "loaded", "copied", "asked", "turned by Pillow"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_an_image_from_ones_own_reader_is_upright_and_never_shows_a_palettes_numbers(kind, orientation, opened, seed):
    form, mode = kind
    assume(form != "tif" or orientation < 5 or opened not in PILLOW_DECODES)
    with written(form, mode, orientation, seed) as (path, shown):
        got = ItemDataset([path], SOURCES[opened])[0, None].permute(1, 2, 0).numpy().astype(float)
    if got.shape[2] in (2, 4):
        got = got[..., :-1] * (got[..., -1:] / 255) + 255 * (1 - got[..., -1:] / 255)
    assert np.abs(got - UPRIGHT[orientation](shown)).max() <= 1.01


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """Returns loaders of plain images, and the path of a photo to be turned, with its upright pixels."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"p{i}.png")
    values = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = folder / "turned.tif"
    Image.fromarray(values).save(path, exif=exif)
    dls = ImageDataLoaders.from_lists(folder, sorted(folder.glob("p*.png")), list("abababab"), bs=2, num_workers=0)
    return dls, path, np.rot90(values, -1)


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_predict_and_test_dl_show_the_model_the_upright_image(photo, source):
    dls, path, upright = photo
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
    item = SOURCES[source](path)
    for _ in range(2):
        x, _ = next(iter(dls.test_dl([item])))
        assert np.array_equal((x[0] * 255).round().permute(1, 2, 0).numpy(), upright)
        assert np.allclose(learn.predict(item)[2], learn.predict(upright.copy())[2])


@pytest.mark.parametrize("source", ["opened", "loaded", "copied", "created"])
def test_loaders_of_arrays_turn_images_too(photo, source):
    _, path, upright = photo
    x = np.zeros((4, 3, 8, 8), np.uint8)
    dls = DataLoaders.from_arrays((x, [0, 1, 0, 1]), bs=2)
    got, _ = next(iter(dls.test_dl([SOURCES[source](path)])))
    assert np.array_equal((got[0] * 255).round().permute(1, 2, 0).numpy(), upright)


def test_an_epoch_a_second_epoch_from_the_cache_and_show_batch_show_upright_images(photo, tmp_path):
    _, path, upright = photo
    how = {"valid_pct": 0, "bs": 4, "shuffle": False, "num_workers": 0, "cache": tmp_path}
    for _ in range(2):  # the second time from a kept cache
        dls = ImageDataLoaders.from_lists(path.parent, [path] * 4, list("abab"), **how)
        for _ in range(2):
            x, _ = next(iter(dls.train))
            assert np.array_equal((x[0] * 255).round().permute(1, 2, 0).numpy(), upright)
    shown = np.asarray(dls.show_batch().axes[0].images[0].get_array())
    assert np.allclose(shown * 255, upright, atol=1e-3)
    assert os.listdir(tmp_path)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_an_opened_image_is_the_same_in_every_mode(photo, mode):
    _, path, upright = photo
    wanted = Image.fromarray(upright).convert(mode)
    assert np.array_equal(open_image(path, mode), wanted)
    assert np.array_equal(as_image(Image.open(path), mode), wanted)
