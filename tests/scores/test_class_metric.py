"""One class's value of a metric of torchmetrics that computes one for each class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, recall_score
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import ConfusionMatrix, MulticlassF1Score, MulticlassRecall
from torchmetrics.wrappers import ClasswiseWrapper

from minilearner import Checkpoint, DataLoaders, EarlyStopping, LambdaCallback, Learner
from minilearner.directions import direction_of_metric
from minilearner.metrics import as_metric
from minilearner.scores.class_metric import ClassMetric

VOCAB = ["cat", "dog", "owl"]


def recalls(**options):
    return MulticlassRecall(3, average=None, **options)


def learner(metrics, **options):
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(90, 4, generator=g), torch.arange(90) % 3
    dls = DataLoaders.from_arrays((x, y), (x[:50], y[:50]), bs=16, seed=1, vocab=VOCAB, device="cpu")
    torch.manual_seed(1)
    return Learner(dls, nn.Linear(4, 3), metrics=metrics, device="cpu", **options)


def test_the_column_of_a_run_is_scikit_learns_value_of_that_class():
    shared = recalls()
    learn = learner([ClassMetric(shared, name, vocab=VOCAB) for name in ("cat", "owl")] + [ClassMetric(shared, 1)])
    assert list(learn.metrics) == ["multiclass_recall_cat", "multiclass_recall_owl", "multiclass_recall_1"]
    with learn.no_logging():
        record = learn.fit(2, 0.1)
    preds, y = learn.get_preds()[:2]
    of_each = recall_score(y.numpy(), preds.argmax(1).numpy(), average=None)
    row = record.epochs[-1]
    assert [row[name] for name in learn.metrics] == pytest.approx(of_each[[0, 2, 1]])


def test_a_key_of_a_dictionary_is_taken():
    pred, y = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.9, 0.0, 0.1]]), torch.tensor([0, 1, 2])
    labelled = ClasswiseWrapper(MulticlassF1Score(3, average=None), labels=VOCAB, prefix="f1_")
    metric = ClassMetric(labelled, "f1_cat")
    metric.update(pred, y)
    assert float(metric.compute()) == pytest.approx(f1_score(y, pred.argmax(1), average=None)[0])


def test_each_class_counts_the_batches_once():
    counts = ConfusionMatrix(task="multiclass", num_classes=3)
    rows = [as_metric(ClassMetric(counts, i)) for i in range(2)]
    for row in rows:
        row.update(torch.eye(3), torch.arange(3))
    assert rows[0].compute().tolist() == [1, 0, 0] and counts.update_count == 0


def test_more_is_better_as_the_metric_says():
    class Errors(MulticlassRecall):
        higher_is_better = False

    assert direction_of_metric(ClassMetric(MulticlassF1Score(3, average=None), 0)) == "max"
    assert direction_of_metric(ClassMetric(Errors(3, average=None), 0)) == "min"
    learn = learner(ClassMetric(recalls(), "dog", vocab=VOCAB))
    with learn.no_logging():
        learn.fit(3, 0.1, cbs=EarlyStopping("multiclass_recall_dog", patience=1))


def test_a_run_resumes_within_an_epoch_with_the_counts_of_its_batches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Stop(Exception):
        pass

    def stop(run):
        if Path("stop").exists() and run.epoch == 1 and run.iter == 3:
            raise Stop

    def run(folder):
        learn = learner([ClassMetric(recalls(), i) for i in range(3)])
        learn.recorder.train_metrics = True
        checkpoint = Checkpoint(tmp_path / folder, every_steps=2)
        with learn.no_logging():
            return learn.fit(2, 0.1, checkpoint=checkpoint, cbs=LambdaCallback(after_batch=stop))

    whole = run("whole")
    Path("stop").touch()
    with pytest.raises(Stop):
        run("cut")
    Path("stop").unlink()
    resumed = run("cut")
    names = [f"train_multiclass_recall_{i}" for i in range(3)]
    of_whole = [whole.epochs[-1][name] for name in names]
    assert any(0 < value < 1 for value in of_whole)
    assert [resumed.epochs[-1][name] for name in names] == of_whole


def test_what_has_no_value_for_the_class_raises():
    with pytest.raises(ValueError, match=r"`metric` must have average=None.*Received: average='macro'"):
        ClassMetric(MulticlassRecall(3), 0)
    with pytest.raises(ValueError, match=r"must be one of the classes. Did you mean 'cat'\? Received: which='cats'"):
        ClassMetric(recalls(), "cats", vocab=VOCAB)
    with pytest.raises(ValueError, match="multiclass_recall computes 3 values, numbered from 0. Received: which=3"):
        metric = ClassMetric(recalls(), 3)
        metric.update(torch.eye(3), torch.arange(3))
        metric.compute()
    both = MetricCollection({"recall": MulticlassRecall(3)})
    with pytest.raises(ValueError, match="computes no 'recal'. Did you mean 'recall'"):
        metric = ClassMetric(both, "recal")
        metric.update(torch.eye(3), torch.arange(3))
        metric.compute()
    with pytest.raises(TypeError, match="`metric` must be a metric of torchmetrics"):
        ClassMetric(np.mean, 0)
    learn = learner(recalls())
    with pytest.raises(TypeError, match=r"Take one of them by ClassMetric\(multiclass_recall, 0\)"), learn.no_logging():
        learn.fit(1)
