"""Checks what minilearner and other libraries do, and prints the table of docs/comparison.md.

Run: ``python tests/benchmarks/comparison.py [--write docs/comparison.md]``. It needs `pip install --group peers`.

Each cell is the result of a small program that uses the library itself; each library has a process of its own. One that
has nothing for a row gets a dash. Nothing here is quoted from a documentation.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = {
    "minilearner": "minilearner",
    "fastai": "fastai",
    "Lightning": "pytorch-lightning",
    "Keras": "keras",
    "skorch": "skorch",
    "torch-lr-finder": "torch-lr-finder",
}
"""Library -> its distribution."""

ROWS = {
    "loop": "two epochs end on the weights of ten lines of PyTorch, to the bit (CPU, fp32, SGD)",
    "sweep": "training after a learning-rate sweep equals training without one, to the bit",
    "pickle": "a model file that is a hostile pickle is opened without running its code",
    "typo": "a misspelt argument of a training call raises an error that names the right one",
    "nan": "one NaN in the inputs ends training with an error",
    "mean": "accuracy in validation counts items equally, if the last batch is short",
}
DASH = "\N{EN DASH}"
BEGIN, END = "<!-- table: python tests/benchmarks/comparison.py --write docs/comparison.md -->", "<!-- end of table -->"


def data(n: int = 320) -> Any:
    import torch

    g = torch.Generator().manual_seed(0)
    return torch.rand(n, 8, generator=g), torch.randint(3, (n,), generator=g)


def net() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def loader(x: Any, y: Any, shuffle: bool = False) -> Any:
    from torch.utils.data import DataLoader, TensorDataset

    return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=shuffle)


def weights(model: Any) -> Any:
    import torch

    return torch.cat([p.detach().flatten() for p in model.parameters()])


def by_hand(model: Any, batches: Any, epochs: int = 2) -> Any:
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epochs):
        for x, y in batches:
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return weights(model)


class Peer:
    """What one library is asked to do. A method that is missing gives a dash."""

    right = ""
    """The argument that `misspell` misspells."""

    def train(self, model: Any, x: Any, y: Any, shuffle: bool = False, sweep: bool = False) -> Any:
        """Trains two epochs by SGD at a rate of 0.1, after a sweep if wanted, and returns the weights."""
        raise NotImplementedError


class Minilearner(Peer):
    right = "n_epoch"

    def learner(self, model: Any, train: Any, valid: Any = None, metrics: Any = None) -> Any:
        import torch

        from minilearner import DataLoaders, Learner

        loss, sgd = torch.nn.CrossEntropyLoss(), torch.optim.SGD
        return Learner(DataLoaders(train, valid), model, loss, sgd, metrics=metrics, device="cpu")

    def train(self, model: Any, x: Any, y: Any, shuffle: bool = False, sweep: bool = False) -> Any:
        learn = self.learner(model, loader(x, y, shuffle))
        if sweep:
            learn.lr_find(num_it=20)
        learn.fit(2, lr=0.1)
        return weights(model)

    def open(self, file: Path) -> None:
        from minilearner import load_learner

        load_learner(file)

    def misspell(self) -> None:
        self.learner(net(), loader(*data())).fit(n_epochs=1)

    def validate(self, model: Any, x: Any, y: Any) -> float:
        from minilearner import accuracy

        return float(self.learner(model, loader(x, y), loader(x, y), accuracy).validate()[1])


class Fastai(Peer):
    right = "n_epoch"

    def learner(self, model: Any, x: Any, y: Any, shuffle: bool = False, metrics: Any = None) -> Any:
        import torch
        from fastai.basics import DataLoaders, Learner, OptimWrapper
        from fastai.data.load import DataLoader

        import_module("fastai.callback.all")  # brings `no_bar` and `lr_find`
        items = list(zip(x, y, strict=True))
        train, valid = DataLoader(items, bs=32, shuffle=shuffle, num_workers=0), DataLoader(items, bs=32, num_workers=0)
        sgd = partial(OptimWrapper, opt=torch.optim.SGD)
        return Learner(DataLoaders(train, valid), model, torch.nn.CrossEntropyLoss(), sgd, metrics=metrics)

    def train(self, model: Any, x: Any, y: Any, shuffle: bool = False, sweep: bool = False) -> Any:
        learn = self.learner(model, x, y, shuffle)
        with learn.no_bar(), learn.no_logging():
            if sweep:
                learn.lr_find(num_it=20, show_plot=False)
            learn.fit(2, lr=0.1, wd=0)
        return weights(model)

    def open(self, file: Path) -> None:
        from fastai.learner import load_learner

        load_learner(file)

    def misspell(self) -> None:
        self.learner(net(), *data()).fit(n_epochs=1)

    def validate(self, model: Any, x: Any, y: Any) -> float:
        from fastai.metrics import accuracy

        learn = self.learner(model, x, y, metrics=accuracy)
        with learn.no_bar(), learn.no_logging():
            return float(learn.validate()[1])


class Lightning(Peer):
    right = "max_epochs"

    def module(self, model: Any) -> Any:
        import torch
        from pytorch_lightning import LightningModule

        class Module(LightningModule):
            def __init__(self, model: Any = None, lr: float = 0.1) -> None:
                super().__init__()
                self.model, self.lr = model, lr

            def training_step(self, batch: Any, i: int) -> Any:
                return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])

            def validation_step(self, batch: Any, i: int) -> None:
                self.log("accuracy", (self.model(batch[0]).argmax(1) == batch[1]).float().mean())

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), lr=self.lr)

        return Module if model is None else Module(model)

    def trainer(self, **options: Any) -> Any:
        from pytorch_lightning import Trainer

        quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
        return Trainer(**{"max_epochs": 2, "accelerator": "cpu", "enable_checkpointing": False, **quiet, **options})

    def train(self, model: Any, x: Any, y: Any, shuffle: bool = False, sweep: bool = False) -> Any:
        module, batches, trainer = self.module(model), loader(x, y, shuffle), self.trainer()
        if sweep:
            from pytorch_lightning.tuner import Tuner

            Tuner(trainer).lr_find(module, batches, num_training=20, update_attr=False)
        trainer.fit(module, batches)
        return weights(model)

    def open(self, file: Path) -> None:
        self.module(None).load_from_checkpoint(file)

    def misspell(self) -> None:
        self.trainer(max_epoch=1)

    def validate(self, model: Any, x: Any, y: Any) -> float:
        return float(self.trainer().validate(self.module(model), loader(x, y), verbose=False)[0]["accuracy"])


class Keras(Peer):
    right = "epochs"

    def model(self, model: Any) -> Any:
        import keras

        layers = [keras.layers.Dense(16, "relu"), keras.layers.Dense(3)]
        net = keras.Sequential([keras.Input((8,)), *layers])
        for layer, module in zip(layers, (model[0], model[2]), strict=True):
            layer.set_weights([module.weight.detach().numpy().T, module.bias.detach().numpy()])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        net.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
        return net

    def train(self, model: Any, x: Any, y: Any, shuffle: bool = False, sweep: bool = False) -> Any:
        import numpy as np
        import torch

        if sweep:
            raise NotImplementedError
        net = self.model(model)
        net.fit(x.numpy(), y.numpy(), batch_size=32, epochs=2, shuffle=shuffle, verbose=0)
        return torch.as_tensor(np.concatenate([np.asarray(w).T.ravel() for w in net.get_weights()]))

    def open(self, file: Path) -> None:
        import keras

        keras.saving.load_model(file.rename(file.with_suffix(".keras")))

    def misspell(self) -> None:
        x, y = data()
        self.model(net()).fit(x.numpy(), y.numpy(), epoch=1)

    def validate(self, model: Any, x: Any, y: Any) -> float:
        return float(self.model(model).evaluate(x.numpy(), y.numpy(), batch_size=32, verbose=0)[1])


class Skorch(Peer):
    right = "max_epochs"

    def net(self, model: Any, **options: Any) -> Any:
        import torch
        from skorch import NeuralNetClassifier

        fixed = {"criterion": torch.nn.CrossEntropyLoss, "lr": 0.1, "batch_size": 32, "train_split": None, "verbose": 0}
        return NeuralNetClassifier(model, **{"max_epochs": 2, **fixed, **options})

    def train(self, model: Any, x: Any, y: Any, shuffle: bool = False, sweep: bool = False) -> Any:
        if sweep:
            raise NotImplementedError
        net = self.net(model, iterator_train__shuffle=shuffle)
        net.fit(x.numpy(), y.numpy())
        return weights(net.module_)

    def open(self, file: Path) -> None:
        self.net(net()).initialize().load_params(f_params=file)

    def misspell(self) -> None:
        x, y = data()
        self.net(net(), max_epoch=1).fit(x.numpy(), y.numpy())

    def validate(self, model: Any, x: Any, y: Any) -> float:
        return float(self.net(model).initialize().score(x.numpy(), y.numpy()))


class Finder(Peer):
    def train(self, model: Any, x: Any, y: Any, shuffle: bool = False, sweep: bool = False) -> Any:
        import torch
        from torch_lr_finder import LRFinder

        if not shuffle:
            raise NotImplementedError
        batches = loader(x, y, shuffle)
        if sweep:
            finder = LRFinder(model, torch.optim.SGD(model.parameters(), 1e-7), torch.nn.CrossEntropyLoss(), "cpu")
            finder.range_test(batches, end_lr=10, num_iter=20)
            finder.reset()
        return by_hand(model, batches)


PEERS: dict[str, Callable[[], Any]] = dict(
    zip(LIBRARIES, (Minilearner, Fastai, Lightning, Keras, Skorch, Finder), strict=True)
)


def check_loop(peer: Any) -> str:
    import torch

    x, y = data()
    found, wanted = peer.train(net(), x, y), by_hand(net(), loader(x, y))
    return "yes" if torch.equal(found, wanted) else f"no, weights differ by {(found - wanted).abs().max():.0e}"


def check_sweep(peer: Any) -> str:
    import torch

    found = []
    for sweep in (False, True):
        model = net()
        torch.manual_seed(2)
        found.append(peer.train(model, *data(), shuffle=True, sweep=sweep))
    return "yes" if torch.equal(*found) else f"no, weights differ by {(found[0] - found[1]).abs().max():.0e}"


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def check_pickle(peer: Any) -> str:
    folder = Path(tempfile.mkdtemp())
    file, mark = folder / "model.pkl", folder / "ran"
    file.write_bytes(pickle.dumps(Hostile(mark)))
    try:
        peer.open(file)
    except (AttributeError, NotImplementedError) as error:
        if not hasattr(peer, "open"):
            raise NotImplementedError from error
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return "no, it runs" if mark.exists() else "yes"


def check_typo(peer: Any) -> str:
    try:
        peer.misspell()
    except (TypeError, ValueError) as error:
        print(error, file=sys.stderr)
        return "yes" if re.search(rf"\b{peer.right}\b", str(error)) else "no, it names only the wrong one"
    return "no, it raises nothing"


def check_nan(peer: Any) -> str:
    x, y = data()
    x[3, 0] = float("nan")
    try:
        trained = peer.train(net(), x, y)
    except NotImplementedError:
        raise
    except Exception as error:
        print(error, file=sys.stderr)
        return "yes, and it names the item" if "item 3" in str(error) else "yes"
    return "no, all weights become NaN" if trained.isnan().any() else "no"


def check_mean(peer: Any) -> str:
    x, y = data(40)
    model = net()
    wanted = float((model(x).argmax(1) == y).float().mean())
    return "yes" if abs(peer.validate(model, x, y) - wanted) < 1e-6 else "no"


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}


def run(library: str) -> dict[str, str]:
    """Returns the cells of one library, from a process of its own."""
    environment = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--one", library]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tempfile.mkdtemp())
    if done.returncode:
        raise SystemExit(f"{library}: {done.stderr[-3000:]}")
    print(done.stderr, done.stdout, file=sys.stderr, flush=True)
    cells: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return cells


def run_row(peer: Any, row: str) -> str:
    needed = {"pickle": "open", "typo": "misspell", "mean": "validate"}.get(row, "train")
    try:
        return CHECKS[row](peer) if hasattr(peer, needed) else DASH
    except NotImplementedError:
        return DASH


def write_table() -> str:
    import minilearner

    others = {name: version(package) for name, package in LIBRARIES.items() if name != "minilearner"}
    versions = {"minilearner": minilearner.__version__, **others, "torch": version("torch")}
    columns = [run(library) for library in LIBRARIES]
    lines = [", ".join(f"{name} {number}" for name, number in versions.items()), ""]
    lines += ["| | " + " | ".join(LIBRARIES) + " |", "|---" * (len(LIBRARIES) + 1) + "|"]
    lines += [f"| {words} | " + " | ".join(cells[row] for cells in columns) + " |" for row, words in ROWS.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="the page that holds the table")
    parser.add_argument("--one", choices=LIBRARIES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        warnings.simplefilter("ignore")
        peer = PEERS[args.one]()
        print(json.dumps({row: run_row(peer, row) for row in ROWS}))
        return
    table = write_table()
    print(table)
    if args.write:
        before, rest = args.write.read_text(encoding="utf-8").split(BEGIN)
        args.write.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
