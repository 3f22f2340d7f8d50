import pytest
import torch
import torchmetrics
from torch import nn

from minilearner import Callback, DataLoaders, Learner, accuracy
from minilearner.callbacks.record import Evaluate, Record
from minilearner.metrics import as_metric


def test_restored_training_metrics_are_on_the_runs_device():
    """A checkpoint holds tensors on the CPU; "meta" stands for a GPU."""

    def make_record():
        return Record({"f1": as_metric(torchmetrics.F1Score(task="multiclass", num_classes=3, average="macro"))})

    saved, resumed = make_record(), make_record()
    saved._updates.update(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
    resumed._device = torch.device("meta")
    resumed.load_state_dict(saved.state_dict())
    assert resumed.train_metrics["train_f1"].tp.device.type == "meta"


def test_a_run_that_an_earlier_version_saved_validates_after_it_resumes(monkeypatch, net, blobs, tmp_path):
    def train(epochs):
        learn = Learner(DataLoaders.from_arrays(*blobs, bs=16, seed=3), net(), metrics=accuracy)
        with learn.no_logging():
            return learn.fit(epochs, 0.1, checkpoint=tmp_path, extend=True)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluate, "state_dict", lambda self: {"_losses": [], "_sizes": [], "_batches": []})
        train(1)
    assert len(train(2).history["valid_loss"]) == 2


class Storages(Callback):
    """Counts in each batch of a validation how many pieces of memory hold the losses and the values of the metric."""

    def __init__(self):
        self.counts = []

    def after_batch(self, run):
        evaluate = next(callback for callback in run.callbacks if isinstance(callback, Evaluate))
        metric = evaluate.metrics["accuracy"]
        kept = [[*values._full, *values._values] for values in (evaluate._losses, metric)]
        self.counts.append([len({t.untyped_storage().data_ptr() for t in values}) for values in kept])


def test_values_of_many_batches_are_in_few_tensors_and_their_mean_is_the_same():
    x, y = torch.rand(300, 2), torch.arange(300) % 2
    dls = DataLoaders.from_arrays((x, y), (x, y), bs=1, seed=0, device="cpu")
    learn, seen = Learner(dls, nn.Linear(2, 2), metrics=accuracy, device="cpu"), Storages()
    with learn.no_logging():
        loss, right = learn.validate(cbs=[seen])
    assert len(seen.counts) == 300 and max(max(counts) for counts in seen.counts) < 64 + 300 / 64
    pred = learn.model(x)
    each = nn.functional.cross_entropy(pred, y, reduction="none")
    assert loss == pytest.approx(each.mean().item(), rel=1e-6) and right == accuracy(pred, y)
