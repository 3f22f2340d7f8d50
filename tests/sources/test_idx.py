"""IDX files are read correctly, and every violation of the format is an error."""

import gzip
import os
import struct
import tracemalloc

import numpy as np
import pytest

from minilearner.errors import DataError, FileFormatError
from minilearner.sources.fashion import FULL, read_part
from minilearner.sources.idx import parse_idx, read_idx_bytes

IMAGES = struct.pack(">HBB3I", 0, 8, 3, 4, 2, 3) + bytes(range(24))
PACKED = gzip.compress(IMAGES, mtime=0)  # the same bytes in each test process


def test_images_and_labels_are_read_in_row_major_order():
    np.testing.assert_array_equal(parse_idx(IMAGES, "f"), np.arange(24, dtype=np.uint8).reshape(4, 2, 3))
    labels = parse_idx(struct.pack(">HBBI", 0, 8, 1, 3) + bytes([7, 8, 9]), "f")
    assert labels.tolist() == [7, 8, 9]
    assert labels.dtype == np.uint8


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ab", "f is not an IDX file: it holds 2 bytes, which is less than a header"),
        (b"<!DOCTYPE html>", r"f is not an IDX file: it begins with b'<!DOCTYP'"),
        (b"\0\0\x08\0", "f is not an IDX file"),
        (b"\0\0\x08\x63", "f is not an IDX file"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "type 0x0D. Only unsigned bytes"),
        (IMAGES[:9], "f is truncated: it ends within its header of 3 dimensions"),
        (IMAGES[:-6], "f is truncated: it holds 3 images, but its header says 4"),
        (IMAGES[:-2], "f is truncated: it holds 3 images and 4 bytes of another, but its header says 4"),
        (IMAGES + b"ab", "f holds 2 bytes more than the 4 images that its header announces"),
        (struct.pack(">HBB2I", 0, 8, 2, 3, 2) + b"abcd", "f is truncated: it holds 2 items, but its header says 3"),
        (
            struct.pack(">HBB2I", 0, 8, 2, 3, 0) + b"abcd",
            "f holds 4 bytes more than the 3 items that its header announces",
        ),
        (struct.pack(">HBB4I", 0, 8, 4, *[2**32 - 1] * 4) + b"a", "f is truncated: it holds 0 items and 1 byte"),
    ],
)
def test_an_error_says_what_is_wrong(data, message):
    with pytest.raises(FileFormatError, match=message):
        parse_idx(data, "f")


def test_the_content_decides_whether_a_file_is_gzipped(tmp_path):
    for name, content in {"packed": PACKED, "plain.gz": IMAGES}.items():
        (tmp_path / name).write_bytes(content)
        assert read_idx_bytes(tmp_path / name) == IMAGES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "file.gz is empty"),
        (PACKED[:-12], "file.gz is truncated: its gzip stream ends early, after"),
        (PACKED[:-8] + b"\0" * 8, "file.gz holds a damaged gzip stream: CRC"),
        (PACKED[:10] + b"\xff" * 40, "file.gz holds a damaged gzip stream"),
        (PACKED + b"more", "file.gz holds a damaged gzip stream"),
    ],
)
def test_the_error_names_a_damaged_gzip_file(tmp_path, content, message):
    (tmp_path / "file.gz").write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        read_idx_bytes(tmp_path / "file.gz")


def test_the_error_names_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"none.gz cannot be read: No such file"):
        read_idx_bytes(tmp_path / "none.gz")


def test_a_gzip_bomb_is_refused_at_the_size_by_header(tmp_path):
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(IMAGES + bytes(50_000_000)))
    tracemalloc.start()
    with pytest.raises(FileFormatError, match=r"bomb.gz is refused: it holds more than the 1,048,616 bytes"):
        read_idx_bytes(tmp_path / "bomb.gz")
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()
    with pytest.raises(FileFormatError, match=r"more than the 100 bytes"):
        read_idx_bytes(tmp_path / "bomb.gz", 100)
    assert read_part_of_wrong_size(tmp_path)


def read_part_of_wrong_size(folder):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(90_000_000)))
    with pytest.raises(FileFormatError, match="ubyte.gz is refused"):
        read_part(folder / "train-images-idx3-ubyte.gz", FULL[0])
    return True


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileFormatError, match="pipe: it is a named pipe"):
        read_idx_bytes(tmp_path / "pipe")
