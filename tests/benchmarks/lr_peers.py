"""Runs the learning-rate finders of other libraries on a task of the bank, each with its own defaults.

Model, data, loss and optimizer come from the task. The seed decides weights and order, as for our own sweep.
"""

import contextlib
import io
import logging
import tempfile
import warnings

import matplotlib
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from minilearner.training.optimizers import adamw

matplotlib.use("Agg")
FASTAI = ("minimum", "steep", "valley", "slide")
PEERS = (*(f"fastai {name}" for name in FASTAI), "torch-lr-finder", "Lightning")


@contextlib.contextmanager
def silence():
    """Hides what finders print, and their warnings."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def peers(task, seed):
    """Returns name of the finder -> its suggestion, or None if it gives none or fails."""
    with silence():
        return {name: value for find in FINDERS.values() for name, value in find(task, seed).items()}


def _parts(task, seed):
    (x, y), _ = task.data()
    torch.manual_seed(seed)
    model = task.model()
    data = TensorDataset(torch.tensor(x), torch.tensor(y))
    loader = DataLoader(data, task.bs, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(seed))
    loss = task.loss or (F.mse_loss if task.is_regression else F.cross_entropy)
    return model, loader, loss, task.opt or adamw


def _fastai(task, seed):
    from fastai.callback.schedule import minimum, slide, steep, valley  # gives the Learner its lr_find
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    model, loader, loss, opt = _parts(task, seed)

    def wrapped(params, lr=1e-3, **_):
        return OptimWrapper([p for p in model.parameters() if p.requires_grad], opt, lr=lr)

    with tempfile.TemporaryDirectory() as folder:
        learn = Learner(DataLoaders(loader, loader), model, loss, wrapped, path=folder)
        with learn.no_bar(), learn.no_logging():
            try:
                found = learn.lr_find(show_plot=False, suggest_funcs=(minimum, steep, valley, slide))
            except Exception as error:
                logging.warning("fastai on %s: %r", task.name, error)
                return {f"fastai {name}": None for name in FASTAI}
    return {f"fastai {name}": float(value) for name, value in zip(FASTAI, found, strict=True)}


def _torch_lr_finder(task, seed):
    from matplotlib import pyplot as plt
    from torch_lr_finder import LRFinder

    model, loader, loss, opt = _parts(task, seed)
    finder = LRFinder(model, opt([p for p in model.parameters() if p.requires_grad], lr=1e-7), loss, device="cpu")
    finder.range_test(loader, end_lr=10, num_iter=100)
    try:
        _, lr = finder.plot(suggest_lr=True, ax=plt.figure().gca())
    except Exception as error:
        logging.warning("torch-lr-finder on %s: %r", task.name, error)
        lr = None
    plt.close("all")
    return {"torch-lr-finder": None if lr is None else float(lr)}


def _lightning(task, seed):
    import pytorch_lightning as pl
    from pytorch_lightning.tuner import Tuner

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    model, loader, loss, opt = _parts(task, seed)

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.lr = model, 1e-3

        def training_step(self, batch, _):
            return loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return opt([p for p in self.net.parameters() if p.requires_grad], lr=self.lr)

    with tempfile.TemporaryDirectory() as folder:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = pl.Trainer(accelerator="cpu", max_epochs=100, default_root_dir=folder, **quiet)
        found = Tuner(trainer).lr_find(Module(), loader)
    lr = None if found is None else found.suggestion()
    return {"Lightning": None if lr is None else float(lr)}


FINDERS = {"fastai": _fastai, "torch-lr-finder": _torch_lr_finder, "Lightning": _lightning}
