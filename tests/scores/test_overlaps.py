import math

import pytest
import sklearn.metrics as sk
import torch

from minilearner.scores.overlaps import Dice, DiceMulti, JaccardCoeff, JaccardCoeffMulti


def masks(n_classes):
    g = torch.Generator().manual_seed(0)
    return torch.randn(6, n_classes, 5, 4, generator=g), torch.randint(n_classes, (6, 5, 4), generator=g)


def over_batches(metric, pred, target):
    metric.reset()
    for one, other in zip(pred.split([4, 2]), target.split([4, 2])):
        metric.update(one, other)
    return float(metric.compute())


def test_of_two_classes_they_are_the_f1_and_jaccard_scores_of_pixels():
    pred, target = masks(2)
    found, wanted = pred.argmax(1).flatten(), target.flatten()
    assert over_batches(Dice(), pred, target) == pytest.approx(sk.f1_score(wanted, found))
    assert over_batches(JaccardCoeff(), pred, target) == pytest.approx(sk.jaccard_score(wanted, found))


def test_of_more_classes_they_are_the_means_over_the_classes_that_occur():
    pred, target = masks(4)
    found, wanted = pred.argmax(1).flatten(), target.flatten()
    assert over_batches(DiceMulti(), pred, target) == pytest.approx(sk.f1_score(wanted, found, average="macro"))
    value = over_batches(JaccardCoeffMulti(), pred, target)
    assert value == pytest.approx(sk.jaccard_score(wanted, found, average="macro"))
    padded = torch.cat([pred, torch.full((6, 1, 5, 4), -100.0)], dim=1)  # a fifth class that is nowhere
    assert over_batches(JaccardCoeffMulti(), padded, target) == pytest.approx(value)


@pytest.mark.parametrize("no_class", [255, -100])
def test_a_target_that_is_no_class_counts_as_wrong(no_class):
    metric = DiceMulti()
    metric.update(torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, no_class, 0]))
    assert float(metric.compute()) == pytest.approx((1 + 2 / 3) / 2)


def test_without_batches_they_are_not_a_number():
    assert math.isnan(Dice().compute()) and math.isnan(DiceMulti().compute())


@pytest.mark.parametrize("metric", [Dice(), JaccardCoeff()])
def test_those_of_two_classes_refuse_more(metric):
    with pytest.raises(ValueError, match=rf"needs two classes .* use {type(metric).__name__}Multi"):
        metric.update(*masks(3))
