import torch
import torchmetrics

from minilearner.callbacks.record import Record
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
