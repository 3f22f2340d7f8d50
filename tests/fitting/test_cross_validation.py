import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from minilearner import CSVLogger, DataLoaders, Learner, MixUp, accuracy
from minilearner.data.folds import Fold, ItemPool, split_folds
from minilearner.errors import DataError
from minilearner.results.interpretation import ClassificationInterpretation
from minilearner.vision.all import ImageDataLoaders, Resize, vision_learner


@pytest.fixture
def learn(ninety_blobs, net):
    return Learner(DataLoaders.from_arrays(*ninety_blobs, bs=16, seed=1), net(), lr=0.01, metrics=accuracy)


def test_folds_share_each_class_out():
    y = torch.tensor([0] * 10 + [1] * 7 + [2])
    folds = split_folds(y, 18, 5, seed=0)
    assert sorted(np.concatenate(folds).tolist()) == list(range(18))
    counts = np.array([np.bincount(y[fold], minlength=3) for fold in folds])
    assert (counts.max(0) - counts.min(0) <= 1).all() and sorted(map(len, folds)) == [3, 3, 4, 4, 4]
    assert [fold.tolist() for fold in split_folds(y, 18, 5, seed=0)] == [fold.tolist() for fold in folds]
    assert [fold.tolist() for fold in split_folds(y, 18, 5, seed=1)] != [fold.tolist() for fold in folds]


def test_folds_of_numbers_are_random():
    assert sorted(np.concatenate(split_folds(torch.rand(9), 9, 2, seed=0)).tolist()) == list(range(9))
    assert sorted(np.concatenate(split_folds(None, 9, 9, seed=0)).tolist()) == list(range(9))


def test_each_item_is_predicted_once_in_the_order_of_the_sets(learn, ninety_blobs):
    (_, y), (_, valid_y) = ninety_blobs
    learn.lr = 0.05
    found = learn.cross_val_preds(3, 6)
    assert found.preds.shape == (120, 3) and found.indices.tolist() == list(range(120))
    assert found.targets.tolist() == [*y, *valid_y]
    interp = ClassificationInterpretation.from_predictions(found)
    assert len(interp) == 120 and (interp.predicted == interp.actual).mean() > 0.9
    torch.testing.assert_close(found.losses, -found.preds[torch.arange(120), found.targets].log())


@pytest.mark.slow
def test_flipped_labels_of_real_digits_are_found_first():
    images, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    flipped = rng.choice(len(y), len(y) // 20, replace=False)
    y[flipped] = (y[flipped] + rng.integers(1, 10, len(flipped))) % 10
    dls = DataLoaders.from_arrays((images.astype(np.float32) / 16, y), bs=64, seed=0)
    torch.manual_seed(0)
    learn = Learner(dls, nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), lr=0.01)
    interp = ClassificationInterpretation.from_predictions(learn.cross_val_preds(5, 8))
    found = interp.label_errors()
    assert np.isin(found.order[: len(flipped)], flipped).mean() >= 0.7
    assert np.isin(np.flatnonzero(found.is_error), flipped).mean() >= 0.9


def test_no_model_has_seen_the_items_that_it_predicts(learn):
    trained = []

    def fit(one):
        assert {*map(tuple, one.dls.train.x.tolist())} & {*map(tuple, one.dls.valid.x.tolist())} == set()
        trained.append((len(one.dls.train.x), len(one.dls.valid.x), copy.deepcopy(one.model.state_dict())))

    found = learn.cross_val_preds(4, fit=fit)
    assert [sizes[:2] for sizes in trained] == [(90, 30)] * 4
    for _, _, state in trained:  # all start from the learner's own weights
        assert all(torch.equal(state[name], value) for name, value in learn.model.state_dict().items())
    whole = torch.cat([learn.get_preds(0).preds, learn.get_preds(1).preds])
    torch.testing.assert_close(found.preds, whole)


def test_the_learner_and_the_generators_stay_as_they_are(learn):
    before, drawn = copy.deepcopy(learn.model.state_dict()), torch.get_rng_state()
    learn.cross_val_preds(2, 1)
    assert all(torch.equal(before[name], value) for name, value in learn.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert learn.dls.train.epoch == 0 and not learn.recorder.runs and learn.optimizer is None


def test_a_seed_repeats_it(learn):
    first, again, other = (learn.cross_val_preds(2, 1, seed=seed).preds for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_one_set_alone_can_be_chosen(learn):
    assert [len(learn.cross_val_preds(2, 1, ds_idx=i).preds) for i in (0, 1)] == [90, 30]


def test_a_trained_learner_needs_a_way_to_make_another(learn, net):
    learn.fit(1)
    with pytest.raises(ValueError, match="`make_learner` is needed, since this learner was trained"):
        learn.cross_val_preds(2, 1)
    found = learn.cross_val_preds(2, 1, make_learner=lambda dls: Learner(dls, net()))
    assert len(found.preds) == 120


def test_a_loaded_learner_may_have_seen_the_items(learn, tmp_path):
    learn.load(learn.save(tmp_path / "a.safetensors"))
    with pytest.raises(ValueError, match="`make_learner` is needed"):
        learn.cross_val_preds(2, 1)


def test_make_learner_must_use_the_loaders_of_the_fold(learn, net):
    with pytest.raises(DataError, match="validates on 30 items in place of 60"):
        learn.cross_val_preds(2, 1, make_learner=lambda dls: Learner(learn.dls, net()))
    with pytest.raises(TypeError, match="a function that returned a Sequential"):
        learn.cross_val_preds(2, 1, make_learner=lambda dls: net())


@pytest.mark.parametrize("kind", ["arrays", "torch"])
def test_as_many_other_items_are_not_the_fold(kind, ninety_blobs, net):
    dls = DataLoaders.from_arrays(*ninety_blobs, bs=16)
    if kind == "torch":
        train, valid = (TensorDataset(*map(torch.from_numpy, part)) for part in ninety_blobs)
        dls = DataLoaders(DataLoader(train, 16, shuffle=True), DataLoader(valid, 16), vocab=["a", "b", "c"])
    with pytest.raises(DataError, match=r"Learner\(dls, \.\.\.\)\. Received: .* validates on 30 other items"):
        Learner(dls, net()).cross_validate(4, 1, make_learner=lambda fold: Learner(dls, net()))


def test_callbacks_of_the_step_act_in_folds_and_others_do_not(learn, tmp_path):
    learn.add_cb([MixUp(), CSVLogger(tmp_path / "log.csv")])
    seen = []
    learn.cross_val_preds(2, fit=lambda one: seen.append(one.cbs))
    assert [[type(callback) for callback in cbs] for cbs in seen] == [[MixUp], [MixUp]]
    assert seen[0][0] is not learn.cbs[0] and not (tmp_path / "log.csv").exists()


def test_a_line_is_printed_for_each_fold_and_no_table(learn, capsys):
    learn.cross_val_preds(2, 1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "fold 1 of 2: 60 items left out",
        "fold 2 of 2: 60 items left out",
    ]
    with learn.no_logging():
        learn.cross_val_preds(2, 1)
    assert capsys.readouterr().out == ""


def test_classes_of_one_item_are_named(net, capsys):
    dls = DataLoaders.from_arrays((np.random.rand(9, 2), np.array([*"aaaabbbbc"])), bs=4)
    Learner(dls, net()).cross_val_preds(2, 1)
    assert "1 class of one item: c. The model that predicts this item" in capsys.readouterr().err


def test_a_vision_learner_is_made_again_with_its_arguments(pets, capsys):
    dls = ImageDataLoaders.from_name_re(pets, pets.glob("*.jpg"), r"(.+)_\d+.jpg$", item_tfms=Resize(32), bs=4, seed=0)
    torch.manual_seed(0)
    learn = vision_learner(dls, lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), pretrained=False, ps=0.1)
    learn.lr = 0.02
    learn.fit(1)
    made = []
    found = learn.cross_val_preds(2, 1, fit=lambda one: made.append(one) or one.fit(1))
    assert made[0].lr == 0.02 and made[0].model is not learn.model
    assert not torch.equal(made[0].model[0][0].weight, learn.model[0][0].weight)
    names = [found.origins.name(i) for i in range(30)]
    assert sorted(names) == sorted(path.name for path in pets.glob("*.jpg"))
    vocab = [name.rsplit("_", 1)[0] for name in names]
    assert [found.vocab[i] for i in found.targets] == vocab
    found = ClassificationInterpretation.from_predictions(found).label_errors()
    assert found.plot(4).axes[0].get_title().startswith("given: ")


def test_folds_of_torch_datasets(ninety_blobs, net):
    train, valid = (TensorDataset(*map(torch.from_numpy, part)) for part in ninety_blobs)
    dls = DataLoaders(DataLoader(train, 16, shuffle=True), DataLoader(valid, 16), vocab=["a", "b", "c"])
    found = Learner(dls, net()).cross_val_preds(2, 1)
    assert found.targets.tolist() == [*train.tensors[1].tolist(), *valid.tensors[1].tolist()]


def test_items_without_positions_are_refused(net):
    batches = [(torch.rand(4, 2), torch.tensor([0, 1, 2, 0]))] * 3
    with pytest.raises(DataError, match="Folds need items that can be read by position"):
        Learner(DataLoaders(batches), net(), loss_func=nn.CrossEntropyLoss()).cross_val_preds(2, 1)


def test_weights_are_those_of_the_training_items(pets):
    dls = ImageDataLoaders.from_name_re(
        pets, pets.glob("*.jpg"), r"(.+)_\d+.jpg$", item_tfms=Resize(32), bs=4, weights="balanced"
    )
    with pytest.raises(DataError, match="Give ds_idx=0"):
        ItemPool(dls)
    part = ItemPool(dls, 0).loaders_of(Fold(np.arange(4, len(dls.train.weights)), np.arange(4)))
    assert torch.equal(part.train.weights, dls.train.weights[4:]) and part.valid.weights is None


def test_images_in_memory_can_be_shown():
    x, y = torch.randint(0, 255, (12, 3, 6, 6), dtype=torch.uint8), torch.arange(12) % 2
    dls = DataLoaders.from_arrays((x, y), bs=4)
    found = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(108, 2))).cross_val_preds(2, 1)
    assert torch.equal(found.origins.image(5), x[5] / 255)
    figure = ClassificationInterpretation.from_predictions(found).label_errors().plot(2)
    assert len(figure.axes[0].images) == 1


@pytest.mark.parametrize(("k", "n_epoch", "match"), [(1, 1, "`k` must be at least 2"), (121, 1, "`k` must be at most")])
def test_wrong_arguments_are_errors(learn, k, n_epoch, match):
    with pytest.raises(ValueError, match=match):
        learn.cross_val_preds(k, n_epoch)
    with pytest.raises(ValueError, match="`n_epoch` must be at least 1"):
        learn.cross_val_preds(2, 0)
