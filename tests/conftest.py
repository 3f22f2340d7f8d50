"""Every test gets fixed seeds, an Agg canvas, its own data home, and no network except loopback."""

import ipaddress
import os
import socket

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores, so each computes in one thread
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch and NumPy when they are imported

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from minilearner.runtime import set_seed

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _seeded():
    set_seed(0)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Makes a test fail if it connects to another machine, with the address in the message."""
    connect = socket.socket.connect

    def connect_to_loopback(self, address):
        host = address[0] if isinstance(address, tuple) else ""
        if self.family != socket.AF_UNIX and not _is_loopback(host):
            raise AssertionError(f"a test tried to reach the network: {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_to_loopback)


def _is_loopback(host):
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def _own_home(monkeypatch, tmp_path_factory):
    """Makes the data home an empty folder, so that no test reads or writes the user's."""
    monkeypatch.setenv("MINILEARNER_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(autouse=True)
def _figures_closed():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.fixture
def blobs():
    """Three classes of points in the plane that a small net learns quickly: 86 to train, 30 to validate."""
    return make_blobs(86)  # in batches of 16, less than a tenth is left out


@pytest.fixture
def ninety_blobs():
    """The same with 90 points to train. Batches of 16 would leave out more than a tenth, so none is left out."""
    return make_blobs(90)


def make_blobs(n_train):
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 3.0], [3.0, -2.0], [-3.0, -2.0]])
    y = np.arange(120) % 3
    x = (centres[y] + rng.normal(size=(120, 2))).astype(np.float32)
    return (x[:n_train], y[:n_train]), (x[90:], y[90:])


@pytest.fixture
def net():
    """Returns a function that makes a small net with batch norm and dropout, from a seed for its weights."""

    def make(seed=0):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))

    return make


@pytest.fixture
def pets(tmp_path):
    """A folder of 30 images of three breeds, named as in Oxford Pets, in different sizes."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for breed in ("great_pyrenees", "Birman", "pug"):
        for i in range(10):
            pixels = rng.integers(0, 255, (30 + i, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{breed}_{i}.jpg")
    return folder
