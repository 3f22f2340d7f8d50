"""Fashion-MNIST: found on this machine or downloaded, verified byte by byte; else an embedded sample of it.

70,000 photographs of clothes in ten classes, 28 x 28 pixels of grey, white on black. Source: Xiao, Rasul and Vollgraf,
"Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms" (2017), MIT licence.

Here the files become arrays; loaders and augmentation are the vision layer's.
"""

from __future__ import annotations

import hashlib
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
"""The five places of `load_fashion_mnist`, in its order."""


def load_fashion_mnist(path: str | os.PathLike[str] | None = None, *, download: bool = True) -> FashionMNIST:
    """Reads Fashion-MNIST from the first of five places that has it, and says which one that was.

    1. `path`, if given: a folder with the four IDX files, gzipped or not, named as published
       ("train-images-idx3-ubyte.gz") or with a dot ("train-images.idx3-ubyte"). Nothing else is then tried.
    2. The data home: `fashion-mnist` below `MINILEARNER_HOME` (by default `~/.minilearner`).
    3. The system folder of Debian's package `dataset-fashion-mnist`, `/usr/share/datasets/fashion-mnist`.
    4. A download into the data home, 31 MB, unless `download` is false or `MINILEARNER_OFFLINE=1`.
    5. The sample in this package: 6,000 of the 70,000 images, balanced. Enough to try things, too few to compare
       results; its `notice` says so and is there to be shown.

    Wherever they come from, the uncompressed bytes must have the SHA-256 of the published files (the sample: its own).

    Example: ``data = load_fashion_mnist(); print(data)``

    Raises:
        DataError: `path` is no folder, or a file is missing in it.
        FileFormatError: a file is truncated, swapped with another or foreign. It is not passed over for the next place.
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
        return _read_downloaded(home)
    except DownloadError as error:
        return _read_sample(str(error))
    except OSError as error:
        return _read_sample(f"The data home cannot be written: {error}.\n{_WAY_OUT}")


def fashion_mnist_folder(home: Path | None = None, *, force_download: bool = False) -> Path:
    """Returns a folder with the four IDX files: the second, third or fourth place of `load_fashion_mnist`.

    Args:
        home: the folder to look in and to download into; nowhere else is then looked. By default the data home's.
        force_download: download all four even if they are somewhere.

    Raises:
        DownloadError: they are nowhere, and cannot be downloaded.
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

    Images are (items, 1, 28, 28), uint8 in 0..255 with 0 the background; labels are (items,), int64 in 0..9, named by
    `FASHION_CLASSES`. The validation set is the published test set.
    """

    train_images: NDArray[np.uint8] = field(repr=False)
    train_labels: NDArray[np.int64] = field(repr=False)
    valid_images: NDArray[np.uint8] = field(repr=False)
    valid_labels: NDArray[np.int64] = field(repr=False)
    source: Source
    origin: str
    """Which folder, readable."""
    reason: str = ""
    """Why it is the sample, and how to get the full set; empty when it is that."""

    @property
    def is_sample(self) -> bool:
        """Whether this is the embedded sample, not the full set."""
        return self.source == "sample"

    @property
    def notice(self) -> str:
        """What must be shown to the user, in several lines, when this is the sample; empty for the full set."""
        if not self.is_sample:
            return ""
        lines = [
            "This is NOT the full Fashion-MNIST but the embedded sample:",
            f"{len(self.train_images):,} of 60,000 training, {len(self.valid_images):,} of 10,000 validation images.",
            "Accuracies will be several points lower, and are not to be compared with published ones.",
            *f"Why: {self.reason}".splitlines(),
        ]
        rule = "*" * 100
        return "\n".join([rule, *(f"*** {line}" for line in lines), rule])

    def __str__(self) -> str:
        """Returns one line: how many images, and from where."""
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
    "For the full set: allow the download; or give the folder of its four files as `path=`;\n"
    "or put them into `fashion-mnist` below MINILEARNER_HOME (by default ~/.minilearner);\n"
    "or, on Debian and Ubuntu, `apt install dataset-fashion-mnist`."
)
_PLACES = {
    "path": "the given folder",
    "home": "the data home",
    "system": "the system folder",
    "download": "a download into the data home",
}
_WAY_ON = {
    "path": "Give the folder of the published files, or no `path` to let minilearner find them.",
    "home": "Delete this file to have it downloaded again.",
    "system": "Reinstall Debian's package `dataset-fashion-mnist`, or give another folder as `path=`.",
    "download": "Delete this file to have it downloaded again.",
}


def _read_folder(folder: Path, source: Literal["path", "home", "system", "download"]) -> FashionMNIST:
    if not folder.is_dir():
        raise DataError(f"`path` must be the folder with Fashion-MNIST's four IDX files. Received: path='{folder}'.")
    try:
        arrays = [read_part(require_part(folder, part), part) for part in FULL]
    except DataError as error:
        raise type(error)(f"{error} {_WAY_ON[source]}") from error
    return _assemble(arrays, source, f"{_PLACES[source]} {folder}")


def _read_downloaded(home: Path) -> FashionMNIST:
    _download(home)
    return _read_folder(home, "download")


def _download(home: Path, *, force: bool = False) -> None:
    for part in FULL:
        if force or find_part(home, part) is None:  # an interrupted download has left some of them
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
        train_images[:, None].copy(),  # what was read is a read-only view, which torch would warn about
        train_labels.astype(np.int64),
        valid_images[:, None].copy(),
        valid_labels.astype(np.int64),
        source,
        origin,
        reason,
    )


class Part(NamedTuple):
    """One of the four files: its name without ".gz", what it holds in words, its shape, its uncompressed SHA-256."""

    name: str
    role: str
    shape: tuple[int, ...]
    sha256: str


# SHA-256 of the uncompressed IDX bytes: the .gz differ (Debian packed them anew), these do not. They were computed from
# Debian's files. Given the name and time stamp of the originals in the gzip header, those files have exactly the MD5s
# that the Fashion-MNIST README publishes, so both are the same data.
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

# tests/sources/make_fashion_sample.py makes these from the full set, and says how the images were chosen.
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
    """Returns the part's file in `folder`, packed or not, named with dashes or with a dot; None where there is none."""
    names = (part.name, part.name.replace("-idx", ".idx"))
    files = (folder / f"{name}{suffix}" for suffix in ("", ".gz") for name in names)
    return next((file for file in files if file.is_file()), None)


def require_part(folder: Path, part: Part) -> Path:
    """Returns the part's file in `folder`.

    Raises:
        DataError: there is none.
    """
    file = find_part(folder, part)
    if file is None:
        raise DataError(f"{folder} lacks the {part.role}, {part.name} (or {part.name}.gz).")
    return file


def read_part(file: Path, part: Part) -> NDArray[np.uint8]:
    """Reads a file that must be `part`: images as (items, 28, 28), labels as (items,), a read-only view of the bytes.

    Raises:
        DataError: the file cannot be read.
        FileFormatError: it is truncated, another of the four files, or none of them; says which.
    """
    data = read_idx_bytes(file)
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 == part.sha256:
        return parse_idx(data, str(file))
    for other in (*FULL, *SAMPLE):
        if sha256 == other.sha256:
            raise FileFormatError(f"{file} is the {other.role} file, expected the {part.role}.")
    shape = parse_idx(data, str(file)).shape
    if shape != part.shape:
        raise FileFormatError(
            f"{file} is an IDX file of shape {shape}, expected the {part.role}, of shape {part.shape}."
        )
    raise FileFormatError(
        f"{file} is a well-formed IDX file but not Fashion-MNIST's {part.role} "
        f"(its SHA-256 is {sha256}, expected {part.sha256})."
    )
