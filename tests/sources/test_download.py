"""Downloads survive a server that misbehaves: a real one on loopback."""

import hashlib
import json
import os
import re
import socket
import threading
import time

import pytest

from minilearner.errors import DownloadError, FileFormatError
from minilearner.sources.download import data_home, download, is_offline

CONTENT = bytes(range(256)) * 4000  # about a megabyte, so that it takes several reads


@pytest.fixture
def serve(serve):
    return lambda content=CONTENT, **files: serve(**{"file.bin": content, **files})


def check(path):
    if path.read_bytes() != CONTENT:
        raise ValueError(f"{path.name} is not the content")


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_file_is_downloaded_whole_and_no_other_file_is_left(serve, tmp_path):
    server = serve()
    destination = tmp_path / "new" / "file.bin"
    assert download([server.url()], destination, check=check) == destination
    assert destination.read_bytes() == CONTENT
    assert list(destination.parent.iterdir()) == [destination]


def test_a_partial_file_is_resumed_from_its_end(serve, tmp_path):
    server = serve()
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:300_000])
    download([server.url()], tmp_path / "file.bin", check=check)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == [("file.bin", "bytes=300000-")]


def test_a_log_says_how_far_a_resumed_download_is(serve, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINILEARNER_LOG_SECONDS", "0.000001")
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:300_000])
    download([serve().url()], tmp_path / "file.bin", check=check)
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(
        re.fullmatch(r"downloading file.bin: .*/1.02MB, \d+ %, \d\d:\d\d left", line) for line in lines
    )
    assert lines[-1].startswith("downloading file.bin: 1.02M/1.02MB, 100 %")
    download([serve().url()], tmp_path / "other.bin", check=check, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("behaviour", "n_requests"), [({"ranges": False}, 1), ({"range_shift": 1}, 2)])
def test_a_server_without_the_right_range_sends_the_whole_file(serve, tmp_path, behaviour, n_requests):
    server = serve()
    vars(server).update(behaviour)
    (tmp_path / "file.bin.part").write_bytes(b"x" * 300_000)
    download([server.url()], tmp_path / "file.bin", check=check)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert len(server.requests) == n_requests


def test_a_partial_file_of_something_else_is_downloaded_again_after_failing_the_check(serve, tmp_path):
    server = serve()
    (tmp_path / "file.bin.part").write_bytes(b"x" * 300_000)
    download([server.url()], tmp_path / "file.bin", check=check)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == ["bytes=300000-", None]


def test_a_partial_file_longer_than_the_file_is_downloaded_again(serve, tmp_path):
    server = serve()
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"more")
    download([server.url()], tmp_path / "file.bin", check=check)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_transfer_that_breaks_off_is_resumed(serve, tmp_path):
    server = serve()
    server.cut = 600_000  # bytes of each answer
    download([server.url()], tmp_path / "file.bin", check=check)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=600000-"]


def test_bytes_from_a_truncating_server_are_kept_for_the_next_server(serve, tmp_path):
    truncating, good = serve(), serve()
    truncating.cut = 600_000
    with pytest.raises(DownloadError, match=r"it broke off after 600,000 of 1,024,000 bytes"):
        download([truncating.url()], tmp_path / "file.bin", check=check, retries=0)
    assert not (tmp_path / "file.bin").exists()
    assert (tmp_path / "file.bin.part").stat().st_size == 600_000
    download([good.url()], tmp_path / "file.bin", check=check)
    assert good.requests == [("file.bin", "bytes=600000-")]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_stalled_server_is_given_up_after_the_read_timeout(serve, tmp_path):
    server = serve()
    server.cut, server.stall = 1000, True
    began = time.monotonic()
    with pytest.raises(DownloadError, match="no answer in time"):
        download(
            [server.url()],
            tmp_path / "file.bin",
            check=check,
            connect_timeout_seconds=30,
            read_timeout_seconds=0.2,
            retries=0,
        )
    assert time.monotonic() - began < 10  # the server would stall for 20


def test_a_file_that_fails_the_check_is_deleted_and_the_next_server_is_asked(serve, tmp_path):
    wrong, good = serve(b"<html>sign in</html>"), serve()
    download([wrong.url(), good.url()], tmp_path / "file.bin", check=check)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert good.requests == [("file.bin", None)]


def test_an_error_lists_every_url_and_says_how_to_go_on(serve, tmp_path):
    wrong, empty = serve(b"<html>sign in</html>"), serve()
    urls = [wrong.url(), empty.url("none.bin"), f"http://127.0.0.1:{closed_port()}/file.bin"]
    with pytest.raises(DownloadError) as caught:
        download(urls, tmp_path / "file.bin", check=check)
    refused, missing, unreachable, way_out = str(caught.value).splitlines()[1:]
    assert refused == f"  {urls[0]}: the downloaded file failed its check: file.bin.part is not the content"
    assert missing == f"  {urls[1]}: HTTP 404 Not Found."
    assert "refused" in unreachable
    assert urls[2] in unreachable
    assert str(tmp_path / "file.bin") in way_out
    assert list(tmp_path.iterdir()) == []


def test_offline_raises_before_using_the_network(serve, tmp_path, monkeypatch):
    server = serve()
    monkeypatch.setenv("MINILEARNER_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"MINILEARNER_OFFLINE=1 forbids downloads.\nAsk Eva"):
        download([server.url()], tmp_path / "file.bin", check=check, way_out="Ask Eva.")
    assert server.requests == []


def test_the_offline_variable_is_read_strictly(monkeypatch):
    for value, expected in {"": False, "0": False, "1": True}.items():
        monkeypatch.setenv("MINILEARNER_OFFLINE", value)
        assert is_offline() is expected
    monkeypatch.setenv("MINILEARNER_OFFLINE", "maybe")
    with pytest.raises(ValueError, match=r"must be 1 .* or 0. Received: MINILEARNER_OFFLINE='maybe'"):
        is_offline()


def test_the_data_home_can_be_set_by_a_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("MINILEARNER_HOME", str(tmp_path))
    assert data_home() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.delenv("MINILEARNER_HOME")
    assert data_home() == tmp_path / "me" / ".minilearner"


def test_an_existing_file_is_checked_and_not_downloaded(serve, tmp_path):
    server = serve()
    destination = tmp_path / "file.bin"
    destination.write_bytes(CONTENT)
    download([server.url()], destination, check=check)
    destination.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="is not the content"):
        download([server.url()], destination, check=check)
    assert server.requests == []
    assert destination.read_bytes() == b"damaged"


def test_two_downloads_of_one_file_take_turns(serve, tmp_path):
    server = serve()
    destination = tmp_path / "file.bin"
    threads = [
        threading.Thread(target=download, args=([server.url()], destination), kwargs={"check": check}) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert destination.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [destination]
    assert len(server.requests) == 1


def index(content=CONTENT, **changes):
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **changes}
    return json.dumps({"folder/file.bin": entry}).encode()


def test_a_mirror_replaces_all_servers(serve, tmp_path, monkeypatch):
    public, mirror = serve(), serve(**{"index.json": index(), "folder/file.bin": CONTENT})
    monkeypatch.setenv("MINILEARNER_MIRROR", mirror.url(""))
    download([public.url()], tmp_path / "file.bin", check=check, name="folder/file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert public.requests == []
    assert [name for name, _ in mirror.requests] == ["index.json", "folder/file.bin"]


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        (index(size=5), "has 1,024,000 bytes, but the mirror's index says 5"),
        (index(sha256="0" * 64), "but the mirror's index says 0000"),
        (b"{}", "does not list 'folder/file.bin'"),
        (index().replace(b"file.bin", b"fill.bin"), "Did you mean 'folder/fill.bin'"),
        (b"<html>", "must map names to size and sha256"),
        (b"[1]", "must map names to size and sha256"),
        (b'{"folder/file.bin": {"size": 1}}', "must map names to size and sha256"),
    ],
)
def test_a_mirror_whose_file_differs_from_its_index_is_an_error(serve, tmp_path, monkeypatch, listing, message):
    mirror = serve(**{"index.json": listing, "folder/file.bin": CONTENT})
    monkeypatch.setenv("MINILEARNER_MIRROR", mirror.url("").rstrip("/"))
    with pytest.raises(DownloadError, match=message):
        download(["http://127.0.0.1/none"], tmp_path / "file.bin", check=check, name="folder/file.bin")


def test_the_error_names_a_mirror_that_cannot_be_reached(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("MINILEARNER_MIRROR", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(DownloadError, match=r"MINILEARNER_MIRROR: http://127.0.0.1:\d+/index.json: .*refused"):
        download(["http://127.0.0.1/none"], tmp_path / "file.bin", check=check)


def test_a_mirror_is_not_used_with_mirrored_false(serve, tmp_path, monkeypatch):
    public, mirror = serve(), serve()
    monkeypatch.setenv("MINILEARNER_MIRROR", mirror.url(""))
    download([public.url()], tmp_path / "file.bin", check=check, mirrored=False)
    assert mirror.requests == []


def test_a_forced_download_starts_at_the_first_byte_and_replaces_the_file(serve, tmp_path):
    server = serve()
    (tmp_path / "file.bin").write_bytes(b"old")
    (tmp_path / "file.bin.part").write_bytes(b"x" * 300_000)
    download([server.url()], tmp_path / "file.bin", check=check, force=True)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == [("file.bin", None)]


def test_a_forced_download_that_fails_keeps_the_file(serve, tmp_path, monkeypatch):
    (tmp_path / "file.bin").write_bytes(b"old")
    with pytest.raises(DownloadError, match="failed its check"):
        download([serve(b"wrong").url()], tmp_path / "file.bin", check=check, force=True)
    monkeypatch.setenv("MINILEARNER_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"file.bin must be downloaded again, and MINILEARNER_OFFLINE=1 forbids"):
        download(["http://127.0.0.1/"], tmp_path / "file.bin", check=check, force=True)
    assert (tmp_path / "file.bin").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("arguments", "message"), [({"urls": []}, "`urls` must name at least one"), ({"retries": -1}, "`retries` must be")]
)
def test_wrong_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        download(**{"urls": ["http://127.0.0.1/"], "destination": tmp_path / "f", "check": check, **arguments})


@pytest.mark.parametrize(
    "index",
    [b"[" * 100_000, b'{"file.bin": {"size": 1e999, "sha256": ""}}', b'{"file.bin": {"size": [], "sha256": 1}}', b"[]"],
)
def test_a_hostile_index_is_an_error_that_names_it(serve, tmp_path, monkeypatch, index):
    server = serve(**{"index.json": index, "file.bin": b"x"})
    monkeypatch.setenv("MINILEARNER_MIRROR", server.url(""))
    with pytest.raises(DownloadError, match=r"index.json must map names to size and sha256") as raised:
        download(["http://127.0.0.1:1/file.bin"], tmp_path / "file.bin", check=lambda path: None)
    assert len(str(raised.value)) < 500


def test_an_index_that_never_ends_is_refused(serve, tmp_path, monkeypatch):
    monkeypatch.setattr("minilearner.sources.download._LONGEST_INDEX", 1000)
    server = serve(**{"index.json": b" " * 1001})
    monkeypatch.setenv("MINILEARNER_MIRROR", server.url(""))
    with pytest.raises(DownloadError, match=r"it sent more than 1,000 bytes"):
        download(["http://127.0.0.1:1/file.bin"], tmp_path / "file.bin", check=lambda path: None)


def test_a_pipe_in_the_place_of_the_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "file.bin")
    with pytest.raises(FileFormatError, match="named pipe"):
        download(["http://127.0.0.1:1/file.bin"], tmp_path / "file.bin", check=lambda path: path.read_bytes())
