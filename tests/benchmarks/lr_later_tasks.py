"""Later tasks of `lr_bank.py`: recurrent nets, and convolutional nets without norm layers under adaptive optimizers.

The earlier tasks had few of these two kinds, and suggested another factor for each. With the tasks here, LSTM layers
got a lower factor, and GRU layers did not. Plain convolutional nets would lose less at 1.4 times the rate, but kept
theirs: nobody tried it on trained nets of this kind, such as VGG.
"""

import argparse
import ast
import decimal
import difflib
import email.message
import inspect
import tarfile
from functools import lru_cache, partial

import numpy as np
from lr_fresh_tasks import _scale
from lr_tasks import ADAM, DIGIT_IMAGES, RMSPROP, SGD, SMALL, Task, _split, mnist, text
from lr_varied_tasks import NESTEROV, plain_cnn, stamps
from torch import nn
from torch.nn import functional as F


@lru_cache
def line_characters(length=32, n_valid=1500):
    """The first characters of a line of Python -> which of six modules it comes from."""
    rows, kinds = [], []
    for kind, module in enumerate((argparse, ast, decimal, difflib, email.message, tarfile)):
        lines = sorted({line.strip() for line in inspect.getsource(module).splitlines() if len(line.strip()) > 8})
        rows += [[min(ord(c), 127) for c in line[:length].ljust(length)] for line in lines]
        kinds += [kind] * len(lines)
    return _split(np.array(rows, dtype=np.int64), np.array(kinds, dtype=np.int64), n_valid)


@lru_cache
def carbon_dioxide(weeks=24, n_valid=600):
    """The changes of carbon dioxide in the air, week by week -> the change in the four weeks that follow."""
    import statsmodels.api as sm

    level = sm.datasets.co2.load_pandas().data["co2"].interpolate().to_numpy()
    changes = _scale(np.diff(level))
    x = np.lib.stride_tricks.sliding_window_view(changes, weeks)[:-4, :, None]
    y = level[weeks + 4 :] - level[weeks:-4]
    return _split(x.astype(np.float32), _scale(y)[: len(x), None].astype(np.float32), n_valid)


class Recurrent(nn.Module):
    """Reads a sequence of characters, of numbers, or of an image's rows. Answers at its end, or from its mean."""

    def __init__(self, kind, n_in, width, n_out, *, embed=False, mean=False, turn=False, **kwargs):
        super().__init__()
        self.mean, self.turn = mean, turn
        self.embed = nn.Embedding(128, n_in) if embed else nn.Identity()
        self.body = kind(n_in, width, batch_first=True, **kwargs)
        self.head = nn.Linear(width * (2 if kwargs.get("bidirectional") else 1), n_out)

    def forward(self, x):
        x = self.embed(x)
        x = x.squeeze(1) if x.ndim == 4 else x
        states = self.body(x.mT if self.turn else x)[0]
        return self.head(states.mean(1) if self.mean else states[:, -1])


RECURRENT = [
    Task(
        "fashion GRU rows Adam bs64",
        partial(SMALL, 3000, start=15_000),
        partial(Recurrent, nn.GRU, 14, 48, 10),
        ADAM,
        64,
        4,
    ),
    Task("digits Elman rows AdamW bs32", DIGIT_IMAGES, partial(Recurrent, nn.RNN, 8, 48, 10), None, 32, 6),
    Task("MNIST LSTM rows RMSprop bs64", mnist, partial(Recurrent, nn.LSTM, 28, 32, 10), RMSPROP, 64, 3),
    Task(
        "lines both-ways GRU AdamW bs64",
        line_characters,
        partial(Recurrent, nn.GRU, 16, 32, 6, embed=True, mean=True, bidirectional=True),
        None,
        64,
        5,
    ),
    Task(
        "carbon dioxide LSTM Adam bs32",
        carbon_dioxide,
        partial(Recurrent, nn.LSTM, 1, 32, 1),
        ADAM,
        32,
        8,
        F.mse_loss,
    ),
    Task(
        "tarfile text two LSTMs AdamW bs32",
        partial(text, 24, 5000, 2500, tarfile),
        partial(Recurrent, nn.LSTM, 24, 48, 128, embed=True, num_layers=2),
        None,
        32,
        4,
    ),
    Task("digits LSTM rows SGD bs32", DIGIT_IMAGES, partial(Recurrent, nn.LSTM, 8, 48, 10), SGD, 32, 8),
    Task(
        "lines GRU Nesterov bs32",
        line_characters,
        partial(Recurrent, nn.GRU, 16, 48, 6, embed=True, mean=True),
        NESTEROV,
        32,
        5,
        first=-3.5,
    ),
]

LSTMS = [
    Task(
        "fashion LSTM columns Adam bs128",
        partial(SMALL, 4000, start=20_000),
        partial(Recurrent, nn.LSTM, 14, 40, 10, turn=True),
        ADAM,
        128,
        6,
    ),
    Task(
        "lines LSTM AdamW bs32",
        line_characters,
        partial(Recurrent, nn.LSTM, 16, 32, 6, embed=True, mean=True),
        None,
        32,
        4,
    ),
]

PLAIN_CNNS = [
    Task("digits CNN plain Adam bs32", DIGIT_IMAGES, partial(plain_cnn, 8, 16, 32), ADAM, 32, 6),
    Task(
        "stamps CNN plain AdamW bs16",
        partial(stamps, 24),
        partial(plain_cnn, 16, 32, channels=3, classes=6),
        None,
        16,
        10,
    ),
    Task(
        "fashion 2500 CNN plain AdamW bs128",
        partial(SMALL, 2500, start=35_000),
        partial(plain_cnn, 16, 32, 64),
        None,
        128,
        8,
    ),
    Task("MNIST CNN plain RMSprop bs64", mnist, partial(plain_cnn, 8, 16, 16), RMSPROP, 64, 3),
]

LATER = [*RECURRENT, *LSTMS, *PLAIN_CNNS]
