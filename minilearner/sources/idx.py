"""IDX, the file format of MNIST and related data sets. Turns bytes into an array, or says exactly what is wrong.

The format: a header of big-endian numbers (two zero bytes, a type code, the number of dimensions, then a 32-bit length
for each), followed by the values. Only unsigned bytes are read, since no data set that we know of uses another type.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from minilearner.errors import DataError, FileFormatError, plural
from minilearner.files import check_is_file

__all__ = ["parse_idx", "read_idx_bytes"]

_UNSIGNED_BYTE = 0x08
_MAX_DIMENSIONS = 8  # images have three; a number this large means another format
_LONGEST_HEADER = 4 + 4 * _MAX_DIMENSIONS  # bytes
_BLOCK = 1 << 18  # bytes
_EXCESS = 1 << 20  # bytes beyond the announced ones that are still read, to count them for the error
_SMALL = 1 << 30  # bytes; every file may hold this much
_RATIO = 100


def read_idx_bytes(path: Path, max_bytes: int | None = None) -> bytes:
    """Returns a file's bytes, decompressed if they are gzip. The content decides that, not the name.

    Args:
        path: the file.
        max_bytes: the most bytes that it may hold. By default as many as an IDX header announces and 1 MiB more, but
            not more than 1 GiB or 100 times the size of the file, whichever is more. So a small gzip file cannot fill
            the memory.

    Raises:
        DataError: there is no such file, or it cannot be read.
        FileFormatError: the file is empty or no regular file, holds too many bytes, or its gzip stream is truncated or
            damaged.
    """
    try:
        check_is_file(path)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            is_gzip = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not size:
                raise FileFormatError(f"{path} is empty.")
            return _read_stream(gzip.GzipFile(fileobj=file) if is_gzip else file, path, size, max_bytes)  # type: ignore[arg-type]
    except FileFormatError:
        raise
    except EOFError as error:
        raise FileFormatError(f"{path} is truncated: its gzip stream ends early, after {size:,} bytes.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise FileFormatError(f"{path} holds a damaged gzip stream: {error}.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def _read_stream(stream: IO[bytes], path: Path, size: int, max_bytes: int | None) -> bytes:
    parts = [stream.read(_LONGEST_HEADER)]
    if max_bytes is None:
        announced = _size_by_header(parts[0])
        most = max(_SMALL, _RATIO * size)
        max_bytes = most if announced is None else min(most, announced + _EXCESS)
    left = max_bytes - len(parts[0])
    while block := stream.read(_BLOCK):
        left -= len(block)
        if left < 0:
            raise FileFormatError(f"{path} is refused: it holds more than the {max_bytes:,} bytes that it may hold.")
        parts.append(block)
    return b"".join(parts)


def _size_by_header(head: bytes) -> int | None:
    """Returns how long an IDX file is by its header; None if this is none."""
    if len(head) < 4 or head[:2] != b"\0\0" or not 1 <= head[3] <= _MAX_DIMENSIONS or len(head) < 4 + 4 * head[3]:
        return None
    shape = struct.unpack(f">{head[3]}I", head[4 : 4 + 4 * head[3]])
    return 4 + 4 * head[3] + int(np.prod(shape, dtype=object))


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
        raise FileFormatError(
            f"{name} is not an IDX file: it holds {plural(len(data), 'byte')}, which is less than a header."
        )
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
    noun = {1: "label", 3: "image"}.get(len(shape), "item")
    size = int(np.prod(shape[1:], dtype=object))  # bytes in one item
    expected = size * shape[0]
    if held > expected:
        return (
            f"holds {plural(held - expected, 'byte')} more than the {plural(shape[0], noun)} that its header announces"
        )
    whole, rest = divmod(held, size)
    and_rest = f" and {plural(rest, 'byte')} of another" if rest else ""
    return f"is truncated: it holds {plural(whole, noun)}{and_rest}, but its header says {shape[0]:,}"
