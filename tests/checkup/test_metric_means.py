"""Metric functions that are no means over items are found, whatever the untrained model predicts."""

import torch
from torch import nn

from minilearner import DataLoaders, Learner


def caught(pred, target):
    """Returns the share of class 1 that is predicted: recall, under a name that says nothing."""
    of_class = target == 1
    return (pred.argmax(1)[of_class] == 1).float().sum() / of_class.sum().clamp(min=1)


def hits(pred, target):
    return (pred.argmax(1) == target).float().mean()


def test_a_model_that_predicts_one_class_only_does_not_hide_a_metric_without_mean():
    x, y = torch.randn(64, 4), torch.arange(64) % 2
    model = nn.Linear(4, 2)
    nn.init.zeros_(model.weight)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([1.0, 0.0]))  # always class 0, so that nothing is caught in any batch
    learn = Learner(DataLoaders.from_arrays((x, y), (x + 1, y), bs=32), model, metrics=[caught, hits])
    found = [finding for finding in learn.check().findings if finding.check == "metrics"]
    assert [finding.values for finding in found] == [{"metrics": ["caught"]}]


def test_errors_of_numbers_are_means():
    x = torch.randn(64, 4)
    learn = Learner(
        DataLoaders.from_arrays((x, x[:, :1]), (x + 1, x[:, :1]), bs=32),
        nn.Linear(4, 1),
        metrics=[lambda pred, target: (pred - target).abs().mean()],
    )
    assert "metrics" in learn.check().passed
