"""Metrics are tried before training: wrong ones are refused, right ones stay as they are."""

import threading

import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    BinaryAUROC,
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
)
from torchmetrics.regression import R2Score
from torchmetrics.wrappers import ClasswiseWrapper

from minilearner import DataError, LambdaCallback, Learner, SaveBest
from minilearner.metrics import WholeSetMetric


def learner(metrics, n_valid=2, **options):
    g = torch.Generator().manual_seed(0)
    batches = [(torch.randn(4, 2, generator=g), torch.arange(4) % 3) for _ in range(3)]
    sets = batches, batches[:n_valid] or None
    return Learner(sets, nn.Linear(2, 3), nn.CrossEntropyLoss(), torch.optim.SGD, metrics=metrics, **options)


class Recorded:
    """A metric with reset, update and compute that notes its calls."""

    def __init__(self, compute=lambda self: 0.5):
        self.calls, self.lock, self._compute = [], threading.Lock(), compute

    def reset(self):
        self.calls.append("reset")

    def update(self, pred, y):
        self.calls.append("update")

    def compute(self):
        return self._compute(self)


def raises(error):
    def compute(self):
        raise error

    return compute


@pytest.mark.parametrize(
    ("metric", "error"),
    [
        (MulticlassAccuracy(2), DataError),
        (MulticlassAccuracy(3, average=None), TypeError),
        (MulticlassConfusionMatrix(3), TypeError),
        (ClasswiseWrapper(MulticlassAccuracy(3, average=None)), TypeError),
        (MetricCollection([MulticlassAccuracy(3), MulticlassConfusionMatrix(3)]), TypeError),
        (Recorded(lambda self: (1.0, 2.0)), TypeError),
        (Recorded(lambda self: {"a": 1.0}), TypeError),
        (Recorded(lambda self: torch.rand(3)), TypeError),
        (Recorded(lambda self: None), TypeError),
        (Recorded(lambda self: self.totl), DataError),
        (lambda pred, y: (pred.argmax(1) == y).float(), DataError),
        (lambda pred, y: {"a": 1.0}, DataError),
    ],
)
def test_a_metric_that_computes_no_number_is_refused_before_training(metric, error):
    steps = []
    with (
        (learn := learner(metric)).no_logging(),
        pytest.raises(error, match=r"the metric '.*' (fails|must compute one)"),
    ):
        learn.fit(1, cbs=LambdaCallback(after_step=lambda run: steps.append(1)))
    assert not steps and not learn.recorder.runs


@pytest.mark.parametrize("metric", [Recorded(raises(ValueError("more"))), R2Score()])
def test_a_metric_may_need_more_than_one_batch_to_compute(metric):
    """One that fails on a whole set of one batch would fail in training as well."""
    learn = learner(Recorded(raises(ValueError("only one class"))), n_valid=1)
    with learn.no_logging(), pytest.raises(DataError, match="only one class"):
        learn.fit(1)
    many = Recorded(lambda self: 1.0 if self.calls.count("update") > 1 else raises(ValueError("too few"))(self))
    with (learn := learner(many)).no_logging():
        learn.fit(1)
    assert learn.recorder.history["recorded"] == [1.0]


def binary_auc(pred, y):
    """Needs both classes, as scikit-learn's does."""
    return roc_auc_score(y > 0, pred[:, 1])


@pytest.mark.parametrize(
    ("metric", "error"),
    [
        (WholeSetMetric(lambda pred, y: f1_score(y, pred.argmax(1))), DataError),  # for two classes
        (WholeSetMetric(lambda pred, y: pred.mean(0)), TypeError),
        (WholeSetMetric(lambda pred, y: None), TypeError),
        (WholeSetMetric(lambda pred, y: pred @ y), DataError),
        (BinaryAUROC(), DataError),
        (Recorded(raises(ValueError("always"))), DataError),
    ],
)
@pytest.mark.parametrize("n_valid", [1, 3, 0])
def test_a_metric_of_the_whole_set_is_tried_on_it_before_training(n_valid, metric, error):
    steps = []
    learn = learner(metric, n_valid=n_valid)
    learn.recorder.train_metrics = not n_valid
    with learn.no_logging(), pytest.raises(error, match=r"the metric '.*' (fails|must compute one)"):
        learn.fit(1, cbs=LambdaCallback(after_step=lambda run: steps.append(1)))
    assert not steps and not learn.recorder.runs


def test_a_trial_of_the_whole_set_ends_with_the_first_value_and_leaves_no_trace():
    def batches():
        return [(torch.randn(4, 2), torch.full((4,), i // 2)) for i in range(6)]

    rows, plain = [], []
    torch.manual_seed(0)
    train, valid = batches(), batches()
    for metrics in (binary_auc, None):
        torch.manual_seed(0)
        learn = Learner((train, valid), nn.Linear(2, 3), nn.CrossEntropyLoss(), torch.optim.SGD, metrics=metrics)
        if metrics is not None:
            hook = learn.model.register_forward_hook(lambda *_: rows.append(1))
            learn._preflight.check(learn._step(None), learn.dls, learn.metrics)
            hook.remove()
        with learn.no_logging():
            learn.fit(2, 0.1)
        plain.append(learn.model.weight.detach())
    assert torch.equal(*plain) and 0 < learn.recorder.runs[0].epochs[-1]["valid_loss"] < 2
    assert len(rows) < 12  # it did not go through the whole set, for a value came with the first batches


def test_a_trial_leaves_no_trace_on_a_metric_and_shares_what_cannot_be_copied():
    metric = Recorded()
    with (learn := learner(metric)).no_logging():
        learn.fit(1)
    assert metric.calls == ["reset", "update", "update"]  # one pass over two batches


def test_a_method_that_was_replaced_stays_so():
    metric = MulticlassConfusionMatrix(3)
    compute = metric.compute
    metric.compute = lambda: compute().diagonal().sum() / 8
    with (learn := learner(metric)).no_logging():
        learn.fit(1)
    pairs = [(learn.model(x).argmax(1), y) for x, y in learn.dls.valid]
    hits = sum(int((pred == y).sum()) for pred, y in pairs)
    assert learn.recorder.history["multiclass_confusion_matrix"] == [pytest.approx(hits / 8)]


class Judge:
    def __init__(self, path):
        self.file, self.seen = path.open("w"), []

    def score(self, pred, y):
        self.seen.append(len(y))
        return (pred.argmax(1) == y).float().mean()


def test_a_metric_may_be_a_method_of_an_object_that_cannot_be_copied(tmp_path):
    judge = Judge(tmp_path / "notes.txt")
    with judge.file, (learn := learner(judge.score)).no_logging():
        learn.recorder.train_metrics = True
        learn.fit(1, checkpoint=tmp_path / "run")
        assert judge.seen == [4, 4]  # of validation; the training metric is a copy
        learn.lr_find(num_it=3, show_plot=False)
    assert {"score", "train_score"} <= set(learn.recorder.history)


def test_a_collection_counts_as_the_metrics_in_it():
    both = MetricCollection({"hits": MulticlassAccuracy(3), "f1": MulticlassF1Score(3)}, prefix="my_")
    saver = SaveBest("my_f1")
    with (learn := learner([MulticlassPrecision(3), both])).no_logging():
        learn.fit(2, cbs=saver)
    history = learn.recorder.history
    assert {"multiclass_precision", "my_hits", "my_f1"} <= set(history) and saver.mode == "max"
    pred, y = (torch.cat(parts) for parts in zip(*((learn.model(x), y) for x, y in list(learn.dls.valid)), strict=True))
    assert history["my_f1"][-1] == pytest.approx(float(MulticlassF1Score(3)(pred, y)), abs=1e-6)
    assert history["my_hits"][-1] == pytest.approx(float(MulticlassAccuracy(3)(pred, y)), abs=1e-6)
