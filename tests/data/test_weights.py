"""Weighted draws: how often each item comes, that a resumed run draws the same, and what is no weight."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from minilearner import Callback, Checkpoint, Learner
from minilearner.data.blocks import CategoryBlock, MultiCategoryBlock, TransformBlock
from minilearner.data.data_block import DataBlock
from minilearner.data.item_transforms import ItemTransform
from minilearner.data.share import Share
from minilearner.data.splits import IndexSplitter, RandomSplitter
from minilearner.errors import DataError
from minilearner.vision.image_loaders import ImageDataLoaders
from minilearner.vision.resize import Resize

N = 40
NAMES = ["rare"] * 4 + ["common"] * 36


def items():
    return {"x": [torch.tensor([float(i)]) for i in range(N)], "y": NAMES}


def make(weights, splitter=None, method="dataloaders", **options):
    block = DataBlock(
        (TransformBlock, CategoryBlock),
        getters=[lambda row: row.x, lambda row: row.y],
        splitter=splitter or RandomSplitter(0),
        item_tfms=options.pop("item_tfms", None),
    )
    options = {"bs": 8, "seed": 3, "num_workers": 0, "device": "cpu", **options}
    if method == "weighted_dataloaders":
        return block.weighted_dataloaders(items(), weights, **options)
    return block.dataloaders(items(), weights=weights, **options)


def draw(dls, n_epochs=1):
    return torch.cat([x[:, 0] for _ in range(n_epochs) for x, _ in dls.train]).int().tolist()


def test_items_come_in_proportion_to_their_weights():
    counts = Counter(draw(make([9.0] * 4 + [1.0] * 36), 100))
    rare = sum(counts[i] for i in range(4))
    assert sum(counts.values()) == 100 * N
    assert rare == pytest.approx(2000, rel=0.1)  # 9 x 4 = 1 x 36
    assert min(counts[i] for i in range(4, N)) > 20


@pytest.mark.parametrize(
    "weights",
    ["balanced", {"rare": 9, " common": 1}, np.array([9.0] * 4 + [1] * 36), torch.tensor([0.9] * 4 + [0.1] * 36)],
)
def test_weights_by_class_and_by_item_say_the_same(weights):
    assert draw(make(weights)) == draw(make([9] * 4 + [1] * 36))
    assert draw(make(weights, method="weighted_dataloaders")) == draw(make(weights))


def test_an_item_of_weight_zero_never_comes_and_each_epoch_draws_anew():
    dls = make([0.0, *[1.0] * 38, 0.0])
    first, second = draw(dls), draw(dls)
    assert first != second
    assert not {0, 39} & {*first, *second, *draw(dls, 20)}


def test_weights_follow_the_items_into_the_training_set():
    weights = [0.0] * N
    weights[5] = weights[30] = 1.0
    dls = make(weights, IndexSplitter([5]))
    assert set(draw(dls)) == {30}
    assert [int(x) for x, _ in zip(dls.in_order(0).items(range(39))[0], range(39), strict=True)] == [
        i for i in range(N) if i != 5
    ]


def test_a_pass_that_starts_in_its_middle_and_one_that_is_shared_draw_the_same():
    whole = draw(make("balanced"))
    later = torch.cat([x[:, 0] for x, _ in make("balanced").train.iterate(2)]).int().tolist()
    assert later == whole[16:]
    loader = make("balanced").train
    parts = [[x[:, 0].int().tolist() for x, _ in loader.take_share(Share(i, 2))] for i in range(2)]
    assert [i for pair in zip(parts[0], [*parts[1], []], strict=True) for part in pair for i in part] == whole


class Cut(Callback):
    at = None

    def after_step(self, run):
        if run.global_step == type(self).at:
            raise InterruptedError


def test_a_resumed_run_ends_with_the_same_bits(tmp_path, monkeypatch):
    def fit(folder):
        torch.manual_seed(0)
        learn = Learner(make("balanced"), nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 2)), seed=1)
        kept = Checkpoint(tmp_path / folder, every_steps=1)
        with learn.no_logging():
            learn.fit(3, 1e-2, cbs=Cut(), checkpoint=kept)
        return learn.model[0].weight

    whole = fit("whole")
    monkeypatch.setattr(Cut, "at", 7)  # in the middle of the second epoch
    with pytest.raises(InterruptedError):
        fit("parts")
    monkeypatch.setattr(Cut, "at", None)
    assert torch.equal(fit("parts"), whole)


class Jitter(ItemTransform):
    """Adds a random fraction."""

    def __call__(self, item, rng):
        return item if rng is None else item + rng.random() / 2


def test_an_item_that_comes_several_times_is_transformed_anew_each_time():
    dls = make([1.0] + [0.0] * 39, item_tfms=Jitter())
    drawn = torch.cat([x[:, 0] for x, _ in dls.train])
    assert len(set(drawn.tolist())) == N
    assert torch.equal(torch.cat([x[:, 0] for x, _ in make([1.0] + [0.0] * 39, item_tfms=Jitter()).train]), drawn)


def test_precomputed_features_are_drawn_by_weight_too():
    def fit(precompute):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Sequential(nn.Linear(1, 4)), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
        learn = Learner(make([1.0] * 4 + [0.0] * 36), model, splitter=lambda m: [[*part.parameters()] for part in m])
        learn.freeze()
        with learn.no_logging():
            if precompute:
                with learn.precompute():
                    learn.fit(1, 0.1)
            else:
                learn.fit(1, 0.1)
        return model[1][1].weight

    assert torch.allclose(fit(True), fit(False), atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0] * 39, "one number for each of 40 items, validation items among them. Received: 39"),
        ([-1.0] + [1.0] * 39, r"finite numbers, at least 0. Received: -1.0 at position 0"),
        ([float("nan")] + [1.0] * 39, "finite numbers, at least 0. Received: nan at position 0"),
        ([0.0] * 40, "a finite sum above 0"),
        ({"rare": 1}, "must name every class. It lacks 'common'"),
        ({"rare": 1, "comon": 1}, "names 'comon', which is no class. Did you mean 'common'"),
        ({"rare": 1, "common": "2"}, "finite numbers, at least 0. Received: '2'"),
    ],
)
def test_what_is_no_weight_is_refused(weights, message):
    with pytest.raises(DataError, match=message):
        make(weights)


def test_weights_need_a_word_that_exists_a_shuffle_and_one_class_an_item():
    with pytest.raises(ValueError, match="`weights` must be 'balanced'.*Received: weights='balance'"):
        make("balance")
    with pytest.raises(TypeError, match="`weights` must be 'balanced'.*Received: a int"):
        make(3)
    with pytest.raises(ValueError, match="`weights` need shuffle=True"):
        make("balanced", shuffle=False)
    block = DataBlock(
        (TransformBlock, MultiCategoryBlock),
        getters=[lambda row: row.x, lambda row: [row.y]],
        splitter=RandomSplitter(0),
    )
    with pytest.raises(DataError, match="weights by class need one class for each item"):
        block.dataloaders(items(), weights="balanced")


def test_every_layout_of_images_takes_weights(pets):
    files = sorted(pets.iterdir())
    options = {"valid_pct": 0, "bs": 5, "item_tfms": Resize(8), "num_workers": 0}
    only = [1.0 if file.name.startswith("pug") else 0.0 for file in files]
    for dls in (
        ImageDataLoaders.from_name_re(pets, files, r"(.+)_\d+.jpg$", weights=only, **options),
        ImageDataLoaders.from_lists(
            pets, files, [file.name.rpartition("_")[0] for file in files], weights=only, **options
        ),
        ImageDataLoaders.from_df(
            {"name": files, "label": [f.name.rpartition("_")[0] for f in files]}, weights=only, **options
        ),
    ):
        assert {dls.vocab[y] for _, ys in dls.train for y in ys} == {"pug"}
