"""`ImageDataLoaders` reads every common layout of image data sets."""

import csv
import inspect
import shutil
from collections import namedtuple
from decimal import Decimal

import numpy as np
import pytest
import torch
from torch import nn

from minilearner import Learner
from minilearner.data.blocks import CategoryBlock, MultiCategoryBlock
from minilearner.data.data_block import DataBlock
from minilearner.data.items import get_image_files
from minilearner.data.splits import IndexSplitter, RandomSplitter
from minilearner.data.targets import Category, MultiCategory, Regression
from minilearner.errors import DataError
from minilearner.vision.image_block import PILImageBW
from minilearner.vision.image_loaders import ImageDataLoaders
from minilearner.vision.loader_options import FileOptions, LoaderOptions, TableOptions
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
    with pytest.raises(DataError, match="1 of 30 images is not in `train/<class>/` or .*stray.jpg"):
        ImageDataLoaders.from_folder(folders, **OPTIONS)


def test_classes_in_place_of_sets_raise_with_the_way_to_split_them(folders):
    with pytest.raises(DataError, match=r"has no folder 'train'. It has: .*, pug\. .*\(.*, valid_pct=0.2\)"):
        ImageDataLoaders.from_folder(folders / "train")


def test_images_in_no_folder_of_a_class_raise_with_the_way_to_label_them(pets):
    for options in ({}, {"valid_pct": 0.2}):
        with pytest.raises(DataError, match=r"30 of 30 images lie directly in .*, use ImageDataLoaders.from_name_re"):
            ImageDataLoaders.from_folder(pets, **options)


def test_an_empty_folder_is_said_to_be_empty(tmp_path):
    for options in ({}, {"valid_pct": 0.2}):
        with pytest.raises(DataError, match="no image in .*, nor any other file"):
            ImageDataLoaders.from_folder(tmp_path, **options)


def test_a_line_says_that_all_labels_are_the_same(pets, capsys):
    files = get_image_files(pets)
    for block, is_said in ((None, True), (CategoryBlock(["pet"]), False)):
        dls = ImageDataLoaders.from_lists(pets, files, ["pet"] * len(files), y_block=block, **OPTIONS)
        assert dls.vocab == ("pet",)
        assert ("Every training item has the label 'pet'" in capsys.readouterr().err) == is_said


def test_the_advice_on_a_damaged_file_fits_the_call_that_meets_it(pets):
    dls = ImageDataLoaders.from_name_func(pets, get_image_files(pets), breed, **OPTIONS)
    file = pets / "pug_0.jpg"
    file.write_bytes(file.read_bytes()[:300])
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(192, 3)))
    call = r'ImageDataLoaders.from_folder\(\.\.\., verify="decode", on_unreadable="skip"\)'
    with learn.no_logging(), pytest.raises(DataError, match=f"pug_0.jpg: the image is damaged.*{call}"):
        learn.fit(2)
    for predict in (learn.predict, lambda file: learn.get_preds(dl=dls.test_dl([file]))):
        with pytest.raises(DataError, match="pug_0.jpg: the image is damaged") as caught:
            predict(file)
        assert "verify" not in str(caught.value)


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


def test_a_folder_that_holds_a_set_is_no_class(pets):
    def write(folder, n=4):
        for i, file in enumerate(get_image_files(pets)[:n]):
            (pets.parent / "mixed" / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, pets.parent / "mixed" / folder / f"{i}.jpg")
        return pets.parent / "mixed"

    def load(**options):
        return ImageDataLoaders.from_folder(pets.parent / "mixed", valid_pct=0.25, **{**OPTIONS, **options})

    write("bus"), write("train")
    assert load().vocab == ("bus", "train")  # "train" alone is a class of vehicles
    path = write("Test", 2)
    with pytest.raises(DataError, match=r"seem to be sets of images, not classes: 'Test' \(2 images\), 'train' \(4 im"):
        load()
    assert load(vocab=["bus", "Test", "train"]).c == 3
    shutil.rmtree(path / "Test")
    write("valid")
    with pytest.raises(DataError, match=r"not classes: 'train' \(4 images\), 'valid'|not classes: 'valid'"):
        load()
    shutil.rmtree(path / "valid")
    write(".")
    with pytest.raises(DataError, match="4 of 12 images lie directly in .*in no class's folder"):
        load()


def test_an_empty_cell_is_named_by_its_line_and_its_file(pets):
    names = [file.name for file in get_image_files(pets)]
    for empty in ("", " ", "\u00a0"):
        rows = [f"{name},{empty if i == 3 else breed(name)}" for i, name in enumerate(names)]
        (pets / "labels.csv").write_text("\n".join(["name,label", *rows]), encoding="utf-8")
        with pytest.raises(DataError, match=rf"1 of 30 .* missing: line 5 of '.*labels.csv' \('.*{names[3]}'\)"):
            ImageDataLoaders.from_csv(pets, valid_pct=0, **OPTIONS)
    table = {"name": names, "label": [None if i == 3 else breed(name) for i, name in enumerate(names)]}
    with pytest.raises(DataError, match=rf"missing: row 3 \('.*{names[3]}'\)"):
        ImageDataLoaders.from_df(table, pets, valid_pct=0, **OPTIONS)
    table = {"name": [None, *names[1:]], "label": [*map(breed, names)]}
    with pytest.raises(DataError, match="`get_x` failed on 1 of 30 items.*the cell in column 0.*is empty"):
        ImageDataLoaders.from_df(table, pets, valid_pct=0, **OPTIONS)


def test_rows_of_zeros_and_ones_are_columns_of_classes(pets):
    files = get_image_files(pets)
    rows = [[i % 2, int(i % 3 == 0), 1] for i in range(len(files))]
    for spelt in (
        rows,
        [list(map(float, row)) for row in rows],
        np.array(rows),
        [tuple(map(bool, row)) for row in rows],
    ):
        with pytest.raises(DataError, match=r"rows of zeros and ones, such as .*MultiCategoryBlock\(encoded=True"):
            ImageDataLoaders.from_lists(pets, files, spelt, **OPTIONS)
    cells = [" ".join(map(str, row)) for row in rows]
    with pytest.raises(DataError, match="rows of zeros and ones"):
        ImageDataLoaders.from_df({"name": files, "y": cells}, label_delim=" ", **OPTIONS)
    table = {"name": files, **{name: [row[k] for row in rows] for k, name in enumerate(("fog", "road", "sea"))}}
    dls = ImageDataLoaders.from_df(table, label_col=["fog", "road", "sea"], valid_pct=0, shuffle=False, **OPTIONS)
    assert dls.target == MultiCategory(["fog", "road", "sea"])
    assert dls.train.y.tolist() == [rows[i] for i in RandomSplitter(0)(files)[0]]


def test_a_csv_in_another_encoding_is_read_when_it_is_named(pets):
    lines = [f"{file.name};{('café', 'bar')[i % 2]}" for i, file in enumerate(get_image_files(pets))]
    (pets / "labels.csv").write_bytes("\n".join(["name;label", *lines]).encode("cp1252"))
    with pytest.raises(DataError, match=r"line 2 of '.*labels.csv' is not text in utf-8"):
        ImageDataLoaders.from_csv(pets, delimiter=";", **OPTIONS)
    dls = ImageDataLoaders.from_csv(pets, delimiter=";", encoding="cp1252", **OPTIONS)
    assert dls.vocab == ("bar", "café")


@pytest.mark.parametrize(
    ("labels", "target"),
    [
        ([i / 8 for i in range(30)], Regression(1)),
        ([[i / 8, i / 4] for i in range(30)], Regression(2)),
        (list("abc" * 10), Category("abc")),
        ([["a", "b"], ["c"]] * 15, MultiCategory("abc")),
        ([Decimal("0.5")] * 30, Regression(1)),
    ],
)
def test_every_kind_of_label_does_without_a_validation_set(pets, labels, target):
    dls = ImageDataLoaders.from_lists(pets, get_image_files(pets), labels, valid_pct=0, **OPTIONS)
    assert dls.valid is None and dls.target == target and dls.train.n_items == 30


@pytest.mark.parametrize("layout", ["folder", "name_re", "lists", "df"])
def test_a_splitter_takes_the_place_of_a_random_share(pets, folders, layout):
    files = get_image_files(folders)
    names = [str(file) for file in files]
    make = {
        "folder": lambda **how: ImageDataLoaders.from_folder(folders, vocab=BREEDS, **how),
        "name_re": lambda **how: ImageDataLoaders.from_name_re(folders, files, PATTERN, **how),
        "lists": lambda **how: ImageDataLoaders.from_lists("", names, [breed(file.name) for file in files], **how),
        "df": lambda **how: ImageDataLoaders.from_df({"f": names, "y": [breed(f.name) for f in files]}, "", **how),
    }[layout]
    dls = make(splitter=IndexSplitter([0, 1, 2]), **OPTIONS)
    assert (dls.train.n_items, dls.valid.n_items) == (27, 3)
    assert [str(item) for item in dls.valid.dataset.items] == names[:3]


def test_two_ways_to_split_raise(folders):
    with pytest.raises(ValueError, match="Give `splitter` or `valid_pct`, not both"):
        ImageDataLoaders.from_folder(folders, valid_pct=0.5, splitter=RandomSplitter())
    with pytest.raises(ValueError, match="Give `splitter` or `valid_col`, not both"):
        ImageDataLoaders.from_df({"f": [], "y": []}, valid_col="v", splitter=RandomSplitter())


@pytest.mark.parametrize(
    ("options", "function", "others"),
    [
        (LoaderOptions, DataBlock.dataloaders, {"self", "source", "path", "seed", "unknown"}),
        (FileOptions, ImageDataLoaders.from_path_func, {"path", "fnames", "label_func", "options"}),
        (TableOptions, ImageDataLoaders.from_df, {"df", "path", "label_col", "valid_col", "options"}),
    ],
)
def test_type_checkers_know_the_options_that_are_handed_on(options, function, others):
    base = set(LoaderOptions.__annotations__) if options is not LoaderOptions else set()
    assert set(options.__annotations__) - base == set(inspect.signature(function).parameters) - others
