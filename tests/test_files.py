"""A file is written whole or not at all, and a path that cannot be written is refused before work starts."""

import os

import pytest

from minilearner.files import check_writable, write_atomically


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
