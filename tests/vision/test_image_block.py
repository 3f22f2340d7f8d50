"""Whatever is a picture becomes one: files, bytes, PIL pictures, arrays and tensors."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from minilearner.errors import DataError, FileFormatError
from minilearner.vision.image_block import ImageBlock, PILImage, PILImageBW, as_picture
from minilearner.vision.images import open_image


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)


def test_every_kind_of_source_gives_the_same_picture(pixels, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    sources = [path, str(path), path.read_bytes(), Image.open(path), pixels, pixels / 255, planes, planes / 255]
    for source in [*sources, planes.numpy()]:
        assert np.array_equal(as_picture(source), pixels)


def test_grey_pictures_have_one_channel(pixels):
    assert as_picture(pixels[:, :, :1]).mode == "RGB" and as_picture(pixels[:, :, 0], "L").size == (7, 5)
    assert np.array_equal(as_picture(torch.from_numpy(pixels[:, :, 0].copy()), "L"), pixels[:, :, 0])
    assert PILImageBW.create(pixels).mode == "L" and PILImage.create(pixels).mode == "RGB"


def test_orientation_is_applied_to_pictures_that_are_open(tmp_path):
    image = Image.new("RGB", (6, 4))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert as_picture(Image.open(tmp_path / "a.jpg")).size == as_picture(tmp_path / "a.jpg").size == (4, 6)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros((2, 5, 5)), DataError, r"1, 3 or 4 channels. Received: shape \(2, 5, 5\)"),
        (torch.zeros(5, 5, 3), DataError, r"Received: shape \(5, 5, 3\)"),
        (np.full((4, 4), 300), DataError, "from 0 to 255 or floats from 0 to 1. Received: int64 from 300 to 300"),
        (torch.full((3, 4, 4), -0.5), DataError, "Received: float32 from -0.5 to -0.5"),
        (np.full((4, 4), np.nan), DataError, "Received: float64 from nan"),
        (b"no picture", FileFormatError, "10 bytes are no picture"),
        (
            7,
            TypeError,
            "a picture must be a path, an open file, bytes, a PIL picture, an array or a tensor. Received: 7",
        ),
    ],
)
def test_what_is_no_picture_is_told(source, error, message):
    with pytest.raises(error, match=message):
        as_picture(source)


def test_a_block_reads_in_its_mode_and_pickles(pixels):
    for cls, mode in [(PILImage, "RGB"), (PILImageBW, "L"), ("RGBA", "RGBA")]:
        block = pickle.loads(pickle.dumps(ImageBlock(cls)))
        assert block.mode == block.read(pixels).mode == mode
    assert ImageBlock() == ImageBlock(PILImage)


def test_another_class_is_refused():
    with pytest.raises(ValueError, match="`cls` must be one of 'RGB', 'L', 'RGBA'. Received: cls='BGR'"):
        ImageBlock("BGR")
    with pytest.raises(TypeError, match="`cls` must be PILImage, PILImageBW or a mode"):
        ImageBlock(dict)


def test_an_open_file_is_a_picture_too(pets):
    file = next(pets.glob("*.jpg"))
    held = io.BytesIO(file.read_bytes())
    for _ in range(2):  # it can be read again
        assert np.array_equal(as_picture(held), as_picture(file))
    with open(file, "rb") as opened:
        assert np.array_equal(open_image(opened), as_picture(file))
    with pytest.raises(FileFormatError, match="a BytesIO: the 4 bytes are not a picture"):
        as_picture(io.BytesIO(b"text"))
