"""Files, bytes, PIL images, arrays and tensors all become images."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from minilearner.errors import DataError, FileFormatError
from minilearner.vision.image_block import ImageBlock, PILImage, PILImageBW, PILMask, as_image
from minilearner.vision.images import open_image


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)


def test_every_kind_of_source_gives_the_same_image(pixels, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    sources = [path, str(path), path.read_bytes(), Image.open(path), pixels, pixels / 255, planes, planes / 255]
    for source in [*sources, planes.numpy()]:
        assert np.array_equal(as_image(source), pixels)


def test_grey_images_have_one_channel(pixels):
    assert as_image(pixels[:, :, :1]).mode == "RGB" and as_image(pixels[:, :, 0], "L").size == (7, 5)
    assert np.array_equal(as_image(torch.from_numpy(pixels[:, :, 0].copy()), "L"), pixels[:, :, 0])
    assert PILImageBW.create(pixels).mode == "L" and PILImage.create(pixels).mode == "RGB"


def test_orientation_is_applied_to_open_images(tmp_path):
    image = Image.new("RGB", (6, 4))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert as_image(Image.open(tmp_path / "a.jpg")).size == as_image(tmp_path / "a.jpg").size == (4, 6)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros((2, 5, 5)), DataError, r"1, 3 or 4 channels. Received: shape \(2, 5, 5\)"),
        (torch.zeros(5, 5, 5), DataError, r"Received: shape \(5, 5, 5\)"),
        (np.full((4, 4), 300), DataError, "from 0 to 255 or floats from 0 to 1. Received: int64 from 300 to 300"),
        (torch.full((3, 4, 4), -0.5), DataError, "Received: float32 from -0.5 to -0.5"),
        (np.full((4, 4), np.nan), DataError, "Received: float64 from nan"),
        (b"no image", FileFormatError, "this is not an image .*8 bytes"),
        (
            7,
            TypeError,
            "an image must be a path, an open file, bytes, a PIL image, an array or a tensor. Received: 7",
        ),
    ],
)
def test_a_source_that_is_not_an_image_raises(source, error, message):
    with pytest.raises(error, match=message):
        as_image(source)


def test_the_only_axis_that_can_be_channels_is_read_as_channels():
    array = np.arange(90, dtype=np.uint8).reshape(6, 5, 3)
    expected = as_image(array)
    for source in (array.transpose(2, 0, 1), torch.tensor(array), torch.tensor(array).permute(2, 0, 1)):
        assert as_image(source) == expected


def test_a_block_reads_in_its_mode_and_pickles(pixels):
    for cls, mode in [(PILImage, "RGB"), (PILImageBW, "L"), ("RGBA", "RGBA")]:
        block = pickle.loads(pickle.dumps(ImageBlock(cls)))
        assert block.mode == block.read(pixels).mode == mode
    assert ImageBlock() == ImageBlock(PILImage)


def test_a_class_of_another_kind_raises():
    with pytest.raises(ValueError, match="`cls` must be one of 'RGB', 'L', 'RGBA'. Received: cls='BGR'"):
        ImageBlock("BGR")
    with pytest.raises(TypeError, match="`cls` must be PILImage, PILImageBW or a mode"):
        ImageBlock(dict)


def test_an_open_file_is_an_image_too(pets):
    file = next(pets.glob("*.jpg"))
    held = io.BytesIO(file.read_bytes())
    for _ in range(2):  # it must be possible to read it again
        assert np.array_equal(as_image(held), as_image(file))
    with open(file, "rb") as opened:
        assert np.array_equal(open_image(opened), as_image(file))
    with pytest.raises(FileFormatError, match="a BytesIO: this is not an image .*4 bytes"):
        as_image(io.BytesIO(b"text"))


def test_a_pil_image_is_one_of_its_class_and_draws_itself(pets):
    file = sorted(pets.glob("*.jpg"))[0]
    image = PILImage.create(file)
    assert isinstance(image, PILImage) and image.shape == image.size[::-1]
    assert np.array_equal(image, as_image(file)) and isinstance(PILImageBW.create(image), PILImage)
    thumb = image.to_thumb(12)
    assert isinstance(thumb, PILImage) and max(thumb.size) == 12 and image.size != thumb.size
    for made in (image.crop((0, 0, 4, 4)), image.resize((5, 6)), image.convert("L"), image.copy()):
        assert isinstance(made, PILImage)
    assert repr(image) == f"PILImage mode=RGB size={image.width}x{image.height}"
    ax = image.show(title="a")
    assert ax.get_title() == "a" and PILMask.create(file).show(ctx=ax) is ax
    assert pickle.loads(pickle.dumps(image)).tobytes() == image.tobytes()


def test_creating_an_image_of_another_leaves_that_alone():
    plain = Image.new("RGB", (4, 4))
    made = PILImage.create(plain)
    made.putpixel((0, 0), (9, 9, 9))
    assert type(plain) is Image.Image and plain.getpixel((0, 0)) == (0, 0, 0)
