"""IDX, the file format of MNIST and related data sets. Turns bytes into an array, or says exactly what is wrong.

The format: a header of big-endian numbers (two zero bytes, a type code, the number of dimensions, then a 32-bit length
for each), followed by the values. Only unsigned bytes are read, since no data set that we know of uses another type.
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
_MAX_DIMENSIONS = 8  # images have three; a number this large means another format


def read_idx_bytes(path: Path) -> bytes:
    """Returns a file's bytes, decompressed if they are gzip. The content decides that, not the name.

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
        raise FileFormatError(f"{path} is truncated: its gzip stream ends early, after {len(data):,} bytes.") from error
    except (OSError, zlib.error) as error:
        raise FileFormatError(f"{path} holds a damaged gzip stream: {error}.") from error


def parse_idx(data: bytes, name: str) -> NDArray[np.uint8]:
    """Turns the bytes of an uncompressed IDX file into an array of unsigned bytes. It is a read-only view, not a copy.

    Images have shape (images, rows, columns), labels have shape (labels,).

    Example: ``parse_idx(read_idx_bytes(path), str(path)).shape`` is ``(60000, 28, 28)``.

    Args:
        data: the whole file.
        name: what errors call the file.

    Raises:
        FileFormatError: the header is not IDX, or there are more or fewer values than it says.

    Source: "The MNIST database", LeCun, Cortes and Burges, section "The IDX file format".
    """
    shape = _read_header(data, name)
    offset = 4 + 4 * len(shape)
    expected = int(np.prod(shape, dtype=object))
    if len(data) - offset != expected:
        raise FileFormatError(f"{name} {_describe_miscount(len(data) - offset, shape)}.")
    return np.frombuffer(data, np.uint8, offset=offset).reshape(shape)


def _read_header(data: bytes, name: str) -> tuple[int, ...]:
    if len(data) < 4:
        raise FileFormatError(f"{name} is not an IDX file: it holds {len(data)} bytes, which is less than a header.")
    zeros, code, dimensions = struct.unpack(">HBB", data[:4])
    if zeros or not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise FileFormatError(
            f"{name} is not an IDX file: it begins with {data[:8]!r} "
            "instead of two zero bytes, a type and a number of dimensions."
        )
    if code != _UNSIGNED_BYTE:
        raise FileFormatError(f"{name} holds values of IDX type 0x{code:02X}. Only unsigned bytes (0x08) can be read.")
    if len(data) < 4 + 4 * dimensions:
        raise FileFormatError(f"{name} is truncated: it ends within its header of {dimensions} dimensions.")
    return struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions])


def _describe_miscount(held: int, shape: tuple[int, ...]) -> str:
    noun = {1: "labels", 3: "images"}.get(len(shape), "items")
    size = int(np.prod(shape[1:], dtype=object))  # bytes in one item
    expected = size * shape[0]
    if held > expected:
        return f"holds {held - expected:,} bytes more than the {shape[0]:,} {noun} that its header announces"
    whole, rest = divmod(held, size)
    and_rest = f" and {rest:,} bytes of another" if rest else ""
    return f"is truncated: it holds {whole:,} {noun}{and_rest}, but its header says {shape[0]:,}"
