"""An error of ours shows the user's line and the message; few of our own frames, and all of everybody else's."""

import traceback
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import minilearner
from minilearner.errors import DataError
from minilearner.vision.all import (
    CategoryBlock,
    DataBlock,
    DataLoaders,
    ImageBlock,
    ImageDataLoaders,
    LambdaCallback,
    Learner,
    Resize,
    get_image_files,
    load_learner,
    open_image,
    resnet18,
    vision_learner,
)

OURS = str(Path(minilearner.__file__).parent)


@pytest.fixture
def photos(tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for i in range(6):
            Image.new("RGB", (24, 24), (i * 20, 80, 80)).save(tmp_path / kind / f"{i}.png")
    return tmp_path


def shown(error):
    """Returns the file and function of every frame that Python prints, those of the causes first."""
    chain, one = [], traceback.TracebackException.from_exception(error)
    while one is not None:
        chain.insert(0, one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return [(frame.filename, frame.name) for one in chain for frame in one.stack]


def names_of_ours(error):
    return [name for file, name in shown(error) if file.startswith(OURS)]


def failing_label(path):
    return {"only": "this"}[path.name]


@pytest.mark.parametrize(
    "fail",
    [
        lambda photos: ImageDataLoaders.from_folder(photos / "none", valid_pct=0.2),
        lambda photos: ImageDataLoaders.from_folder(photos),
        lambda photos: ImageDataLoaders.from_folder(photos, valid_pct=0.2, vocab=["cat"]),
        lambda photos: get_image_files(photos / "none"),
        lambda photos: open_image(photos / "none.png"),
    ],
)
def test_an_error_in_the_data_shows_the_line_and_where_it_was_raised(photos, fail):
    with pytest.raises(DataError) as raised:
        fail(photos)
    assert len(names_of_ours(raised.value)) == 2
    assert names_of_ours(raised.value)[0] == "call"
    assert (__file__, "<lambda>") in shown(raised.value)


@pytest.mark.parametrize(
    ("fail", "kind"),
    [
        (lambda learn: learn.fit(-1), ValueError),
        (lambda learn: learn.fit(1, lr="fast"), TypeError),
        (lambda learn: learn.fit(1, rate=0.1), TypeError),
        (lambda learn: learn.lr_find(num_it=0), ValueError),
        (lambda learn: load_learner("none.safetensors"), FileNotFoundError),
        (lambda learn: Resize(-1), ValueError),
    ],
)
def test_a_wrong_argument_shows_the_line_and_where_it_was_refused(fail, kind):
    learn = Learner(DataLoaders.from_arrays((torch.randn(8, 3), torch.arange(8) % 2)), nn.Linear(3, 2))
    with pytest.raises(kind) as raised:
        fail(learn)
    names = names_of_ours(raised.value)
    assert names[0] == "call" and len(names) == 2 + ("__init__" in names)
    assert (__file__, "<lambda>") in shown(raised.value)


def test_a_fault_that_we_did_not_raise_keeps_its_frames():
    learn = Learner(DataLoaders.from_arrays((torch.randn(8, 3), torch.arange(8) % 2)), nn.Linear(3, 2))
    with pytest.raises(ZeroDivisionError) as raised:
        learn.fit(1, cbs=LambdaCallback(after_batch=lambda run: 1 // 0))
    assert shown(raised.value)[-1] == (__file__, "<lambda>") and len(names_of_ours(raised.value)) > 3


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_in_an_image_file_while_training_shows_the_line(photos, num_workers):
    dls = ImageDataLoaders.from_folder(
        photos, valid_pct=0.2, seed=1, item_tfms=Resize(16), num_workers=num_workers, bs=4, cache=False
    )
    learn = vision_learner(dls, resnet18, pretrained=False)
    damaged = dls.train.dataset.items[0]
    damaged.write_bytes(b"not an image any more")
    with pytest.raises(DataError, match=damaged.name) as raised:
        learn.fine_tune(1)
    assert len(names_of_ours(raised.value)) == 2 and len(shown(raised.value)) == 3


def test_frames_of_the_user_stay(photos):
    block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=failing_label)
    with pytest.raises(DataError) as raised:
        block.dataloaders(photos)
    assert shown(raised.value)[0] == (__file__, "failing_label")
    assert isinstance(raised.value.__cause__, KeyError)


def test_all_frames_can_be_kept(photos, monkeypatch):
    monkeypatch.setenv("MINILEARNER_FULL_TRACEBACK", "1")
    with pytest.raises(DataError) as raised:
        ImageDataLoaders.from_folder(photos / "none", valid_pct=0.2)
    assert len(names_of_ours(raised.value)) > 5


def test_a_warning_shows_the_line_of_the_user(photos):
    (photos / "cat" / "1.heic").write_bytes(b"")
    with pytest.warns(UserWarning, match="left out of the list") as seen:
        ImageDataLoaders.from_folder(photos, valid_pct=0.2, item_tfms=Resize(16))
    assert [one.filename for one in seen] == [__file__]
