"""IDX, the file format of MNIST and its kin: bytes to an array, or an error that says exactly what was wrong.

A header of big-endian numbers (two zero bytes, a type code, the number of dimensions, then one 32-bit length for each),
followed by the values. Only unsigned bytes are read: nothing else is in the wild.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minilearner.errors import DataError, FileFormatError

__all__ = ["parse_idx", "read_idx_bytes"]

_UNSIGNED_BYTE = 0x08
_MAX_DIMENSIONS = 8  # far above the three of images; a larger number is the mark of another format


def read_idx_bytes(path: Path) -> bytes:
    """Reads a file's bytes, decompressed where they are gzip. The content decides, not the name.

    Raises:
        DataError: there is no such file, or it cannot be read.
        FileFormatError: the file is empty, or its gzip stream is truncated or damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not data:
        raise FileFormatError(f"{path} is empty.")
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except EOFError as error:
        raise FileFormatError(f"{path} is truncated: its gzip stream breaks off after {len(data):,} bytes.") from error
    except (OSError, zlib.error) as error:
        raise FileFormatError(f"{path} holds a damaged gzip stream: {error}.") from error


def parse_idx(data: bytes, name: str) -> NDArray[np.uint8]:
    """Turns the bytes of an uncompressed IDX file into an array of unsigned bytes; a read-only view, not a copy.

    Images come as (images, rows, columns), labels as (labels,).

    Example: ``parse_idx(read_idx_bytes(path), str(path)).shape`` is ``(60000, 28, 28)``.

    Args:
        data: the whole file.
        name: what an error calls the file.

    Raises:
        FileFormatError: the header is not IDX's, or the values are fewer or more than it says.

    Source: "The MNIST database", LeCun, Cortes and Burges, section "The IDX file format".
    """
    shape = _header(data, name)
    offset = 4 + 4 * len(shape)
    expected = int(np.prod(shape, dtype=object))
    if len(data) - offset != expected:
        raise FileFormatError(f"{name} {_miscount(len(data) - offset, shape)}.")
    return np.frombuffer(data, np.uint8, offset=offset).reshape(shape)


def _header(data: bytes, name: str) -> tuple[int, ...]:
    if len(data) < 4:
        raise FileFormatError(f"{name} is no IDX file: it holds {len(data)} bytes, less than a header.")
    zeros, code, dimensions = struct.unpack(">HBB", data[:4])
    if zeros or not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise FileFormatError(
            f"{name} is no IDX file: it begins with {data[:8]!r}, "
            "where IDX has two zero bytes, a type and a number of dimensions."
        )
    if code != _UNSIGNED_BYTE:
        raise FileFormatError(f"{name} holds values of IDX type 0x{code:02X}; only unsigned bytes (0x08) can be read.")
    if len(data) < 4 + 4 * dimensions:
        raise FileFormatError(f"{name} is truncated: it breaks off within its header of {dimensions} dimensions.")
    return struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions])


def _miscount(held: int, shape: tuple[int, ...]) -> str:
    noun = {1: "labels", 3: "images"}.get(len(shape), "items")
    size = int(np.prod(shape[1:], dtype=object))  # bytes in one item
    expected = size * shape[0]
    if held > expected:
        return f"holds {held - expected:,} bytes more than the {shape[0]:,} {noun} of its header"
    whole, rest = divmod(held, size)
    and_rest = f" and {rest:,} bytes of another" if rest else ""
    return f"is truncated: it holds {whole:,} {noun}{and_rest} where its header says {shape[0]:,}"
