"""`fine_tune` precomputes by itself if that saves work and cannot change the result, and never otherwise."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from minilearner import Callback, CSVLogger, DataLoaders, EarlyStopping, Learner, MixUp, ProgressiveResize, accuracy
from minilearner.vision.augment import Flip


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
