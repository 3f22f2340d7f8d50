"""A file is written whole or not at all, and a path that cannot be written is refused before work starts."""

import os
import subprocess
import sys

import pytest

from minilearner.errors import FileFormatError
from minilearner.files import check_writable, read_json, replace_file, write_atomically


@pytest.mark.parametrize("content", ["a line\n", b"\x00\xff"])
def test_text_and_bytes_are_written_as_they_are(tmp_path, content):
    path = write_atomically(tmp_path / "file", content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(tmp_path) == ["file"]


def test_a_writable_place_is_left_as_it_is(tmp_path):
    check_writable(tmp_path / "new")
    (tmp_path / "old").write_text("kept")
    check_writable(tmp_path / "old")
    assert os.listdir(tmp_path) == ["old"] and (tmp_path / "old").read_text() == "kept"


def test_a_path_that_cannot_be_written_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match="`log` must name a file .*missing/file' \\(No such file or directory\\)"):
        check_writable(tmp_path / "missing" / "file", "log")
    with pytest.raises(ValueError, match="it is a folder"):
        check_writable(tmp_path)


KILLED = """
import os, signal, sys
from minilearner.files import replace_file
with replace_file(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_beside_a_file_goes_when_it_is_written_again(tmp_path):
    path = tmp_path / "x.json"
    subprocess.run([sys.executable, "-c", KILLED, path], timeout=60)
    assert len(list(tmp_path.iterdir())) == 1 and not path.exists()
    with replace_file(path) as temporary:
        temporary.write_text("one")
        with replace_file(path) as other:  # another thread writes the same file: its work is not swept away
            other.write_text("two")
        assert temporary.exists()
    assert [*tmp_path.iterdir()] == [path] and path.read_text() == "one"


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"1e999", b"Infinity", b"\xff", b"9" * 10_000])
def test_json_that_lies_is_refused_by_name(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(FileFormatError, match="x.json"):
        read_json(tmp_path / "x.json")


def test_a_pipe_and_a_device_are_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name, what in (("pipe.csv", "named pipe"), ("device", "device")):
        with pytest.raises(ValueError, match=f"`path` must name a file.*{name}.*it is a {what}, not a file"):
            check_writable(tmp_path / name)
        with pytest.raises(FileFormatError, match=f"{name}: it is a {what}, not a file"):
            write_atomically(tmp_path / name, "text")
    assert (tmp_path / "pipe.csv").is_fifo() and sorted(os.listdir(tmp_path)) == ["device", "pipe.csv"]
