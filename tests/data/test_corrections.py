import re

import pytest
import torch

from minilearner.data.corrections import read_review
from minilearner.errors import DataError
from minilearner.review_file import Suspect, read_cell, write_review
from minilearner.vision.all import (
    CategoryBlock,
    DataBlock,
    ImageBlock,
    ImageDataLoaders,
    MultiCategoryBlock,
    RandomSplitter,
    RegexLabeller,
    Resize,
    get_image_files,
    using_attr,
)

PATTERN = r"(.+)_\d+.jpg$"


@pytest.fixture
def block():
    label = using_attr(RegexLabeller(PATTERN), "name")
    return DataBlock(
        (ImageBlock, CategoryBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(seed=1),
        get_y=label,
        item_tfms=Resize(16),
    )


@pytest.fixture
def review(tmp_path):
    """Returns a function that writes rows of a review: path, action, new label."""

    def write(*rows, **more):
        suspects = [Suspect(str(path), action=action, new_label=new, **more) for path, action, new in rows]
        return write_review(tmp_path / "review.csv", suspects)

    return write


def labels_of(dls):
    """Returns the label of each file in both sets, and the names in each set."""
    found, names = {}, []
    for loader in dls.loaders:
        paths = [path.name for path in loader.dataset.items]
        names.append(paths)
        found |= dict(zip(paths, [dls.vocab[i] for i in loader.y.tolist()], strict=True))
    return found, names


def test_a_review_changes_labels_and_leaves_items_out(block, pets, review, capsys):
    before, sets = labels_of(block.dataloaders(pets, bs=4))
    path = review(
        (pets / "pug_1.jpg", "relabel", "Birman"), (pets / "pug_2.jpg", "delete", ""), (pets / "pug_3.jpg", "", "")
    )
    capsys.readouterr()
    after, sets_after = labels_of(block.relabel(path).dataloaders(pets, bs=4))
    assert after["pug_1.jpg"] == "Birman" and "pug_2.jpg" not in after
    assert {k: v for k, v in after.items() if k != "pug_1.jpg"} == {
        k: v for k, v in before.items() if k not in ("pug_1.jpg", "pug_2.jpg")
    }
    assert sets_after == [[name for name in names if name != "pug_2.jpg"] for names in sets]
    assert f"'{path}': 1 new label, 1 item left out" in capsys.readouterr().err
    assert (pets / "pug_2.jpg").exists()
    assert len(labels_of(block.dataloaders(pets, bs=4))[0]) == 30  # the block itself stays as it was


def test_reviews_add_up(block, pets, review):
    once = block.relabel(review((pets / "pug_1.jpg", "relabel", "Birman")))
    both = once.relabel(review((pets / "pug_2.jpg", "delete", "")))
    labels, _ = labels_of(both.dataloaders(pets, bs=4))
    assert labels["pug_1.jpg"] == "Birman" and "pug_2.jpg" not in labels


def test_every_way_to_loaders_takes_a_review(pets, review, tmp_path):
    path = review((pets / "pug_1.jpg", "relabel:Birman", ""), (pets / "pug_2.jpg", "delete", ""))
    for breed in ("great_pyrenees", "Birman", "pug"):
        (tmp_path / "sorted" / breed).mkdir(parents=True)
        for file in pets.glob(f"{breed}_*.jpg"):
            (tmp_path / "sorted" / breed / file.name).write_bytes(file.read_bytes())
    how = {"item_tfms": Resize(16), "bs": 4, "seed": 0, "relabel": path}
    names = [file.name for file in pets.glob("*.jpg")]
    columns = {"name": names, "label": [re.match(PATTERN, name)[1] for name in names]}
    made = [
        ImageDataLoaders.from_name_re(pets, get_image_files(pets), PATTERN, **how),
        ImageDataLoaders.from_df(columns, pets, **how),
    ]
    path = review(
        (tmp_path / "sorted/pug/pug_1.jpg", "relabel", "Birman"), (tmp_path / "sorted/pug/pug_2.jpg", "delete", "")
    )
    made.append(ImageDataLoaders.from_folder(tmp_path / "sorted", valid_pct=0.2, **how))
    for dls in made:
        labels, _ = labels_of(dls)
        assert labels["pug_1.jpg"] == "Birman" and "pug_2.jpg" not in labels and len(labels) == 29


def test_what_a_spreadsheet_saves_is_read(block, pets, tmp_path):
    path = tmp_path / "review.csv"
    rows = (
        f"Path;Action;New_Label;note\r\n{pets / 'pug_1.jpg'};Relabel: Birman ;;sure\r\n{pets / 'pug_3.jpg'};KEEP;;\r\n"
    )
    path.write_bytes(b"\xef\xbb\xbf" + rows.encode())
    assert labels_of(block.relabel(path).dataloaders(pets, bs=4))[0]["pug_1.jpg"] == "Birman"


def test_a_new_label_alone_is_enough(block, pets, review):
    path = review((pets / "pug_1.jpg", "", "Birman"))
    assert labels_of(block.relabel(path).dataloaders(pets, bs=4))[0]["pug_1.jpg"] == "Birman"


def test_paths_may_be_relative_and_have_accents(block, tmp_path, monkeypatch, pets, review):
    monkeypatch.chdir(tmp_path)
    (pets / "pug_1.jpg").rename(pets / "pu\u0308g_1.jpg")
    path = review(("images/p\u00fcg_1.jpg", "relabel", "pug"))
    labels, _ = labels_of(block.relabel(path).dataloaders(pets, bs=4))
    assert labels["pu\u0308g_1.jpg"] == "pug" and "p\u00fcg" not in labels.values()


@pytest.mark.parametrize(
    ("action", "new", "message"),
    [
        ("remove", "", r"`action` must be keep, delete, relabel or relabel:<class>. Received: 'remove' on line 2 of"),
        ("delet", "", r"Did you mean 'delete'\? Received: 'delet' on line 2"),
        ("delete:x", "", r"Received: 'delete:x' on line 2"),
        ("relabel", "", r"line 2 of '.*' says relabel, but names no class for '.*pug_1.jpg'"),
        ("delete", "pug", r"line 2 of '.*' says delete, but names the new label 'pug'"),
        ("relabel:a", "b", r"line 2 of '.*' names two new labels for '.*pug_1.jpg': 'a' and 'b'"),
    ],
)
def test_a_wrong_decision_names_its_row(pets, review, action, new, message):
    with pytest.raises(DataError, match=message):
        read_review(review((pets / "pug_1.jpg", action, new)))


@pytest.mark.parametrize(
    ("name", "new", "message"),
    [
        (
            "pug_1.jpg",
            "birman",
            r"the label 'birman', which is no class. Did you mean 'Birman'\? Classes: Birman",
        ),
        ("pug_1.jpg", "=1+1", r"line 2 of '.*' gives '.*' the label '=1\+1', which is no class"),
        ("other/pug_1.jpg", "pug", r"which is not among the 30 files. Did you mean '.*/images/pug_1.jpg'\?"),
        ("what.jpg", "pug", r"line 2 of '.*' names '.*what.jpg', which is not among the 30 files.$"),
    ],
)
def test_a_review_must_fit_the_data(block, pets, review, name, new, message):
    path = review((pets / name, "relabel", new))
    with pytest.raises(DataError, match=message):
        block.relabel(path).dataloaders(pets, bs=4)


def test_labels_that_changed_since_the_review_are_noticed(block, pets, review):
    path = review((pets / "pug_1.jpg", "relabel", "pug"), given_label="Birman")
    labels_of(block.relabel(path).dataloaders(pets, bs=4))  # the correction has been made on disk
    path = review((pets / "pug_1.jpg", "delete", ""), given_label="Birman")
    with pytest.raises(DataError, match="is labelled 'Birman', but its label is 'pug'. The data have changed"):
        block.relabel(path).dataloaders(pets, bs=4)


def test_rows_must_not_contradict_each_other(pets, review):
    rows = (pets / "pug_1.jpg", "delete", ""), (pets / "pug_1.jpg", "relabel", "Birman")
    with pytest.raises(DataError, match=r"line 3 of '.*' contradicts line 2 of '.*' about '.*pug_1.jpg'"):
        read_review(review(*rows))
    assert len(read_review(review(rows[0], rows[0], (pets / "pug_1.jpg", "", ""))).rows) == 1


def test_columns_must_be_there(tmp_path):
    path = tmp_path / "review.csv"
    path.write_text("file,action\na,keep\n")
    with pytest.raises(DataError, match="a review must have a column 'path'. Received: '.*' with columns file, action"):
        read_review(path)


def test_items_in_memory_cannot_be_found(review):
    with pytest.raises(DataError, match="line 2 of '.*' says delete, but its item has no file to be found by"):
        read_review(review(("", "delete", "")))


def test_several_labels_can_be_deleted_but_not_renamed(pets, review):
    block = DataBlock(
        (ImageBlock, MultiCategoryBlock),
        get_items=get_image_files,
        get_y=lambda path: path.name[:2].split(),
        item_tfms=Resize(16),
    )
    dls = block.dataloaders(pets, bs=4, relabel=review((pets / "pug_1.jpg", "delete", "")))
    assert sum(loader.n_items for loader in dls.loaders) == 29
    with pytest.raises(DataError, match="works for items of one class each"):
        block.dataloaders(pets, bs=4, relabel=review((pets / "pug_1.jpg", "relabel", "pu")))


def test_labels_of_another_type_keep_it(pets, review):
    names = [file.name for file in sorted(pets.glob("*.jpg"))]
    columns = {"name": names, "label": [i % 3 for i in range(30)]}
    path = review((pets / names[0], "relabel", "2"))
    dls = ImageDataLoaders.from_df(columns, pets, item_tfms=Resize(16), bs=4, relabel=path)
    labels, _ = labels_of(dls)
    assert dls.vocab == (0, 1, 2) and labels[names[0]] == 2
    assert isinstance(dls.train.y, torch.Tensor)


@pytest.mark.parametrize("text", ["=1", "'=1", "''-x", "+a", "plain", "it's", "'quoted'"])
def test_formulas_come_back_as_they_were(tmp_path, text):
    path = write_review(tmp_path / "a.csv", [Suspect("x.jpg", new_label=text)])
    cell = path.read_text().splitlines()[1].split(",")[-1]
    assert not cell.startswith(("=", "+", "-", "@")) and read_cell(cell) == text
