"""More tasks for `lr_bank.py`: what the first ones lack, in two parts, `VARIED` and `UNSEEN`.

These are small sets with batch norm, tables, nets without norm layers or with other ones, attention, sign and plain
steps, batches of 8 to 512 items, sets of 128 to 60,000, up to 30 epochs, class weights, label smoothing, MixUp, and
several labels for each item. The rule was tuned with `VARIED`. The tasks in `UNSEEN` were trained and scored only after
the rule stood. Most kinds are in both. Class weights, label smoothing, Nesterov's momentum, attention and images in
colour are only in `UNSEEN`, and MixUp is only in `VARIED`.

All data come with packages: beside those of `lr_tasks.py`, the tables of river and statsmodels, the faces of
scikit-image, and the drawings of Debian's `tuxpaint-stamps-default`.
"""

import inspect
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from lr_tasks import (
    ADAM,
    CANCER,
    CHINA,
    CNN4,
    DIABETES,
    DIGIT_IMAGES,
    DIGITS,
    RMSPROP,
    SGD,
    SGD_WD,
    SMALL,
    WINE,
    Residual,
    Task,
    Transformer,
    _split,
    cnn,
    conv,
    fashion,
    mlp,
    mnist,
    resnet,
    text,
)
from torch import nn
from torch.nn import functional as F

from minilearner import MixUp

NESTEROV = partial(torch.optim.SGD, momentum=0.9, nesterov=True)
PLAIN = torch.optim.SGD
SEVERAL = F.binary_cross_entropy_with_logits


class Lion(torch.optim.Optimizer):
    """Steps by the sign of a momentum (Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023)."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.1):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            slow, slower = group["betas"]
            for p in (p for p in group["params"] if p.grad is not None):
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * mean.lerp(p.grad, 1 - slow).sign())
                mean.lerp_(p.grad, 1 - slower)
        return loss


# Data


def _scale(x):
    return (x - x.mean(0)) / (x.std(0) + 1e-8)


@lru_cache
def river_table(name, n_valid):
    """A table of the package river: its numbers -> its classes."""
    from river import datasets

    rows = list(getattr(datasets, name)())
    x = np.array([list(map(float, row.values())) for row, _ in rows])
    y = np.unique([str(label) for _, label in rows], return_inverse=True)[1]
    return _split(_scale(x).astype(np.float32), y.astype(np.int64), n_valid)


@lru_cache
def survey(name, column, n_valid, classes=None):
    """A table of the package statsmodels: all columns but one -> whether that one is above 0, or its value as class."""
    import statsmodels.api as sm

    table = getattr(sm.datasets, name).load_pandas().data
    y = table.pop(column).to_numpy()
    y = np.unique(y, return_inverse=True)[1] if classes else y > 0
    return _split(_scale(table.to_numpy(dtype=float)).astype(np.float32), y.astype(np.int64), n_valid)


@lru_cache
def faces():
    """25 x 25 px -> whether it is a face. 140 for training, 60 for validation."""
    from skimage.data import lfw_subset

    x = lfw_subset().astype(np.float32)[:, None]
    return _split((x - x.mean()) / x.std(), np.repeat([1, 0], 100), 60)


@lru_cache
def stamps(px=32):
    """Drawings and photos on white -> their kind, the folder of the six largest."""
    from PIL import Image

    root = Path("/usr/share/tuxpaint/stamps")
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is missing: it comes with Debian's package tuxpaint-stamps-default.")
    kinds = sorted(root.iterdir(), key=lambda folder: -len(list(folder.rglob("*.png"))))[:6]
    files = [(path, k) for k, folder in enumerate(sorted(kinds)) for path in sorted(folder.rglob("*.png"))]
    images = []
    for path, _ in files:
        image = Image.open(path).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        images.append(np.asarray(image.resize((px, px), Image.Resampling.BOX), dtype=np.float32) / 128 - 1)
    y = np.array([k for _, k in files])
    return _split(np.stack(images).transpose(0, 3, 1, 2), y, len(y) // 3)


@lru_cache
def lines(n_features=512, n_valid=1500):
    """A line of Python, as counts of three characters each -> which of eight modules it comes from."""
    import argparse
    import ast
    import decimal
    import difflib
    import email.message
    import tarfile
    import textwrap
    import typing

    from sklearn.feature_extraction.text import HashingVectorizer

    texts, y = [], []
    for k, module in enumerate((argparse, ast, difflib, email.message, tarfile, textwrap, typing, decimal)):
        found = [line.strip() for line in inspect.getsource(module).splitlines() if len(line.strip()) > 20]
        texts, y = texts + found, y + [k] * len(found)
    x = HashingVectorizer(n_features=n_features, analyzer="char", ngram_range=(3, 3)).transform(texts).toarray()
    return _split((20 * x).astype(np.float32), np.array(y), n_valid)


def with_attributes(data):
    """Returns a set of clothes with several labels for each: for the upper body, with sleeves, worn on feet, open."""
    table = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 0, 1]])
    table = np.vstack([table, [[0, 0, 1, 1], [1, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0]]]).astype(
        np.float32
    )
    return tuple((x, table[y]) for x, y in data())


def unbalanced(data, kept=0.1):
    """Returns the set with a tenth of the items of the classes from 5 on, for training only."""
    (x, y), valid = data()
    some = (y < 5) | (np.random.default_rng(0).random(len(y)) < kept)
    return (x[some], y[some]), valid


def shown_number(data):
    """Returns a set of digits whose target is the number itself, as a regression."""
    return tuple((x, ((y - 4.5) / 2.9).astype(np.float32)[:, None]) for x, y in data())


def first(n, data):
    """Returns a set with only its first items for training."""
    (x, y), valid = data()
    return (x[:n], y[:n]), valid


# Models


def group_norm(model):
    """Replaces the batch norm of a net by group norm."""
    for name, part in model.named_children():
        if isinstance(part, nn.BatchNorm2d):
            setattr(model, name, nn.GroupNorm(4, part.num_features))
        else:
            group_norm(part)
    return model


def layer_mlp(*sizes, act=nn.GELU):
    layers = [nn.Flatten()]
    for a, b in pairwise(sizes[:-1]):
        layers += [nn.Linear(a, b), nn.LayerNorm(b), act()]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:]))


def gn_resnet():
    return group_norm(resnet())


def gn_cnn(*widths, **kwargs):
    return group_norm(cnn(*widths, **kwargs))


def plain_cnn(*widths, **kwargs):
    return cnn(*widths, norm=False, **kwargs)


def separable():
    """Convolutions of one channel each and of one pixel each, by turns, with batch norm."""
    body = [conv(1, 16, 2)]
    for a, b, stride in ((16, 32, 2), (32, 48, 2)):
        body += [nn.Conv2d(a, a, 3, stride, 1, groups=a, bias=False), nn.BatchNorm2d(a), nn.ReLU()]
        body += [nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))


def wide_resnet(channels=1, classes=10):
    blocks = [conv(channels, 16, 2), Residual(16, 16, 1), Residual(16, 32, 2)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))


class CharacterLSTM(nn.Module):
    """Predicts the next character with an LSTM."""

    def __init__(self, width=48):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(128, 24), nn.LSTM(24, width, batch_first=True)
        self.head = nn.Linear(width, 128)

    def forward(self, x):
        return self.head(self.lstm(self.embed(x))[0][:, -1])


SMOOTH = nn.CrossEntropyLoss(label_smoothing=0.1)
WEIGHTED = nn.CrossEntropyLoss(weight=torch.tensor([0.2] * 5 + [1.8] * 5))
SEGMENTS, PHISHING = partial(river_table, "ImageSegments", 800), partial(river_table, "Phishing", 400)
BANANAS, AFFAIRS = partial(river_table, "Bananas", 2000), partial(survey, "fair", "affairs", 2500)
JOBS, DOCTORS = partial(survey, "fair", "occupation", 2500, True), partial(survey, "randhie", "mdvis", 5000)
ALL, ALL_SMALL = partial(fashion, 60_000), partial(fashion, 60_000, px=14)

VARIED = [
    Task("fashion 1000 CNN-BN Adam bs32", partial(SMALL, 1000, start=40_000), CNN4, ADAM, 32, 5),
    Task("digits CNN-BN Adam bs64", DIGIT_IMAGES, partial(cnn, 16, 32), ADAM, 64, 8),
    Task("MNIST 1000 ResNet AdamW bs32", partial(first, 1000, mnist), resnet, None, 32, 4),
    Task("MNIST CNN plain SGD bs64", mnist, partial(plain_cnn, 8, 16, 32), SGD, 64, 4),
    Task("phishing MLP AdamW bs32", PHISHING, partial(mlp, 9, 64, 32, 2), None, 32, 15),
    Task("segments MLP AdamW bs64", SEGMENTS, partial(mlp, 18, 64, 64, 7), None, 64, 12),
    Task("affairs MLP AdamW bs128", AFFAIRS, partial(mlp, 8, 64, 64, 2), None, 128, 8),
    Task("CNN-GN AdamW bs128", partial(SMALL, start=12_000), partial(gn_cnn, 8, 16, 32), None, 128, 5),
    Task(
        "MLP-LN Lion bs128",
        partial(fashion, start=16_000),
        partial(layer_mlp, 784, 96, 96, 10),
        Lion,
        128,
        5,
        first=-6.5,
    ),
    Task("digits MLP plain SGD bs8", DIGITS, partial(mlp, 64, 48, 10), PLAIN, 8, 3, first=-3.0),
    Task("60000 MLP Adam bs512", ALL_SMALL, partial(mlp, 196, 128, 64, 10), ADAM, 512, 3),
    Task("fashion 1000 CNN-BN SGD 20 epochs", partial(SMALL, 1000, start=44_000), CNN4, SGD, 64, 20),
    Task("CNN-BN Adam MixUp", partial(SMALL, start=20_000), CNN4, ADAM, 64, 4, cbs=MixUp),
    Task(
        "attributes CNN AdamW",
        partial(with_attributes, partial(SMALL, start=24_000)),
        partial(CNN4, classes=4),
        None,
        64,
        3,
        SEVERAL,
    ),
    Task("lines MLP AdamW bs32", lines, partial(mlp, 512, 64, 8), None, 32, 3),
]

UNSEEN = [
    Task(
        "fashion 800 MLP-BN AdamW bs32",
        partial(fashion, 800, start=50_000),
        partial(mlp, 784, 64, 64, 10, norm=True),
        None,
        32,
        8,
    ),
    Task("fashion 300 CNN-BN AdamW bs16", partial(SMALL, 300, start=46_000), CNN4, None, 16, 15),
    Task("fashion 1000 CNN-BN Adam bs64", partial(SMALL, 1000, start=47_000), partial(cnn, 16, 32), ADAM, 64, 6),
    Task("MNIST 1200 separable Adam bs32", partial(first, 1200, mnist), separable, ADAM, 32, 6),
    Task("faces CNN-BN Adam bs16", faces, partial(cnn, 8, 16, 32, classes=2), ADAM, 16, 12),
    Task("stamps CNN-BN AdamW bs32", stamps, partial(cnn, 16, 32, 64, channels=3, classes=6), None, 32, 12),
    Task(
        "CNN plain Nesterov bs128",
        partial(SMALL, 6000, start=26_000),
        partial(plain_cnn, 16, 32, 32),
        NESTEROV,
        128,
        5,
        first=-3.5,
    ),
    Task("digits CNN plain SGD bs16", DIGIT_IMAGES, partial(plain_cnn, 16, 32), SGD, 16, 6),
    Task(
        "fashion 28 px CNN plain SGD",
        partial(fashion, 2500, start=28_000),
        partial(plain_cnn, 8, 16, 16, 32),
        SGD,
        64,
        5,
    ),
    Task("segments MLP SGD bs32", SEGMENTS, partial(mlp, 18, 64, 7), SGD, 32, 10),
    Task("jobs MLP AdamW bs64", JOBS, partial(mlp, 8, 64, 64, 6), None, 64, 8),
    Task("doctors MLP AdamW bs256", DOCTORS, partial(mlp, 9, 64, 64, 2), None, 256, 6),
    Task("bananas MLP AdamW bs64", BANANAS, partial(mlp, 2, 32, 32, 2), None, 64, 8),
    Task("cancer MLP AdamW bs16", CANCER, partial(mlp, 30, 48, 2), None, 16, 15),
    Task("wine MLP-LN AdamW bs8", WINE, partial(layer_mlp, 13, 32, 3), None, 8, 15),
    Task("phishing MLP-BN Adam bs64", PHISHING, partial(mlp, 9, 64, 64, 2, norm=True), ADAM, 64, 10),
    Task("ResNet-GN SGD+wd bs64", partial(SMALL, 3000, start=32_000), gn_resnet, SGD_WD, 64, 4),
    Task("MLP-LN RMSprop bs128", partial(fashion, start=34_000), partial(layer_mlp, 784, 96, 64, 10), RMSPROP, 128, 5),
    Task("transformer Adam bs128", partial(fashion, 4000, start=36_000), partial(Transformer, 7, 16), ADAM, 128, 6),
    Task("CNN-BN Lion bs64", partial(SMALL, start=9000), CNN4, Lion, 64, 4, first=-6.0),
    Task(
        "CNN-BN plain SGD bs32", partial(SMALL, 3000, start=14_000), partial(cnn, 8, 16, 32), PLAIN, 32, 3, first=-3.0
    ),
    Task("CNN-BN SGD bs8", partial(SMALL, 2000, start=18_000), partial(cnn, 8, 16, 32), SGD, 8, 2),
    Task("60000 logistic Adam bs256", ALL, partial(mlp, 784, 10), ADAM, 256, 2),
    Task("60000 CNN-BN SGD bs512", partial(SMALL, 60_000), partial(cnn, 8, 16), SGD, 512, 2),
    Task("digits MLP AdamW 30 epochs", DIGITS, partial(mlp, 64, 64, 64, 10), None, 64, 30),
    Task("ResNet AdamW smoothing", partial(SMALL, 3000, start=22_000), wide_resnet, None, 64, 4, SMOOTH),
    Task(
        "unbalanced CNN-BN SGD weights",
        partial(unbalanced, partial(SMALL, 6000, start=52_000)),
        CNN4,
        SGD,
        64,
        4,
        WEIGHTED,
    ),
    Task(
        "shown number CNN AdamW",
        partial(shown_number, mnist),
        partial(cnn, 8, 16, 32, classes=1),
        None,
        64,
        5,
        F.mse_loss,
    ),
    Task("china pixels MLP-LN Adam bs256", CHINA, partial(layer_mlp, 48, 96, 64, 3), ADAM, 256, 6, F.mse_loss),
    Task("diabetes MLP SGD bs32", DIABETES, partial(mlp, 10, 32, 1), SGD, 32, 15, F.mse_loss),
    Task(
        "attributes MLP SGD bs32",
        partial(with_attributes, partial(fashion, 3000, start=3000)),
        partial(mlp, 784, 64, 4),
        SGD,
        32,
        3,
        SEVERAL,
    ),
    Task("lines logistic SGD bs64", lines, partial(mlp, 512, 8), SGD, 64, 5),
    Task("text LSTM Adam bs128", text, CharacterLSTM, ADAM, 128, 4),
]
