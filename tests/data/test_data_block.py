"""`DataBlock` turns a source into loaders, and finds at once what would stop training later."""

import os
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from minilearner import Learner, error_rate
from minilearner.data.blocks import CategoryBlock, MultiCategoryBlock, RegressionBlock
from minilearner.data.data_block import DataBlock
from minilearner.data.items import get_image_files
from minilearner.data.labels import ColReader, RegexLabeller, using_attr
from minilearner.data.splits import IndexSplitter, RandomSplitter, StratifiedSplitter
from minilearner.data.tensor_types import TensorCategory, TensorMultiCategory
from minilearner.errors import DataError, FileFormatError
from minilearner.vision.augment import Flip
from minilearner.vision.image_block import ImageBlock, PILImage, PILImageBW
from minilearner.vision.images import image_size
from minilearner.vision.lighting import Brightness
from minilearner.vision.normalize import Normalize
from minilearner.vision.resize import Resize

BREED = using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name")


def block(**changes):
    options = {
        "blocks": (ImageBlock, CategoryBlock),
        "get_items": get_image_files,
        "splitter": RandomSplitter(seed=42),
        "get_y": BREED,
        "item_tfms": Resize(32),
        **changes,
    }
    return DataBlock(**options)


def test_a_folder_of_named_images_becomes_loaders(pets):
    dls = block(batch_tfms=Flip()).dataloaders(pets, bs=8, seed=0)
    assert (dls.vocab, dls.c, dls.train.n_items, dls.valid.n_items) == (("Birman", "great_pyrenees", "pug"), 3, 24, 6)
    x, y = dls.one_batch()
    assert (x.shape, x.dtype, y.dtype, len(dls.train)) == ((8, 3, 32, 32), torch.float32, torch.int64, 3)
    files = get_image_files(pets)
    assert dls.valid.dataset.items == [files[i] for i in RandomSplitter(seed=42)(files)[1]]
    assert [dls.vocab[i] for i in dls.valid.y] == [BREED(file) for file in dls.valid.dataset.items]


def test_a_learner_trains_and_predicts_from_a_block(pets):
    dls = block(batch_tfms=Normalize.from_stats([0.5] * 3, [0.2] * 3)).dataloaders(
        pets, bs=8, seed=0, path=pets, num_workers=0
    )
    learn = Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 3)), metrics=error_rate, seed=0)
    with learn.no_logging():
        learn.fit(1)
        preds, targets = learn.get_preds()
        again, same = learn.get_preds(dl=dls.test_dl(dls.valid.dataset.items, with_labels=True))
    assert torch.equal(preds, again) and torch.equal(targets, same) and learn.path == pets


def test_the_split_and_the_vocabulary_do_not_depend_on_global_randomness(pets):
    before = torch.get_rng_state()
    first = block(splitter=None).dataloaders(pets, bs=8, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(5)
    second = block(splitter=None).dataloaders(pets, bs=8, seed=0)
    assert first.valid.dataset.items == second.valid.dataset.items
    assert torch.equal(first.one_batch()[0], second.one_batch()[0])


def test_options_of_the_loaders(pets):
    dls = block().dataloaders(pets, bs=5, val_bs=4, shuffle=False)
    assert (len(dls.train), len(dls.valid), dls.train.shuffle) == (5, 2, False)
    assert len(block().dataloaders(pets, bs=5, drop_last=True, shuffle=False).train) == 4
    assert block(splitter=RandomSplitter(0)).dataloaders(pets, bs=5).valid is None


def test_new_transforms_leave_the_block_as_it_is(pets):
    first = block(batch_tfms=Flip())
    second = first.new(item_tfms=Resize(16))
    assert second.dataloaders(pets, bs=4).one_batch()[0].shape == (4, 3, 16, 16)
    assert first.dataloaders(pets, bs=4).one_batch()[0].shape == (4, 3, 32, 32)
    assert second.batch_tfms.transforms == ()


def test_two_images_and_a_class_make_pairs_of_inputs(pets):
    pair = block(
        blocks=(ImageBlock, ImageBlock(PILImageBW), CategoryBlock), get_x=[lambda file: file, lambda file: str(file)]
    )
    assert pair.n_inp == 2
    dls = pair.dataloaders(pets, bs=4, num_workers=0)
    a, b, y = dls.one_batch()
    (x1, x2), same = dls.train.first_batch()
    assert torch.equal(a, x1) and torch.equal(b, x2) and torch.equal(y, same) and dls.n_inp == 2
    assert (x1.shape, x2.shape) == ((4, 3, 32, 32), (4, 1, 32, 32))
    (x1, x2), y = next(iter(dls.test_dl(dls.valid.dataset.items)))
    assert len(x1) == len(x2) == 4 and y is None


@pytest.mark.parametrize(
    ("y_block", "label", "shape"),
    [(MultiCategoryBlock, lambda f: f.stem.split("_"), (4, 14)), (RegressionBlock, lambda f: float(f.stem[-1]), (4,))],
)
def test_several_labels_and_numbers(pets, y_block, label, shape):
    dls = block(blocks=(ImageBlock, y_block), get_y=label).dataloaders(pets, bs=4, seed=0, num_workers=0)
    y = dls.one_batch()[1]
    assert y.shape == shape and y.dtype == torch.float32
    learn = Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, dls.c)), seed=0)
    with learn.no_logging():
        learn.fit(1)


def test_rows_of_a_table(pets):
    table = {"fname": [f"{breed}_{i}" for breed in ("pug", "Birman") for i in range(10)], "kind": ["a", "b"] * 10}
    rows = DataBlock(
        (ImageBlock, CategoryBlock),
        get_x=ColReader("fname", pref=pets, suff=".jpg"),
        get_y=ColReader("kind"),
        splitter=lambda table: IndexSplitter([table["fname"].index("Birman_5")])(table),
        item_tfms=Resize(8),
    )
    dls = rows.dataloaders(table, bs=4, num_workers=0)
    assert dls.vocab == ("a", "b") and dls.valid.dataset.items[0] == f"{pets}/Birman_5.jpg"
    assert [int(i) for _, y in dls.test_dl(table, with_labels=True) for i in y] == [0, 1] * 10
    assert len(next(iter(dls.test_dl([pets / "pug_1.jpg", Image.new("L", (9, 9))])))[0]) == 2


def test_arrays_and_plain_blocks():
    items = [(np.full((2, 2), i, dtype=np.float32), "ab"[i % 2]) for i in range(10)]
    dls = DataBlock(get_x=lambda item: item[0], get_y=lambda item: item[1]).dataloaders(items, bs=4)
    assert dls.vocab == ("a", "b") and dls.one_batch()[0].shape == (4, 2, 2)


def test_inputs_alone(pets):
    x, y = block(blocks=ImageBlock, get_y=None).dataloaders(pets, bs=4).one_batch()
    assert x.shape == (4, 3, 32, 32) and y is None


# What cannot work


def test_misspelt_arguments_are_errors(pets):
    with pytest.raises(TypeError, match="there is no argument `get_itmes`. Did you mean 'get_items'"):
        DataBlock(get_itmes=get_image_files)
    with pytest.raises(TypeError, match="there is no argument `bathc_size`. Did you mean 'bs'"):
        block().dataloaders(pets, bathc_size=8)
    with pytest.raises(
        ValueError, match="`verify` must be one of 'names', 'headers', 'decode'. Did you mean 'headers'"
    ):
        block().dataloaders(pets, verify="header")
    with pytest.raises(ValueError, match="`val_bs` must be at least 1. Received: val_bs=0"):
        block().dataloaders(pets / "absent", val_bs=0)
    with pytest.raises(ValueError, match='on_unreadable="skip" needs verify="headers"'):
        block().dataloaders(pets, on_unreadable="skip", verify="names")


def test_blocks_and_getters_must_fit():
    with pytest.raises(ValueError, match="`get_x` must have 1 functions, one for each block.*Received: 2"):
        block(get_x=[str, str])
    with pytest.raises(ValueError, match="`get_y` must have 1 functions.*Received: 2"):
        block(get_y=[str, str])
    with pytest.raises(TypeError, match="an input needs a block that reads it.*CategoryBlock"):
        block(blocks=(CategoryBlock, CategoryBlock))
    with pytest.raises(TypeError, match="a target needs a block such as CategoryBlock.*ImageBlock"):
        block(blocks=(ImageBlock, ImageBlock))
    with pytest.raises(ValueError, match="`n_inp` must leave at most one block.*Received: n_inp=1"):
        block(blocks=(ImageBlock, CategoryBlock, CategoryBlock), n_inp=1)
    with pytest.raises(ValueError, match="Give `getters`, or `get_x` and `get_y`, not both"):
        block(getters=[None, str])


def test_a_missing_way_from_source_to_label_is_reported(pets):
    with pytest.raises(TypeError, match="`get_items` is needed .*get_items=get_image_files"):
        block(get_items=None).dataloaders(pets)
    with pytest.raises(ValueError, match="`get_y` is needed"):
        block(get_y=None).dataloaders(pets)
    with pytest.raises(DataError, match="there are no items"):
        block(get_items=None).dataloaders([])


def test_labels_that_fail_or_are_unseen_are_found_when_built(pets):
    with pytest.raises(DataError, match="`get_y` failed on 20 of 30 items: .*great_pyrenees_0.jpg' "):
        block(get_y=using_attr(RegexLabeller("^([A-Z])"), "name")).dataloaders(pets)
    pugs = [i for i, file in enumerate(get_image_files(pets)) if "pug" in file.name]
    with pytest.raises(DataError, match=r"10 of 10 validation labels are not among the classes.*pug_0.jpg' \('pug'\)"):
        block(splitter=IndexSplitter(pugs)).dataloaders(pets)
    assert block(splitter=StratifiedSplitter()).dataloaders(pets, bs=4).c == 3


def test_images_of_unequal_sizes_are_found_when_built(pets):
    with pytest.raises(DataError, match=r"one shape.*Shapes of 8 items: .*\(3, 30, 40\).*item_tfms=Resize"):
        block(item_tfms=None).dataloaders(pets, bs=4, verify="names")
    with pytest.raises(DataError, match=r"one shape.*24 images have 10 sizes.*item_tfms=Resize"):
        block(item_tfms=None).dataloaders(pets, bs=4)


def test_too_few_items_for_a_batch_are_reported(pets):
    with pytest.raises(DataError, match="`train` has no batches: 24 items with bs=64.*Lower `bs`"):
        block().dataloaders(pets, drop_last=True)


@pytest.mark.parametrize(
    ("options", "n_seen", "said"),
    [
        ({"bs": 11}, 11, ""),  # 1 of 12 is less than a tenth
        ({"bs": 7}, 12, "The last batch of an epoch is short, 5 of 12 .*not left out. bs=6 divides"),
        (
            {"bs": 64},
            12,
            "bs=64 is more than the 12 training items, so an epoch has one update",
        ),
        ({"bs": 7, "drop_last": True}, 7, "Every epoch leaves out 5 of 12 training items, 42%: .*batch of 7. bs=6"),
        ({"bs": 7, "drop_last": False}, 12, ""),
        ({"bs": 7, "shuffle": False}, 12, ""),
    ],
)
def test_a_short_batch_of_more_than_a_tenth_is_kept_and_what_is_left_out_is_said(pets, capsys, options, n_seen, said):
    twelve_train = IndexSplitter([i for i in range(30) if i % 5 < 3])
    dls = block(splitter=twelve_train).dataloaders(pets, num_workers=0, **options)
    assert sum(len(y) for _, y in dls.train) == n_seen
    err = capsys.readouterr().err
    assert re.search(said, err) if said else not err


def test_files_that_are_not_there_are_found_when_built(pets):
    files = [*get_image_files(pets), pets / "pug_77.jpg"]
    with pytest.raises(DataError, match=r"1 of 31 items cannot be read: .*pug_77.jpg' \(.*No such file"):
        block(get_items=None).dataloaders(files)


def test_a_damaged_file_is_reported_at_its_first_read(pets):
    for file in pets.glob("pug_*.jpg"):
        file.write_bytes(file.read_bytes()[:300])
    dls = block().dataloaders(pets, bs=24, shuffle=False, num_workers=0, verify="names")
    with pytest.raises(FileFormatError, match="pug_.*damaged or cut short"):
        list(dls.train)


def test_a_damaged_or_mislabelled_file_is_found_when_loaders_are_built(pets):
    (pets / "pug_3.jpg").write_text("<!DOCTYPE html>")
    (pets / "pug_4.jpg").write_bytes(b"")
    os.mkfifo(pets / "pug_55.jpg")
    message = r"3 of 31 items.*pug_3.jpg' \(.*It is text that begins with '<!DOC.*pug_4.*empty.*pug_55.*named pipe"
    with pytest.raises(FileFormatError, match=message):
        block().dataloaders(pets, bs=4)
    with pytest.raises(FileFormatError, match="1 of 31 items.*named pipe"):
        block().dataloaders(pets, bs=4, verify="names")


def test_a_file_damaged_in_an_epoch_is_named_with_its_row(pets):
    files = get_image_files(pets)
    table = {"file": files, "label": ["a", "b"] * 15}
    rows = block(get_items=None, get_x=ColReader("file"), get_y=ColReader("label"), splitter=IndexSplitter([0, 1]))
    dls = rows.dataloaders(table, bs=4, num_workers=0, cache=False)
    files[7].write_bytes(files[7].read_bytes()[:300])
    with pytest.raises(FileFormatError, match=rf"{files[7].name}.*cut short.*It is row 7 of the table"):
        list(dls.train)
    assert dls.train.name_item(5).startswith("item 5 (row 7 of the table, '")


@pytest.fixture
def damaged(pets):
    """A folder with one file that is not an image and one that is damaged in the middle."""
    (pets / "pug_3.jpg").write_text("no image")
    Image.effect_noise((40, 30), 50).save(pets / "pug_5.jpg", format="PNG")
    whole = (pets / "pug_5.jpg").read_bytes()
    (pets / "pug_5.jpg").write_bytes(whole[: len(whole) // 2] + whole[-12:])
    return pets


@pytest.mark.parametrize(("verify", "n_bad"), [("headers", 1), ("decode", 2)])
def test_what_cannot_be_read_is_found_or_left_out_as_asked(damaged, capsys, verify, n_bad):
    with pytest.raises(FileFormatError, match=f"{n_bad} of 30 items cannot be read: .*pug_3.jpg' .*on_unreadable="):
        block().dataloaders(damaged, bs=4, verify=verify)
    dls = block().dataloaders(damaged, bs=4, verify=verify, on_unreadable="skip")
    assert dls.train.n_items + dls.valid.n_items == 30 - n_bad and len(dls.skipped) == n_bad
    assert dls.skipped[0][0] == damaged / "pug_3.jpg" and "not an image" in dls.skipped[0][1]
    line = "1 item cannot be read and is left out: " if n_bad == 1 else "2 items cannot be read and are left out: "
    assert line in capsys.readouterr().err


def test_leaving_items_out_moves_no_other_item_to_the_other_set(damaged):
    dls = block().dataloaders(damaged, bs=4, verify="decode", on_unreadable="skip")
    files = get_image_files(damaged)
    bad = {source for source, _ in dls.skipped}
    assert dls.valid.dataset.items == [files[i] for i in RandomSplitter(seed=42)(files)[1] if files[i] not in bad]


def test_workers_and_the_cache_change_no_bit(pets, tmp_path):
    kinds = [{"num_workers": 0, "cache": False}, {"num_workers": 1, "cache": tmp_path / "cache"}]
    alone, helped = (block(batch_tfms=Flip()).dataloaders(pets, bs=8, seed=0, **kind) for kind in kinds)
    for _ in range(2):
        assert all(torch.equal(a, b) for (a, _), (b, _) in zip(alone.train, helped.train, strict=True))
    assert list((tmp_path / "cache").glob("*.pictures"))


def test_new_items_must_be_a_list_and_have_labels_only_if_they_can_be_read(pets):
    dls = block().dataloaders(pets, bs=4)
    with pytest.raises(TypeError, match=r"`items` must be a list of items. Received: one item.*Write \[item\]"):
        dls.test_dl(pets / "pug_1.jpg")
    with pytest.raises(DataError, match="must hold at least one item"):
        dls.test_dl([])
    with pytest.raises(DataError, match="`get_y` failed on 1 of 1 item"):
        dls.test_dl([Image.new("L", (9, 9))], with_labels=True)


def test_other_loaders_pass_as_they_are(pets):
    dls = block().dataloaders(pets, bs=8, num_workers=0)
    assert dls.test_dl(dls.train).n_items == 24
    theirs = torch.utils.data.TensorDataset(torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64))
    for source in (theirs, torch.utils.data.DataLoader(theirs, batch_size=4)):
        x, y = next(iter(dls.test_dl(source)))
        assert torch.equal(x, theirs.tensors[0]) and torch.equal(y, theirs.tensors[1])


# The summary


def test_summary_shows_every_step(pets, capsys):
    block(batch_tfms=[Flip(), Normalize.from_stats([0.5] * 3, [0.2] * 3)]).summary(pets)
    said = capsys.readouterr().out
    for text in [
        "Items: 30, first '",
        "24 for training, 6 for validation",
        "'great_pyrenees' -> 1 int64",
        "read: RGB image, 40 x 30",
        "RGB image, 32 x 32",
        "as a tensor: (3, 32, 32) uint8 from",
        "A batch of 4: x (4, 3, 32, 32) float32 from",
        "Flip(p=0.5): x (4, 3, 32, 32)",
        "Normalize",
    ]:
        assert text in said


def test_summary_draws_a_batch_on_request(pets):
    block().summary(pets, bs=3, show_batch=True)
    titles = [ax.get_title() for ax in plt.gcf().axes if ax.get_title()]
    assert len(titles) == 3 and set(titles) <= {"Birman", "great_pyrenees", "pug"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"get_items": lambda path: 1 / 0}, "get_items failed: division by zero"),
        ({"item_tfms": lambda image: image.absent}, r"item transform .* failed on '.*great_pyrenees_0.jpg': "),
        ({"batch_tfms": lambda x: x.absent}, "batch transform .* failed: "),
        ({"item_tfms": None}, "making a batch failed: 4 samples have 4 shapes: '.*Resize"),
    ],
)
def test_summary_names_the_step_that_fails(pets, capsys, changes, message):
    with pytest.raises(DataError, match=message):
        block(**changes).summary(pets)


def test_a_block_is_printable(pets):
    assert "ImageBlock" in repr(block()) and "Resize" in repr(block())


@pytest.mark.parametrize("verify", ["headers", "decode"])
def test_all_sizes_are_compared_if_headers_are_read(pets, verify):
    files = get_image_files(pets)
    for i, file in enumerate(files):
        Image.new("RGB", (30, 40) if i == 3 else (40, 30)).save(file)
    lone = block(item_tfms=None, splitter=IndexSplitter([0]))
    assert lone.dataloaders(pets, bs=4, verify="names").train.n_items == 29
    with pytest.raises(DataError, match=rf"29 images have 2 sizes.*28 of \(40, 30\), 1 of.*{files[3].name}.*Resize"):
        lone.dataloaders(pets, bs=4, verify=verify)
    assert block(splitter=IndexSplitter([0])).dataloaders(pets, bs=4, verify=verify).train.n_items == 29


def test_the_summary_shows_arrays_as_the_next_transform_gets_them(pets, capsys):
    block(item_tfms=[Resize(8), np.asarray, lambda x: x[:4]]).summary(pets)
    printed = capsys.readouterr().out
    assert "as a tensor: (3, 4, 8) uint8" in printed and "A batch of 4: x (4, 3, 4, 8)" in printed


def test_items_beyond_the_range_of_light_are_refused(pets):
    as_floats = [Resize(32), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    normalised = [*as_floats, v2.Normalize([0.5] * 3, [0.2] * 3)]
    with pytest.raises(DataError, match=r"Brightness.* needs images in \[0, 1\], and '.*jpg' reaches from -"):
        block(item_tfms=normalised, batch_tfms=[Flip(), Brightness()]).dataloaders(pets, bs=4)
    block(item_tfms=normalised, batch_tfms=Flip()).dataloaders(pets, bs=4)
    block(item_tfms=as_floats, batch_tfms=[Flip(), Brightness()]).dataloaders(pets, bs=4)


def test_datasets_are_the_items_before_any_transform(pets):
    sets = block().datasets(pets)
    image, number = sets.train[0]
    assert isinstance(image, PILImage) and image.size == image_size(sets.train.items[0])
    assert type(number) is TensorCategory and sets.vocab[number] == BREED(sets.train.items[0])
    assert (len(sets), len(sets.train), len(sets.valid), sets.c, sets.n_inp) == (30, 24, 6, 3, 1)
    assert sets.train.items == [get_image_files(pets)[i] for i in sets.splits[0]]
    assert len(sets.train[[0, 2]]) == len(sets.train[:2]) == 2 and len(list(sets.valid)) == 6
    assert torch.equal(sets[sets.splits[1][2]][1], sets.valid[2][1])
    with pytest.raises(IndexError, match="item 24 of 24"):
        sets.train[24]
    dls = block().dataloaders(pets, bs=4)
    assert dls.train_ds.items == sets.train.items and dls.valid_ds[0][0].tobytes() == sets.valid[0][0].tobytes()


def test_items_of_several_inputs_and_labels_unpack_flat(pets):
    several = block(
        blocks=(ImageBlock, ImageBlock(PILImageBW), MultiCategoryBlock),
        get_y=lambda f: f.stem.split("_"),
        get_x=[lambda f: f, lambda f: f],
    )
    colour, grey, names = several.datasets(pets).train[3]
    assert (type(colour), type(grey), grey.mode) == (PILImage, PILImageBW, "L")
    assert type(names) is TensorMultiCategory and names.sum() >= 2


class Frame:
    """As much of a pandas frame as a block uses."""

    def __init__(self, **columns):
        self.cells = columns
        self.columns = list(columns)
        self.iloc = self

    def __len__(self):
        return len(self.cells["name"])

    def __getitem__(self, key):
        return (
            self.cells[key]
            if isinstance(key, str)
            else Frame(**{n: [c[i] for i in key] for n, c in self.cells.items()})
        )


def test_a_splitter_gets_the_frame_and_the_sets_are_parts_of_it(pets):
    files = get_image_files(pets)
    frame = Frame(name=files, held=[i % 5 == 0 for i in range(30)])

    def split(given):
        assert given is frame
        return [i for i in range(30) if not frame["held"][i]], [i for i in range(30) if frame["held"][i]]

    sets = block(get_items=None, get_x=ColReader("name"), get_y=lambda row: BREED(row["name"]), splitter=split)
    dls = sets.dataloaders(frame, bs=4)
    assert dls.valid_ds.items["name"] == files[::5] and len(dls.train_ds) == 24
    assert sets.datasets(frame).valid.items["held"] == [True] * 6
