"""The files of a checkpoint are not trusted, even if their digests match."""

import json
import os
import stat
import time

import pytest
import torch

from minilearner.errors import CheckpointError
from minilearner.saving.checkpoint_folder import CheckpointFolder, fingerprint

FILES = ["tensors.safetensors", "state.json", "manifest.json"]


@pytest.fixture
def folder(tmp_path):
    folder = CheckpointFolder(tmp_path / "run")
    folder.save(1, {"weights": torch.ones(4), "n": 1})
    return folder


def resign(path):
    """Writes matching digests into a changed checkpoint, because its writer may be the liar."""
    files = {name: fingerprint(path / name) for name in FILES[:2]}
    (path / "manifest.json").write_text(json.dumps({"format": 1, "number": 1, "files": files}))


def with_header(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def refused(folder, match=""):
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=match):
        folder.newest()
    assert time.monotonic() - started < 10


HEADERS = {
    "no header": b"",
    "a huge header": (1 << 62).to_bytes(8, "little") + bytes(40),
    "a deep header": with_header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
    "no text": with_header(b"\xff\xfe{}", b""),
    "overlapping": with_header({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, bytes(4)),
    "beyond the end": with_header({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}, bytes(4)),
    "overflowing": with_header({"a": {"dtype": "F32", "shape": [1 << 62] * 2, "data_offsets": [0, 4]}}, bytes(4)),
    "an unknown type": with_header({"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}, bytes(4)),
    "a pickle": b"cos\nsystem\n(S'false'\ntR.",
}


@pytest.mark.parametrize("case", HEADERS)
def test_tensors_that_lie_are_refused(folder, case):
    path = folder.path / "checkpoint-00000001"
    (path / "tensors.safetensors").write_bytes(HEADERS[case])
    resign(path)
    refused(folder, "damaged")


@pytest.mark.parametrize("text", ['{"dict":[["n",NaN]]}', "[" * 100_000, "9" * 100_000, '{"unsigned":["uint8",[1.5]]}'])
def test_a_state_that_pack_never_writes_is_refused(folder, text):
    path = folder.path / "checkpoint-00000001"
    (path / "state.json").write_text(text)
    resign(path)
    refused(folder, "damaged")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("what", ["pipe", "folder", "endless", "sparse"])
def test_what_is_no_file_of_ours_is_not_read(folder, name, what):
    file = folder.path / "checkpoint-00000001" / name
    file.unlink()
    if what == "pipe":
        os.mkfifo(file)
    elif what == "folder":
        file.mkdir()
    elif what == "endless":
        file.symlink_to("/dev/zero")
    else:
        with open(file, "wb") as sparse:
            sparse.truncate(1 << 40)
    refused(folder, name)


@pytest.mark.parametrize("manifest", ["[]", "3", "{}", '{"files": 3}', '{"format": 1, "files": {"state.json": []}}'])
def test_a_manifest_of_another_form_is_refused(folder, manifest):
    (folder.path / "checkpoint-00000001" / "manifest.json").write_text(manifest)
    refused(folder, "manifest.json|its format|missing or damaged")


def test_a_linked_checkpoint_is_not_read(folder, tmp_path):
    (folder.path / "checkpoint-00000001").rename(tmp_path / "elsewhere")
    (folder.path / "checkpoint-00000001").symlink_to(tmp_path / "elsewhere")
    refused(folder, "linked")


@pytest.mark.parametrize("name", ["checkpoint-²", "checkpoint-x", "checkpoint-", "checkpoint-٣"])
def test_a_name_that_is_no_number_is_none_of_ours(folder, name):
    (folder.path / name).mkdir()
    assert folder.newest().number == 1


def test_numbers_of_more_digits_are_newer(folder):
    folder.keep = 2
    folder.save(99_999_999, {"n": 2})
    folder.save(100_000_000, {"n": 3})
    assert folder.newest().state["n"] == 3


@pytest.mark.parametrize("what", ["pipe", "folder", "linked"])
def test_a_lock_that_is_no_file_is_refused(folder, what, tmp_path):
    lock, victim = folder.path / ".lock", tmp_path / "victim"
    os.mkfifo(lock) if what == "pipe" else lock.mkdir() if what == "folder" else lock.symlink_to(victim)
    with pytest.raises(CheckpointError, match=r"\.lock"), folder.hold():
        pass
    assert not victim.exists()


def test_a_link_where_the_probe_writes_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f".writing-{os.getpid()}-probe").symlink_to(victim)
    CheckpointFolder(tmp_path)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_are_as_the_umask_says(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        path = CheckpointFolder(tmp_path / "run").save(1, {"weights": torch.ones(4)})
    finally:
        os.umask(before)
    assert {name: stat.S_IMODE((path / name).stat().st_mode) for name in FILES} == dict.fromkeys(FILES, mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~mask


def test_a_state_that_could_not_be_read_again_is_not_written(folder, monkeypatch):
    monkeypatch.setattr("minilearner.saving.checkpoint_folder._LARGEST_JSON", 500)
    with pytest.raises(CheckpointError, match="could not be written.*state.json"):
        folder.save(2, {"text": "x" * 500})
    assert json.loads((folder.path / "checkpoint-00000001" / "state.json").read_text())
