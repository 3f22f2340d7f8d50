"""`untar_data` works with a server that misbehaves, and with processes that race or are killed."""

import gzip
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from minilearner.errors import DataError, DownloadError, FileFormatError
from minilearner.sources import archives, fashion
from minilearner.sources.archives import untar_data
from minilearner.sources.fashion import FULL
from minilearner.sources.origin import clean_url
from minilearner.sources.paths import DataPath
from minilearner.sources.urls import URLs

FILES = {f"images/{breed}_{n}.jpg": random.Random(n).randbytes(5000) for breed in ("Bengal", "beagle") for n in (1, 2)}


def packed(files=FILES, top="oxford-iiit-pet", mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{top}/{name}" if top else name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


PETS = packed()


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def home():
    return Path(os.environ["MINILEARNER_HOME"])


@pytest.fixture
def server(serve):
    return serve(**{"oxford-iiit-pet.tgz": PETS})


@pytest.fixture
def url(server):
    return server.url("oxford-iiit-pet.tgz")


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".source")  # which say where they came from


def test_an_archive_is_downloaded_and_unpacked_into_the_data_home(url, home):
    path = untar_data(url)
    assert (type(path), path) == (DataPath, home / "data" / "oxford-iiit-pet")
    assert tree(path) == FILES
    assert (home / "archive" / "oxford-iiit-pet.tgz").read_bytes() == PETS
    assert (names(home / "data"), names(home / "archive")) == (["oxford-iiit-pet"], ["oxford-iiit-pet.tgz"])


def test_an_existing_folder_is_returned_without_using_the_network(server, url, home, monkeypatch):
    untar_data(url)
    (home / "archive" / "oxford-iiit-pet.tgz").unlink()
    monkeypatch.setenv("MINILEARNER_OFFLINE", "1")
    assert tree(untar_data(url)) == FILES
    assert len(server.requests) == 1


def test_an_existing_archive_is_unpacked_without_using_the_network(server, url, home, monkeypatch):
    (home / "archive").mkdir()
    (home / "archive" / "oxford-iiit-pet.tgz").write_bytes(PETS)
    monkeypatch.setenv("MINILEARNER_OFFLINE", "1")
    assert tree(untar_data(url)) == FILES
    assert server.requests == []


def test_offline_without_the_archive_the_error_says_where_to_put_it(url, home, monkeypatch):
    monkeypatch.setenv("MINILEARNER_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"=1 forbids downloads.\nTo go on .*archive/oxford-iiit-pet.tgz"):
        untar_data(url)
    assert names(home / "data") == []


def test_folders_can_be_chosen(url, tmp_path, home):
    path = untar_data(url, data=tmp_path / "d", archive=str(tmp_path / "a"))
    assert path == tmp_path / "d" / "oxford-iiit-pet"
    assert names(tmp_path / "a") == ["oxford-iiit-pet.tgz"]
    assert names(home) == []


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.tar.gz", "a"), ("a.b.tgz", "a.b"), ("a.zip?dl=1", "a"), ("x/a%20b.tar", "a b"), ("archive", "archive")],
)
def test_the_stem_comes_from_the_last_part_of_the_url(serve, home, name, stem):
    server = serve(**{name: PETS})
    assert untar_data(server.url(name)) == home / "data" / stem


@pytest.mark.parametrize("layout", [packed(top="other"), packed(top="")])
def test_the_folder_is_named_after_the_archive_whatever_its_top_folder(serve, layout):
    path = untar_data(serve(**{"pets.tgz": layout}).url("pets.tgz"))
    assert path.name == "pets"
    assert tree(path / "images" if layout == packed(top="x") else path) in (
        FILES,
        {name.removeprefix("images/"): content for name, content in FILES.items()},
    )


def test_a_file_on_this_machine_is_unpacked_without_copying_it(tmp_path, home):
    (tmp_path / "pets.tgz").write_bytes(PETS)
    assert tree(untar_data(tmp_path / "pets.tgz")) == FILES
    assert tree(untar_data((tmp_path / "pets.tgz").as_uri(), data=tmp_path)) == FILES
    assert names(home) == ["data"]
    with pytest.raises(DataError, match=r"`url` is a path, but there is no such file. Received: url='.*none.tgz'"):
        untar_data(tmp_path / "none.tgz")


def test_force_download_replaces_the_folder_once_the_new_one_is_complete(server, url, home):
    (untar_data(url) / "mine.txt").touch()
    server.files["oxford-iiit-pet.tgz"] = packed({"new.jpg": b"n"})
    assert "mine.txt" in tree(untar_data(url))
    assert tree(untar_data(url, force_download=True)) == {"new.jpg": b"n"}
    server.files["oxford-iiit-pet.tgz"] = packed({"/etc/evil": b""}, top="")
    with pytest.raises(FileFormatError, match="'/etc/evil' has a path that may leave"):
        untar_data(url, force_download=True)
    assert tree(untar_data(url)) == {"new.jpg": b"n"}
    assert names(home / "data") == ["oxford-iiit-pet"]


@pytest.mark.parametrize("behaviour", [{"cut": 3000}, {"cut": 3000, "stall": True}, {"lie": 50}])
def test_a_server_that_first_truncates_stalls_or_lies_is_asked_again(server, url, monkeypatch, behaviour):
    monkeypatch.setattr(archives, "_READ_TIMEOUT_SECONDS", 0.3)
    vars(server).update(behaviour, n_faulty=1)
    assert tree(untar_data(url)) == FILES
    assert len(server.requests) >= 2


@pytest.mark.parametrize("behaviour", [{"cut": 500}, {"cut": 500, "stall": True}, {"lie": 50}])
def test_a_server_that_never_delivers_is_an_error(server, url, home, monkeypatch, behaviour):
    monkeypatch.setattr(archives, "_READ_TIMEOUT_SECONDS", 0.1)
    vars(server).update(behaviour)
    with pytest.raises(DownloadError, match=r"it broke off after [\d,]+ of |no answer in time"):
        untar_data(url)
    assert (names(home / "data"), names(home / "archive")) == ([], ["oxford-iiit-pet.tgz.part"])
    assert len(server.requests) <= 13


def test_a_server_that_ignores_ranges_sends_the_whole_archive_again(server, url, home):
    (home / "archive").mkdir()
    (home / "archive" / "oxford-iiit-pet.tgz.part").write_bytes(PETS[:100])
    server.ranges = False
    assert tree(untar_data(url)) == FILES
    assert [wanted for _, wanted in server.requests] == ["bytes=100-"]


def test_a_content_length_that_is_too_short_gives_a_damaged_archive_and_an_error(server, url, home):
    server.lie = -100
    with pytest.raises(FileFormatError, match=r"pet.tgz is truncated .* pass `force_download=True`"):
        untar_data(url)
    assert names(home / "data") == []
    server.lie = 0
    assert tree(untar_data(url, force_download=True)) == FILES


def test_a_file_that_is_not_an_archive_is_not_kept(serve, home):
    server = serve(**{"pets.tgz": b"<html>Sign in</html>"})
    with pytest.raises(DownloadError, match="the downloaded file failed its check: .*is neither a tar"):
        untar_data(server.url("pets.tgz"))
    assert (names(home / "archive"), names(home / "data")) == ([], [])


def test_a_hostile_archive_leaves_nothing_behind(serve, home):
    server = serve(**{"evil.tgz": packed({"good.jpg": b"x", "../../evil": b"x"})})
    with pytest.raises(FileFormatError, match="its member 'oxford-iiit-pet/../../evil' has a path that may leave"):
        untar_data(server.url("evil.tgz"))
    assert (names(home), names(home / "data")) == (["archive", "data"], [])


def index(content, name="oxford-iiit-pet.tgz", **changes):
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **changes}
    return json.dumps({name: entry}).encode()


def test_a_mirror_serves_archives_by_file_name_with_its_own_hash(server, home, monkeypatch):
    server.files["index.json"] = index(PETS)
    monkeypatch.setenv("MINILEARNER_MIRROR", server.url(""))
    assert tree(untar_data(URLs.PETS)) == FILES
    assert [name for name, _ in server.requests] == ["index.json", "oxford-iiit-pet.tgz"]


def test_an_archive_that_differs_from_the_mirror_index_is_refused(server, home, monkeypatch):
    server.files["index.json"] = index(PETS, sha256="0" * 64)
    monkeypatch.setenv("MINILEARNER_MIRROR", server.url(""))
    with pytest.raises(DownloadError, match="but the mirror's index says 0000"):
        untar_data(URLs.PETS)
    assert names(home / "archive") == []


def test_a_mirror_does_not_redirect_other_urls(server, url, serve, monkeypatch):
    monkeypatch.setenv("MINILEARNER_MIRROR", serve().url(""))
    assert tree(untar_data(url)) == FILES


def test_without_a_mirror_an_archive_must_match_its_published_hash(server, home):
    (home / "archive").mkdir()
    (home / "archive" / "oxford-iiit-pet.tgz").write_bytes(PETS)
    with pytest.raises(FileFormatError, match=r"the published archive has 811,706,944\. .* pass `force_download=True`"):
        untar_data(URLs.PETS)
    assert names(home / "data") == []


@pytest.fixture
def fashion_mirror(serve, monkeypatch, tmp_path):
    """Serves stand-ins for the four files, with a check that they pass."""
    monkeypatch.setattr(fashion, "_SYSTEM_FOLDER", tmp_path / "no-system")
    monkeypatch.setattr(fashion, "read_part", lambda file, part: gzip.decompress(file.read_bytes()))
    contents = {f"fashion-mnist/{part.name}.gz": gzip.compress(part.name.encode()) for part in FULL}
    entries = {name: json.loads(index(content, name))[name] for name, content in contents.items()}
    server = serve(**contents, **{"index.json": json.dumps(entries).encode()})
    monkeypatch.setenv("MINILEARNER_MIRROR", server.url(""))
    return server


def test_fashion_mnist_returns_the_folder_of_its_four_files(fashion_mirror, home, tmp_path):
    files = sorted(f"{part.name}.gz" for part in FULL)
    path = untar_data(URLs.FASHION_MNIST)
    assert (type(path), path) == (DataPath, home / "fashion-mnist")
    assert names(path) == files
    n_requests = len(fashion_mirror.requests)
    assert untar_data(URLs.FASHION_MNIST) == path
    assert len(fashion_mirror.requests) == n_requests
    untar_data(URLs.FASHION_MNIST, force_download=True)
    assert len(fashion_mirror.requests) == 2 * n_requests
    assert names(untar_data(URLs.FASHION_MNIST, data=tmp_path)) == files


def test_fashion_mnist_comes_from_the_system_folder_if_it_is_complete(monkeypatch, tmp_path, home):
    monkeypatch.setattr(fashion, "_SYSTEM_FOLDER", tmp_path)
    monkeypatch.setenv("MINILEARNER_OFFLINE", "1")
    with pytest.raises(DownloadError, match="dataset-fashion-mnist"):
        untar_data(URLs.FASHION_MNIST)
    for part in FULL:
        (tmp_path / f"{part.name}.gz").touch()
    assert untar_data(URLs.FASHION_MNIST) == tmp_path
    with pytest.raises(ValueError, match="`archive` must be None: Fashion-MNIST is not an archive"):
        untar_data(URLs.FASHION_MNIST, archive=tmp_path)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://127.0.0.1/a.tgz", "`url` must begin with http, https or file, or be a path. Received: url='ftp:"),
        ("http://127.0.0.1/", "`url` must end in an archive's name"),
        ("http://127.0.0.1/a/..", "`url` must end in an archive's name"),
        ("http://127.0.0.1/a%5Cb.tgz", "`url` must end in an archive's name"),
        ("", "`url` must end in an archive's name"),
    ],
)
def test_a_url_without_a_file_name_is_an_error(home, url, message):
    with pytest.raises(ValueError, match=message):
        untar_data(url)
    assert names(home) == []


def test_a_file_where_the_folder_would_be_is_an_error(url, home):
    (home / "data").mkdir()
    (home / "data" / "oxford-iiit-pet").touch()
    with pytest.raises(DataError, match="data/oxford-iiit-pet is a file, but the unpacked folder must go there"):
        untar_data(url)
    assert names(home / "data") == ["oxford-iiit-pet"]


def test_threads_take_turns(server, url):
    threads = [threading.Thread(target=untar_data, args=[url]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tree(untar_data(url)) == FILES
    assert len(server.requests) == 1


def start_process(url):
    code = "import sys; from minilearner.sources.archives import untar_data; print(len(untar_data(sys.argv[1]).ls()))"
    return subprocess.Popen(
        [sys.executable, "-c", code, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_processes_that_race_for_one_archive_share_the_result(server, url, home):
    processes = [start_process(url) for _ in range(2)]
    assert [process.communicate() for process in processes] == [("1\n", "")] * 2
    assert len(server.requests) == 1
    assert names(home / "data") == ["oxford-iiit-pet"]


@pytest.mark.slow
def test_a_process_killed_while_unpacking_leaves_nothing_that_looks_finished(serve, home):
    many = {f"{n}.txt": b"" for n in range(6_000)}
    url = serve(**{"many.tgz": packed(many)}).url("many.tgz")
    process = start_process(url)
    written = home / "data" / ".many.unpacking" / "new" / "oxford-iiit-pet"
    while not (written.is_dir() and len(os.listdir(written)) >= 100):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert names(home / "data") == [".many.lock", ".many.unpacking"]
    assert len(untar_data(url).ls()) == 6_000
    assert names(home / "data") == ["many"]


def test_leftovers_next_to_a_finished_folder_are_removed_and_the_folder_is_kept(url, home):
    (untar_data(url) / "mine.txt").touch()
    (home / "data" / ".oxford-iiit-pet.lock").touch()
    (home / "data" / ".oxford-iiit-pet.unpacking" / "old").mkdir(parents=True)
    assert tree(untar_data(url)) == {**FILES, "mine.txt": b""}
    assert names(home / "data") == ["oxford-iiit-pet"]


def archive_at(path, note):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed({"note.txt": note}))
    return path


def test_another_archive_of_the_same_name_is_refused(tmp_path):
    first, second = (archive_at(tmp_path / name / "pets.tgz", name.encode()) for name in "ab")
    folder = untar_data(first, data=tmp_path / "data")
    for _ in range(2):
        with pytest.raises(DataError, match=r"pets holds another .*a/pets.tgz.*b/pets.tgz.*force_download=True"):
            untar_data(second, data=tmp_path / "data")
        assert tree(untar_data(first, data=tmp_path / "data")) == {"note.txt": b"a"}
    assert tree(untar_data(second, data=tmp_path / "data", force_download=True)) == {"note.txt": b"b"}
    assert tree(untar_data(second, data=tmp_path / "data")) == {"note.txt": b"b"}
    with pytest.raises(DataError, match="holds another archive"):
        untar_data(first, data=tmp_path / "data")
    assert folder == tmp_path / "data" / "pets"


def test_a_copy_or_a_touched_archive_is_the_same_and_a_changed_one_is_not(tmp_path):
    first = archive_at(tmp_path / "a" / "pets.tgz", b"1")
    untar_data(first, data=tmp_path / "data")
    copy = tmp_path / "b" / "pets.tgz"
    copy.parent.mkdir()
    copy.write_bytes(first.read_bytes())
    os.utime(first, (1, 1))
    for same in (first, copy, str(first), first.as_uri()):
        untar_data(same, data=tmp_path / "data")
    first.write_bytes(packed({"note.txt": b"2"}))
    with pytest.raises(DataError, match="holds another archive"):
        untar_data(first, data=tmp_path / "data")
    first.unlink()
    untar_data(first, data=tmp_path / "data")  # unpacked before, and deleted since
    copy.unlink()
    with pytest.raises(DataError, match="holds another archive"):
        untar_data(copy, data=tmp_path / "data")


def test_an_archive_downloaded_from_elsewhere_is_not_taken_for_this_one(serve, tmp_path):
    one, other = (serve(**{"pets.tgz": packed({"note.txt": note})}).url("pets.tgz") for note in (b"1", b"2"))
    untar_data(one, data=tmp_path / "first")
    assert tree(untar_data(other, data=tmp_path / "second")) == {"note.txt": b"2"}
    with pytest.raises(DataError, match="holds another archive"):
        untar_data(other, data=tmp_path / "first")


def test_a_part_of_another_archive_is_not_continued(serve, tmp_path, home):
    plain = [packed({"note.txt": note * 30_000}, mode="w") for note in (b"1", b"2")]
    one, other = (serve(**{"pets.tar": content}) for content in plain)
    one.cut = 700
    with pytest.raises(DownloadError):
        untar_data(one.url("pets.tar"))
    assert (home / "archive" / "pets.tar.part").exists()
    assert tree(untar_data(other.url("pets.tar"))) == {"note.txt": b"2" * 30_000}


@pytest.mark.parametrize("note", [b"", b"[]", b"{", b'{"source": 1}', b'{"size": 1e999}', b"[" * 9999, b"\xff"])
def test_a_damaged_note_is_as_none(tmp_path, note):
    first = archive_at(tmp_path / "a" / "pets.tgz", b"1")
    folder = untar_data(first, data=tmp_path / "data")
    (folder.parent / ".pets.source").write_bytes(note)
    assert untar_data(first, data=tmp_path / "data") == folder


def test_a_url_is_the_same_with_another_signature(tmp_path):
    url = "https://me:secret@host/pets.tgz?v=1&X-Amz-Signature=abc&Expires=5#top"
    assert clean_url(url) == "https://host/pets.tgz?v=1" == clean_url("http://host/pets.tgz?v=1&sig=2")
    assert clean_url("https://host/pets.tgz?v=2") != clean_url(url)
