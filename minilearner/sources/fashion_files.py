"""The four files of Fashion-MNIST and of its sample: how they are named, found, read and told from all others."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minilearner.errors import DataError, FileFormatError
from minilearner.sources.idx import parse_idx, read_idx_bytes

__all__ = ["FULL", "SAMPLE", "Part", "find_part", "read_part", "require_part"]


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
