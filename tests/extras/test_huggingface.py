"""Hugging Face's own datasets of images give the loaders of the images that they hold."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import GroupKFold

from minilearner.errors import DataError
from minilearner.vision.all import (
    ColReader,
    ImageDataLoaders,
    Learner,
    Resize,
    SplitterFrom,
    accuracy,
    load_learner,
    nn,
)

pytestmark = pytest.mark.filterwarnings("default")  # the library's own warnings are no concern of ours

NAMES = ["owl", "cat", "dog"]  # not sorted


def make_images(n, seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)) for _ in range(n)]


def make(n=24, seed=0, **columns):
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    kinds |= {name: datasets.Value("string") for name in columns}
    of_all = {"image": make_images(n, seed), "label": [i % 3 for i in range(n)], **columns}
    return datasets.Dataset.from_dict(of_all, features=datasets.Features(kinds))


def test_a_dataset_trains_and_its_export_predicts(tmp_path):
    dls = ImageDataLoaders.from_huggingface(make(), seed=1, bs=6, device="cpu")
    assert list(dls.vocab) == NAMES and len(dls.train.items) == 20 and len(dls.valid.items) == 4
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 3)), metrics=accuracy)
    with learn.no_logging():
        learn.fit(1, 1e-3)
    learn.export(tmp_path / "model.safetensors")
    image = make_images(1, seed=5)[0]
    assert load_learner(tmp_path / "model.safetensors", model=learn.model).predict(image)[0] == learn.predict(image)[0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_and_labels_are_the_datasets(num_workers):
    source = make()
    dls = ImageDataLoaders.from_huggingface(source, seed=1, bs=4, num_workers=num_workers, device="cpu")
    ((x, y),) = dls.valid
    rows = [item.row for item in dls.valid.items]
    expected = np.stack([np.asarray(source[row]["image"]) for row in rows]).transpose(0, 3, 1, 2) / 255
    assert np.allclose(x, expected) and y.tolist() == [source[row]["label"] for row in rows]


def test_splits_are_taken_by_their_names():
    splits = datasets.DatasetDict({"train": make(12), "test": make(9, 1), "validation": make(6, 2)})
    sizes = {
        name: [len(one.items) for one in ImageDataLoaders.from_huggingface(splits, valid=name, bs=3, device="cpu")]
        for name in (None, "test")
    }
    assert sizes == {None: [12, 6], "test": [12, 9]}
    with pytest.raises(DataError, match="there is no split 'tset'. Did you mean 'test'"):
        ImageDataLoaders.from_huggingface(splits, valid="tset")


def test_groups_of_a_column_stay_together():
    source = make(patient=[f"p{i // 4}" for i in range(24)])
    by_patient = SplitterFrom(GroupKFold(3), ColReader("patient"))
    dls = ImageDataLoaders.from_huggingface(source, splitter=by_patient, bs=4, device="cpu")
    sides = [{item.row // 4 for item in loader.items} for loader in dls]
    assert not sides[0] & sides[1] and len(sides[1]) == 2


def test_files_on_disk_a_transform_and_weights(tmp_path):
    for i, image in enumerate(make_images(12)):
        folder = tmp_path / NAMES[i % 3]
        folder.mkdir(exist_ok=True)
        image.save(folder / f"{i}.png")
    source = datasets.load_dataset("imagefolder", data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    source = source.with_transform(lambda rows: {"image": [None for _ in rows["image"]]})  # is left aside
    dls = ImageDataLoaders.from_huggingface(
        source, item_tfms=Resize(16), seed=1, bs=3, weights="balanced", device="cpu"
    )
    assert dls.one_batch()[0].shape == (3, 3, 16, 16) and sorted(dls.vocab) == sorted(NAMES)


def test_several_labels_and_numbers_are_targets_too():
    tags_kind = datasets.Sequence(datasets.ClassLabel(names=NAMES))
    kinds = datasets.Features({"image": datasets.Image(), "tags": tags_kind, "age": datasets.Value("float32")})
    columns = {"image": make_images(10), "tags": [[0, 2], [1], [], [2], [0]] * 2, "age": [i / 2 for i in range(10)]}
    source = datasets.Dataset.from_dict(columns, features=kinds)
    tags = ImageDataLoaders.from_huggingface(source, label_col="tags", bs=2, device="cpu")
    assert list(tags.vocab) == NAMES and tags.one_batch()[1].shape == (2, 3)
    ages = ImageDataLoaders.from_huggingface(source, label_col="age", bs=2, device="cpu")
    assert ages.one_batch()[1].dtype == torch.float32 and ages.c == 1


def test_what_cannot_be_read_raises():
    with pytest.raises(DataError, match="there is no column 'labels'. Did you mean 'label'"):
        ImageDataLoaders.from_huggingface(make(), label_col="labels")
    with pytest.raises(TypeError, match=r"a datasets.Dataset. Received: IterableDataset. .*from_stream"):
        ImageDataLoaders.from_huggingface(make().to_iterable_dataset())
    unlabelled = make().add_column("unknown", [-1] * 24).cast_column("unknown", datasets.ClassLabel(names=NAMES))
    with pytest.raises(DataError, match="24 of 24 items have no class: -1 in row 0"):
        ImageDataLoaders.from_huggingface(unlabelled, label_col="unknown")
