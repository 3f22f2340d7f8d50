"""Measures what a trainer costs beyond a hand-written loop, in microseconds per step.

    python tests/benchmarks/overhead.py [--steps 1000] [--rounds 9] [--cpu]

It trains a two-layer net with SGD on one thread, from a list of batches of 64. There is next to no computing, so almost
all of the time is the trainer's. A raw loop, minilearner and the installed peers (fastai, Lightning, skorch, Keras on
torch) take turns, round by round, each in its own process. The figures are medians over rounds, and medians of each
round's difference from its own raw loop.
"""

import argparse
import atexit
import contextlib
import io
import logging
import os
import platform
import statistics
import tempfile
import time
import warnings
from functools import partial

os.environ.setdefault("KERAS_BACKEND", "torch")

import torch
from rows import readme_row
from torch import nn
from torch.nn import functional as F
from turns import by_turns, ratio_text, seconds

N_ITEMS, N_IN, N_CLASSES = 64, 32, 10
BUSY = "minilearner, bar and three training metrics"
FULL = "minilearner, the same with EMA and CSV"
USUAL = "minilearner, bar, EMA, CSV and three metrics in validation"


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(N_IN, 64), nn.ReLU(), nn.Linear(64, N_CLASSES))


def batches(n):
    g = torch.Generator().manual_seed(0)
    return [
        (torch.randn(N_ITEMS, N_IN, generator=g), torch.randint(N_CLASSES, (N_ITEMS,), generator=g)) for _ in range(n)
    ]


def raw(data):
    model, loss_func = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def epoch():
        model.train()
        for x, y in data:
            loss = loss_func(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def minilearner(data, **kwargs):
    from minilearner import DataLoaders, Learner

    dls = DataLoaders(data)
    learn = Learner(dls, net(), nn.CrossEntropyLoss(), torch.optim.SGD, lr=1e-3, device="cpu", **kwargs)

    def epoch():
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)

    return epoch


def minilearner_with_metrics(data, *, valid=None, **kwargs):
    from minilearner import DataLoaders, Learner, accuracy, error_rate, top_k_accuracy

    metrics = [accuracy, error_rate, partial(top_k_accuracy, k=3)]
    learn = Learner(
        DataLoaders(data, valid), net(), nn.CrossEntropyLoss(), torch.optim.SGD, device="cpu", metrics=metrics, **kwargs
    )
    learn.recorder.train_metrics = valid is None
    return lambda: learn.fit(1, 1e-3)


def minilearner_in_full(data, *, valid=None):
    from minilearner import EMA, CSVLogger

    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return minilearner_with_metrics(data, valid=valid, cbs=[EMA(), CSVLogger(fname="history.csv")], path=folder.name)


def minilearner_as_usual(data):
    return minilearner_in_full(data, valid=data[:1])


def fastai(data):
    import fastai.callback.progress  # noqa: F401 - gives the learner `no_bar`
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    def sgd(params, lr, **kwargs):
        return OptimWrapper(params, torch.optim.SGD, lr=lr)

    dls = DataLoaders(_Loader(data), _Loader(data[:1]), device="cpu")
    learn = Learner(dls, net(), nn.CrossEntropyLoss(), sgd, lr=1e-3)

    def epoch():
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)

    return epoch


class _Loader:
    """Serves the batches of a list as a loader, with the attributes that fastai needs."""

    device, dataset = torch.device("cpu"), [0]

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter(self.data)

    def __len__(self):
        return len(self.data)


def lightning(data):
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net()

        def training_step(self, batch, index):
            x, y = batch
            return F.cross_entropy(self.net(x), y)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    module = Module()
    options = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False, "enable_checkpointing": False}

    def epoch():
        pl.Trainer(max_epochs=1, enable_model_summary=False, **options).fit(module, _Loader(data))

    return epoch


def skorch(data):
    from skorch import NeuralNet

    inputs, labels = (torch.cat(part) for part in zip(*data))
    model = NeuralNet(
        net(), nn.CrossEntropyLoss, optimizer=torch.optim.SGD, lr=1e-3, train_split=None, verbose=0, batch_size=N_ITEMS,
        iterator_train=lambda dataset, **_: data,
    )  # fmt: skip
    model.initialize()
    return lambda: model.partial_fit(inputs, labels, epochs=1)


def keras(data):
    import keras

    layers = [keras.Input((N_IN,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(N_CLASSES)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(1e-3), loss=loss)
    loader = torch.utils.data.DataLoader(data, batch_size=None, shuffle=False)
    return lambda: model.fit(loader, epochs=1, verbose=0)


class _Terminal(io.StringIO):
    """A terminal that nobody sees, so that bars are drawn."""

    def isatty(self):
        return True


@contextlib.contextmanager
def quiet():
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(_Terminal()),
        contextlib.redirect_stderr(_Terminal()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        yield


def make_benchmark(make, args):
    """Returns a function that trains an epoch and returns its microseconds per step."""
    clock = time.process_time if args.cpu else time.perf_counter
    with quiet():
        epoch = make(batches(args.steps))

    def run():
        with quiet():
            return seconds(epoch, clock) / args.steps * 1e6

    return run


PEERS = {"skorch": skorch, "Lightning": lightning, "fastai": fastai, "Keras on torch": keras}
CONTENDERS = {
    "raw loop": raw,
    "minilearner": minilearner,
    BUSY: minilearner_with_metrics,
    FULL: minilearner_in_full,
    USUAL: minilearner_as_usual,
    **PEERS,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cpu", action="store_true", help="measure CPU time, which a busy machine changes less")
    args = parser.parse_args()
    torch.set_num_threads(1)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, one thread"
    print(f"{machine}, torch {torch.__version__}; {'CPU' if args.cpu else 'wall'} time,")
    print(f"{args.steps} steps of {N_ITEMS} items, medians of {args.rounds} rounds\n")
    report(by_turns({name: (make_benchmark, make, args) for name, make in CONTENDERS.items()}, args.rounds))


def report(times):
    raw = times["raw loop"]
    excess = {name: sorted(t - r for t, r in zip(column, raw)) for name, column in times.items()}
    over = {name: statistics.median(column) for name, column in excess.items()}
    print("| | µs a step | over raw | smallest, largest | times raw |\n|---|---|---|---|---|")
    for name, column in times.items():
        ends = f"{excess[name][0]:.0f}, {excess[name][-1]:.0f}"
        print(f"| {name} | {statistics.median(column):.0f} | {over[name]:.1f} | {ends} | {ratio_text(column, raw)} |")
    what = f"a training step of a tiny net, over a raw loop's {statistics.median(raw):.0f} µs"
    others = ", ".join(f"{name} {over[name]:,.0f} µs" for name in PEERS if name in over)
    spread = {name: f"{over[name]:.0f} µs ({found[0]:.0f} to {found[-1]:.0f})" for name, found in excess.items()}
    readme_row(what, spread["minilearner"], others)
    readme_row("the same with a bar and three metrics on training batches", spread[BUSY])
    readme_row("the same with EMA and CSV too", spread[FULL])
    readme_row("with a bar, EMA, CSV and three metrics in validation", spread[USUAL])


if __name__ == "__main__":
    main()
