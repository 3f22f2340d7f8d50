import csv

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from minilearner import DataLoaders, find_image_problems
from minilearner.errors import DataError
from minilearner.vision.all import ImageDataLoaders, Resize
from minilearner.vision.fingerprints import find_similar, take_fingerprint


def draw(seed, size=(60, 48)):
    """Returns an image of a few soft shapes, as photos have them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (5, 5, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """Twelve different images in two sets and two classes."""
    for i in range(12):
        path = tmp_path / ("valid" if i % 4 == 3 else "train") / ("cat" if i % 2 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(i).save(path)
    return tmp_path


def kinds_of(found):
    return {(row.path.rsplit("/", 1)[-1], row.kind) for row in found}


def test_good_images_have_no_problems(folder):
    found = find_image_problems(folder)
    assert len(found) == 0 and found.n_images == 12
    assert str(found) == "0 of 12 images have problems"


def test_odd_images_are_found(folder):
    Image.new("RGB", (60, 48), (200, 3, 9)).save(folder / "train/cat/blank.png")
    draw(20, (5, 60)).save(folder / "train/cat/thin.png")
    draw(21, (200, 50)).save(folder / "train/cat/long.png")
    draw(22).point(lambda v: v // 10).save(folder / "train/cat/dark.png")
    draw(23).point(lambda v: 225 + v // 9).save(folder / "train/cat/bright.png")
    (folder / "train/cat/broken.jpg").write_bytes(b"no image")
    found = find_image_problems(folder)
    assert kinds_of(found) == {
        ("blank.png", "blank"),
        ("thin.png", "tiny"),
        ("thin.png", "long"),
        ("long.png", "long"),
        ("dark.png", "dark"),
        ("bright.png", "bright"),
        ("broken.jpg", "unreadable"),
    }
    assert found.counts["long"] == 2
    assert found[0].text == "this is not an image in a format that Pillow knows (8 bytes)."
    assert all(0 <= row.suspicion <= 1 for row in found)


def test_panoramas_are_not_odd_among_panoramas(tmp_path):
    for i in range(6):
        draw(i, (400, 100)).save(tmp_path / f"{i}.png")
    assert len(find_image_problems(tmp_path)) == 0


def test_duplicates_across_the_sets_name_the_training_item(folder):
    (folder / "train/dog/copy.png").write_bytes((folder / "valid/cat/3.png").read_bytes())
    draw(3).save(folder / "train/cat/other_format.bmp")
    draw(7).resize((40, 32)).save(folder / "train/cat/small.jpg", quality=60)
    dls = ImageDataLoaders.from_folder(folder, item_tfms=Resize(16), bs=2)
    found = find_image_problems(dls)
    rows = {row.path.rsplit("/", 1)[-1]: row for row in found}
    assert {name: row.kind for name, row in rows.items()} == {
        "copy.png": "duplicate",
        "other_format.bmp": "duplicate",
        "small.jpg": "near duplicate",
    }
    twin = f"{folder}/valid/cat/3.png"
    assert rows["copy.png"].text == f"the same pixels as {twin} in validation, which is labelled 'cat'"
    assert rows["small.jpg"].text == f"looks like {folder}/valid/cat/7.png in validation"
    assert (rows["copy.png"].label, rows["copy.png"].part) == ("dog", "training")
    assert found.origins.path(rows["copy.png"].twin) == twin


def test_a_review_of_problems_goes_back_into_the_loaders(folder):
    (folder / "train/dog/copy.png").write_bytes((folder / "valid/cat/3.png").read_bytes())
    path = find_image_problems(ImageDataLoaders.from_folder(folder, item_tfms=Resize(16), bs=2)).to_csv(
        folder / "a.csv"
    )
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["given_label"] == "dog" and row["problem"].startswith("duplicate: the same pixels as ")
    path.write_text(path.read_text().replace(",,\n", ",delete,\n"))
    dls = ImageDataLoaders.from_folder(folder, item_tfms=Resize(16), bs=2, relabel=path)
    assert dls.train.n_items == 9 and len(find_image_problems(dls)) == 0


def test_copies_look_alike_and_other_images_do_not():
    prints = [take_fingerprint(draw(i)) for i in range(40)]
    copies = [
        draw(0).resize((200, 160)),
        draw(1).resize((30, 24)),
        draw(2).point(lambda v: min(255, int(1.04 * v))),
        draw(3).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    ]
    prints += map(take_fingerprint, copies)
    assert [pair[:2] for pair in find_similar(prints)] == [(0, 40), (1, 41), (2, 42)]
    assert find_similar(prints[:1]) == []


def test_colours_count():
    grey, red = Image.new("RGB", (8, 8), (90, 90, 90)), Image.new("RGB", (8, 8), (200, 43, 43))
    for image in (grey, red):
        image.putpixel((2, 3), (255, 255, 255))
    assert find_similar([take_fingerprint(grey), take_fingerprint(red)]) == []


@pytest.mark.parametrize("scale", [1, 255, 3])
def test_images_in_memory(scale):
    x = torch.stack([torch.from_numpy(np.asarray(draw(i)).copy()).permute(2, 0, 1) for i in range(8)])
    x = torch.cat([x, x[2:3], torch.zeros_like(x[:1])])
    x = x if scale == 255 else x / 255 * scale - int(scale > 1)
    found = find_image_problems(DataLoaders.from_arrays((x[:6], torch.arange(6)), (x[6:], torch.arange(4)), bs=2))
    assert [(row.kind, row.item, row.twin, row.part) for row in found] == [
        ("duplicate", 2, 8, "training"),
        ("blank", 9, None, "validation"),
    ]
    assert found[0].text == "the same pixels as item 8 in validation"
    assert [ax.get_title() for ax in found.plot().axes[:3]] == [
        "duplicate\nitem 2",
        "the same as\nitem 8",
        "blank\nitem 9",
    ]


def test_arrays_of_any_number_of_channels_are_compared_in_all_of_them():
    x = torch.rand(6, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    x[1], x[3] = x[0], x[2]
    x[3, 4] += 0.5
    x[5, 2, 3, 3] = float("nan")
    found = find_image_problems(DataLoaders.from_arrays((x, torch.arange(6)), bs=2))
    assert [(row.kind, row.item, row.twin) for row in found] == [("unreadable", 5, None), ("duplicate", 1, 0)]
    assert found[0].text == "it holds NaN or infinite numbers"


def test_it_shows_itself(folder):
    (folder / "train/dog/copy.png").write_bytes((folder / "train/dog/0.png").read_bytes())
    found = find_image_problems(folder)
    assert str(found).startswith("1 of 13 images has problems: 1 duplicate\n")
    assert "<td>copy.png</td>" in found._repr_html_() and found.to_dict()["counts"] == {"duplicate": 1}
    with pytest.raises(ValueError, match="There is no image to draw: found 1 duplicate. Received: kind='blank'"):
        found.plot(kind="blank")


def test_what_is_no_image_is_refused(blobs):
    with pytest.raises(DataError, match="`source` must hold images"):
        find_image_problems(DataLoaders.from_arrays(*blobs, bs=16))
    with pytest.raises(DataError, match="`source` must hold images"):
        find_image_problems(DataLoaders([(torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))]))
    with pytest.raises(DataError, match="`source` must be DataLoaders, a folder or a list of paths"):
        find_image_problems([])
    with pytest.raises(DataError, match="Received: an object of type int"):
        find_image_problems(3)


def test_torchvisions_folders(folder):
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor

    (folder / "train/dog/copy.png").write_bytes((folder / "train/dog/0.png").read_bytes())
    dls = DataLoaders(*(DataLoader(ImageFolder(folder / part, ToTensor()), 2) for part in ("train", "valid")))
    assert kinds_of(find_image_problems(dls)) == {("copy.png", "duplicate")}
