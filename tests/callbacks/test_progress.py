"""A real terminal shows a bar, and every kind of output gets the table."""

import fcntl
import os
import re
import struct
import termios
import threading
import time
from contextlib import contextmanager, redirect_stderr

import torch
from torch import nn

from minilearner import Callback, CancelEpoch, DataLoaders, Learner, Validate


class Slow(Callback):
    def after_batch(self, run):
        time.sleep(0.03)


def learner(n_batches=20):
    g = torch.Generator().manual_seed(0)
    batches = [(torch.randn(4, 2, generator=g), torch.randn(4, 1, generator=g)) for _ in range(n_batches)]
    return Learner(DataLoaders(batches, batches[:2]), nn.Linear(2, 1), nn.MSELoss(), device="cpu")


@contextmanager
def terminal():
    """Makes standard error a real terminal of 90 columns. On exit, the list holds all that was written to it."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))
    frames = []
    reader = threading.Thread(target=_read_all, args=(ours, frames))
    reader.start()  # a terminal holds 4 KB, so the writer waits unless someone reads
    try:
        with open(theirs, "w") as stderr, redirect_stderr(stderr):
            yield frames
    finally:
        reader.join()
        os.close(ours)


def _read_all(terminal, frames):
    chunks = []
    try:
        while chunk := os.read(terminal, 4096):
            chunks.append(chunk)
    except OSError:  # on Linux: the other side has closed
        pass
    frames += b"".join(chunks).decode().split("\r")


def test_a_terminal_shows_a_bar_with_the_loss_and_clears_it():
    with terminal() as frames:
        learner().fit(1, cbs=Slow())
    assert any(re.search(r"epoch 1/1: .*/20, loss \d\.\d{4}", frame) for frame in frames)
    assert frames[-1].strip() == "", frames


def test_no_bar_keeps_the_table(capsys):
    learn = learner(4)
    with terminal() as frames, learn.no_bar():
        learn.fit(1)
    assert frames == [""]
    assert capsys.readouterr().out.startswith("epoch")


def test_bars_of_cancelled_epochs_are_closed():
    class Ends(Callback):
        def after_batch(self, run):
            raise CancelEpoch

    with terminal() as frames:
        learner(4).fit(3, cbs=Ends())
    assert any("epoch 3/3" in frame for frame in frames)
    assert frames[-1].strip() == ""


def test_the_sweep_and_predictions_show_a_bar_too():
    learn = learner(40)
    with terminal() as frames:
        learn.lr_find(num_it=60, show_plot=False)
        learn.get_preds(0)
        learn.predict(torch.zeros(2))
    text = "\r".join(frames)
    assert "learning-rate sweep: " in text and "/60" in text
    assert text.count("predicting:") == 1  # drawn once at the start, and not at all for one item


def test_validations_in_mid_epoch_are_printed_with_their_step(capsys):
    learner(4).fit(1, cbs=Validate(every_steps=2))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("epoch 1/1, step 2: valid_loss ")
    assert lines[1].startswith("epoch 1/1, step 4: valid_loss ")
    assert lines[2].split() == ["epoch", "train_loss", "valid_loss", "time"]
