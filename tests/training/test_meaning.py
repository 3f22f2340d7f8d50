"""A loss says what outputs mean if the kind of target leaves it open, as in fastai."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minilearner import DataLoaders, Learner, load_learner
from minilearner.data.targets import MultiCategory
from minilearner.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from minilearner.models.mlp import MLP


def inputs():
    return torch.randn(12, 4, generator=torch.Generator().manual_seed(0))


def learner(y, loss_func, **options):
    dls = DataLoaders.from_arrays((inputs(), y), (inputs(), y), bs=4, seed=1, device="cpu", **options)
    torch.manual_seed(0)
    return Learner(dls, MLP((4, 3)), loss_func, device="cpu")


def foreign(y, loss_func):
    batches = list(zip(inputs().split(4), y.split(4), strict=True))
    torch.manual_seed(0)
    return Learner(DataLoaders(batches, batches), MLP((4, 3)), loss_func, device="cpu")


ONES = (inputs()[:, :3] > 0).float()


@pytest.mark.parametrize("make", [learner, foreign])
def test_the_loss_of_logits_gives_probabilities_and_decodes_by_its_threshold(make):
    learn = make(ONES, BCEWithLogitsLossFlat(thresh=0.4))
    found = learn.get_preds(with_decoded=True)
    with torch.no_grad():
        torch.testing.assert_close(found.preds, learn.model(inputs()).sigmoid())
    assert torch.equal(found.decoded, found.preds > 0.4)


def test_the_threshold_of_a_loss_holds_for_named_labels():
    learn = learner(ONES, BCEWithLogitsLossFlat(thresh=0.1), target=MultiCategory(["a", "b", "c"]))
    found = learn.get_preds(with_decoded=True)
    assert torch.equal(found.decoded, found.preds > 0.1)


def test_numbers_decode_to_themselves():
    for loss_func in (MSELossFlat(), F.mse_loss):
        found = foreign(inputs()[:, :3], loss_func).get_preds(with_decoded=True)
        assert torch.equal(found.decoded, found.preds)


def test_classes_are_probabilities_whatever_the_loss():
    for loss_func in (CrossEntropyLossFlat(), nn.CrossEntropyLoss()):
        learn = learner(torch.arange(12) % 3, loss_func)
        torch.testing.assert_close(learn.get_preds()[0].sum(1), torch.ones(12))


def test_an_exported_learner_predicts_the_same(tmp_path):
    learn = foreign(ONES, BCEWithLogitsLossFlat(thresh=0.4))
    loaded = load_learner(learn.export(tmp_path / "x.safetensors"))
    batches = [(inputs(), ONES)]
    own, other = (one.get_preds(dl=batches, with_decoded=True) for one in (learn, loaded))
    assert torch.equal(own.preds, other.preds) and torch.equal(own.decoded, other.decoded)
