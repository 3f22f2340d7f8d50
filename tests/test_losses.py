"""Losses have the values of fastai or torch, and hand-made ones where fastai is wrong."""

import pytest
import torch
import torch.nn.functional as F

from minilearner import FocalLoss, LabelSmoothingCrossEntropy
from minilearner.training.item_losses import make_item_loss

LOGITS, TARGET = torch.tensor([[2.0, 1.0, 0.1]]), torch.tensor([0])


def batch(*shape):
    g = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, *shape, generator=g) * 3, torch.randint(3, (6, *shape), generator=g)


def test_golden_values():
    torch.testing.assert_close(LabelSmoothingCrossEntropy()(LOGITS, TARGET), torch.tensor(0.5136967))
    torch.testing.assert_close(FocalLoss()(LOGITS, TARGET), torch.tensor(0.0484923))


@pytest.mark.parametrize("shape", [(), (4, 5)])
def test_smoothing_is_a_mix_with_the_uniform_distribution(shape):
    pred, y = batch(*shape)
    logp = pred.log_softmax(1)
    by_hand = 0.2 / 3 * -logp.sum(1) + 0.8 * F.nll_loss(logp, y, reduction="none")
    torch.testing.assert_close(LabelSmoothingCrossEntropy(0.2)(pred, y), by_hand.mean())
    torch.testing.assert_close(LabelSmoothingCrossEntropy(0.2, reduction="sum")(pred, y), by_hand.sum())


def test_class_weights_of_the_focal_loss_stand_outside_the_focusing_term():
    pred, y = batch()
    weight = torch.tensor([1.0, 5.0, 0.2])
    p = pred.softmax(1)[torch.arange(6), y]
    torch.testing.assert_close(FocalLoss(1.5, weight)(pred, y), (weight[y] * (1 - p) ** 1.5 * -p.log()).mean())


def test_without_focus_it_is_cross_entropy():
    pred, y = batch(4, 5)
    torch.testing.assert_close(FocalLoss(0)(pred, y), F.cross_entropy(pred, y))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_are_finite_if_the_model_is_certain(gamma):
    pred = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    FocalLoss(gamma)(pred, torch.tensor([0, 0])).backward()
    assert torch.isfinite(pred.grad).all() and pred.grad[1].abs().sum() > 0


@pytest.mark.parametrize("loss", [FocalLoss(weight=torch.ones(3) * 2), LabelSmoothingCrossEntropy()])
def test_the_loss_of_each_item_averages_to_the_loss(loss):
    pred, y = batch(4, 5)
    losses = make_item_loss(loss)(pred, y)
    assert losses.shape == (6,)
    torch.testing.assert_close(losses.mean(), loss(pred, y))


@pytest.mark.parametrize("loss", [FocalLoss, LabelSmoothingCrossEntropy])
def test_class_weights_follow_the_outputs(loss):
    pred, y = batch()
    weight = torch.tensor([1.0, 5.0, 0.2])
    assert loss(weight=weight)(pred.double(), y).dtype == torch.float64
    assert loss(weight=weight)(pred.to("meta"), y.to("meta")).device.type == "meta"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelSmoothingCrossEntropy(1.0), r"`eps` must be in \[0, 1\). Received: eps=1.0"),
        (lambda: FocalLoss(-1), "`gamma` must be finite and not negative"),
        (lambda: FocalLoss(reduction="avg"), "`reduction` must be"),
        (lambda: LabelSmoothingCrossEntropy(reduction="avg"), "`reduction` must be"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
