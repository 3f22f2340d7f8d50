import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys

import pytest
import torch

from minilearner.errors import CheckpointError
from minilearner.saving.checkpoint_folder import CheckpointFolder


def state(value):
    return {"weights": torch.full((100,), float(value)), "value": value}


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(tmp_path / "run", keep=2)


def names(folder):
    return sorted(path.name for path in folder.path.iterdir() if path.name != ".lock")


def test_the_newest_comes_back_and_the_oldest_go(folder):
    for number in (1, 5, 12):
        folder.save(number, state(number))
    saved = folder.newest()
    assert saved.number == saved.state["value"] == 12 and torch.equal(saved.state["weights"], state(12)["weights"])
    assert names(folder) == ["checkpoint-00000005", "checkpoint-00000012"]


def test_an_empty_folder_has_none(folder):
    assert folder.newest() is None


def test_one_moment_can_be_saved_again(folder):
    folder.save(3, state(1))
    folder.save(3, state(2))
    assert folder.newest().state["value"] == 2


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone", "linked"])
def test_a_damaged_one_is_passed_over_by_name(folder, file, damage):
    folder.save(1, state(1))
    path = folder.save(2, state(2)) / file
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[:-7])
    elif damage == "flipped":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "linked":
        path.symlink_to("/dev/zero")
    with pytest.warns(UserWarning, match="checkpoint-00000002"):
        assert folder.newest().state["value"] == 1


def test_nothing_but_damage_is_an_error_and_stays_on_disk(folder):
    path = folder.save(1, state(1))
    (path / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="every checkpoint .* is damaged"):
        folder.newest()
    assert path.exists()


def test_a_file_of_a_newer_version_says_so(folder):
    path = folder.save(1, state(1)) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="its format is 99, and this version of minilearner reads 2"):
        folder.newest()


def test_rests_of_a_process_that_died_are_cleared(folder):
    (folder.path / ".writing-00000001-1").mkdir()
    folder.save(2, state(2))
    assert names(folder) == ["checkpoint-00000002"]


def test_what_is_no_data_leaves_nothing_behind(folder):
    folder.save(1, state(1))
    with pytest.raises(TypeError, match="not data"):
        folder.save(2, {"f": print})
    assert names(folder) == ["checkpoint-00000001"] and folder.newest().state["value"] == 1


def hold(path, held, done):
    with CheckpointFolder(path).hold():
        held.set()
        done.wait(30)


def test_two_processes_cannot_hold_one_folder(folder):
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(folder.path, held, done))
    other.start()
    assert held.wait(60)
    with pytest.raises(CheckpointError, match="another process"), folder.hold():
        pass
    done.set()
    other.join()
    with folder.hold():
        pass


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of 256 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", path], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_full_disk_is_reported_and_loses_nothing_that_was_saved(small_disk):
    folder = CheckpointFolder(small_disk / "run")
    folder.save(1, state(1))
    with pytest.raises(CheckpointError, match="could not be written .* untouched"):
        folder.save(2, {"weights": torch.zeros(100_000)})
    assert folder.newest().state["value"] == 1
    assert names(folder) == ["checkpoint-00000001"]


def as_nobody(path, outcome):
    os.setgroups([])
    os.setuid(65534)
    try:
        CheckpointFolder(path)
        outcome.put("could write")
    except CheckpointError as error:
        outcome.put(str(error))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_folder_without_permission_is_refused_before_training(tmp_path):
    tmp_path.chmod(stat.S_IRWXU)
    context = multiprocessing.get_context("fork")
    outcome = context.Queue()
    child = context.Process(target=as_nobody, args=(tmp_path / "run", outcome))
    child.start()
    assert "cannot be written to" in outcome.get(timeout=60)
    child.join()


@pytest.mark.parametrize("keep", [0, -1])
def test_keep_is_checked(tmp_path, keep):
    with pytest.raises(ValueError, match="`keep` must be at least 1"):
        CheckpointFolder(tmp_path, keep=keep)


KILLED = """
import os, signal, sys, time
from minilearner.saving.checkpoint_folder import CheckpointFolder
with CheckpointFolder(sys.argv[1]).hold():
    if os.fork() == 0:  # as a loader worker, which notices seconds later that it is alone
        time.sleep(60)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_the_lock_goes_with_a_killed_process_though_its_workers_live_on(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], start_new_session=True)
    try:
        assert killed.wait(60) == -signal.SIGKILL
        with CheckpointFolder(tmp_path).hold():
            pass
    finally:
        os.killpg(killed.pid, signal.SIGKILL)


def test_two_runs_of_one_process_cannot_hold_a_folder(tmp_path):
    folder = CheckpointFolder(tmp_path)
    with folder.hold(), pytest.raises(CheckpointError, match="another run of this process"), folder.hold():
        pass
    with folder.hold():
        pass


def test_what_a_killed_process_left_is_swept_when_the_folder_is_held(tmp_path):
    left = [
        tmp_path / ".writing-00000003-77" / "state.json",
        tmp_path / ".sweep.json.0a1b2c3d-77-0a1b2c3d.tmp" / "sweep.json",
    ]
    for path in left:
        path.parent.mkdir()
        path.touch()
    for name in (".writing-0a1b2c3d-probe", ".sweep.json.0a1b2c3d.tmp"):
        (tmp_path / name).touch()
    kept = [tmp_path / ".hidden", tmp_path / "notes.tmp", tmp_path / "mine"]
    for path in kept:
        path.touch()
    with CheckpointFolder(tmp_path).hold():
        assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / ".lock"])
