"""Fashion-MNIST is searched for in the right places and order, and wrong files are refused.

Tests of the full set read the files of the Debian package. Without them they are skipped, but never in CI.
"""

import contextlib
import gzip
import hashlib
import http.server
import json
import os
import runpy
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

import minilearner.sources
from minilearner.errors import DataError, FileFormatError
from minilearner.sources import fashion
from minilearner.sources.fashion import FASHION_CLASSES, FULL, SAMPLE, load_fashion_mnist

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
PACKAGE = Path(minilearner.sources.__file__).parent


@pytest.fixture
def full():
    """The folder of the four published files."""
    if not DEBIAN.is_dir():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs Debian's package dataset-fashion-mnist")
    return DEBIAN


@pytest.fixture
def no_system(monkeypatch, tmp_path):
    """Imitates a machine without the Debian package and without a mirror."""
    monkeypatch.setattr(fashion, "_SYSTEM_FOLDER", tmp_path / "no-system")
    for name in ("MINILEARNER_MIRROR", "MINILEARNER_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home():
    folder = Path(os.environ["MINILEARNER_HOME"]) / "fashion-mnist"
    folder.mkdir()
    return folder


def link(source, folder, **instead):
    """Fills `folder` with links to the four files, or to the files that `instead` names for them."""
    folder.mkdir(exist_ok=True)
    for part in FULL:
        other = instead.get(part.name.split("-ubyte")[0].replace("-", "_"), f"{part.name}.gz")
        if other is not None:
            (folder / f"{part.name}.gz").symlink_to(source / other)
    return folder


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def test_the_full_set_comes_from_the_system_folder(full):
    data = load_fashion_mnist()
    assert data.train_images.shape == (60_000, 1, 28, 28)
    assert data.valid_images.shape == (10_000, 1, 28, 28)
    assert (data.train_images.dtype, data.train_labels.dtype) == (np.uint8, np.int64)
    assert np.bincount(data.train_labels).tolist() == [6000] * 10
    assert np.bincount(data.valid_labels).tolist() == [1000] * 10
    assert (data.source, data.is_sample, data.notice) == ("system", False, "")
    assert str(data) == f"Fashion-MNIST: 60,000 training and 10,000 validation images from the system folder {full}"


def test_a_path_comes_first_gzipped_or_not_with_dashes_or_dots(full, home, tmp_path):
    link(full, home)
    folder = link(full, tmp_path / "mine", t10k_labels_idx1=None, train_labels_idx1=None)
    (folder / "t10k-labels.idx1-ubyte").write_bytes(gzip.decompress((full / "t10k-labels-idx1-ubyte.gz").read_bytes()))
    (folder / "train-labels.idx1-ubyte.gz").symlink_to(full / "train-labels-idx1-ubyte.gz")
    data = load_fashion_mnist(str(folder))
    assert (data.source, data.origin) == ("path", f"the given folder {folder}")
    assert np.bincount(data.valid_labels).tolist() == [1000] * 10


def test_the_data_home_comes_before_the_system_folder(full, home):
    link(full, home)
    assert load_fashion_mnist().source == "home"


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        ("train_images_idx3", "t10k-images-idx3-ubyte", "is the test images file, not the training images file"),
        ("train_images_idx3", "train-labels-idx1-ubyte", "is the training labels file, not the training images file"),
        ("t10k_labels_idx1", "train-labels-idx1-ubyte", "is the training labels file, not the test labels file"),
    ],
)
def test_an_error_says_which_file_was_swapped_in(full, tmp_path, place, content, message):
    folder = link(full, tmp_path / "swapped", **{place: f"{content}.gz"})
    with pytest.raises(FileFormatError, match=rf"{folder}/{place.replace('_', '-')}-ubyte.gz {message}"):
        load_fashion_mnist(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<html>", "is not an IDX file: it begins with b'<html>'"),
        ((PACKAGE / f"{SAMPLE[0].name}.gz").read_bytes()[:-9], "is truncated: its gzip stream ends early"),
        (
            (PACKAGE / f"{SAMPLE[0].name}.gz").read_bytes(),
            "is the sample's training images file, not the training",
        ),
        (
            idx(np.zeros((7, 28, 28))),
            r"is an IDX file of shape \(7, 28, 28\), but the training images have shape \(60000, 28, 28\)",
        ),
        (idx(np.zeros((60_000, 28, 28)))[:-784], "is truncated: it holds 59,999 images, but its header says 60,000"),
        (
            idx(np.zeros((60_000, 28, 28))),
            "is a well-formed IDX file, but it does not hold Fashion-MNIST's training images: its SHA",
        ),
    ],
)
def test_an_error_says_what_is_wrong_with_a_damaged_or_foreign_file(tmp_path, content, message):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(FileFormatError, match=f"train-images-idx3-ubyte.gz {message}"):
        load_fashion_mnist(tmp_path)


def test_a_path_that_lacks_a_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path} lacks the training images, train-images-idx3-ubyte"):
        load_fashion_mnist(tmp_path)


def test_a_path_that_is_not_a_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"`path` must be the folder .* Received: path='.*nowhere'"):
        load_fashion_mnist(tmp_path / "nowhere")


def test_a_damaged_data_home_is_an_error_and_is_not_skipped(home):
    for part in FULL:
        (home / f"{part.name}.gz").write_bytes(b"")
    with pytest.raises(FileFormatError, match=r"train-images-idx3-ubyte.gz is empty. Delete this file"):
        load_fashion_mnist()


def test_an_incomplete_system_folder_is_an_error_and_is_not_skipped(monkeypatch, tmp_path):
    monkeypatch.setattr(fashion, "_SYSTEM_FOLDER", tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"lacks the training images.*Reinstall Debian's package"):
        load_fashion_mnist()


def test_without_a_download_the_sample_is_used_and_says_so_loudly(no_system):
    data = load_fashion_mnist(download=False)
    assert (data.source, data.is_sample) == ("sample", True)
    assert data.train_images.shape == (5_000, 1, 28, 28)
    assert data.valid_images.shape == (1_000, 1, 28, 28)
    assert str(data).startswith("Fashion-MNIST SAMPLE: 5,000 training and 1,000 validation images")
    lines = data.notice.splitlines()
    assert "NOT the full Fashion-MNIST" in lines[1]
    assert "`download=False` was given" in data.notice
    assert "`path=`" in data.notice
    assert "dataset-fashion-mnist" in data.notice
    assert max(map(len, lines)) <= 100


def test_offline_the_sample_is_used(no_system, monkeypatch):
    monkeypatch.setenv("MINILEARNER_OFFLINE", "1")
    data = load_fashion_mnist()
    assert data.is_sample
    assert "MINILEARNER_OFFLINE=1 forbids" in data.notice
    assert "`path=`" in data.notice
    assert max(map(len, data.notice.splitlines())) <= 100


def test_after_a_failed_download_the_sample_is_used_and_gives_the_reason(no_system, monkeypatch, tmp_path):
    with serving(tmp_path) as url:
        monkeypatch.setenv("MINILEARNER_MIRROR", url)
        data = load_fashion_mnist()
    assert data.is_sample
    assert f"{url}/index.json: HTTP 404" in data.notice


def test_the_sample_is_used_if_the_data_home_cannot_be_created(no_system, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINILEARNER_HOME", str(tmp_path / "file"))
    entry = {"size": 5, "sha256": "0"}
    (tmp_path / "index.json").write_text(json.dumps({"fashion-mnist/train-images-idx3-ubyte.gz": entry}))
    with serving(tmp_path) as url:
        monkeypatch.setenv("MINILEARNER_MIRROR", url)
        data = load_fashion_mnist()
    assert data.is_sample
    assert "Name a folder that can be written in the environment variable MINILEARNER_HOME" in data.notice


def test_a_download_adds_the_missing_files_to_the_data_home(full, home, no_system, monkeypatch, tmp_path):
    (home / "train-images.idx3-ubyte.gz").symlink_to(
        full / "train-images-idx3-ubyte.gz"
    )  # the largest, left by an earlier attempt
    mirror = link(full, tmp_path / "fashion-mnist", train_images_idx3=None)
    contents = {f"fashion-mnist/{file.name}": file.read_bytes() for file in mirror.iterdir()}
    entries = {name: {"size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for name, c in contents.items()}
    (tmp_path / "index.json").write_text(json.dumps(entries))
    with serving(tmp_path) as url:
        monkeypatch.setenv("MINILEARNER_MIRROR", url)
        data = load_fashion_mnist()
    assert (data.source, data.origin) == ("download", f"a download into the data home {home}")
    assert np.bincount(data.train_labels).tolist() == [6000] * 10
    assert load_fashion_mnist().source == "home"


def test_a_mirror_with_other_content_is_rejected(home, no_system, monkeypatch, tmp_path):
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"other")
    entry = {"size": 5, "sha256": hashlib.sha256(b"other").hexdigest()}
    (tmp_path / "index.json").write_text(json.dumps({"fashion-mnist/train-images-idx3-ubyte.gz": entry}))
    with serving(tmp_path) as url:
        monkeypatch.setenv("MINILEARNER_MIRROR", url)
        data = load_fashion_mnist()
    assert data.is_sample
    assert "is not an IDX file: it begins with b'other'" in data.notice
    assert list(home.iterdir()) == []


def test_the_sample_equals_what_its_script_selects_from_the_full_set(full):
    script = runpy.run_path(str(Path(__file__).with_name("make_fashion_sample.py")))
    for name, content in script["sample_files"](load_fashion_mnist(full)):
        assert gzip.decompress((PACKAGE / f"{name}.gz").read_bytes()) == content


def test_the_first_images_of_the_sample_are_balanced(no_system):
    data = load_fashion_mnist(download=False)
    for labels in (data.train_labels, data.valid_labels):
        assert np.array_equal(labels, np.arange(len(labels)) % len(FASHION_CLASSES))


def test_the_sample_labels_match_its_images(no_system):
    data = load_fashion_mnist(download=False)
    train, valid = (images.reshape(len(images), -1) / 255 for images in (data.train_images, data.valid_images))
    means = np.stack([train[data.train_labels == label].mean(0) for label in range(10)])
    nearest = ((valid[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == data.valid_labels).mean() > 0.6  # chance is 0.1


def test_the_sample_comes_with_its_licence():
    text = (PACKAGE / "fashion_sample.LICENSE").read_text()
    assert "Copyright (c) 2017 Zalando SE" in text
    assert "Permission is hereby granted" in text


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(folder):
    """Serves a folder on loopback, past any proxy, and yields its URL."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "*")
        with http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), lambda *args: _Quiet(*args, directory=str(folder))
        ) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()
            thread.join()
