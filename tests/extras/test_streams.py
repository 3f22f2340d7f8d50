"""Streams of Hugging Face and of WebDataset train as they are."""

import datasets
import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image

from minilearner.errors import DataError
from minilearner.vision.all import Flip, ImageDataLoaders, Learner, Resize, accuracy, nn

pytestmark = pytest.mark.filterwarnings("default")  # the libraries' own warnings are no concern of ours

NAMES = ["owl", "cat", "dog"]
N = 40


def make_images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (24 + i % 3, 24, 3), dtype=np.uint8)) for i in range(N)]


def huggingface():
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    columns = {"image": make_images(), "label": [i % 3 for i in range(N)]}
    return datasets.Dataset.from_dict(columns, features=kinds).to_iterable_dataset(num_shards=4)


@pytest.fixture
def tars(tmp_path):
    with wds.ShardWriter(f"file:{tmp_path}/%02d.tar", maxcount=10, verbose=0) as writer:
        for i, image in enumerate(make_images()):
            writer.write({"__key__": f"{i:04d}", "png": image, "cls": i % 3})
    return f"file:{tmp_path}/{{00..03}}.tar"


def learner(dls):
    torch.manual_seed(0)
    return Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3)), metrics=accuracy, device="cpu")


def check_training(dls):
    learn = learner(dls)
    with learn.no_logging():
        record = learn.fit(2, 1e-3)
    assert len(record.epochs) == 2 and learn.get_preds()[0].shape == (N, 3)
    assert learn.predict(make_images()[0])[1] == learn.get_preds()[0][0].argmax()
    return learn


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_of_huggingface_trains(num_workers):
    stream = huggingface()
    dls = ImageDataLoaders.from_stream(
        stream.shuffle(seed=1, buffer_size=20),
        N,
        stream,
        N,
        item_tfms=Resize(16),
        batch_tfms=Flip(),
        bs=8,
        num_workers=num_workers,
        seed=1,
        device="cpu",
    )
    learn = check_training(dls)
    assert list(dls.vocab) == NAMES
    assert learn.predict(make_images()[0])[0] in NAMES
    if num_workers == 0:
        assert torch.cat([y for _, y in dls.valid]).tolist() == [row["label"] for row in stream]
    assert sorted(torch.cat([y for _, y in dls.valid]).tolist()) == sorted(i % 3 for i in range(N))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_tars_of_webdataset_train(tars, num_workers):
    train = wds.WebDataset(tars, shardshuffle=4).shuffle(10).decode("pil")
    valid = wds.WebDataset(tars, shardshuffle=False).decode("pil").to_tuple("png", "cls")
    dls = ImageDataLoaders.from_stream(
        train,
        N,
        get_x="png",
        get_y="cls",
        vocab=NAMES,
        item_tfms=Resize(16),
        bs=8,
        num_workers=num_workers,
        device="cpu",
    )
    assert len(list(dls.train)) == 5
    by_position = ImageDataLoaders.from_stream(
        valid, N, valid, N, get_x=0, get_y=1, vocab=NAMES, item_tfms=Resize(16), bs=8, seed=1, device="cpu"
    )
    check_training(by_position)


def test_raw_bytes_and_a_function_of_the_item(tars):
    raw = wds.WebDataset(tars, shardshuffle=False)
    dls = ImageDataLoaders.from_stream(
        raw,
        N,
        get_x="png",
        get_y=lambda item: NAMES[int(item["cls"])],
        vocab=NAMES,
        item_tfms=Resize(16),
        bs=8,
        device="cpu",
    )
    assert dls.one_batch()[1].tolist() == [i % 3 for i in range(8)]


def test_a_run_repeats_on_the_same_bits(tmp_path):
    def run(n, folder):
        stream = huggingface()
        dls = ImageDataLoaders.from_stream(
            stream.shuffle(seed=1, buffer_size=20),
            N,
            stream,
            N,
            item_tfms=Resize(16),
            batch_tfms=Flip(),
            bs=8,
            seed=1,
            device="cpu",
        )
        learn = learner(dls)
        with learn.no_logging():
            learn.fit(n, 1e-2, checkpoint=tmp_path / folder)
        return learn.model[1].weight.detach(), [y.tolist() for _, y in dls.train]

    (weight, order), (again, _) = run(2, "a"), run(2, "b")
    assert torch.equal(weight, again) and order[0] != [0, 1, 2, 0, 1, 2, 0, 1]


def test_what_a_stream_lacks_raises():
    def first(**options):
        options = {"item_tfms": Resize(16), "bs": 8, "device": "cpu"} | options
        return list(ImageDataLoaders.from_stream(huggingface(), options.pop("n", N), **options).train)

    with pytest.raises(DataError, match="the stream ended after 40 items, before the 50 that a pass has"):
        first(n=50)
    with pytest.raises(DataError, match=r"no part 'img'. .*Received: keys image, label. Give `get_x` a key"):
        first(get_x="img")
    with pytest.raises(DataError, match=r"inputs must have one shape.*item_tfms=Resize"):
        first(item_tfms=None)
    with pytest.raises(TypeError, match="`train` must be a stream that can be iterated again and again. Received: gen"):
        ImageDataLoaders.from_stream((item for item in huggingface()), N)
