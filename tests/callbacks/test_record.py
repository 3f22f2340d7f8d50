import torch
import torchmetrics

from minilearner.callbacks.record import Record
from minilearner.metrics import as_metric


def test_what_training_metrics_gathered_goes_on_where_the_run_computes():
    """A checkpoint gives tensors on the CPU, wherever they were; "meta" stands for a GPU."""

    def recording():
        return Record({"f1": as_metric(torchmetrics.F1Score(task="multiclass", num_classes=3, average="macro"))})

    saved, resumed = recording(), recording()
    saved._updates.update(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
    resumed._device = torch.device("meta")
    resumed.load_state_dict(saved.state_dict())
    assert resumed.train_metrics["train_f1"].tp.device.type == "meta"
