"""Tiny folders of images in two colours, and a run that was trained on one of them."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from minilearner.command_line.main import main

FAST = ["--no-pretrained", "--size", "32", "--bs", "8", "--precision", "fp32", "--device", "cpu", "--augment", "none"]


def paint(folder, n=12, seed=0, names="{}.png"):
    """Writes `n` images of each class: red ones and blue ones, with noise."""
    rng = np.random.default_rng(seed)
    for label, channel in (("blue", 2), ("red", 0)):
        for i in range(n):
            pixels = rng.integers(0, 100, (40, 36, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            file = folder / label / names.format(i)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    return folder


class Call:
    """One call of the command line in this process: its exit code, and what it wrote."""

    def __init__(self, *words):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            self.code = main([str(word) for word in words])
        self.out, self.err = out.getvalue(), err.getvalue()

    @property
    def data(self):
        return json.loads(self.out)


@pytest.fixture
def call():
    return Call


@pytest.fixture
def fast():
    return FAST


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    return paint(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def trained(photos, tmp_path_factory):
    """The folder of a run of two epochs on red and blue images, and the call that made it."""
    run = tmp_path_factory.mktemp("runs") / "photos"
    made = Call("train", photos, *FAST, "--epochs", 2, "--lr", 0.01, "--output", run, "--json")
    assert made.code == 0, made.err
    return run, made
