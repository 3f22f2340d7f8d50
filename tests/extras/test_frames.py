"""Frames of pandas and polars are tables: by `from_df`, by a `DataBlock`, and as weights."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold

from minilearner.results.score_table import ScoreTable
from minilearner.vision.all import (
    CategoryBlock,
    ColReader,
    ColSplitter,
    DataBlock,
    GroupSplitter,
    ImageBlock,
    ImageDataLoaders,
    SplitterFrom,
)

pytestmark = pytest.mark.filterwarnings("default")  # the libraries' own warnings are no concern of ours

N = 24
COLUMNS = {
    "file": [f"{i}.png" for i in range(N)],
    "label": [["cat", "dog", "dog"][i % 3] for i in range(N)],
    "patient": [f"p{i // 4}" for i in range(N)],
    "held": [i % 6 == 0 for i in range(N)],
    "weight": [float(i % 3 == 0) for i in range(N)],
}


@pytest.fixture(params=[pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def frame(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in COLUMNS["file"]:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(name)
    made = request.param(COLUMNS)
    # In an order of its own: pandas' index is then no position.
    return made.sort_values("label") if request.param is pd.DataFrame else made.sort("label", maintain_order=True)


def block(splitter):
    return DataBlock((ImageBlock, CategoryBlock), get_x=ColReader("file"), get_y=ColReader("label"), splitter=splitter)


@pytest.mark.parametrize(
    "splitter",
    [GroupSplitter(ColReader("patient"), 0.3), SplitterFrom(StratifiedGroupKFold(3), ColReader("patient"))],
    ids=["ours", "scikit-learn's"],
)
def test_groups_stay_together(frame, splitter):
    files = dict(zip(COLUMNS["file"], COLUMNS["patient"], strict=True))
    for dls in (
        block(splitter).dataloaders(frame, bs=4, device="cpu"),
        ImageDataLoaders.from_df(frame, fn_col="file", label_col="label", splitter=splitter, bs=4, device="cpu"),
    ):
        sides = [{files[str(item).split("/")[-1]] for item in loader.items} for loader in dls]
        assert sides[0] and sides[1] and not sides[0] & sides[1]


def test_a_column_says_what_is_for_validation(frame):
    by_name = ImageDataLoaders.from_df(frame, fn_col="file", label_col="label", valid_col="held", bs=4, device="cpu")
    for dls in (by_name, block(ColSplitter("held")).dataloaders(frame, bs=4, device="cpu")):
        held = sorted(int(str(item).split("/")[-1].split(".")[0]) for item in dls.valid.items)
        assert held == [0, 6, 12, 18]


def test_a_column_is_the_weights(frame):
    dls = block(GroupSplitter(ColReader("patient"), 0.3)).dataloaders(
        frame, weights=frame["weight"], bs=4, device="cpu"
    )
    assert {dls.vocab[int(y)] for _, ys in dls.train for y in ys} == {"cat"}


def test_scores_of_several_fits_become_a_frame():
    scores = ScoreTable("seed", (3, 5), (10, 10), {"valid_loss": (0.5, 0.6), "accuracy": (0.8, 0.9)})
    frame = scores.to_frame()
    assert list(frame.columns) == ["seed", "items", "valid_loss", "accuracy"] and frame.shape == (2, 4)
    assert frame.accuracy.mean() == pytest.approx(scores.mean["accuracy"])
