import math
from functools import partial

import pytest
import sklearn.metrics
import torch
import torchmetrics
from sklearn.metrics import f1_score, roc_auc_score
from torch import nn

from minilearner.metrics import (
    MeanMetric,
    Metric,
    accuracy,
    accuracy_multi,
    as_metric,
    error_rate,
    metric_name,
    metric_names,
    top_k_accuracy,
)


@pytest.fixture
def scores():
    return torch.randn(4, 5)


def test_accuracy_is_one_at_the_argmax_and_falls_with_each_wrong_target(scores):
    y = scores.argmax(1)
    wrong = torch.cat([(y[:2] + 1) % 5, y[2:]])
    assert accuracy(scores, y) == 1 and error_rate(scores, y) == 0
    assert accuracy(scores, wrong) == 0.5 and error_rate(scores, wrong) == 0.5
    stacked = torch.stack([y, wrong], dim=1)
    assert accuracy(scores.unsqueeze(1).expand(4, 2, 5), stacked) == 0.75
    assert accuracy(scores, y).ndim == 0


def test_accuracy_takes_targets_as_a_column_and_classes_in_dimension_one(scores):
    y = scores.argmax(1)
    assert accuracy(scores, y[:, None]) == 1
    image = torch.randn(2, 3, 4, 4)
    assert accuracy(image, image.argmax(1), axis=1) == 1


def test_accuracy_refuses_targets_that_do_not_fit(scores):
    with pytest.raises(ValueError, match=r"\(3,\) targets for \(4,\) predictions"):
        accuracy(scores, torch.zeros(3, dtype=torch.long))


def test_accuracy_of_several_classes_counts_every_one_at_its_threshold():
    pred, y = torch.tensor([[0.0, 2.0, -1.0], [3.0, 0.3, 0.1]]), torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert accuracy_multi(pred, y) == pytest.approx(4 / 6)
    assert accuracy_multi(pred, y, thresh=0.6) == 1
    assert accuracy_multi(pred.sigmoid(), y, thresh=0.6, sigmoid=False) == 1
    with pytest.raises(ValueError, match="must have the same shape"):
        accuracy_multi(pred, y[:1])


def test_top_k_accuracy_has_fastais_value_and_equals_accuracy_for_one():
    scores = torch.randn(6, 5)
    assert top_k_accuracy(scores, torch.arange(6)) == pytest.approx(5 / 6)
    y = torch.randint(5, (6,))
    assert top_k_accuracy(scores, y, k=1) == accuracy(scores, y)
    with pytest.raises(ValueError, match="between 1 and the 5 classes"):
        top_k_accuracy(scores, y, k=6)


def test_the_mean_over_unequal_batches_is_the_mean_over_all_items():
    scores, y = torch.randn(100, 5), torch.randint(5, (100,))
    metric = MeanMetric(accuracy)
    for a, b in [(0, 30), (30, 50), (50, 60), (60, 100)]:
        metric.update(scores[a:b], y[a:b])
    assert float(metric.compute()) == pytest.approx(float(accuracy(scores, y)))
    assert metric.n_items == 100
    metric.reset()
    metric.update(scores[:7], scores[:7].argmax(1))
    assert float(metric.compute()) == 1


@pytest.mark.parametrize("function", [accuracy, error_rate, partial(top_k_accuracy, k=2)])
def test_what_counts_items_is_exact_in_batches_of_any_size(function):
    scores, y = torch.randn(997, 5), torch.randint(5, (997,))
    expected = round(float(function(scores, y)) * 997) / 997
    for n in (1, 7, 60, 997):
        metric = MeanMetric(function)
        for a, b in zip(scores.split(n), y.split(n), strict=True):
            metric.update(a, b)
        assert float(metric.compute()) == expected


def test_a_mean_does_not_depend_on_the_order_of_batches_however_their_sizes_differ():
    values = [1e16, 1.0, -1e16, 3.5]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]):
        metric = MeanMetric(lambda p, t: p.sum())
        for i in order:
            metric.update(torch.tensor([values[i]], dtype=torch.float64), torch.zeros(1))
        assert float(metric.compute()) == 4.5 / 4


def test_infinities_and_nan_stay_what_they_are():
    for values, expected in [
        ([math.inf, 1.0], math.inf),
        ([math.inf, -math.inf], math.nan),
        ([math.nan, 1.0], math.nan),
    ]:
        metric = MeanMetric(lambda p, t: p.sum())
        for value in values:
            metric.update(torch.tensor([value]), torch.zeros(1))
        assert float(metric.compute()) == pytest.approx(expected, nan_ok=True)


def test_a_mean_of_nothing_is_nan_and_a_vector_is_refused():
    assert math.isnan(MeanMetric(accuracy).compute())
    with pytest.raises(ValueError, match="must return one number"):
        MeanMetric(lambda p, t: p).update(torch.zeros(3), torch.zeros(3))


def test_a_metric_keeps_no_graph():
    metric = MeanMetric(lambda p, t: (p - t).abs().mean())
    metric.update(torch.zeros(3, requires_grad=True), torch.ones(3))
    assert not metric.compute().requires_grad


def test_as_metric_takes_functions_partials_objects_and_torchmetrics():
    scores, y = torch.randn(20, 5), torch.randint(5, (20,))
    plain = as_metric(accuracy)
    theirs = as_metric(torchmetrics.classification.MulticlassAccuracy(5, average="micro"), torch.device("cpu"))
    for metric in (plain, theirs, as_metric(partial(accuracy, axis=-1)), as_metric(MeanMetric(accuracy))):
        assert isinstance(metric, Metric)
        metric.reset()
        metric.update(scores[:13], y[:13])
        metric.update(scores[13:], y[13:])
        assert float(metric.compute()) == pytest.approx(float(accuracy(scores, y)))
    assert as_metric(plain) is plain


@pytest.mark.parametrize("thing", [MeanMetric, "accuracy", 3, None])
def test_as_metric_refuses_anything_else(thing):
    with pytest.raises(TypeError, match="metric must be"):
        as_metric(thing)


def test_names_are_readable_and_unique():
    f1 = torchmetrics.classification.MulticlassF1Score(3)
    things = [accuracy, partial(top_k_accuracy, k=3), MeanMetric(error_rate), f1, lambda p, t: p]
    assert [metric_name(t) for t in things] == [
        "accuracy", "top_k_accuracy", "error_rate", "multiclass_f1_score", "lambda",
    ]  # fmt: skip
    twice = [partial(top_k_accuracy, k=3), partial(top_k_accuracy, k=5), accuracy, accuracy, error_rate]
    assert metric_names(twice) == [
        "top_k_accuracy_k_3", "top_k_accuracy_k_5", "accuracy", "accuracy_2", "error_rate",
    ]  # fmt: skip


def macro_f1(pred, target):
    return f1_score(target, pred.argmax(1), average="macro")


def score(pred, target):
    return roc_auc_score(target, pred[:, 1])


def r2(pred, target):
    return 1 - (pred - target).square().sum() / (target - target.mean()).square().sum()


def rmse(pred, target):
    return (pred - target).square().mean().sqrt()


def correlation(pred, target):
    return torch.corrcoef(torch.stack([pred, target]))[0, 1]


CLASSES = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3
NUMBERS = torch.randn(2, 50, generator=torch.Generator().manual_seed(1)).unbind()


@pytest.mark.parametrize(
    ("function", "data"),
    [
        (macro_f1, CLASSES),
        (score, (CLASSES[0], CLASSES[1].clamp(max=1))),
        (lambda pred, target: f1_score(target, pred.argmax(1), average="micro"), CLASSES),
        (partial(macro_f1), CLASSES),
        (r2, NUMBERS),
        (rmse, NUMBERS),
        (correlation, NUMBERS),
    ],
)
def test_a_function_that_is_no_mean_gets_the_whole_set(function, data):
    metric = as_metric(function)
    for pred, target in zip(*(part.split(8) for part in data), strict=True):
        metric.update(pred, target)
    assert float(metric.compute()) == pytest.approx(float(function(*data)))
    metric.reset()
    assert math.isnan(metric.compute())


def test_batches_of_a_whole_set_are_copied_and_may_be_nested():
    pred, target = {"a": torch.ones(2)}, (torch.zeros(2), torch.zeros(2))
    metric = as_metric(lambda pred, target: rmse(pred["a"], target[0]))
    metric.update(pred, target)
    pred["a"].zero_()
    metric.update(pred, target)
    assert float(metric.compute()) == pytest.approx(0.5**0.5)
    assert metric_name(as_metric(macro_f1)) == "macro_f1"


def mean_absolute_error(pred, target):
    return (pred - target).abs().mean()


@pytest.mark.parametrize(
    "function", [accuracy, partial(top_k_accuracy, k=2), mean_absolute_error, nn.functional.l1_loss, nn.L1Loss()]
)
def test_other_functions_stay_means_over_items(function):
    assert type(as_metric(function)) is MeanMetric


@pytest.mark.parametrize(
    ("function", "instead"),
    [
        (f1_score, r"MulticlassF1Score\(num_classes"),
        (partial(f1_score, average="macro"), "MulticlassF1Score"),
        (roc_auc_score, "MulticlassAUROC"),
        (sklearn.metrics.r2_score, r"R2Score\(\).*r2_score\(target.cpu\(\), pred.cpu\(\)\)"),
        (sklearn.metrics.balanced_accuracy_score, 'MulticlassRecall.*average="macro"'),
        (sklearn.metrics.accuracy_score, "a function of yours"),
    ],
)
def test_scikit_learns_functions_are_refused_with_what_to_take(function, instead):
    with pytest.raises(TypeError, match=rf"scikit-learn's .* takes \(y_true, y_pred\). Give .*{instead}"):
        as_metric(function)
