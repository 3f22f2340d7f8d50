"""Fashion-MNIST: found on this machine or downloaded, and verified byte by byte. Otherwise, an embedded sample of it.

70,000 photographs of clothes in ten classes, 28 x 28 grey pixels, white on black. Source: Xiao, Rasul and Vollgraf,
"Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms" (2017), MIT licence.

This module turns the files into arrays. `vision.fashion_mnist` makes loaders of them and adds augmentation.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minilearner.errors import DataError, DownloadError, FileFormatError
from minilearner.sources.download import data_home
from minilearner.sources.download import download as download_file
from minilearner.sources.idx import parse_idx, read_idx_bytes
from minilearner.sources.urls import URLs

__all__ = [
    "FASHION_CLASSES",
    "FULL",
    "SAMPLE",
    "FashionMNIST",
    "Part",
    "Source",
    "fashion_mnist_folder",
    "find_part",
    "load_fashion_mnist",
    "read_part",
    "require_part",
]

FASHION_CLASSES = ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
"""The ten classes, in the order of their labels 0 to 9."""

Source: TypeAlias = Literal["path", "home", "system", "download", "sample"]
"""The five places that `load_fashion_mnist` searches, in its order."""


def load_fashion_mnist(path: str | os.PathLike[str] | None = None, *, download: bool = True) -> FashionMNIST:
    """Reads Fashion-MNIST from the first of five places that has it, and records which one that was.

    1. `path`, if given: a folder with the four IDX files, gzipped or not, named as published
       ("train-images-idx3-ubyte.gz") or with a dot ("train-images.idx3-ubyte"). No other place is tried then.
    2. The data home: `fashion-mnist` below `MINILEARNER_HOME` (by default `~/.minilearner`).
    3. The folder of Debian's package `dataset-fashion-mnist`, `/usr/share/datasets/fashion-mnist`.
    4. A download of 31 MB into the data home, unless `download` is false or `MINILEARNER_OFFLINE=1`.
    5. The sample in this package: 6,000 of the 70,000 images, balanced. It is enough to try things out and too small to
       compare results. Its `notice` says so and should be shown to the user.

    Wherever the files come from, their uncompressed bytes must have the SHA-256 of the published files. The sample has
    its own hashes.

    Example: ``data = load_fashion_mnist(); print(data)``

    Args:
        path: the folder of the four IDX files.
        download: whether the network may be used.

    Raises:
        DataError: `path` is not a folder, or lacks one of the files.
        FileFormatError: a file is truncated, swapped with another or foreign. The next place is not tried then.
    """
    if path is not None:
        return _read_folder(Path(path).expanduser(), "path")
    home = data_home() / "fashion-mnist"
    if all(find_part(home, part) for part in FULL):
        return _read_folder(home, "home")
    if any(find_part(_SYSTEM_FOLDER, part) for part in FULL):
        return _read_folder(_SYSTEM_FOLDER, "system")
    if not download:
        return _read_sample(f"`download=False` was given.\n{_WAY_OUT}")
    try:
        return _download_and_read(home)
    except DownloadError as error:
        return _read_sample(str(error))
    except OSError as error:
        return _read_sample(f"The data home cannot be written: {error}.\n{_WAY_OUT}")


def fashion_mnist_folder(home: Path | None = None, *, force_download: bool = False) -> Path:
    """Returns a folder with the four IDX files: the second, third or fourth place of `load_fashion_mnist`.

    Args:
        home: the only folder to look in, and the folder to download into. By default, the data home and the system are
            searched, and downloads go to the data home.
        force_download: download all four files even if they exist.

    Raises:
        DownloadError: no place has the files, and they cannot be downloaded.
    """
    places = [data_home() / "fashion-mnist", _SYSTEM_FOLDER] if home is None else [home]
    complete = (place for place in places if all(find_part(place, part) for part in FULL))
    folder = None if force_download else next(complete, None)
    if folder is None:
        folder = places[0]
        _download(folder, force=force_download)
    return folder


@dataclass(frozen=True, eq=False)
class FashionMNIST:
    """Fashion-MNIST in memory, and where it came from.

    Images are (items, 1, 28, 28), uint8 from 0 (the background) to 255. Labels are (items,), int64 from 0 to 9, named
    by `FASHION_CLASSES`. The validation set is the published test set.
    """

    train_images: NDArray[np.uint8] = field(repr=False)
    train_labels: NDArray[np.int64] = field(repr=False)
    valid_images: NDArray[np.uint8] = field(repr=False)
    valid_labels: NDArray[np.int64] = field(repr=False)
    source: Source
    origin: str
    """The place and its folder, in words."""
    reason: str = ""
    """Why this is only the sample, and how to get the full set. Empty for the full set."""

    @property
    def is_sample(self) -> bool:
        """Whether this is the embedded sample instead of the full set."""
        return self.source == "sample"

    @property
    def notice(self) -> str:
        """The warning to show when this is only the sample, in several lines. Empty for the full set."""
        if not self.is_sample:
            return ""
        lines = [
            "This is NOT the full Fashion-MNIST but the embedded sample:",
            f"{len(self.train_images):,} of 60,000 training, {len(self.valid_images):,} of 10,000 validation images.",
            "Accuracies will be several points lower. Do not compare them with published ones.",
            *f"Why: {self.reason}".splitlines(),
        ]
        rule = "*" * 100
        return "\n".join([rule, *(f"*** {line}" for line in lines), rule])

    def __str__(self) -> str:
        """Returns one line: how many images there are, and where they came from."""
        what = "Fashion-MNIST SAMPLE" if self.is_sample else "Fashion-MNIST"
        counts = f"{len(self.train_images):,} training and {len(self.valid_images):,} validation images"
        return f"{what}: {counts} from {self.origin}"


_SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_MIRRORS = (
    URLs.FASHION_MNIST,
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
)
_WAY_OUT = (
    "To get the full set, allow the download, or pass the folder of its four files as `path=`,\n"
    "or put them into `fashion-mnist` below MINILEARNER_HOME (by default ~/.minilearner),\n"
    "or, on Debian and Ubuntu, run `apt install dataset-fashion-mnist`."
)
_PLACES = {
    "path": "the given folder",
    "home": "the data home",
    "system": "the system folder",
    "download": "a download into the data home",
}
_WAY_ON = {
    "path": "Pass the folder of the published files, or leave out `path` to let minilearner find them.",
    "home": "Delete this file, and it will be downloaded again.",
    "system": "Reinstall Debian's package `dataset-fashion-mnist`, or pass another folder as `path=`.",
    "download": "Delete this file, and it will be downloaded again.",
}


def _read_folder(folder: Path, source: Literal["path", "home", "system", "download"]) -> FashionMNIST:
    if not folder.is_dir():
        raise DataError(f"`path` must be the folder with Fashion-MNIST's four IDX files. Received: path='{folder}'.")
    try:
        arrays = [read_part(require_part(folder, part), part) for part in FULL]
    except DataError as error:
        raise type(error)(f"{error} {_WAY_ON[source]}") from error
    return _assemble(arrays, source, f"{_PLACES[source]} {folder}")


def _download_and_read(home: Path) -> FashionMNIST:
    _download(home)
    return _read_folder(home, "download")


def _download(home: Path, *, force: bool = False) -> None:
    for part in FULL:
        if force or find_part(home, part) is None:  # after an interrupted download, only some are missing
            file = f"{part.name}.gz"
            urls = [f"{mirror}/{file}" for mirror in _MIRRORS]
            check = partial(read_part, part=part)
            name = f"fashion-mnist/{file}"
            download_file(urls, home / file, name=name, check=check, force=force, way_out=_WAY_OUT)


def _read_sample(reason: str) -> FashionMNIST:
    folder = Path(__file__).parent
    arrays = [read_part(require_part(folder, part), part) for part in SAMPLE]
    return _assemble(arrays, "sample", "the sample embedded in minilearner", reason)


def _assemble(arrays: list[NDArray[np.uint8]], source: Source, origin: str, reason: str = "") -> FashionMNIST:
    train_images, train_labels, valid_images, valid_labels = arrays
    return FashionMNIST(
        train_images[:, None].copy(),  # the view is read-only, and torch would warn about that
        train_labels.astype(np.int64),
        valid_images[:, None].copy(),
        valid_labels.astype(np.int64),
        source,
        origin,
        reason,
    )


class Part(NamedTuple):
    """One of the four files: its name without ".gz", its content in words, its shape, and its uncompressed SHA-256."""

    name: str
    role: str
    shape: tuple[int, ...]
    sha256: str


# SHA-256 of the uncompressed IDX bytes. Debian compressed the files again, so the .gz files differ, but their content
# does not. The hashes were computed from Debian's files. With the originals' name and time stamp in the gzip header,
# those files have exactly the MD5s in the Fashion-MNIST README, so the data are the same.
FULL = (
    Part(
        "train-images-idx3-ubyte",
        "training images",
        (60_000, 28, 28),
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    Part(
        "train-labels-idx1-ubyte",
        "training labels",
        (60_000,),
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    Part(
        "t10k-images-idx3-ubyte",
        "test images",
        (10_000, 28, 28),
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    Part(
        "t10k-labels-idx1-ubyte",
        "test labels",
        (10_000,),
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
)

# tests/sources/make_fashion_sample.py makes these files from the full set and says how it chooses the images.
SAMPLE = (
    Part(
        "fashion_sample.train-images-idx3-ubyte",
        "sample's training images",
        (5_000, 28, 28),
        "cb035ce1d6511f58da4b7aa732259c34d6a13576ebefa6db898922b303ac70df",
    ),
    Part(
        "fashion_sample.train-labels-idx1-ubyte",
        "sample's training labels",
        (5_000,),
        "e18e6fe44bbeb980f85a745210a0a269a8bb7b98201e0f223576115fd7d5dc6c",
    ),
    Part(
        "fashion_sample.t10k-images-idx3-ubyte",
        "sample's test images",
        (1_000, 28, 28),
        "8e20b7b9e9ab58276a888b10a3ad24a7f12d966eac8380a882f59ea59762141d",
    ),
    Part(
        "fashion_sample.t10k-labels-idx1-ubyte",
        "sample's test labels",
        (1_000,),
        "66e4c6deb5f2a061f7d8cd5ec53025fdb9dabb08265e449acb8cf64b8cd36cac",
    ),
)


def find_part(folder: Path, part: Part) -> Path | None:
    """Returns the part's file in `folder`, gzipped or not, named with dashes or with a dot. None if there is none."""
    names = (part.name, part.name.replace("-idx", ".idx"))
    files = (folder / f"{name}{suffix}" for suffix in ("", ".gz") for name in names)
    return next((file for file in files if file.is_file()), None)


def require_part(folder: Path, part: Part) -> Path:
    """Returns the part's file in `folder`.

    Raises:
        DataError: the folder has no such file.
    """
    file = find_part(folder, part)
    if file is None:
        raise DataError(f"{folder} lacks the {part.role}, {part.name} (or {part.name}.gz).")
    return file


def read_part(file: Path, part: Part) -> NDArray[np.uint8]:
    """Reads a file that must be `part`. Returns (items, 28, 28) for images, (items,) for labels, as a read-only view.

    Raises:
        DataError: the file cannot be read.
        FileFormatError: the file is truncated, is another of the four files, or is none of them. The message says
            which.
    """
    # Any of the eight files may lie here under the wrong name, and is named; nothing longer has to be read.
    longest = max(math.prod(other.shape) for other in (*FULL, *SAMPLE))
    data = read_idx_bytes(file, longest + (1 << 20))
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 == part.sha256:
        return parse_idx(data, str(file))
    for other in (*FULL, *SAMPLE):
        if sha256 == other.sha256:
            raise FileFormatError(f"{file} is the {other.role} file, not the {part.role} file.")
    shape = parse_idx(data, str(file)).shape
    if shape != part.shape:
        raise FileFormatError(f"{file} is an IDX file of shape {shape}, but the {part.role} have shape {part.shape}.")
    raise FileFormatError(
        f"{file} is a well-formed IDX file, but it does not hold Fashion-MNIST's {part.role}: "
        f"its SHA-256 is {sha256} instead of {part.sha256}."
    )
