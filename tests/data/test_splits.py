"""Splitters give the same splits as fastai and scikit-learn, and use no global randomness."""

import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split

from minilearner.data.splits import (
    ColSplitter,
    EndSplitter,
    FileSplitter,
    FuncSplitter,
    GrandparentSplitter,
    IndexSplitter,
    MaskSplitter,
    RandomSplitter,
    RandomSubsetSplitter,
    StratifiedSplitter,
    TrainTestSplitter,
    split_items,
)
from minilearner.data.table import as_table
from minilearner.errors import DataError, FileFormatError

TEN = list(range(10))


def test_a_seeded_random_split_is_fastais():
    assert RandomSplitter(seed=42)(TEN) == ([1, 8, 4, 5, 0, 9, 3, 7], [2, 6])  # fastai 2.8.12's own
    assert RandomSubsetSplitter(0.3, 0.1, seed=7)(list(range(20))) == ([15, 17, 9, 12, 7, 1], [19, 3])


@pytest.mark.parametrize("splitter", [RandomSplitter(), RandomSplitter(seed=1), RandomSubsetSplitter(0.5, 0.2)])
def test_random_splits_repeat_are_disjoint_and_leave_the_global_generator_alone(splitter):
    before = torch.get_rng_state()
    train, valid = splitter(TEN)
    torch.manual_seed(99)
    assert (train, valid) == splitter(TEN) and not set(train) & set(valid)
    torch.set_rng_state(before)
    splitter(TEN)
    assert torch.equal(before, torch.get_rng_state())


def test_sizes_round_down_and_a_share_of_none_is_reported():
    assert [len(part) for part in RandomSplitter(0.25)(TEN)] == [8, 2]
    assert [len(part) for part in RandomSubsetSplitter(0.3, 0.1)(list(range(100)))] == [30, 10]
    assert RandomSplitter(0)(TEN)[1] == []
    for splitter in (RandomSplitter(), EndSplitter()):
        with pytest.raises(DataError, match="valid_pct=0.2 of 4 items is less than one. Raise it to 0.25"):
            splitter([0, 1, 2, 3])


def test_given_positions_a_mask_and_a_function():
    expected = [0, 1, 2, 4, 5, 6, 8], [3, 7, 9]
    by_position = IndexSplitter(iter([3, 7, 9]))
    assert by_position(TEN) == by_position(TEN) == expected
    assert MaskSplitter([i in (3, 7, 9) for i in TEN])(TEN) == expected
    assert FuncSplitter(lambda i: i in (3, 7, 9))(TEN) == expected


def test_the_end_or_the_start():
    assert EndSplitter(0.3)(TEN) == ([0, 1, 2, 3, 4, 5, 6], [7, 8, 9])
    assert EndSplitter(0.3, valid_last=False)(TEN) == ([3, 4, 5, 6, 7, 8, 9], [0, 1, 2])


def test_grandparents_in_the_order_of_their_names():
    folders = ["train", "valid", "valid", "train", "train", "valid", "train", "valid"]
    items = [Path(f"{folder}/3/{i}.png") for i, folder in enumerate(folders)]
    assert GrandparentSplitter()(items) == ([0, 3, 4, 6], [1, 2, 5, 7])
    assert GrandparentSplitter(("valid", "train"), "train")(items)[0] == [1, 2, 5, 7, 0, 3, 4, 6]
    with pytest.raises(
        DataError, match=r"`valid_name='val'`. What lies there: 'train' \(4 items\), 'valid' \(4 items\)"
    ):
        GrandparentSplitter(valid_name="val")(items)


def test_names_in_a_file(tmp_path):
    items = [Path(f"x/{i}.png") for i in range(4)]
    (tmp_path / "valid.txt").write_text("1.png\n3.png\n\n")
    assert FileSplitter(tmp_path / "valid.txt")(items) == ([0, 2], [1, 3])
    (tmp_path / "valid.txt").write_text("1.png\n7.png")
    with pytest.raises(DataError, match="1 of 2 names in .*valid.txt' is not among the 4 items: '7.png'"):
        FileSplitter(tmp_path / "valid.txt")(items)


def test_a_column_of_truth_or_of_values():
    table = {"fname": list("abc"), "is_valid": [False, True, False], "fold": [0, 1, 2], "part": ["tr", "va", "te"]}
    assert ColSplitter()(table) == ([0, 2], [1])
    assert ColSplitter("fold", on=[1, 2])(table) == ([0], [1, 2])
    assert ColSplitter(3, on="va")(table) == ([0, 2], [1])
    with pytest.raises(
        DataError, match="3 of 3 cells of column 'part' are neither true nor false: 'tr' in row 0, 'va' in row 1"
    ):
        ColSplitter("part")(table)
    with pytest.raises(DataError, match="needs the rows of a table"):
        ColSplitter()(TEN)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (([], TEN), "leaves no item to train on: 0 to train, 10 to validate, of 10"),
        (([0, 1, 2], [2, 3]), r"1 item both into training and validation: positions \[2\]"),
        (([0, 10, -1], [1]), r"2 positions outside 0 to 9: \[10, -1\]"),
        (([0, 0, 1], [2]), r"1 item more than once: positions \[0\]"),
        (7, "must return two lists of positions. Received: 7"),
        (([0], [1], [2]), "must return two lists of positions"),
    ],
)
def test_a_wrong_split_is_reported(split, message):
    with pytest.raises(DataError, match=message):
        split_items(lambda items: split, TEN, None)


@pytest.mark.parametrize(
    "make", [lambda: RandomSplitter(1.0), lambda: EndSplitter(-0.1), lambda: RandomSubsetSplitter(0.7, 0.4)]
)
def test_shares_out_of_range_are_refused_at_once(make):
    with pytest.raises(ValueError, match=r"must be in [\[(]0, 1\)|must not exceed 1 together"):
        make()


def labels_of(n, seed):
    rng = random.Random(seed)
    return [rng.choice("aaaaabbbccd") for _ in range(n)]


@pytest.mark.parametrize("sizes", [{}, {"test_size": 0.3}, {"test_size": 17}, {"test_size": 0.3, "train_size": 0.4}])
@pytest.mark.parametrize("seed", range(10))
def test_the_split_is_scikit_learns_bit_for_bit(sizes, seed):
    y = labels_of(151, seed)
    sizes = {"test_size": 0.2, **sizes}
    for stratify in (None, y):
        train, valid = train_test_split(range(151), random_state=seed, stratify=stratify, **sizes)
        assert TrainTestSplitter(random_state=seed, stratify=stratify, **sizes)(y) == (train, valid)


def test_a_fifth_validates_if_no_size_is_given():
    train, valid = TrainTestSplitter(test_size=None)(range(10))
    assert (train, valid) == TrainTestSplitter(0.2)(range(10)) and len(valid) == 2


@pytest.mark.parametrize("stratify", [[("a", 1), ("b", 2)] * 6, [True, False] * 6])
def test_classes_may_be_anything_that_can_be_sorted(stratify):
    _, valid = TrainTestSplitter(0.5, stratify=stratify)(range(12))
    assert sorted(Counter(stratify[i] for i in valid).values()) == [3, 3]


def test_without_shuffling_the_front_trains():
    assert TrainTestSplitter(0.25, shuffle=False)(range(8)) == ([0, 1, 2, 3, 4, 5], [6, 7])
    with pytest.raises(ValueError, match="`stratify` needs shuffle=True"):
        TrainTestSplitter(stratify=["a"], shuffle=False)


def test_every_class_is_split_alike():
    y = labels_of(500, 0)
    train, valid = split_items(StratifiedSplitter(0.2, seed=3), y, y)
    assert len(valid) == 100 and sorted(train + valid) == list(range(500))
    ours, theirs = (
        Counter(y[i] for i in valid),
        Counter(train_test_split(y, test_size=0.2, stratify=y, random_state=0)[1]),
    )
    assert ours == theirs
    assert train != sorted(train) and split_items(StratifiedSplitter(0.2, seed=4), y, y)[1] != valid


def test_stratify_true_takes_the_labels_of_the_items():
    y = ["a"] * 8 + ["b"] * 4
    train, valid = split_items(TrainTestSplitter(0.25, stratify=True), range(12), y)
    assert Counter(y[i] for i in valid) == {"a": 2, "b": 1}
    assert (train, valid) == TrainTestSplitter(0.25, stratify=y)(range(12))


def test_a_class_of_one_stays_in_training():
    y = ["rare", "rarer"] + ["common"] * 3
    train, _ = StratifiedSplitter(0.8)(y, y)
    assert {0, 1} <= set(train) and len(train) == 3


def test_what_cannot_be_stratified_is_reported():
    with pytest.raises(DataError, match="needs two items of each of 2 classes.*The rarest class has 1"):
        TrainTestSplitter(stratify=["a", "a", "a", "b"])(range(4))
    with pytest.raises(DataError, match="one label per item"):
        StratifiedSplitter(0.5)([0, 1], [["a"], ["b"]])
    with pytest.raises(DataError, match="needs labels, and the items have none"):
        split_items(StratifiedSplitter(), range(9), None)
    with pytest.raises(DataError, match="`stratify` must have one class for each of 3 items. Received: 2"):
        TrainTestSplitter(stratify=["a", "b"])(range(3))


@pytest.mark.parametrize("size", [1.5, 0.0, 0, -1, "half", True])
@pytest.mark.parametrize("name", ["test_size", "train_size"])
def test_a_size_that_is_neither_share_nor_count_is_refused(name, size):
    with pytest.raises(ValueError, match=f"`{name}` must be a share.*Received: {name}={size!r}"):
        TrainTestSplitter(**{name: size})


def test_sizes_may_be_numpys_numbers():
    for size in (0.3, 3):
        assert TrainTestSplitter(np.asarray(size)[()])(range(10)) == TrainTestSplitter(size)(range(10))


@pytest.mark.parametrize(
    ("sizes", "n", "reason"),
    [
        ({"test_size": 12}, 10, "10 items cannot be split by test_size=12, train_size=None: test_size=12 should be"),
        ({"test_size": 6, "train_size": 5}, 10, "test_size=6, train_size=5: The sum of train_size and test_size = 11"),
        ({"test_size": 0.5, "train_size": 0.6}, 10, "The sum of test_size and train_size = 1.1"),
        ({"test_size": 0.2}, 1, "1 item cannot be split.*train set will be empty"),
    ],
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_sizes_that_the_items_do_not_allow_are_refused_with_the_reason(sizes, n, reason, shuffle):
    with pytest.raises(DataError, match=reason):
        TrainTestSplitter(**sizes, shuffle=shuffle)(range(n))


def test_an_empty_validation_set_is_said_by_name(tmp_path):
    (tmp_path / "valid.txt").write_text("\n \n")
    for splitter, items, message in [
        (IndexSplitter([]), TEN, "`valid_idx` names no position"),
        (MaskSplitter([False] * 10), TEN, "`mask` is true for none"),
        (FuncSplitter(lambda item: None), TEN, "`func` is true for none"),
        (FileSplitter(tmp_path / "valid.txt"), ["a.png"], "valid.txt' has no names"),
        (ColSplitter("held"), {"held": [0, 0]}, "no cell of column 'held' is true"),
        (ColSplitter("held", on=[]), {"held": [0, 0]}, "`on` names no value"),
    ]:
        with pytest.raises(
            DataError, match=rf"{message}, so the validation set is empty.*RandomSplitter\(valid_pct=0\)"
        ):
            splitter(items)


def test_a_file_of_names_in_any_spelling(tmp_path):
    (tmp_path / "valid.txt").write_bytes(b"\xef\xbb\xbf" + "cafe\u0301.png\r\nb.png".encode())
    assert FileSplitter(tmp_path / "valid.txt")(["a.png", "x/caf\u00e9.png", Path("b.png")]) == ([0], [1, 2])
    (tmp_path / "valid.txt").write_bytes("caf\u00e9.png".encode("latin-1"))
    with pytest.raises(FileFormatError, match=r"line 1 of '.*valid.txt' is not text in utf-8"):
        FileSplitter(tmp_path / "valid.txt")(["a.png"])
    assert FileSplitter(tmp_path / "valid.txt", encoding="latin-1")(["a.png", "caf\u00e9.png"]) == ([0], [1])
    with pytest.raises(DataError, match="`items` failed on 1 of 1 item"):
        FileSplitter(tmp_path / "valid.txt", encoding="latin-1")([3])


@pytest.mark.parametrize(
    "on", [[1, 3], {1, 3}, np.array([1, 3]), (1, 3), torch.tensor([1, 3]), {1: "a", 3: "b"}.keys()]
)
def test_values_that_mean_validation_come_in_any_collection(on):
    assert ColSplitter("fold", on=on)({"fold": [0, 1, 2, 3, np.int64(1)]}) == ([0, 2], [1, 3, 4])
    assert ColSplitter("fold", on=iter([1, 3]))({"fold": [0, 1, 3]}) == ([0], [1, 2])


def test_a_value_in_no_cell_is_named_with_the_nearest():
    with pytest.raises(DataError, match="no cell of column 'part' holds 'valid'.*Did you mean 'val'.*'train', 'val'"):
        ColSplitter("part", on=["val", "valid"])({"part": ["train", " val"]})


def test_a_mask_or_a_function_that_is_undecided_is_refused():
    with pytest.raises(DataError, match="1 of 2 entries of `mask` is neither true nor false: 'False' in item 1"):
        MaskSplitter([True, "False"])([1, 2])
    with pytest.raises(DataError, match="2 of 3 entries of `mask` .*: nan in item 1"):
        MaskSplitter(np.array([1.0, np.nan, np.nan]))([1, 2, 3])
    with pytest.raises(DataError, match="`func` must return true or false. It returned nan for 1 of 2 items: 2"):
        FuncSplitter({1: True, 2: float("nan")}.get)([1, 2])
    assert MaskSplitter(torch.tensor([True, False]))([1, 2]) == ([1], [0])


def test_a_stratified_split_needs_every_label():
    with pytest.raises(DataError, match="2 have none: item 1, item 2"):
        StratifiedSplitter(0.5)([1, 2, 3, 4], ["a", None, " ", "a"])
    assert Counter(len(part) for part in StratifiedSplitter(0.5)([1, 2, 3, 4], ["a", " a", "b", "b"])) == {2: 2}


@pytest.mark.parametrize("kind", ["file", "column", "list", "mask", "function", "folders"])
def test_a_hundred_thousand_items_are_split_in_seconds(tmp_path, kind):
    """It took minutes when every item met every name; a second is usual, and ten allow for a busy machine."""
    n = 100_000
    paths = [Path(f"{'train' if i % 2 else 'valid'}/c/{i}.png") for i in range(n)]
    (tmp_path / "valid.txt").write_text("\n".join(path.name for path in paths[::2]))
    splitter, items = {
        "file": (FileSplitter(tmp_path / "valid.txt"), paths),
        "column": (ColSplitter("id", on=list(range(0, n, 2))), {"id": list(range(n))}),
        "list": (IndexSplitter(range(0, n, 2)), paths),
        "mask": (MaskSplitter([i % 2 == 0 for i in range(n)]), paths),
        "function": (FuncSplitter(lambda path: path.parts[0] == "valid"), paths),
        "folders": (GrandparentSplitter(), paths),
    }[kind]
    start = time.process_time()
    train, valid = split_items(splitter, as_table(items) if kind == "column" else items, None)
    assert time.process_time() - start < 10
    assert (train, valid) == (list(range(1, n, 2)), list(range(0, n, 2)))
