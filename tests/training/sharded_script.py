"""The script of `test_sharded`: trains and checks a model too small for its layers to be sharded one by one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import nn

from minilearner import DataLoaders, Learner, accuracy, processes


def learner(strategy):
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 3
    x = torch.randn(200, 20, generator=rng)
    x[torch.arange(200), y] += 2
    dls = DataLoaders.from_arrays((x[:160], y[:160]), (x[160:], y[160:]), bs=16, seed=0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
    return Learner(dls, model, metrics=accuracy, strategy=strategy)


def main(folder):
    found = {}
    for strategy in ("ddp", "fsdp"):
        learn = learner(strategy)
        checkup = learn.check().to_dict()
        with learn.no_logging():
            record = learn.fit(3, 0.01)
        found[strategy] = {"worst": checkup["worst"], "valid_loss": record.epochs[-1]["valid_loss"]}
    return found


if __name__ == "__main__":
    out = Path(sys.argv[-1])
    result = main(out)
    (out / f"rank{processes.rank()}.json").write_text(json.dumps(result))
