"""Losses have the values of fastai or torch, and hand-made ones where fastai is wrong."""

import pytest
import torch
import torch.nn.functional as F

from minilearner import DataLoaders, FocalLoss, LabelSmoothingCrossEntropy, Learner, losses
from minilearner.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, L1LossFlat, MSELossFlat
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


def test_cross_entropy_takes_the_classes_in_any_dimension():
    pred, y = batch(4, 5)
    expected = F.cross_entropy(pred, y)
    torch.testing.assert_close(CrossEntropyLossFlat(axis=1)(pred, y), expected)
    torch.testing.assert_close(CrossEntropyLossFlat()(pred.movedim(1, -1), y), expected)
    torch.testing.assert_close(CrossEntropyLossFlat(axis=1)(pred, y.int()[:, None]), expected)
    assert CrossEntropyLossFlat(axis=1, reduction="none")(pred, y).shape == (6, 4, 5)


def test_cross_entropy_passes_its_options_on():
    pred, y = batch()
    weight = torch.tensor([1.0, 5.0, 0.2])
    options = {"weight": weight, "ignore_index": 1, "label_smoothing": 0.1, "reduction": "sum"}
    torch.testing.assert_close(CrossEntropyLossFlat(**options)(pred, y), F.cross_entropy(pred, y, **options))
    torch.testing.assert_close(CrossEntropyLossFlat(weight)(pred, y), F.cross_entropy(pred, y, weight))
    soft = pred.softmax(1)
    torch.testing.assert_close(CrossEntropyLossFlat()(pred, soft), F.cross_entropy(pred, soft))


@pytest.mark.parametrize("kind", ["LabelSmoothingCrossEntropy", "FocalLoss"])
def test_the_flat_kinds_have_the_values_of_the_others(kind):
    plain, flat = getattr(losses, kind)(), getattr(losses, f"{kind}Flat")
    pred, y = batch(4, 5)
    torch.testing.assert_close(flat(axis=1)(pred, y), plain(pred, y))
    torch.testing.assert_close(flat()(pred.movedim(1, -1), y), plain(pred, y))


def test_binary_cross_entropy_takes_targets_of_any_type_and_form():
    pred, _ = batch()
    y = pred.round().gt(0)
    expected = F.binary_cross_entropy_with_logits(pred, y.float())
    torch.testing.assert_close(BCEWithLogitsLossFlat()(pred, y), expected)
    first = F.binary_cross_entropy_with_logits(pred[:, 0], y[:, 0].float())
    torch.testing.assert_close(BCEWithLogitsLossFlat()(pred[:, :1], y[:, 0].long()), first)
    weight = torch.tensor([1.0, 5.0, 0.2])
    weighted = F.binary_cross_entropy_with_logits(pred, y.float(), pos_weight=weight)
    torch.testing.assert_close(BCEWithLogitsLossFlat(pos_weight=weight)(pred, y), weighted)
    assert BCEWithLogitsLossFlat(pos_weight=weight)(pred.to("meta"), y.to("meta")).device.type == "meta"


@pytest.mark.parametrize(("loss", "function"), [(MSELossFlat, F.mse_loss), (L1LossFlat, F.l1_loss)])
def test_a_column_of_numbers_is_compared_with_a_row_of_targets_one_by_one(loss, function):
    pred, y = torch.randn(5, 1), torch.arange(5)
    torch.testing.assert_close(loss()(pred, y), function(pred[:, 0], y.float()))
    assert loss(reduction="none")(pred, y).shape == (5, 1)
    assert loss().decodes(loss().activation(pred)) is pred


def test_activation_and_decodes_turn_outputs_into_answers():
    pred, _ = batch(4, 5)
    for loss in (CrossEntropyLossFlat(axis=1), FocalLoss(), LabelSmoothingCrossEntropy(), losses.FocalLossFlat(axis=1)):
        assert torch.equal(loss.activation(pred), pred.softmax(1)) and torch.equal(loss.decodes(pred), pred.argmax(1))
    yes = BCEWithLogitsLossFlat(thresh=0.3)
    assert torch.equal(yes.decodes(yes.activation(pred)), pred.sigmoid() > 0.3)


@pytest.mark.parametrize(
    "loss", [CrossEntropyLossFlat(axis=1), losses.LabelSmoothingCrossEntropyFlat(axis=1), losses.FocalLossFlat(axis=1)]
)
def test_the_loss_of_each_item_of_a_flat_loss_averages_to_the_loss(loss):
    pred, y = batch(4, 5)
    found = make_item_loss(loss)(pred, y)
    assert found.shape == (6,)
    torch.testing.assert_close(found.mean(), loss(pred, y))


def test_targets_that_do_not_fit_are_refused():
    pred, y = batch()
    with pytest.raises(ValueError, match=r"one class number for each prediction. Received: \(4,\) targets for \(6,\)"):
        CrossEntropyLossFlat()(pred, y[:4])
    with pytest.raises(ValueError, match=r"one target for each prediction. Received: \(4,\) targets for \(6, 3\)"):
        MSELossFlat()(pred, y[:4])


@pytest.mark.parametrize("loss", [BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat, L1LossFlat])
def test_flat_losses_refuse_unknown_arguments(loss):
    with pytest.raises(ValueError, match="`reduction` must be"):
        loss(reduction="avg")
    with pytest.raises(TypeError, match="Did you mean 'reduction'"):
        loss(reductoin="sum")


def test_the_activation_of_a_loss_gives_probabilities_of_plain_zeros_and_ones():
    x, y = torch.randn(8, 2), torch.randint(2, (8, 3)).float()
    loss = BCEWithLogitsLossFlat()
    learn = Learner(DataLoaders.from_arrays((x, y), (x, y), bs=4), torch.nn.Linear(2, 3), loss_func=loss)
    for found in (learn.get_preds(with_decoded=True), learn.get_preds(act=loss.activation, with_decoded=True)):
        with torch.no_grad():
            torch.testing.assert_close(found.preds, learn.model(x).sigmoid())
        assert torch.equal(found.decoded, found.preds > 0.5)
    assert learn.predict(x[0]).index.tolist() == (found.preds[0] > 0.5).tolist()
