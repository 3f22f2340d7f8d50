"""Scores of several fits, by fold and by seed."""

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    TimeSeriesSplit,
    cross_val_score,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from minilearner import DataLoaders, Learner, accuracy, set_seed
from minilearner.data.folds import split_groups
from minilearner.errors import DataError
from minilearner.results.intervals import t_interval
from minilearner.results.score_table import ScoreTable
from minilearner.vision.all import (
    CategoryBlock,
    ColReader,
    DataBlock,
    GroupSplitter,
    ImageBlock,
    RandomSplitter,
    Resize,
    SplitterFrom,
    mae,
    vision_learner,
)


@pytest.fixture
def learn(ninety_blobs, net):
    return Learner(DataLoaders.from_arrays(*ninety_blobs, bs=16, seed=1), net(), lr=0.01, metrics=accuracy)


def held_items(learn, **how):
    """Returns the items that each fold holds out: their first inputs."""
    held = []

    def fit(one):
        rest = {*one.dls.train.x[:, 0].tolist()}
        held.append(one.dls.valid.x[:, 0].tolist())
        assert rest.isdisjoint(held[-1])

    learn.cross_validate(fit=fit, **how)
    return held


def test_scores_are_those_of_scikit_learn():
    """Closed-form least squares gives the same fit in both, so the scores of the folds must be equal."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    y = (x @ [1, 2, 3, 4] + rng.normal(size=60)).astype(np.float32)
    folds = KFold(6, shuffle=True, random_state=3)

    def solve(one):
        inputs, targets = one.dls.train.x.double(), one.dls.train.y.double()
        ones = torch.ones(len(inputs), 1, dtype=torch.float64)
        weights = torch.linalg.lstsq(torch.cat([inputs, ones], 1), targets.reshape(-1, 1)).solution
        one.model[0].weight.data[:] = weights[:-1].T
        one.model[0].bias.data[:] = weights[-1]

    dls = DataLoaders.from_arrays((x, y), bs=16, seed=0)
    learn = Learner(dls, nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), nn.MSELoss(), metrics=mae)
    scores = learn.cross_validate(splitter=SplitterFrom(folds), fit=solve)
    for name, scoring in (("valid_loss", "neg_mean_squared_error"), ("mae", "neg_mean_absolute_error")):
        theirs = -cross_val_score(LinearRegression(), x.astype(float), y.astype(float), cv=folds, scoring=scoring)
        np.testing.assert_allclose(scores.scores[name], theirs, rtol=1e-5)
    assert scores.mean["mae"] == pytest.approx(np.mean(scores.scores["mae"]))


def test_each_item_is_held_out_once_and_the_learner_stays_as_it_is(learn, capsys):
    before, drawn = copy.deepcopy(learn.model.state_dict()), torch.get_rng_state()
    scores = learn.cross_validate(4, 2)
    assert scores.by == "fold" and scores.keys == (1, 2, 3, 4) and scores.n_items == (30,) * 4
    assert list(scores.scores) == ["valid_loss", "accuracy"] and scores.overlap == pytest.approx(1 / 3)
    assert all(torch.equal(before[name], value) for name, value in learn.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn) and not learn.recorder.runs and learn.optimizer is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        f"fold 1 of 4: 30 items left out, valid_loss {scores.scores['valid_loss'][0]:.4f}, "
        f"accuracy {scores.scores['accuracy'][0]:.4f}"
    )
    assert len(lines) == 4
    again = learn.cross_validate(4, 2)
    assert again.scores == scores.scores and learn.cross_validate(4, 2, seed=1).scores != scores.scores


def test_scores_are_those_of_the_predictions(learn):
    scores, found = learn.cross_validate(3, 1, seed=2), learn.cross_val_preds(3, 1, seed=2)
    is_right = (found.preds.argmax(1) == found.targets).double().mean().item()
    assert scores.mean["accuracy"] == pytest.approx(is_right, abs=1e-6)


def test_groups_stay_together(learn):
    group_of = [number // 7 for number in range(120)]
    every = torch.cat([learn.dls.train.x, learn.dls.valid.x])[:, 0].tolist()
    for splitter, k in (
        (GroupSplitter(lambda number: group_of[number]), 4),
        (SplitterFrom(GroupKFold(4), get_group=group_of), None),
        (SplitterFrom(StratifiedGroupKFold(4), get_group=lambda number: group_of[number]), 4),
    ):
        held = held_items(learn, k=k, splitter=splitter)
        assert sorted(value for part in held for value in part) == sorted(every) and len(held) == 4
        groups = [{group_of[every.index(value)] for value in part} for part in held]
        assert sum(map(len, groups)) == len(set().union(*groups)) == 18


def test_groups_are_shared_out_evenly():
    groups = [*"aaaaabbbbccddeef"]
    parts = split_groups(groups, 3, seed=0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(16)) and sorted(map(len, parts)) == [5, 5, 6]
    with pytest.raises(ValueError, match="`k` must be at most the number of groups, 6. Received: k=7"):
        split_groups(groups, 7, seed=0)


def test_splits_of_scikit_learn_keep_their_training_items(learn):
    sizes = []
    for splitter in (TimeSeriesSplit(3), ShuffleSplit(2, test_size=12, train_size=60)):
        learn.cross_validate(
            splitter=SplitterFrom(splitter), fit=lambda one: sizes.append((len(one.dls.train.x), len(one.dls.valid.x)))
        )
    assert sizes == [(30, 30), (60, 30), (90, 30), (60, 12), (60, 12)]


def test_columns_of_a_table_give_the_groups(pets):
    files = sorted(pets.glob("*.jpg"))
    table = {
        "name": [file.name for file in files],
        "patient": [i % 3 for i in range(len(files))],
        "label": ["a" if i % 2 else "b" for i in range(len(files))],
    }
    block = DataBlock(
        (ImageBlock, CategoryBlock), get_x=ColReader("name", pref=pets), get_y=ColReader("label"), item_tfms=Resize(16)
    )
    set_seed(0)
    learn = vision_learner(
        block.dataloaders(table, bs=2), lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()), pretrained=False
    )
    patients = []

    def fit(one):
        rows = one.dls.valid.dataset.rows, one.dls.train.dataset.rows
        patients.append([{table["patient"][row] for row in part} for part in rows])

    for splitter in (GroupSplitter(ColReader("patient")), SplitterFrom(GroupKFold(3), get_group=ColReader("patient"))):
        learn.cross_validate(3, fit=fit, splitter=splitter)
    assert len(patients) == 6 and all(held.isdisjoint(rest) and len(held) == 1 for held, rest in patients)
    with pytest.raises(DataError, match="`get_group` must be a function here: the loaders have changed the order"):
        learn.cross_validate(splitter=SplitterFrom(GroupKFold(3), get_group=table["patient"]))


def test_what_makes_no_folds_is_refused(learn):
    with pytest.raises(TypeError, match="must make several folds: a GroupSplitter, or SplitterFrom"):
        learn.cross_validate(splitter=RandomSplitter())
    with pytest.raises(ValueError, match="`k` must be 4, the splitter's number of folds, or left out. Received: k=5"):
        learn.cross_validate(5, splitter=SplitterFrom(StratifiedKFold(4)))
    with pytest.raises(ValueError, match="`k` must be at least 2. Received: k=1"):
        learn.cross_validate(1)
    with pytest.raises(ValueError, match="`k` must be at most the number of items, 120"):
        learn.cross_validate(121)
    dls = DataLoaders.from_arrays((np.random.rand(6, 2), np.random.rand(6)), bs=2)
    numbers = Learner(dls, nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)))
    with pytest.raises(DataError, match="StratifiedKFold.* cannot split 6 items"):
        numbers.cross_validate(splitter=SplitterFrom(StratifiedKFold(3)))
    assert not learn.recorder.runs


def test_folds_may_be_more_than_items_of_a_class(net):
    y = np.array([*"aaaaaaaabb"])
    learn = Learner(DataLoaders.from_arrays((np.random.rand(10, 2), y), bs=4, seed=0), net(), metrics=accuracy)
    assert learn.cross_validate(5, 1).n_items == (2,) * 5


def test_seeds_repeat_and_change_a_fit(learn, net):
    def make(dls):
        return Learner(dls, net(), metrics=accuracy)

    scores = learn.repeat(seeds=[4, 1, 5], n_epoch=1, make_learner=make)
    assert scores.by == "seed" and scores.keys == (4, 1, 5) and scores.n_items == (30,) * 3 and scores.overlap == 0
    values = scores.scores["valid_loss"]
    assert len(set(values)) == 3
    assert learn.repeat([1], 1, make_learner=make).scores["valid_loss"] == values[1:2]


def test_a_fit_of_a_seed_can_be_done_by_hand(learn, net, ninety_blobs):
    scores = learn.repeat([7], 2, make_learner=lambda dls: Learner(dls, net(), metrics=accuracy))
    set_seed(7)
    own = Learner(DataLoaders.from_arrays(*ninety_blobs, bs=16, seed=7), net(), metrics=accuracy)
    own.fit_one_cycle(2)
    assert [*own.validate()] == [scores.scores[name][0] for name in ("valid_loss", "accuracy")]


@pytest.mark.parametrize("kind", ["arrays", "dataset", "dataloader"])
def test_a_copied_learner_varies_with_its_seed_and_says_so(kind, ninety_blobs, net, capsys):
    (x, y), (valid_x, valid_y) = [[torch.as_tensor(part) for part in pair] for pair in ninety_blobs]
    train, valid = TensorDataset(x, y), TensorDataset(valid_x, valid_y)
    dls = {
        "arrays": lambda: DataLoaders.from_arrays((x, y), (valid_x, valid_y), bs=16, seed=0),
        "dataset": lambda: DataLoaders(train, valid, bs=16, seed=0),
        "dataloader": lambda: DataLoaders(DataLoader(train, 16, shuffle=True), DataLoader(valid, 16)),
    }[kind]()
    learn = Learner(dls, net(), nn.CrossEntropyLoss())
    weights = copy.deepcopy(learn.model.state_dict())
    scores = learn.repeat(2, 1)
    assert scores.keys == (0, 1) and len(set(scores.scores["valid_loss"])) == 2
    assert learn.repeat(2, 1).scores == scores.scores
    assert "each fit begins with this learner's weights" in capsys.readouterr().err
    assert all(torch.equal(weights[name], value) for name, value in learn.model.state_dict().items())


def test_a_list_of_batches_is_repeated_as_it_is(net):
    batches = [(torch.rand(4, 2), torch.arange(4) % 3) for _ in range(3)]
    scores = Learner((batches, batches), net(), nn.CrossEntropyLoss()).repeat(2, 1)
    assert scores.n_items == (None, None) and "None" not in repr(scores)


@pytest.mark.parametrize("name", ["fit", "make_learner"])
def test_functions_are_checked(learn, name):
    for method in (learn.cross_validate, learn.cross_val_preds, learn.repeat):
        with pytest.raises(TypeError, match=f"`{name}` must be a function. Received: {name}=3."):
            method(2, **{name: 3})


def test_a_fit_that_trains_nothing_is_named(learn, capsys):
    learn.cross_validate(2, fit=lambda one: None)
    assert capsys.readouterr().err.count("`fit` changed no weight of the learner that it got") == 2
    with learn.no_bar():
        learn.repeat(2, fit=lambda one: learn.fit(1))
        assert capsys.readouterr().err.count("changed no weight") == 2
        learn.repeat(2, 1, make_learner=lambda dls: Learner(dls, copy.deepcopy(learn.model)))
    assert "changed no weight" not in capsys.readouterr().err


@pytest.mark.parametrize("which", [0, 1])
def test_a_metric_of_some_fits_is_missing_in_the_others(which, learn, net):
    metrics = [[], []]
    metrics[which] = [accuracy]
    scores = learn.repeat(2, 1, make_learner=lambda dls: Learner(dls, net(), metrics=metrics.pop(0)))
    assert [math.isnan(value) for value in scores.scores["accuracy"]] == [which == 1, which == 0]


def test_seeds_are_checked(learn):
    with pytest.raises(ValueError, match=r"`seeds` must name each seed once.*seeds=\[1, 1\]"):
        learn.repeat([1, 1])
    with pytest.raises(ValueError, match="`seeds` must name each seed once, and at least one"):
        learn.repeat([])
    with pytest.raises(ValueError, match="`seeds` must be at least 0. Received: seeds=-1"):
        learn.repeat([-1])
    with pytest.raises(ValueError, match="`seeds` must be at least 1. Received: seeds=0"):
        learn.repeat(0)
    learn.fit(1)
    with pytest.raises(ValueError, match="`make_learner` is needed.*Call `repeat` before the first training"):
        learn.repeat(2)


def test_a_validation_set_is_needed(net):
    learn = Learner(DataLoaders.from_arrays((np.random.rand(9, 2), np.array([*"aaabbbccc"])), bs=4), net())
    with pytest.raises(ValueError, match="`repeat` needs a validation set"):
        learn.repeat(2)


def table(**how):
    scores = {"valid_loss": (0.5, 0.6, 1.0), "accuracy": (0.8, 0.9, 0.7)}
    return ScoreTable("fold", (1, 2, 3), (10, 10, 9), scores, **how)


def test_the_interval_is_students():
    """t(0.975, 2) is 4.302653: from a table."""
    scores = table()
    assert scores.mean["accuracy"] == pytest.approx(0.8) and scores.std["accuracy"] == pytest.approx(0.1)
    reach = 4.302653 * 0.1 / math.sqrt(3)
    assert scores.interval["accuracy"] == pytest.approx((0.8 - reach, 0.8 + reach), abs=1e-6)


def test_folds_that_share_items_widen_it():
    reach = 4.302653 * 0.1 * math.sqrt(1 / 3 + 1 / 2)
    assert table(overlap=0.5).interval["accuracy"] == pytest.approx((0.8 - reach, 0.8 + reach), abs=1e-6)


def test_one_value_has_no_spread():
    assert repr(ScoreTable("seed", (0,), (10,), {"valid_loss": (0.5,)})).startswith("1 fit, by seed")
    assert t_interval([1.0]) == (-math.inf, math.inf)
    alone = ScoreTable("seed", (3,), (9,), {"valid_loss": (0.5,)})
    assert math.isnan(alone.std["valid_loss"]) and "One fit says nothing about the spread." in repr(alone)


def test_it_shows_itself_and_goes_elsewhere(tmp_path):
    scores = table(overlap=0.5)
    lines = repr(scores).splitlines()
    assert lines[0] == "3 fits, by fold" and lines[1].split() == ["fold", "items", "valid_loss", "accuracy"]
    assert [line.split() for line in lines[2:7]] == [
        ["1", "10", "0.5000", "0.8000"],
        ["2", "10", "0.6000", "0.9000"],
        ["3", "9", "1.0000", "0.7000"],
        ["mean", "0.7000", "0.8000"],
        ["std", "0.2646", "0.1000"],
    ]
    assert "Nadeau and Bengio" in " ".join(lines[9:]) and scores._repr_html_().count("<tr>") == 8
    assert scores.rows[1] == {"fold": 2, "items": 10, "valid_loss": 0.6, "accuracy": 0.9}
    written = scores.to_csv(tmp_path / "scores.csv").read_text().splitlines()
    assert written[:2] == ["fold,items,valid_loss,accuracy", "1,10,0.5,0.8"]
