"""`fine_tune` precomputes by itself if that saves work and cannot change the result, and never otherwise."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from minilearner import (
    Callback,
    CSVLogger,
    DataLoaders,
    EarlyStopping,
    Learner,
    MixUp,
    ProgressiveResize,
    accuracy,
)
from minilearner.data.batch_transforms import BatchTransform
from minilearner.vision.augment import Flip
from minilearner.vision.image_loaders import ImageDataLoaders
from minilearner.vision.resize import Resize


class Shaken(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.rand_like(x) if self.training else x


class Seldom(nn.Module):
    """Drops out so seldom that a batch would not show it."""

    def forward(self, x):
        return F.dropout(x, 1e-9, self.training)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.zeros(1))

    def forward(self, x):
        self.n += self.training
        return x


class Doubled(nn.Module):
    def forward(self, x):
        return x * 2 if self.training else x


class Shifted(BatchTransform):
    train_only = False

    def __call__(self, x, rng):
        return x + 1


def learner(*layers, batch_tfms=None, **options):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), *layers, nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1))
    model = nn.Sequential(body, nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    x, y = torch.rand(24, 3, 8, 8), torch.arange(24) % 3
    dls = DataLoaders.from_arrays((x, y), (x[:6], y[:6]), bs=8, seed=1, batch_tfms=batch_tfms)
    options = {"train_bn": False, "metrics": accuracy, "device": "cpu", **options}
    return Learner(dls, model, splitter=lambda m: [list(part.parameters()) for part in m], **options)


def is_precomputed(learn, freeze_epochs=3, **options):
    with learn.no_logging():
        learn.fine_tune(1, 1e-2, freeze_epochs=freeze_epochs, **options)
    return learn.recorder.runs[0].settings.get("features") == "precomputed"


def test_a_frozen_phase_without_augmentation_is_precomputed_and_ends_alike(capsys):
    ends = []
    for options in ({}, {"precompute": False}):
        learn = learner()
        with learn.no_bar():
            learn.fine_tune(1, 1e-2, freeze_epochs=3, **options)
        said = "sends each item through the frozen layers once for 3 epochs" in capsys.readouterr().out
        assert said is (not options) is (learn.recorder.runs[0].settings.get("features") == "precomputed")
        ends.append(torch.cat([t.detach().flatten().float() for t in learn.model.state_dict().values()]))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


def test_callbacks_that_only_look_on_do_not_prevent_it(tmp_path):
    cbs = [CSVLogger(tmp_path / "log.csv"), EarlyStopping("valid_loss", patience=9)]
    assert is_precomputed(learner(), cbs=cbs)


@pytest.mark.parametrize("callback", [Callback, MixUp, ProgressiveResize])
def test_callbacks_that_may_see_inputs_prevent_it(callback):
    assert not is_precomputed(learner(), cbs=callback())
    assert not is_precomputed(learner(cbs=callback()))


def test_it_is_not_done_where_it_saves_nothing():
    assert not is_precomputed(learner(), freeze_epochs=1)
    assert not is_precomputed(learner(), freeze_epochs=3, start_epoch=0, precompute=False)
    assert is_precomputed(learner(), freeze_epochs=2)


def test_norms_that_learn_augmentation_and_checkpoints_prevent_it(tmp_path):
    assert not is_precomputed(learner(train_bn=True))
    assert not is_precomputed(learner(batch_tfms=[Flip()]))
    assert not is_precomputed(learner(), checkpoint=tmp_path / "run")


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), Shaken(), Seldom(), Counting(), Doubled()])
def test_frozen_layers_that_differ_in_training_prevent_it(layer):
    assert not is_precomputed(learner(layer))


class Body(nn.Module):
    """One layer to the learner, whatever it consists of."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return self.layers(x)


class Paired(nn.Module):
    def forward(self, x):
        return x, x


class Halved(nn.Module):
    def forward(self, x):
        return x.reshape(2 * len(x), 2, *x.shape[2:])


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Squeezed(nn.Module):
    def forward(self, x):
        return x.squeeze()


class Lonely(nn.Module):
    def forward(self, x):
        if len(x) == 1:
            raise RuntimeError("more than one item is needed")
        return x


class First(nn.Module):
    def forward(self, pair):
        return pair[0]


class Whole(nn.Module):
    def forward(self, x):
        return x.reshape(len(x) // 2, 4, 1, 1)


@pytest.mark.parametrize(
    ("last", "first"),
    [
        (Paired(), First()),
        (Halved(), Whole()),
        (Centred(), nn.Identity()),
        (Squeezed(), nn.Identity()),
        (Lonely(), nn.Identity()),
    ],
)
def test_frozen_layers_that_make_no_features_of_each_item_prevent_it(last, first):
    learn = learner()
    head = learn.model[1]
    frozen = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), last)
    learn.model = nn.Sequential(Body(frozen), nn.Sequential(first, *head))
    assert not is_precomputed(learn)


def learner_of_images(folder, item_tfms, seed=0):
    torch.manual_seed(0)
    dls = ImageDataLoaders.from_folder(
        folder, valid_pct=0.25, seed=seed, item_tfms=item_tfms, bs=4, num_workers=0, device="cpu"
    )
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4, 2))
    return Learner(dls, model, splitter=lambda m: [list(part.parameters()) for part in m], train_bn=False)


def turn_seldom(image):
    return image.rotate(180) if random.random() < 1e-6 else image


@pytest.mark.parametrize(
    ("item_tfms", "expected"),
    [(Resize(8, method="squish"), True), (Resize(8), False), ([Resize(8, method="squish"), turn_seldom], False)],
)
def test_items_are_the_same_for_certain(tmp_path, item_tfms, expected):
    """One image is not square: only it is cropped at random, and the first batch may be without it."""
    rng = np.random.default_rng(0)
    for i in range(16):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (12, 12 if i else 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "ab"[i % 2] / f"{i}.png")
    assert {is_precomputed(learner_of_images(tmp_path, item_tfms, seed)) for seed in range(3)} == {expected}


@pytest.mark.parametrize("batch_tfms", [lambda x: x * 2, Shifted()])
def test_batch_transforms_that_do_not_say_what_they_do_prevent_it(batch_tfms):
    assert not is_precomputed(learner(batch_tfms=batch_tfms))


def test_a_hook_on_a_frozen_layer_prevents_it():
    learn, seen = learner(), []
    learn.model[0][0].register_forward_hook(lambda module, x, y: seen.append(len(y)))
    assert not is_precomputed(learn)


def test_the_question_leaves_no_trace():
    ends = []
    for options in ({}, {"precompute": False}):
        learn = learner(nn.Dropout(0.5), Counting(), seed=0)
        torch.manual_seed(5)
        assert not is_precomputed(learn, **options)
        ends.append([torch.rand(1), *(t.clone() for t in learn.model.state_dict().values())])
    assert all(map(torch.equal, *ends))


def test_features_that_do_not_fit_in_memory_are_not_computed(monkeypatch):
    monkeypatch.setattr("minilearner.training.precompute.available_memory", lambda device: 500)
    assert not is_precomputed(learner())


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="`precompute` must be True, False or \"auto\". Received: precompute='always'"):
        learner().fine_tune(1, precompute="always")
