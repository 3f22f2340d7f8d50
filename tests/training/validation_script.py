"""The script of `test_validation`, which runs it alone and with torchrun in several processes with the same weights.

Every loss and metric must equal that of one process to the bit.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import torch
import torchmetrics.classification as their
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from minilearner import (
    ClassificationInterpretation,
    DataLoaders,
    Learner,
    accuracy,
    error_rate,
    processes,
    top_k_accuracy,
)
from minilearner.data.item_dataset import ItemDataset
from minilearner.data.item_loader import ItemLoader

N_TRAIN, N_VALID = 400, 61


def items():
    """Returns items of four classes. Some batches are easy and others hard, so that their losses differ widely."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(N_TRAIN + N_VALID, 5, generator=rng) * torch.logspace(-3, 2, N_TRAIN + N_VALID)[:, None]
    y = torch.randint(4, (len(x),), generator=rng)
    return (x[:N_TRAIN], y[:N_TRAIN]), (x[N_TRAIN:], y[N_TRAIN:])


class Stream(IterableDataset):
    def __init__(self, x, y):
        self.pairs = [(x[i], y[i]) for i in range(len(x))]

    def __len__(self):
        return len(self.pairs)

    def __iter__(self):
        return iter(self.pairs)


def from_arrays(bs):
    return DataLoaders.from_arrays(*items(), bs=bs, vocab=range(4))


def from_items(bs):
    train, valid = (ItemLoader(ItemDataset(list(x), lambda item: item), y, bs=bs, num_workers=0) for x, y in items())
    return DataLoaders(train, valid, vocab=range(4))


def from_torch(bs):
    train, valid = (DataLoader(TensorDataset(*pair), bs) for pair in items())
    return DataLoaders(train, valid, vocab=range(4))


def from_stream(bs):
    train, valid = (DataLoader(Stream(*pair), bs) for pair in items())
    return DataLoaders(train, valid, vocab=range(4))


def from_list(bs):
    train, valid = ([(x[i : i + bs], y[i : i + bs]) for i in range(0, len(x), bs)] for x, y in items())
    return DataLoaders(train, valid, vocab=range(4))


class MeanOfMargins:
    """A user's metric that adds up in float32, so that the order matters."""

    def reset(self):
        self.total = torch.zeros(())

    def update(self, pred, y):
        for row, label in zip(pred, y, strict=True):
            self.total = self.total + row[label] - row.mean()

    def compute(self):
        return self.total / N_VALID


def metrics():
    counts = [their.MulticlassF1Score(4), their.MulticlassConfusionMatrix(4)]
    counts[1].compute = partial(_off_diagonal, counts[1].compute)
    floats = [their.MulticlassHingeLoss(4), their.MulticlassAUROC(4)]
    return [accuracy, error_rate, partial(top_k_accuracy, k=2), _spread, MeanOfMargins(), *counts, *floats]


def _off_diagonal(compute):
    matrix = compute()
    return matrix.sum() - matrix.diagonal().sum()


def _spread(pred, y):
    """Returns a mean whose size differs in every batch."""
    return pred.std()


def learner(dls, strategy="ddp"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 24), nn.Tanh(), nn.Linear(24, 4))
    return Learner(dls, model, nn.CrossEntropyLoss(), torch.optim.SGD, metrics=metrics(), strategy=strategy)


LOADERS = {make.__name__: make for make in (from_arrays, from_items, from_torch, from_stream, from_list)}
SIZES = (8, 25, 100)  # many batches with a short last one, fewer batches than four processes have, and a single one
SHARDS = hasattr(torch.cpu.current_stream(), "record_event")  # whether this torch has fully_shard on CPUs


def evaluate(learn):
    with learn.no_bar(), learn.no_logging():
        validated = learn.validate()
        learn.fit(1, 0.0)
        history = learn.recorder.history
        matrix = ClassificationInterpretation.from_learner(learn).confusion_matrix()
        preds, _ = learn.get_preds()
    return {
        "validate": validated,
        "epoch": [history[name][-1] for name in ("valid_loss", *learn.metrics)],
        "matrix": matrix.tolist(),
        "preds": preds.tolist(),
    }


def same_batches():
    found = {f"{name} {bs}": evaluate(learner(make(bs))) for name, make in LOADERS.items() for bs in SIZES}
    if SHARDS:
        found.update({f"fsdp {bs}": evaluate(learner(from_arrays(bs), "fsdp")) for bs in SIZES})
    return found


def counts(per_process):
    """Returns the metrics that only count items, with the given batch size in each process."""
    learn = learner(from_arrays(per_process))
    with learn.no_bar(), learn.no_logging():
        return dict(zip(learn.metrics, learn.validate()[1:]))


def main(folder):
    found = {"same": same_batches(), "counts": counts(24 // processes.count())}
    (folder / f"rank{processes.rank()}.json").write_text(json.dumps(found))
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
