"""Splitters of scikit-learn split the items of a data set, each fold as scikit-learn makes it."""

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import (
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    LeaveOneGroupOut,
    PredefinedSplit,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    TimeSeriesSplit,
)

from minilearner.data.data_block import DataBlock
from minilearner.data.labels import ColReader
from minilearner.data.splits import split_items
from minilearner.data.splitter_from import SplitterFrom
from minilearner.data.table import as_table
from minilearner.errors import DataError
from minilearner.vision.image_loaders import ImageDataLoaders

N = 60
LABELS = ["cat" if i % 3 else "dog" for i in range(N)]
GROUPS = [f"p{i // 4}" for i in range(N)]
TABLE = as_table({"file": [f"{i}.png" for i in range(N)], "label": LABELS, "patient": GROUPS})


def groups_for(splitter):
    return ColReader("patient") if "Group" in type(splitter).__name__ else None


def expected(splitter, fold):
    groups = GROUPS if groups_for(splitter) else None
    train, valid = list(splitter.split(np.zeros(N), LABELS, groups))[fold]
    return train.tolist(), valid.tolist()


@pytest.mark.parametrize("fold", [0, 2])
@pytest.mark.parametrize(
    "splitter",
    [
        KFold(3),
        StratifiedKFold(3, shuffle=True, random_state=4),
        GroupKFold(3),
        StratifiedGroupKFold(3),
        GroupShuffleSplit(3, random_state=1),
        LeaveOneGroupOut(),
        TimeSeriesSplit(3),
        PredefinedSplit([i % 3 for i in range(N)]),
    ],
    ids=lambda splitter: type(splitter).__name__,
)
def test_a_fold_is_scikit_learns(splitter, fold):
    ours = SplitterFrom(splitter, groups_for(splitter), fold)
    assert split_items(ours, TABLE, LABELS) == expected(splitter, fold)


@pytest.mark.parametrize("splitter", [KFold(3, shuffle=True), ShuffleSplit(), GroupShuffleSplit()])
def test_a_draw_without_a_seed_repeats_and_moves_no_generator(splitter):
    before = np.random.get_state()[1].copy()
    splits = [split_items(SplitterFrom(splitter, groups_for(splitter)), TABLE, LABELS) for _ in range(2)]
    assert splits[0] == splits[1] and (np.random.get_state()[1] == before).all()


def test_a_generator_of_the_splitter_does_not_move():
    splitter = ShuffleSplit(random_state=np.random.RandomState(3))
    splits = [SplitterFrom(splitter)(TABLE) for _ in range(2)]
    assert splits[0] == splits[1]


def test_images_of_one_patient_stay_together(tmp_path):
    for i in range(12):
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(tmp_path / f"{'ab'[i % 2]}_p{i // 3}_{i}.png")
    by_patient = SplitterFrom(GroupKFold(2), lambda path: path.stem.split("_")[1], fold=1)
    dls = ImageDataLoaders.from_name_func(
        tmp_path, sorted(tmp_path.iterdir()), lambda name: name[0], splitter=by_patient, bs=2, device="cpu"
    )
    sides = [{path.stem.split("_")[1] for path in loader.items} for loader in dls]
    assert len(sides[0]) == len(sides[1]) == 2 and not sides[0] & sides[1]


def test_what_scikit_learn_refuses_raises_with_the_way_out():
    with pytest.raises(DataError, match=r"GroupKFold.* cannot split 60 items: .*Give its groups as `get_group`"):
        SplitterFrom(GroupKFold(3))(TABLE)
    with pytest.raises(DataError, match=r"`fold` must be below 3, the number of folds. Received: fold=3"):
        SplitterFrom(KFold(3), fold=3)(TABLE)
    with pytest.raises(DataError, match="StratifiedKFold.* needs labels, and the items have none"):
        split_items(SplitterFrom(StratifiedKFold(3)), TABLE, None)
    with pytest.raises(DataError, match="`get_group` must have one group for each of 60 items. Received: 2"):
        SplitterFrom(GroupKFold(2), get_group=["a", "b"])(TABLE)


def test_what_is_no_splitter_raises():
    with pytest.raises(TypeError, match="`splitter` must be an object with scikit-learn's method `split`"):
        SplitterFrom(GroupKFold)
    with pytest.raises(TypeError, match=r"Write SplitterFrom\(KFold\(n_splits=5, random_state=None, shuffle=False\)\)"):
        DataBlock(splitter=KFold())
    with pytest.raises(TypeError, match=r"Write SplitterFrom\(KFold\(\.\.\.\)\)"):
        DataBlock(splitter=KFold)
    with pytest.raises(TypeError, match="Did you mean 'get_group'"):
        SplitterFrom(KFold(), groups=GROUPS)
