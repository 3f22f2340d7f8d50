import math
from functools import partial

import pytest
import torch

from minilearner.metrics import MeanMetric, accuracy, error_rate, top_k_accuracy
from minilearner.training.grouped_updates import GroupedUpdates


class Noted:
    """A metric that records the length of each batch."""

    def __init__(self):
        self.lengths = []

    def reset(self):
        self.lengths = []

    def update(self, pred, target):
        self.lengths.append(len(target))

    def compute(self):
        return sum(self.lengths)


def grouped_and_each(functions, batches):
    """Returns the values of metrics updated with groups of batches, and of those updated with each batch."""
    grouped, each = [MeanMetric(f) for f in functions], [MeanMetric(f) for f in functions]
    updates = GroupedUpdates(grouped)
    for pred, y in batches:
        updates.update(pred, y)
        for metric in each:
            metric.update(pred, y)
        pred.fill_(math.nan), y.fill_(0)  # their memory is used again
    updates.flush()
    return [[float(metric.compute()) for metric in metrics] for metrics in (grouped, each)]


def test_metrics_in_groups_are_those_of_each_batch():
    functions = [accuracy, error_rate, partial(top_k_accuracy, k=2), partial(accuracy, axis=1)]
    batches = [(torch.randn(n, 5), torch.randint(5, (n,))) for n in [4] * 140 + [3]]
    grouped, each = grouped_and_each(functions, batches)
    assert grouped == pytest.approx(each, rel=1e-6)


def test_groups_end_where_batches_of_another_kind_come():
    batches = [(torch.randn(2, classes), torch.randint(3, (2,))) for classes in (3, 3, 4, 4, 4, 3)]
    large = torch.randn(2, 40_000), torch.randint(3, (2,))
    grouped, each = grouped_and_each([accuracy], [*batches, large, *batches])
    assert grouped == pytest.approx(each, rel=1e-6)


def test_a_group_is_full_at_a_million_numbers():
    updates, lengths = GroupedUpdates([MeanMetric(accuracy)]), []
    for _ in range(20):
        updates.update(torch.randn(8, 8_000), torch.zeros(8, dtype=torch.long))
        lengths.append(len(updates.state_dict()["preds"]))
    assert lengths == [0, *range(1, 17), 0, 1, 2]


def test_a_function_that_may_be_no_mean_over_items_gets_every_batch():
    own, metric = Noted(), MeanMetric(lambda pred, y: float(len(y)))
    updates = GroupedUpdates([own, metric, MeanMetric(accuracy)])
    for n in (4, 4, 2):
        updates.update(torch.randn(n, 3), torch.zeros(n, dtype=torch.long))
    assert own.lengths == [4, 4, 2] and float(metric.compute()) == pytest.approx(3.6)


def test_an_error_comes_at_the_first_batch():
    with pytest.raises(ValueError, match="one class number for each"):
        GroupedUpdates([MeanMetric(accuracy)]).update(torch.randn(4, 3), torch.zeros(4, 3))


def test_groups_go_on_where_they_were_saved():
    def mean(stop):
        metric = MeanMetric(accuracy)
        g, updates = torch.Generator().manual_seed(0), GroupedUpdates([metric])
        for i in range(90):
            if i == stop:
                state, updates = updates.state_dict(), GroupedUpdates([metric])
                updates.load_state_dict(state)
            updates.update(torch.randn(7, 3, generator=g), torch.randint(3, (7,), generator=g))
        updates.flush()
        return metric.compute(), metric.n_items

    assert mean(stop=None) == mean(stop=0) == mean(stop=5) == mean(stop=17)
