"""`ImageDataLoaders` reads every common layout of image data sets."""

import csv
from collections import namedtuple

import numpy as np
import pytest
import torch

from minilearner.data.blocks import MultiCategoryBlock
from minilearner.data.items import get_image_files
from minilearner.data.splits import RandomSplitter
from minilearner.data.targets import Category, MultiCategory, Regression
from minilearner.errors import DataError
from minilearner.vision.image_block import PILImageBW
from minilearner.vision.image_loaders import ImageDataLoaders
from minilearner.vision.resize import Resize

OPTIONS = {"item_tfms": Resize(8), "bs": 4, "seed": 0}
PATTERN = r"(.+)_\d+.jpg$"
BREEDS = ("Birman", "great_pyrenees", "pug")


def breed(name):
    return name.rpartition("_")[0]


@pytest.fixture
def folders(pets):
    """Returns a folder with the same images as train/<breed>/ and valid/<breed>/."""
    for file in get_image_files(pets):
        part = "valid" if file.stem.endswith(("8", "9")) else "train"
        target = pets.parent / "sets" / part / breed(file.name) / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    return pets.parent / "sets"


def test_one_folder_per_class(folders):
    dls = ImageDataLoaders.from_folder(folders, **OPTIONS)
    assert (dls.vocab, dls.train.n_items, dls.valid.n_items) == (BREEDS, 24, 6)
    assert dls.path == folders and dls.one_batch()[0].shape == (4, 3, 8, 8)
    drawn = ImageDataLoaders.from_folder(folders, valid_pct=0.5, img_cls=PILImageBW, vocab=BREEDS[::-1], **OPTIONS)
    assert (drawn.train.n_items, drawn.vocab) == (15, BREEDS[::-1]) and drawn.one_batch()[0].shape == (4, 1, 8, 8)


def test_other_folders_raise(folders):
    with pytest.raises(DataError, match="has no folder 'val'. Did you mean 'valid'"):
        ImageDataLoaders.from_folder(folders, valid="val", **OPTIONS)
    (folders / "train" / "pug" / "pug_0.jpg").rename(folders / "train" / "stray.jpg")
    with pytest.raises(DataError, match="1 of 30 images are not in `train/<class>/` or .*stray.jpg"):
        ImageDataLoaders.from_folder(folders, **OPTIONS)


def test_labels_from_names_and_paths_by_function_and_by_regex(pets):
    files = get_image_files(pets)
    ways = [
        ImageDataLoaders.from_name_func(pets, files, breed, **OPTIONS),
        ImageDataLoaders.from_path_func(pets, files, lambda file: breed(file.name), **OPTIONS),
        ImageDataLoaders.from_name_re(pets, files, PATTERN, 0.2, 0, **{k: OPTIONS[k] for k in ("item_tfms", "bs")}),
        ImageDataLoaders.from_path_re(pets, map(str, files), r"images/(.+)_\d+.jpg$", **OPTIONS),
    ]
    for dls in ways:
        assert dls.vocab == BREEDS
        assert torch.equal(dls.one_batch()[0], ways[0].one_batch()[0])
        assert dls.valid.dataset.items == [files[i] for i in RandomSplitter(seed=0)(files)[1]]


def test_a_table_and_a_csv_file_give_the_same_loaders(pets):
    names = [file.stem for file in get_image_files(pets)]
    table = {"fname": names, "label": [breed(name) for name in names], "is_valid": [n[-1] == "9" for n in names]}
    with open(pets / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([table, *zip(*table.values())])
    for dls in (
        ImageDataLoaders.from_df(table, pets.parent, folder="images", suff=".jpg", valid_col="is_valid", **OPTIONS),
        ImageDataLoaders.from_csv(pets, suff=".jpg", valid_col=2, **OPTIONS),
    ):
        assert dls.vocab == BREEDS and {file.stem[-1] for file in dls.valid.dataset.items} == {"9"}
        assert dls.valid.dataset.items[0] == pets / "Birman_9.jpg"


def test_labels_decide_the_kind_of_target(pets):
    names = [file.name for file in get_image_files(pets)]
    table = {"f": names, "tags": [" ".join(name.split("_")[:-1]) for name in names], "x": [i / 2 for i in range(30)]}
    several = ImageDataLoaders.from_df(table, pets, label_delim=" ", **OPTIONS)
    assert isinstance(several.target, MultiCategory) and several.vocab == ("Birman", "great", "pug", "pyrenees")
    assert ImageDataLoaders.from_df(table, pets, label_col="x", **OPTIONS).target == Regression(1)
    assert ImageDataLoaders.from_df({**table, "y": table["x"]}, pets, label_col=["x", "y"], **OPTIONS).c == 2


def test_lists_of_files_and_labels(pets):
    files = get_image_files(pets)
    dls = ImageDataLoaders.from_lists(pets, files, [int(file.stem[-1]) % 2 for file in files], **OPTIONS)
    assert dls.vocab == (0, 1) and dls.train.n_items == 24
    assert ImageDataLoaders.from_lists(pets, files, [0.5] * 30, **OPTIONS).target == Regression(1)
    tags = [[breed(file.name), "pet"] for file in files]
    assert ImageDataLoaders.from_lists(pets, files, tags, y_block=MultiCategoryBlock, **OPTIONS).c == 4
    with pytest.raises(DataError, match="must have one length"):
        ImageDataLoaders.from_lists(pets, files, [1], **OPTIONS)


def test_misspelt_arguments_are_errors(pets):
    with pytest.raises(TypeError, match="there is no argument `itme_tfms`. Did you mean 'item_tfms'"):
        ImageDataLoaders.from_folder(pets, itme_tfms=None)
    with pytest.raises(TypeError, match="there is no argument `label_dlim`. Did you mean 'label_delim'"):
        ImageDataLoaders.from_csv(pets, label_dlim=" ")


def test_a_regex_that_does_not_match_raises_with_counts(pets):
    with pytest.raises(DataError, match=r"`pat` failed on 20 of 30 items.*Correct `pat='\^\(B"):
        ImageDataLoaders.from_name_re(pets, get_image_files(pets), r"^(B.+)_\d+.jpg$", **OPTIONS)


@pytest.mark.parametrize(
    "labels", [[np.float32(0.5)] * 30, [torch.tensor(0.5)] * 30, [1, 2.5] * 15, [np.int64(1), 2.5] * 15]
)
def test_numbers_with_floats_make_a_regression(pets, labels):
    dls = ImageDataLoaders.from_lists(pets, get_image_files(pets), labels, **OPTIONS)
    assert dls.target == Regression(1) and dls.one_batch()[1].dtype == torch.float32


def test_a_list_of_one_column_means_that_column(pets):
    names = [file.name for file in get_image_files(pets)]
    table = {"fname": names, "label": [breed(name) for name in names]}
    dls = ImageDataLoaders.from_df(table, pets, label_col=["label"], **OPTIONS)
    assert isinstance(dls.target, Category) and dls.vocab == BREEDS


def test_a_row_of_any_kind_can_be_predicted(pets):
    names = [file.name for file in get_image_files(pets)]
    dls = ImageDataLoaders.from_df({"fname": names, "label": [breed(name) for name in names]}, pets, **OPTIONS)
    row, by_pandas = namedtuple("Row", "fname label"), namedtuple("Pandas", "Index fname label")
    as_path = dls.test_dl([pets / "pug_3.jpg"]).one_batch()[0]
    for item in ({"fname": "pug_3.jpg"}, row("pug_3.jpg", "pug"), by_pandas(7, "pug_3.jpg", "pug")):
        assert torch.equal(dls.test_dl([item]).one_batch()[0], as_path)
    x, y = dls.test_dl([row("pug_3.jpg", "pug")], with_labels=True).one_batch()
    assert torch.equal(x, as_path) and y.tolist() == [BREEDS.index("pug")]


@pytest.mark.parametrize(
    ("theirs", "ours"), [("batch_size", "bs"), ("workers", "num_workers"), ("val_pct", "valid_pct")]
)
def test_names_of_other_libraries_lead_to_ours(pets, theirs, ours):
    with pytest.raises(TypeError, match=f"no argument `{theirs}`. Did you mean '{ours}'") as raised:
        ImageDataLoaders.from_name_re(pets, get_image_files(pets), PATTERN, **{theirs: 16})
    listed = str(raised.value).partition("Arguments: ")[2].rstrip(".").split(", ")
    assert {"pat", "valid_pct", "bs"} <= set(listed) and not {"label_func", "source", "self"} & set(listed)


def test_a_batch_size_in_quotes_raises(pets):
    with pytest.raises(TypeError, match="`bs` must be a whole number. Received: bs='16'"):
        ImageDataLoaders.from_name_re(pets, get_image_files(pets), PATTERN, item_tfms=Resize(8), bs="16")
